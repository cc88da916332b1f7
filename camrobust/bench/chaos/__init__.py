"""Faults caused on purpose, for real: what `camrobust bench chaos` injects."""
