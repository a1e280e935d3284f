"""The envs that `import wm_gym` registers."""
