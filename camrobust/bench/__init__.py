"""Benchmarks: speed, scale, and faults injected on purpose."""
