"""What is put under load: artifacts from strangers, and whatever else must not break."""
