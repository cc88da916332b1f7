"""`camrobust bench fuzz --images N --seed S`: load damaged pictures in separate processes, which may crash.

Every picture must end as a row, scored or failed. It is an error if a process crashes, raises an exception, takes
longer than `LIMIT_S` per picture, or exceeds its memory budget.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import IO, Any, cast

from camrobust.bench.chaos.pictures import damaged, seed_pictures
from camrobust.contract.config_file import parse_config
from camrobust.run.stages.batches import PENDING, batch_of
from camrobust.run.stages.load import Load

PROCESSES = 2
BATCH = 8
LIMIT_S = 120
BUDGET_MIB = 1024
SCORED, CRASH = "scored", "crash"
STATUS = Path("/proc/self/status")

Say = Callable[[str], None]


@dataclass
class Fuzzed:
    """How the pictures ended.

    Attributes:
        outcomes: number of pictures by format and outcome.
        peak_mib: largest memory of a worker above its memory when idle; 0 where the system does not report it.
        wrong: pictures that did not end as a row, and what happened.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    peak_mib: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every picture became a row and no worker exceeded its budget."""
        return not self.wrong and self.peak_mib <= BUDGET_MIB

    def rows(self) -> list[dict[str, Any]]:
        """For each format, the number of pictures and how they ended."""
        kinds = sorted({kind for _, kind in self.outcomes} - {SCORED})
        formats = sorted({name for name, _ in self.outcomes})
        lines = []
        for name in (*formats, "all"):
            count = {kind: self._count(name, kind) for kind in (SCORED, *kinds)}
            lines.append({"format": name, "images": sum(count.values()), **count})
        return lines

    def _count(self, name: str, kind: str) -> int:
        return sum(n for (a, b), n in self.outcomes.items() if b == kind and name in (a, "all"))


def fuzz(images: int, seed: int, say: Say = lambda _: None) -> Fuzzed:
    """Damage pictures and load them.

    Args:
        images: number of pictures.
        seed: decides the damage; picture n of a seed is always the same.
        say: receives a line of progress.
    """
    say(f"{len(seed_pictures())} seed pictures, {images:,} damaged ones")
    batches = [range(start, min(start + BATCH, images)) for start in range(0, images, BATCH)]
    total = Fuzzed()
    with ThreadPoolExecutor(PROCESSES) as pool:
        shares = [batches[number::PROCESSES] for number in range(PROCESSES)]
        for part in pool.map(lambda share: _share(seed, share), shares):
            total.outcomes += part.outcomes
            total.peak_mib = max(total.peak_mib, part.peak_mib)
            total.wrong += part.wrong
    return total


def _share(seed: int, batches: Iterable[Sequence[int]]) -> Fuzzed:
    """Load some batches in one process; if a batch kills it, load each of its pictures alone in a new one."""
    outcome = Fuzzed()
    worker = _Process(seed)
    for batch in batches:
        answer = worker.do(batch)
        if answer is None:
            worker = _Process(seed)
            for number in batch:
                alone = worker.do([number])
                if alone is None:
                    worker = _Process(seed)
                _add(outcome, seed, [number], alone)
        else:
            _add(outcome, seed, batch, answer)
    worker.end()
    return outcome


def _add(outcome: Fuzzed, seed: int, numbers: Sequence[int], answer: dict[str, Any] | None) -> None:
    """Add the answer about some pictures, None for a crash."""
    kinds = [CRASH] * len(numbers) if answer is None else answer["kinds"]
    for number, kind in zip(numbers, kinds, strict=True):
        name, _ = damaged(seed, number)
        short = kind.partition(":")[0]
        outcome.outcomes[name, short] += 1
        if short in (CRASH, "exception"):
            outcome.wrong.append(f"picture {number} of seed {seed} ({name}): {kind}")
    if answer is not None:
        outcome.peak_mib = max(outcome.peak_mib, answer["peak_mib"])


class _Process:
    """A process that loads pictures; questions and answers are lines of JSON."""

    def __init__(self, seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "camrobust.bench.chaos.fuzz", str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.questions, self.answers = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)

    def do(self, numbers: Sequence[int]) -> dict[str, Any] | None:
        """How these pictures ended; None if the process crashed or took too long."""
        timer = Timer(LIMIT_S * len(numbers), self.process.kill)
        timer.start()
        try:
            self.questions.write(json.dumps(list(numbers)) + "\n")
            self.questions.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.process.wait()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def _mib(name: str) -> float:
    """Memory of this process: VmRSS is the present one, VmHWM the largest so far."""
    if not STATUS.exists():
        return 0.0
    return int(STATUS.read_text().partition(f"{name}:")[2].split()[0]) / 1024


def _work(seed: int) -> None:
    """The work of a process: it reads batches of numbers and writes kinds of failure and the peak memory."""
    with tempfile.TemporaryDirectory(prefix="camrobust-fuzz-") as temporary:
        folder = Path(temporary)
        load = Load(parse_config({
            "output": str(folder / "out"), "datasets": [{"name": "d", "images": str(folder)}],
            "models": ["torchvision:resnet18@none"], "cams": ["random"], "perturbations": ["contrast:1"],
            "segments": {"method": "grid", "cells": 6},
        }))  # fmt: skip
        _load(load, folder, [content for _, content in seed_pictures()[:1]])
        idle = _mib("VmRSS")
        for line in sys.stdin:
            contents = [damaged(seed, number)[1] for number in json.loads(line)]
            kinds = _load(load, folder, contents)
            sys.stdout.write(json.dumps({"kinds": kinds, "peak_mib": _mib("VmHWM") - idle}) + "\n")
            sys.stdout.flush()


def _load(load: Load, folder: Path, contents: Sequence[bytes]) -> list[str]:
    """Kinds of failure, or SCORED. If the batch raises, each picture is loaded alone to find the one that does."""
    paths = [folder / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    count = len(paths)
    names = {"uri": [str(path) for path in paths], "image_id": [path.name for path in paths]}
    rest = {"dataset": ["d"] * count, "label": [None] * count, "place": [None] * count, "parts": [[0]] * count}
    batch = batch_of(PENDING, names | rest)
    try:
        return [kind or SCORED for kind in load(batch)["kind"].to_pylist()]
    except Exception as error:  # noqa: BLE001 - what is looked for is any exception that is not a failure row
        if count == 1:
            return [f"exception: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        return [kind for content in contents for kind in _load(load, folder, [content])]


if __name__ == "__main__":
    _work(int(sys.argv[1]))
