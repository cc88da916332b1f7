"""Measure, aggregate and report on a Ray cluster: `ray job submit … -- python jobs/evaluate.py CONFIG`."""

import sys

from camrobust.interface.cli import main

if __name__ == "__main__":
    # Under `ray job submit` RAY_ADDRESS is set and "auto" finds the cluster that the job runs on.
    sys.exit(main(["run", "--address", "auto", *sys.argv[1:]]))
