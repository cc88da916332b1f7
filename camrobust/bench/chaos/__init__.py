"""Real faults, injected on purpose: `camrobust bench chaos` and `camrobust bench fuzz`."""
