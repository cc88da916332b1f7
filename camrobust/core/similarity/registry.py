"""The registry of similarity measures, and when a map has nothing to compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.contract.registry import Registry

Function = Callable[..., Tensor]
FLAT = 1e-6

TAKES: Mapping[str, str] = {
    "positions": "the maps with their positions flattened, (…, n) twice",
    "grid": "the maps, (…, h, w) twice, and the image's (H, W) in px",
    "segments": "the scores of the segments, (…, m) twice",
    "change": "the maps flattened, (…, n) twice, and how far image and model moved (`sensitivity.Change`)",
}
"""What a measure is computed from; leading dimensions broadcast, and the clean side comes first."""


@dataclass(frozen=True)
class Similarity:
    """A measure of two maps with its facts.

    Attributes:
        name: as it stands in the results.
        function: what `takes` says, to (…), where no map is constant; calling the measure itself minds that.
        takes: a key of `TAKES`.
        low: least value.
        high: largest value, infinity where there is none.
        same: what two equal maps give, `low` or `high`.
        unit: of the value.
        source: where it is defined.
        default: measured unless the configuration names the measures; those that cost more are not.
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

    def __call__(self, clean: Tensor, noisy: Tensor, *rest: object) -> Tensor:
        """The measure, (…), and NaN where one of the maps is constant."""
        constant = [flat(maps.flatten(-2) if self.takes == "grid" else maps) for maps in (clean, noisy)]
        return torch.where(constant[0] | constant[1], torch.nan, self.function(clean, noisy, *rest))

    @property
    def direction(self) -> str:
        """How to read it: "higher = more alike" or "lower = more alike"."""
        return f"{'higher' if self.same == self.high else 'lower'} = more alike"


SIMILARITIES: Registry[Similarity] = Registry("similarity")


def similarity(
    name: str, *, takes: str, low: float, high: float, same: float, unit: str, source: str, default: bool = True
) -> Callable[[Function], Function]:
    """Register a function of two maps; arguments as in `Similarity`.

    Raises:
        ValueError: `takes` is none of `TAKES`, or `same` neither `low` nor `high`.
    """
    if takes not in TAKES:
        raise ValueError(f"similarity: takes must be one of {', '.join(TAKES)}, got '{takes}' for '{name}'")
    if same not in (low, high):
        raise ValueError(f"similarity: same must be low or high, got {same:g} for '{name}'; it tells the direction")

    def register(function: Function) -> Function:
        SIMILARITIES.add(Similarity(name, function, takes, low, high, same, unit, source, default))
        return function

    return register


def flat(values: Tensor) -> Tensor:
    """Constant up to rounding along the last dimension: max - min is at most 1e-6 of the largest magnitude.

    A map that is mathematically constant must not be ranked by its rounding errors.
    """
    low, high = values.aminmax(dim=-1)
    return high - low <= FLAT * torch.maximum(high, -low)


def chunks(clean: Tensor, noisy: Tensor, function: Function, items: int, bytes_per_pair: int) -> Tensor:
    """A function of pairs whose intermediate results are much larger than the maps, some pairs at a time.

    Args:
        clean: (…, *rest).
        noisy: (…, *rest); leading dimensions broadcast.
        function: (N, *rest) twice to (N,).
        items: number of dimensions in rest.
        bytes_per_pair: what it needs for one.

    Returns:
        (…).
    """
    clean, noisy = torch.broadcast_tensors(clean, noisy)
    shape = clean.shape[: clean.ndim - items]
    size = max(1, CHUNK_BYTES // bytes_per_pair)
    pairs = (side.reshape(-1, *side.shape[side.ndim - items :]).split(size) for side in (clean, noisy))
    return torch.cat([function(one, other) for one, other in zip(*pairs, strict=True)]).reshape(shape)


CHUNK_BYTES = 64 * 2**20
"""Most memory for the intermediate results of a measure."""
