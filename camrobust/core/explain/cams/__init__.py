"""The CAM methods: one decorated function each, in any module of this package.

A new method is one function under `@cam(...)`; it then appears in `camrobust list cams`, in the configuration and in
the tests that run over the registry.
"""

from importlib import import_module
from pkgutil import iter_modules

from camrobust.core.explain.cams.registry import CAMS, CLASSIC, COSTS, Cam, cam

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CAMS", "CLASSIC", "COSTS", "Cam", "cam"]
