"""A run from its configuration to its report, on Ray. Only this room and `bench/` import Ray."""
