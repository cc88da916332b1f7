"""The run folder: commits, leases, progress; and what is read from it afterwards."""
