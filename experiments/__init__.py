"""Benchmarks: each script answers one question, and writes what it found to `results/`."""
