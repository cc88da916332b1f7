"""The doors: command line, Python interface, demo, notebook."""
