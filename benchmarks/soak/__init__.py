"""The long form of what the tests promise: many kills, strangers' files, wild users, long runs."""
