"""`camrobust bench` as a script: `python jobs/benchmark.py peers --device cuda --json`."""

import sys

from camrobust.interface.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
