"""Similarities of two maps beside rank-biased overlap: one function under `@similarity(...)` each.

A new measure is one function under `@similarity(...)`. It then appears in `camrobust list similarities`, in the
configuration and in the tests that run over the registry; run.json lists its column, whose meaning is the first line of
the function's docstring.
"""

from importlib import import_module
from pkgutil import iter_modules

from camrobust.core.similarity.registry import SIMILARITIES, TAKES, Similarity, flat, similarity
from camrobust.core.similarity.together import Together, measured

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["SIMILARITIES", "TAKES", "Similarity", "Together", "flat", "measured", "similarity"]
