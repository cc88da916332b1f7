"""Another job on the same nodes: `python -m camrobust.bench.chaos.neighbour ADDRESS MIB NODE…`.

It keeps so many MiB in the object store of every node named, says so, and stays until it is killed.
"""

import logging
import sys
import threading
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PIECE_MIB = 4
READY = "ready"


class Keeper:
    """Holds objects on its node."""

    def keep(self, mib: int) -> int:
        """Put so many MiB into the object store; returns the number of objects."""
        self.kept = [ray.put(np.zeros(PIECE_MIB * 2**20, np.uint8)) for _ in range(mib // PIECE_MIB)]
        return len(self.kept)


def main() -> None:
    """Fill the stores, and stay."""
    address, mib, *identities = sys.argv[1:]
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    places = [NodeAffinitySchedulingStrategy(identity, soft=False) for identity in identities]
    keeper: Any = ray.remote(num_cpus=0)(Keeper)
    keepers = [keeper.options(scheduling_strategy=place).remote() for place in places]
    ray.get([one.keep.remote(int(mib)) for one in keepers])
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
