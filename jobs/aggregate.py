"""Aggregate a run and draw its report, or aggregate several: `python jobs/aggregate.py RUN [RUN … --output DIR]`."""

import sys

from camrobust.interface.cli import main

if __name__ == "__main__":
    code = main(["aggregate", *sys.argv[1:]])
    if code == 0 and not any(argument.startswith("--output") for argument in sys.argv):
        code = main(["report", next(argument for argument in sys.argv[1:] if not argument.startswith("-"))])
    sys.exit(code)
