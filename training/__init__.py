"""The stages that train a world model and a controller, and the loop that runs them in rounds."""
