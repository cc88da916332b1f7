"""Reduce the scores again and draw the report: `python jobs/aggregate.py RUN [RUN … --output DIR]`."""

import sys

from camrobust.cli import main

if __name__ == "__main__":
    code = main(["aggregate", *sys.argv[1:]])
    if code == 0 and "--output" not in sys.argv:
        code = main(["report", *sys.argv[1:2]])
    sys.exit(code)
