"""Benchmarks: ratios measured in one run, compared with the plain tool underneath. See bench/README.md."""
