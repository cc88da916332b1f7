"""`camrobust bench fuzz --images N --seed S`: damaged pictures through Load, in processes that may die of them.

Every picture must end as a row: scored or a failure with a kind. What must not happen is a crash, an exception, a
picture that takes longer than `LIMIT_S`, and a worker above its budget of memory.
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
    """What became of the pictures.

    Attributes:
        outcomes: pictures by format and outcome.
        peak_mib: of any worker, above its memory when idle; 0 where the system does not tell.
        wrong: pictures that ended in anything but a row, and how.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    peak_mib: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every picture became a row and no worker went above its budget."""
        return not self.wrong and self.peak_mib <= BUDGET_MIB

    def rows(self) -> list[dict[str, Any]]:
        """Per format: how many, and how they ended."""
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
        images: how many.
        seed: of what is damaged and how; number n of a seed is the same picture every time.
        say: takes a line now and then.
    """
    say(f"{len(seed_pictures())} seed pictures, {images:,} damaged ones")
    batches = [range(start, min(start + BATCH, images)) for start in range(0, images, BATCH)]
    found = Fuzzed()
    with ThreadPoolExecutor(PROCESSES) as pool:
        shares = [batches[number::PROCESSES] for number in range(PROCESSES)]
        for part in pool.map(lambda share: _share(seed, share), shares):
            found.outcomes += part.outcomes
            found.peak_mib = max(found.peak_mib, part.peak_mib)
            found.wrong += part.wrong
    return found


def _share(seed: int, batches: Iterable[Sequence[int]]) -> Fuzzed:
    """Some batches in one process after the other; of a batch that kills its process each picture is tried alone."""
    found = Fuzzed()
    worker = _Process(seed)
    for batch in batches:
        answer = worker.do(batch)
        if answer is None:
            worker = _Process(seed)
            for number in batch:
                alone = worker.do([number])
                if alone is None:
                    worker = _Process(seed)
                _take(found, seed, [number], alone)
        else:
            _take(found, seed, batch, answer)
    worker.end()
    return found


def _take(found: Fuzzed, seed: int, numbers: Sequence[int], answer: dict[str, Any] | None) -> None:
    kinds = [CRASH] * len(numbers) if answer is None else answer["kinds"]
    for number, kind in zip(numbers, kinds, strict=True):
        name, _ = damaged(seed, number)
        short = kind.partition(":")[0]
        found.outcomes[name, short] += 1
        if short in (CRASH, "exception"):
            found.wrong.append(f"picture {number} of seed {seed} ({name}): {kind}")
    if answer is not None:
        found.peak_mib = max(found.peak_mib, answer["peak_mib"])


class _Process:
    """A process that loads pictures; asked and answering in lines of JSON."""

    def __init__(self, seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "camrobust.bench.chaos.fuzz", str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.questions, self.answers = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)

    def do(self, numbers: Sequence[int]) -> dict[str, Any] | None:
        """How these pictures ended; None where the process died of them, or did not end in time."""
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
        """Let the process end."""
        self.process.communicate()


def _mib(name: str) -> float:
    """VmRSS or VmHWM of this process."""
    if not STATUS.exists():
        return 0.0
    return int(STATUS.read_text().partition(f"{name}:")[2].split()[0]) / 1024


def _work(seed: int) -> None:
    """What a process does: batches of numbers come in, kinds of failure and the peak of memory go out."""
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
    """Kinds of failure, or SCORED; each picture alone where the batch raises, so that the one is named."""
    paths = [folder / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    count = len(paths)
    names = {"uri": [str(path) for path in paths], "image_id": [path.name for path in paths]}
    batch = batch_of(PENDING, names | {"dataset": ["d"] * count, "label": [None] * count, "parts": [[0]] * count})
    try:
        return [kind or SCORED for kind in load(batch)["kind"].to_pylist()]
    except Exception as error:  # noqa: BLE001 - what is looked for is any exception that is not a failure row
        if count == 1:
            return [f"exception: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        return [kind for content in contents for kind in _load(load, folder, [content])]


if __name__ == "__main__":
    _work(int(sys.argv[1]))
