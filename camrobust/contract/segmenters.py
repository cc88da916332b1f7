"""The ways to cut an image into segments: facts without torch, so that a configuration can be checked by them."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import shown
from camrobust.contract.registry import Registry, unknown

LARGEST = sys.float_info.max
"""So that infinity, which JSON does not know, is refused."""


@dataclass(frozen=True)
class Parameter:
    """A number that a segmenter takes.

    Attributes:
        name: of the keyword argument.
        default: where none is given; an int means that only whole numbers are taken.
        low: least value.
        high: largest value.
        meaning: what it does, with its unit.
    """

    name: str
    default: float
    low: float
    high: float
    meaning: str

    def check(self, value: object, method: str) -> float:
        """The value as this parameter's type of number; UserError where it is none or out of range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = isinstance(self.default, int)
        if number and self.low <= value <= min(self.high, LARGEST) and not (whole and value != int(value)):  # type: ignore[operator, call-overload]
            return type(self.default)(value)  # type: ignore[arg-type]
        kind = "a whole number" if whole else "a number"
        bounds = f"of at least {self.low:g}" if math.isinf(self.high) else f"from {self.low:g} to {self.high:g}"
        raise UserError(
            f"segments: {self.name} of {method} must be {kind} {bounds} ({self.meaning}), got {shown(value)}; "
            f"the default is {self.default:g}"
        )


@dataclass(frozen=True)
class Segmenter:
    """A way to cut an image into segments.

    Attributes:
        name: as it stands in configurations.
        function: module:function of images (B, 3, H, W) and the parameters to labels (B, H, W) int64, 0 … m-1.
        parameters: what it takes.
        deterministic: same image, same labels.
        source: where it is defined, and whose code computes it.
    """

    name: str
    function: str
    parameters: tuple[Parameter, ...]
    deterministic: bool
    source: str

    def resolve(self, given: Mapping[str, object]) -> dict[str, float]:
        """All parameters, checked, with defaults where none are given.

        Raises:
            UserError: an unknown parameter (with the nearest one) or a value out of its range.
        """
        known = {one.name: one for one in self.parameters}
        for name in given:
            if name not in known:
                raise UserError(f"segments: {unknown(f'parameter of {self.name}', name, known)}")
        return {name: one.check(given.get(name, one.default), self.name) for name, one in known.items()}

    def load(self) -> Callable[..., Any]:
        """The function."""
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


SEGMENTERS: Registry[Segmenter] = Registry("segmenter")
DEFAULT = "quickshift"

SEGMENTERS.add(
    Segmenter(
        "quickshift",
        "camrobust.core.segments.quickshift:quickshift",
        (
            Parameter("kernel_size", 4.0, 1, 50, "px, width of the density kernel"),
            Parameter("max_dist", 200.0, 0, math.inf, "cut-off of the tree, larger gives fewer segments"),
            Parameter("ratio", 0.2, 0, 1, "weight of colour against position"),
        ),
        deterministic=True,
        source="Vedaldi & Soatto 2008; labels as scikit-image's",
    )
)
SEGMENTERS.add(
    Segmenter(
        "slic",
        "camrobust.core.segments:slic",
        (
            Parameter("n_segments", 50, 1, 100_000, "segments to begin with"),
            Parameter("compactness", 10.0, 1e-6, 1e6, "weight of position against colour"),
            Parameter("sigma", 0.0, 0, 50, "px, smoothing before"),
        ),
        deterministic=True,
        source="Achanta et al. 2012, by scikit-image",
    )
)
SEGMENTERS.add(
    Segmenter(
        "felzenszwalb",
        "camrobust.core.segments:felzenszwalb",
        (
            Parameter("scale", 200.0, 1e-6, 1e9, "larger gives larger segments"),
            Parameter("sigma", 0.8, 0, 50, "px, smoothing before"),
            Parameter("min_size", 100, 1, 10**9, "px, smaller segments are merged"),
        ),
        deterministic=True,
        source="Felzenszwalb & Huttenlocher 2004, by scikit-image",
    )
)
SEGMENTERS.add(
    Segmenter(
        "grid",
        "camrobust.core.segments:grid",
        (Parameter("cells", 7, 1, 4096, "rows and columns of the grid"),),
        deterministic=True,
        source="camrobust; blind to the image",
    )
)
