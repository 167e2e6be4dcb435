"""Benchmarks behind ``mild-ext bench``: every figure is a ratio of medians measured in turn in one run."""
