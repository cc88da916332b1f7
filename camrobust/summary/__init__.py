"""Score rows to summary tables, intervals, tests and effect sizes; neither torch nor Ray, and no file."""
