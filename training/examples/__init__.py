"""Agents that are not this project's: each is a single file that learns from an env id."""
