"""What users call: the command line, the Python functions, the demo, and what a notebook shows."""
