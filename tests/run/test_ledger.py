"""An image that kills its worker, found among others that were worked on together."""

import os
import signal
import time

import pytest
import ray

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import RunFailed, UserError
from camrobust.run.ledger import ImagePart, Watch, open_ledger
from camrobust.run.plain_errors import plain_errors
from camrobust.run.stages.batches import PENDING, batch_of
from camrobust.run.stages.load import Load
from tests.photos import write_photos

pytestmark = [
    pytest.mark.cluster, pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore::DeprecationWarning")
]  # fmt: skip
WHY = "refused: the worker died 3 times at this image (crash, out of memory, or more than 60 s in the stage perturb)"


@pytest.fixture
def over_images(tmp_path):
    """Have a worker do the parts of some images; what is deadly kills it. Gives the results, the ledger, the tries.

    `killed_after` asks after each part whether the worker is killed before it begins the next.
    """
    record = tmp_path / "tried"

    def do(names, parts, deadly, killed_after=lambda part, tried: False):
        class Worker:
            def __init__(self, ledger):
                self.watch = Watch("perturb", ledger, 60)

            def __call__(self, batch):
                images, made = list(batch["image"]), []
                for part in parts:
                    items = [ImagePart("set", image, part) for image in images]

                    def work(places, part=part):
                        tried = [f"{images[place]}{part}" for place in places]
                        with record.open("a") as file:
                            file.write(" ".join(tried) + "\n")
                        if deadly(tried):
                            os.kill(os.getpid(), signal.SIGKILL)
                        return [f"made {one}" for one in tried]

                    made += self.watch.over_all(items, work, lambda why: f"refused: {why}")
                    if killed_after(part, record.read_text().splitlines()):
                        os.kill(os.getpid(), signal.SIGKILL)
                return {"found": made}

        ledger = open_ledger("test")
        rows = ray.data.from_items([{"image": name} for name in names], override_num_blocks=1)
        done = rows.map_batches(
            Worker, fn_constructor_args=(ledger,), batch_size=len(names), batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5,
        )  # fmt: skip
        return [row["found"] for row in done.take_all()], ledger, record.read_text().splitlines()

    return do


def test_only_the_part_of_an_image_that_kills_is_refused(over_images):
    found, ledger, tried = over_images(["a", "b", "mortal", "c"], [0, 1], lambda tried: "mortal1" in tried)
    assert found == ["made a0", "made b0", "made mortal0", "made c0", "made a1", "made b1", WHY, "made c1"]
    assert [line for line in tried if "mortal1" in line] == ["a1 b1 mortal1 c1", "mortal1", "mortal1"]
    assert settled(ledger)["perturb"][2] == 0


def test_images_that_are_too_much_together_are_not_brought_together_again(over_images):
    found, _, tried = over_images(["a", "b", "c"], [0, 1, 2], lambda tried: len(tried) > 1)
    assert found == [f"made {name}{part}" for part in "012" for name in "abc"]
    assert sum(" " in line for line in tried) == 3


def test_a_worker_killed_before_it_told_an_end_leaves_no_image_refused(over_images):
    """kill -9 after part 1, whose end waits for the next begin; the end of part 0 went with the begin of part 1."""
    found, ledger, tried = over_images(["a", "b"], [0, 1, 2], lambda tried: False, lambda part, tried: len(tried) == 2)
    assert found == [f"made {name}{part}" for part in "012" for name in "ab"]
    assert tried == ["a0 b0", "a1 b1", "a0 b0", "a1", "b1", "a2 b2"]
    # The end of "a2 b2" may be lost, as the worker is stopped when its only block is done.
    ray.get(ledger.settle.remote())
    assert ray.get(ledger.look.remote())["perturb"][::2] == (8, 0)


def test_the_last_end_arrives_from_a_task_that_is_over():
    """Load's batches are tasks: when one has returned, nothing of it is left but its process."""

    @ray.remote(num_cpus=0.5)
    def load(ledger):
        images = [ImagePart("set", name, 0) for name in "abc"]
        return Watch("load", ledger, 60).over_all(images, list, lambda why: -1)

    ledger = open_ledger("task")
    assert ray.get(load.remote(ledger)) == [0, 1, 2]
    assert settled(ledger)["load"][::2] == (3, 0)


def settled(ledger, seconds=60):
    """What the ledger says when no worker is at work, as far as it knows."""
    end = time.monotonic() + seconds
    while True:
        found = ray.get(ledger.look.remote())
        if time.monotonic() > end or not any(busy for _, _, busy in found.values()):
            return found


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("store: this is wrong; do that"), "store: this is wrong; do that"),
        (RunFailed("store: it fails; run again"), "store: it fails; run again"),
        (KeyError("x"), "run: stopped by KeyError: x; run again to resume, with --verbose to see all of it"),
        (OSError(5, "Input/output error"), "run: stopped by OSError: [Errno 5] Input/output error; run again to "),
    ],
)
def test_what_a_worker_raises_is_one_sentence(error, sentence):
    def fail(batch):
        raise error

    with pytest.raises(RunFailed) as told, plain_errors():
        ray.data.range(1).map_batches(fail).take_all()
    assert str(told.value).startswith(sentence)
    assert "\n" not in str(told.value)


def test_a_worker_that_is_killed_while_it_fetches_ends_in_one_quarantined_image(tmp_path):
    """Fetching is inside the ledger's eye: kill -9 at one address, 64 images in one batch."""
    write_photos(tmp_path / "set", 1)
    content = (tmp_path / "set" / "photo-000.jpg").read_bytes()
    fetched = tmp_path / "fetched"

    class Fatal(Load):
        def _fetch(self, job, most):
            with fetched.open("a") as file:
                file.write(f"{job.uri}\n")
            if job.uri == "photo-40":
                os.kill(os.getpid(), signal.SIGKILL)
            return [content]

    config = parse_config({
        "output": str(tmp_path / "out"), "datasets": [{"name": "d", "images": str(tmp_path / "set")}],
        "models": ["tests.toys:pooled"], "cams": ["gradcam"], "perturbations": ["contrast:1"],
        "segments": {"method": "grid", "cells": 4}, "image": {"resize": 32, "crop": 32},
    })  # fmt: skip
    ledger = open_ledger("fetch")
    names = [f"photo-{number:02}" for number in range(64)]
    columns = {"uri": names, "image_id": names}
    rest = {"dataset": ["d"] * 64, "label": [None] * 64, "place": [None] * 64, "parts": [[0]] * 64}
    pending = batch_of(PENDING, columns | rest)
    done = (
        ray.data.from_arrow(pending)
        .map_batches(Fatal(config, ledger), batch_size=64, batch_format="pyarrow", num_cpus=0.5)
        .take_all()
    )
    found = {row["image_id"]: (row["kind"], row["message"]) for row in done}
    seconds = f"{config.cluster.image_timeout_s:g} s in the stage load)"
    why = f"the worker died 3 times at this image (crash, out of memory, or more than {seconds}"
    assert found == dict.fromkeys(names, (None, None)) | {"photo-40": ("quarantined", why)}
    assert fetched.read_text().split().count("photo-40") == 3
    ended, _, busy = settled(ledger)["load"]
    assert (ended >= 64, busy) == (True, 0)
