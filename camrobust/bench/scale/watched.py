"""The driver of a rehearsal, watched from outside: what it does when, and how much memory it has."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camrobust.bench.chaos.processes import resident_mib
from camrobust.run.observer import repeating

LOOK_S = 0.5
TOLD = '{"event":'
MODULE = "camrobust.bench.scale.rehearsed"


@dataclass
class Round:
    """One stream of images.

    Attributes:
        attempt: of the driver.
        images: how many it had.
        began: when, on the clock.
        ended: when.
        mib: memory of the driver at every look.
    """

    attempt: int
    images: int
    began: float
    ended: float = 0.0
    mib: list[float] = field(default_factory=list)


class Watched:
    """Starts the driver, as often as it is told to.

    Args:
        arguments: of the driver.
        environment: its environment variables.
        say: takes its lines for the user.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.arguments, self.environment, self.say = arguments, environment, say
        self.measuring = threading.Event()
        self.rounds: list[Round] = []
        self.exits: list[int] = []
        self.seconds = self.listed_s = self._listing = 0.0
        self.last = ""

    def run(self) -> int:
        """Start the driver and wait for its end; returns its exit code."""
        start = time.monotonic()
        command = [sys.executable, "-m", MODULE, *self.arguments]
        driver = subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            with repeating(lambda: self._look(driver.pid), LOOK_S):
                for line in driver.stdout or ():
                    # Ray prints, too.
                    if line.startswith(TOLD):
                        self._take(json.loads(line), driver.pid)
            self.exits.append(driver.wait())
        finally:
            self.measuring.clear()
            driver.kill()
            driver.communicate()
        self._end_round()
        self.seconds += time.monotonic() - start
        return self.exits[-1]

    def _look(self, pid: int) -> None:
        if self.measuring.is_set() and self.rounds:
            self.rounds[-1].mib.append(resident_mib(pid))

    def _take(self, told: Mapping[str, Any], pid: int) -> None:
        """Note what the driver does now."""
        now, event = time.monotonic(), told["event"]
        if event == "list":
            self._listing = now
        elif event == "planned":
            self.listed_s += now - self._listing
        elif event == "round":
            self._end_round()
            self.rounds.append(Round(len(self.exits) + 1, told["images"], now, mib=[resident_mib(pid)]))
            self.say(f"round {len(self.rounds)}: {told['images']:,} images …")
            self.measuring.set()
        elif event == "measured":
            self.rounds[-1].mib.append(resident_mib(pid))
            self._end_round()
            self.measuring.clear()
        else:
            self.last = told["line"]
            self.say(self.last)

    def _end_round(self) -> None:
        if self.rounds and not self.rounds[-1].ended:
            self.rounds[-1].ended = time.monotonic()

    def slope_kib(self) -> float | None:
        """How much the driver's memory at the end of a round grows with every image of the rounds after the first, KiB.

        None with fewer than two rounds in its last attempt.
        """
        rounds = [one for one in self.rounds if one.attempt == len(self.exits)]
        if len(rounds) < 2:
            return None
        images = np.cumsum([one.images for one in rounds])
        return round(float(np.polyfit(images, [one.mib[-1] for one in rounds], 1)[0]) * 1024, 3)

    def rows(self) -> list[dict[str, Any]]:
        """One row per round."""
        return [
            {
                "round": number,
                "attempt": one.attempt,
                "images": one.images,
                "seconds": round(one.ended - one.began, 1),
                "images_per_s": round(one.images / max(one.ended - one.began, 1e-9), 1),
                "driver_mib_at_start": round(one.mib[0]),
                "highest": round(max(one.mib)),
                "at_end": round(one.mib[-1]),
            }
            for number, one in enumerate(self.rounds, 1)
        ]
