"""Results to the store. Imports no torch: a worker that commits is small and starts in a fifth of a second."""

import time

import numpy as np

from camrobust.results.arrow import unpack
from camrobust.results.commits import Unit, write_commit
from camrobust.results.folder import open_run
from camrobust.run.stages.batches import Batch


class Commit:
    """Results of some images to the store, as one commit; what goes back to the driver is only counts.

    Args:
        output: address of the run folder.
        number: of the lease under which they count.
    """

    def __init__(self, output: str, number: int) -> None:
        self.output, self.number = output, number

    def __call__(self, batch: Batch) -> Batch:
        """Rows of packed tables to one row of counts."""
        start = time.monotonic()
        units = [
            Unit(
                str(batch["dataset"][row]),
                str(batch["image_id"][row]),
                int(batch["part"][row]),
                *(unpack(batch[name][row]) for name in ("scores", "images", "failures", "maps")),
            )
            for row in range(len(batch["image_id"]))
        ]
        write_commit(open_run(self.output).store, units, self.number)
        return {
            "units": np.array([len(units)]),
            "rows": np.array([sum(unit.scores.num_rows for unit in units)]),
            "failures": np.array([sum(unit.failures.num_rows for unit in units)]),
            "seconds": np.array([time.monotonic() - start]),
        }
