"""Benchmarks and trials: speed, scale, and faults caused on purpose."""
