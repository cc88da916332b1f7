"""Time the shared pass against a plain forward pass: `python jobs/benchmark.py [--device cuda] [--peers] [--json]`."""

import sys

from camrobust.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
