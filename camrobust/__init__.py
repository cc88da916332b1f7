"""camrobust: how robust are class activation maps to noise?

`evaluate` and `explain` work in this process; `camrobust run` measures ImageNet-scale data on a Ray cluster.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrobust.interface.api import attack, evaluate, explain, load_run, minimal_eps, overlay

__all__ = ["__version__", "attack", "evaluate", "explain", "load_run", "minimal_eps", "overlay"]


def __getattr__(name: str) -> Any:
    """Import the Python interface on first use, so that the core imports without polars, pyarrow or ray."""
    if name == "__version__":
        return version("camrobust")
    if name in __all__:
        return getattr(import_module("camrobust.interface.api"), name)
    raise AttributeError(f"module 'camrobust' has no attribute '{name}'")
