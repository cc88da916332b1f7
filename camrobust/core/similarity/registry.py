"""The registry of similarity measures, the decorator that fills it, and the test for constant maps."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.contract import schema
from camrobust.contract.columns import Column
from camrobust.contract.quoting import short
from camrobust.contract.registry import Registry, registering_module

Function = Callable[..., Tensor]
FLAT = 1e-6
"""A map is constant if max - min is at most this share of its largest magnitude."""

TAKES: Mapping[str, str] = {
    "positions": "the maps with their positions flattened, (…, n) twice",
    "grid": "the maps, (…, h, w) twice, and the image's (H, W) in px",
    "segments": "the scores of the segments, (…, m) twice, and their numbers if the function has a parameter `sizes`",
    "change": "the maps flattened, (…, n) twice, and the change of image and model (`sensitivity.InputChange`)",
}
"""The arguments of a measure: the clean map first; leading dimensions broadcast.

Images differ in their number of segments. A measure of segments with a parameter `sizes` gets the scores of all images
at once, padded at the end with any value, and sizes (…) int64, the number of segments of each pair, or None where
nothing is padded. A measure without it is called once for the images of each number of segments, which waits for a GPU.
"""


@dataclass(frozen=True)
class Similarity:
    """A similarity measure and its facts.

    Attributes:
        name: its name in configurations and results.
        function: maps the arguments that `takes` names to (…); undefined for constant maps. Calling the `Similarity`
            itself gives NaN for these.
        takes: a key of `TAKES`.
        low: smallest value.
        high: largest value, infinity if there is none.
        same: value of two equal maps, either `low` or `high`.
        unit: unit of the value.
        source: the publication that defines it.
        default: measured when the configuration names no measures; False for costly ones.
        shared: for camrobust's own measures, the same measure of what `together.Together` has computed already; it
            shares its steps with other measures. None: `function` is called.
    """

    name: str
    function: Function
    takes: str
    low: float
    high: float
    same: float
    unit: str
    source: str
    default: bool
    shared: Function | None = None

    def __call__(self, clean: Tensor, noisy: Tensor, *rest: object) -> Tensor:
        """The measure, (…); NaN if one of the two maps is constant."""
        sides = [maps.flatten(-2) if self.takes == "grid" else maps for maps in (clean, noisy)]
        if self.takes_sizes and rest and isinstance(rest[0], Tensor):
            inside = torch.arange(clean.shape[-1], device=clean.device) < rest[0][..., None]
            sides = [torch.where(inside, scores, scores[..., :1]) for scores in sides]
        constant = [flat(maps) for maps in sides]
        return torch.where(constant[0] | constant[1], torch.nan, self.function(clean, noisy, *rest))

    @property
    def takes_sizes(self) -> bool:
        """Whether a measure of segments takes padded scores of many images and their `sizes`."""
        return self.takes == "segments" and "sizes" in inspect.signature(self.function).parameters

    @property
    def direction(self) -> str:
        """Either "higher = more alike" or "lower = more alike"."""
        return f"{'higher' if self.same == self.high else 'lower'} = more alike"

    @property
    def column(self) -> Column:
        """Its column in the scores of a run."""
        meaning = (inspect.getdoc(self.function) or self.unit).splitlines()[0]
        return Column(self.name, "float32", meaning)


SIMILARITIES: Registry[Similarity] = Registry("similarity")
_OTHERS = [one for one in schema.SCORES if one not in schema.SIMILARITIES or one.name.startswith("rbo")]
TAKEN = {name for one in _OTHERS for name in one.names}
"""Columns of a score row, under today's names and former ones, that no similarity may be called."""


def similarity(
    name: str, *, takes: str, low: float, high: float, same: float, unit: str, source: str, default: bool = True,
    shared: Function | None = None,
) -> Callable[[Function], Function]:  # fmt: skip
    """Register a function of two maps; arguments as in `Similarity`.

    Raises:
        ValueError: `takes` is none of `TAKES`, `same` is neither `low` nor `high`, or the name cannot be that of a
            new column.
    """
    if not name.isidentifier() or name.startswith("_") or name in TAKEN:
        raise ValueError(
            f"similarity: the name becomes a column of the scores and must be letters, digits and _, and none of "
            f"{', '.join(sorted(TAKEN))}, got '{short(name)}'; choose another name"
        )
    if takes not in TAKES:
        raise ValueError(f"similarity: takes must be one of {', '.join(TAKES)}, got '{takes}' for '{name}'")
    if same not in (low, high):
        raise ValueError(f"similarity: same must be low or high, got {same:g} for '{name}'; it tells the direction")

    def register(function: Function) -> Function:
        entry = Similarity(name, function, takes, low, high, same, unit, source, default, shared)
        SIMILARITIES.add(entry, registering_module())
        return function

    return register


def flat(values: Tensor) -> Tensor:
    """Whether values (…, n) are constant along the last dimension, up to rounding: (…) bool.

    Constant means that max - min is at most `FLAT` of the largest magnitude. Otherwise the rounding errors of a
    constant map would be ranked.
    """
    low, high = values.aminmax(dim=-1)
    return nearly_equal(low, high)


def nearly_equal(low: Tensor, high: Tensor) -> Tensor:
    """Whether a map with this minimum and maximum is constant; see `flat`."""
    return high - low <= FLAT * torch.maximum(high, -low)


def chunks(clean: Tensor, noisy: Tensor, function: Function, items: int, bytes_per_pair: int) -> Tensor:
    """Apply a function to pairs in chunks, because its intermediate results are much larger than the maps.

    Args:
        clean: (…, *rest).
        noisy: (…, *rest); leading dimensions broadcast.
        function: two tensors (N, *rest) to (N,).
        items: number of dimensions in `rest`.
        bytes_per_pair: size of the intermediate results for one pair.

    Returns:
        (…).
    """
    clean, noisy = torch.broadcast_tensors(clean, noisy)
    shape = clean.shape[: clean.ndim - items]
    size = max(1, CHUNK_BYTES // bytes_per_pair)
    first, second = (side.reshape(-1, *side.shape[side.ndim - items :]) for side in (clean, noisy))
    if len(first) <= size:
        return function(first, second).reshape(shape)
    parts = zip(first.split(size), second.split(size), strict=True)
    return torch.cat([function(a, b) for a, b in parts]).reshape(shape)


CHUNK_BYTES = 64 * 2**20
"""Largest size of the intermediate results of a measure."""
