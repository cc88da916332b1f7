"""Reduce the scores again and draw the report: `python jobs/aggregate.py RUN [RUN … --output DIR]`."""

import sys

from camrobust.interface.cli import main

if __name__ == "__main__":
    code = main(["aggregate", *sys.argv[1:]])
    if code == 0 and not any(one.startswith("--output") for one in sys.argv):
        code = main(["report", next(one for one in sys.argv[1:] if not one.startswith("-"))])
    sys.exit(code)
