"""Commands that measure, and write JSON and pictures to benchmarks/results."""
