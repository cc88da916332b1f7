"""The run folder: commits, leases and progress, and everything that reads the results: verify, status, compare."""
