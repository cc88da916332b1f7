"""Reduce a run's scores again, and draw its report: `python jobs/aggregate.py RUN`."""

import sys

from camrobust.cli import main

if __name__ == "__main__":
    sys.exit(main(["aggregate", *sys.argv[1:]]) or main(["report", *sys.argv[1:2]]))
