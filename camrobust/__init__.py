"""camrobust: how robust are class activation maps to noise?

`evaluate` and `explain` work in this process; `camrobust run` measures ImageNet-scale data on a Ray cluster.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrobust.core.explain.cams import cam
    from camrobust.core.perturb import perturbation
    from camrobust.core.similarity import similarity
    from camrobust.interface.api import evaluate, explain
    from camrobust.interface.attacks import attack, minimal_eps
    from camrobust.interface.certified_top import certified_top
    from camrobust.interface.evaluation import load, load_run
    from camrobust.interface.maps import overlay

# Without this, on some processors, MKL's sums depend on where a matrix lies in memory, so a row of a pass on its place.
# MKL reads the variable at its first product. It costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO")

__all__ = [
    "__version__", "attack", "cam", "certified_top", "evaluate", "explain", "load", "load_run", "minimal_eps",
    "overlay", "perturbation", "similarity",
]  # fmt: skip

MODULES = {
    "attack": "interface.attacks",
    "cam": "core.explain.cams",
    "certified_top": "interface.certified_top",
    "evaluate": "interface.api",
    "explain": "interface.api",
    "load": "interface.evaluation",
    "load_run": "interface.evaluation",
    "minimal_eps": "interface.attacks",
    "overlay": "interface.maps",
    "perturbation": "core.perturb",
    "similarity": "core.similarity",
}
"""The public functions, and the module in which each lives."""


def __getattr__(name: str) -> Any:
    """Import a public function on first use, so that the core can be imported without polars, pyarrow or ray."""
    if name == "__version__":
        return version("camrobust")
    if name in MODULES:
        return getattr(import_module(f"camrobust.{MODULES[name]}"), name)
    raise AttributeError(f"module 'camrobust' has no attribute '{name}'")
