"""Benchmarks: ratios measured in one run, side by side with the plain tool underneath. See bench/README.md."""
