"""Do the envs hold? Wild users and long runs, with their figures."""
