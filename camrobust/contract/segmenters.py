"""The ways to cut an image into segments: facts without torch, so that a configuration can be checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from math import inf
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.contract.parameters import Parameter
from camrobust.contract.registry import Registry, unknown


@dataclass(frozen=True)
class Segmenter:
    """A way to cut an image into segments.

    Attributes:
        name: as it stands in configurations.
        function: "module:function"; it takes images (B, C, H, W) and the parameters, and returns labels (B, H, W)
            int64, 0 … m-1.
        source: where it is defined, and whose code computes it.
        parameters: of the function; each has a default.
        deterministic: the same image always has the same labels.
    """

    name: str
    function: str
    source: str
    parameters: tuple[Parameter, ...]
    deterministic: bool = True

    def resolve(self, given: Mapping[str, object]) -> dict[str, float]:
        """Check the parameters and fill in the defaults.

        Raises:
            UserError: an unknown parameter (the message names the nearest one), or a value out of its bounds.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise UserError(f"segments: {unknown(f'parameter of {self.name}', name, known)}")
        return {
            name: parameter.check(
                given.get(name, parameter.default), "segments", self.name, f"the default is {parameter.default:g}"
            )
            for name, parameter in known.items()
        }

    def load(self) -> Callable[..., Any]:
        """The function; this imports torch."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


SEGMENTERS: Registry[Segmenter] = Registry("segmenter")
DEFAULT = "quickshift"


def _add(name: str, function: str, source: str, **parameters: Parameter) -> None:
    named = tuple(replace(parameter, name=argument) for argument, parameter in parameters.items())
    SEGMENTERS.add(Segmenter(name, function, source, named))


_add(
    "quickshift",
    "camrobust.core.segments.quickshift:quickshift",
    "Vedaldi & Soatto 2008; labels as scikit-image's",
    kernel_size=Parameter(1, 50, "px", "width of the density kernel", default=4.0),
    max_dist=Parameter(0, inf, "", "cut-off of the tree, larger gives fewer segments", default=200.0),
    ratio=Parameter(0, 1, "", "weight of colour against position", default=0.2),
)
_add(
    "slic",
    "camrobust.core.segments:slic",
    "Achanta et al. 2012, by scikit-image",
    n_segments=Parameter(1, 100_000, "", "segments to begin with", whole=True, default=50),
    compactness=Parameter(1e-6, 1e6, "", "weight of position against colour", default=10.0),
    sigma=Parameter(0, 50, "px", "smoothing before", default=0.0),
)
_add(
    "felzenszwalb",
    "camrobust.core.segments:felzenszwalb",
    "Felzenszwalb & Huttenlocher 2004, by scikit-image",
    scale=Parameter(1e-6, 1e9, "", "larger gives larger segments", default=200.0),
    sigma=Parameter(0, 50, "px", "smoothing before", default=0.8),
    min_size=Parameter(1, 10**9, "px", "smaller segments are merged", whole=True, default=100),
)
_add(
    "grid",
    "camrobust.core.segments:grid",
    "camrobust; blind to the image",
    cells=Parameter(1, 4096, "", "rows and columns of the grid", whole=True, default=7),
)
