"""Score rows to summary tables, intervals, tests and effect sizes; imports neither torch nor Ray, reads no file."""
