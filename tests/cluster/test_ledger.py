"""An image that kills its worker, found among others that were worked on together."""

import os
import signal
from pathlib import Path

import pytest
import ray

from camrobust.cluster.ledger import Watch, open_ledger
from camrobust.cluster.pipeline import session
from camrobust.config import ClusterConfig

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_of_images_worked_on_together_only_the_one_that_kills_is_refused(tmp_path):
    record = Path(tmp_path / "tried")

    class Worker:
        def __init__(self, ledger):
            self.watch = Watch("perturb", ledger, 60)

        def __call__(self, batch):
            names = list(batch["image"])

            def work(places):
                tried = [names[place] for place in places]
                with record.open("a") as file:
                    file.write(",".join(tried) + "\n")
                if "mortal" in tried:
                    os.kill(os.getpid(), signal.SIGKILL)
                return [f"made {name}" for name in tried]

            return {"found": self.watch.over_all("set", names, work, lambda why: f"refused: {why}")}

    with session("local", ClusterConfig()):
        ledger = open_ledger("test")
        images = ray.data.from_items([{"image": name} for name in ("a", "b", "mortal", "c")], override_num_blocks=1)
        pool = ray.data.ActorPoolStrategy(size=1)
        done = images.map_batches(
            Worker, fn_constructor_args=(ledger,), batch_size=4, batch_format="numpy", compute=pool, num_cpus=0.5
        )
        found = [row["found"] for row in done.take_all()]
        ended = ray.get(ledger.look.remote())["perturb"]
    why = "the worker died 3 times at this image (crash, out of memory, or more than 60 s in the stage perturb)"
    assert found == ["made a", "made b", f"refused: {why}", "made c"]
    tried = record.read_text().splitlines()
    assert tried[0] == "a,b,mortal,c"
    assert [line for line in tried if "mortal" in line] == ["a,b,mortal,c", "mortal", "mortal"]
    # Each retry finds the innocent ones alone once, and together again when they have shown that they are.
    assert {"a", "b", "c"} <= {name for line in tried[1:] for name in line.split(",")}
    assert ended[2] == 0
