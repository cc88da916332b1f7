"""camrobust: how robust are class activation maps to noise?

`evaluate` and `explain` work in this process; `camrobust run` measures ImageNet-scale data on a Ray cluster.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrobust.interface.api import evaluate, explain
    from camrobust.interface.attacks import attack, minimal_eps
    from camrobust.interface.evaluation import load_run
    from camrobust.interface.maps import overlay

__all__ = ["__version__", "attack", "evaluate", "explain", "load_run", "minimal_eps", "overlay"]

MODULES = {
    "attack": "attacks",
    "evaluate": "api",
    "explain": "api",
    "load_run": "evaluation",
    "minimal_eps": "attacks",
    "overlay": "maps",
}
"""The public functions, and the module of interface/ in which each lives."""


def __getattr__(name: str) -> Any:
    """Import a public function on first use, so that the core can be imported without polars, pyarrow or ray."""
    if name == "__version__":
        return version("camrobust")
    if name in MODULES:
        return getattr(import_module(f"camrobust.interface.{MODULES[name]}"), name)
    raise AttributeError(f"module 'camrobust' has no attribute '{name}'")
