"""The driver of a rehearsal, `python -m camrobust.bench.scale.rehearsed CONFIG ADDRESS IMAGES_PER_ROUND`.

It carries out the run as `camrobust run` does, with `RehearsedExplain` in the place of Explain, and prints a line of
JSON when it lists, when it has planned, when a round begins, and when all are committed.
"""

import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import polars as pl

from camrobust.bench.scale.stubs import REHEARSED
from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.run import pipeline, workflow
from camrobust.run.plan import Plan


def tell(event: str, **facts: Any) -> None:
    """Print what begins now."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def _said(line: str) -> None:
    if line.startswith("listing"):
        tell("list")
    elif line.startswith("images ×"):
        tell("planned")
    else:
        tell("said", line=line)


def rehearse(config: str, address: str, images_per_round: int) -> int:
    """Carry out or resume the run; returns its exit code."""
    stages, measure = partial(pipeline.stages, kinds=REHEARSED), pipeline.measure_pending

    def one_round(plan: Plan, folder: Any, images: pl.DataFrame, *rest: Any) -> Any:
        tell("round", images=images.height)
        return stages(plan, folder, images, *rest)

    def measured(*arguments: Any, **keywords: Any) -> None:
        measure(*arguments, **keywords)
        tell("measured")

    with patch.multiple(pipeline, stages=one_round, measure_pending=measured, IMAGES_PER_ROUND=images_per_round):
        return workflow.run(load_config(Path(config)), address=address, say=_said).exit_code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Carry out the run of the command line; an error is its last line."""
    signal.signal(signal.SIGTERM, _interrupt)
    config, address, images_per_round = sys.argv[1:]
    try:
        return rehearse(config, address, int(images_per_round))
    except UserError as error:
        tell("said", line=str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
