"""The long form of what the tests promise: many kills, strangers' artifacts, wild users, long runs."""
