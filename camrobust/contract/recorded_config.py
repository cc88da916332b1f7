"""The configuration of a run as run.json repeats it: the settings that readers use are typed, the others plain."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from camrobust.contract.certify_config import MOST_RADII, MOST_SIGMAS
from camrobust.contract.former_names import renamed_settings
from camrobust.contract.record import Count, Name

DEEPEST = 40
"""Levels in a configuration, here as in a configuration file."""
MAX_PLAIN = 4 * 2**20
"""Characters and values in it; a configuration file has a quarter of that at most."""
LARGEST_BITS = 64
Deviation = Annotated[float, Field(ge=0, le=5)]


class RecordedPart(BaseModel):
    """A part of a recorded configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    plain: dict[str, Any] = Field({}, description="all settings under today's names, in the order of the file")

    @model_validator(mode="before")
    @classmethod
    def _keep(cls, raw: Any) -> Any:
        return {**raw, "plain": raw} if isinstance(raw, Mapping) else raw

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return self.plain


class RecordedMetric(RecordedPart):
    """`metric`."""

    average: Literal["macro", "micro"] = "macro"


class RecordedSummary(RecordedPart):
    """`summary`."""

    intervals: Literal["delta", "bootstrap"] = "delta"
    map_attacks: Literal["apart", "own", "all"] = "apart"
    only: Literal["all", "correct"] = "all"


class RecordedCertify(RecordedPart):
    """`certify`."""

    sigma: tuple[Deviation, ...] = Field(max_length=MOST_SIGMAS)
    radii: tuple[Deviation, ...] = Field(max_length=MOST_RADII)
    samples: Count
    pilot: Count
    alpha: Deviation
    item: Literal["rank", "top"]
    top: Deviation
    tries: Count = 0


class RecordedEntry(RecordedPart):
    """An entry of `datasets` or `models`."""

    name: Name


class RecordedConfig(RecordedPart):
    """The whole configuration."""

    seed: int = Field(0, ge=0, lt=2**63)
    gallery_images: Count = 0
    metric: RecordedMetric = RecordedMetric()
    summary: RecordedSummary = RecordedSummary()
    certify: RecordedCertify | None = None


class RecordedNumbers(RecordedPart):
    """The settings that change numbers; runs are compared by them."""

    datasets: list[RecordedEntry] = Field([], max_length=1000)
    models: list[RecordedEntry] = Field([], max_length=1000)


def _today(raw: Any) -> Any:
    """Plain data under today's names."""
    if not isinstance(raw, Mapping):
        return raw
    _check_plain(raw)
    return renamed_settings(raw)


def _check_plain(value: Any) -> None:
    """Refuse what a configuration cannot hold.

    Raises:
        ValueError: it is too large or too deep, or holds a number that is not finite or beyond 64 bits.
    """
    size, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        size += 1 + (len(item) if isinstance(item, str) else 0)
        if size > MAX_PLAIN:
            raise ValueError(f"more than {MAX_PLAIN} characters and values")
        if depth > DEEPEST:
            raise ValueError(f"values lie more than {DEEPEST} levels deep")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number must be finite")
        if isinstance(item, int) and item.bit_length() > LARGEST_BITS:
            raise ValueError(f"a number must fit into {LARGEST_BITS} bits")
        if isinstance(item, (dict, list)):
            below = item if isinstance(item, list) else [*item, *item.values()]
            waiting += [(part, depth + 1) for part in below]


Config = Annotated[RecordedConfig, BeforeValidator(_today)]
Numbers = Annotated[RecordedNumbers, BeforeValidator(_today)]
