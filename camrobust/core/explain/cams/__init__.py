"""The CAM methods: one function under `@cam(...)` each, in any module of this package.

Every module here is imported. A new method is available in configurations, `camrobust list cams` and the tests over the
registry without any other edit.
"""

from importlib import import_module
from pkgutil import iter_modules

from camrobust.core.explain.cams.registry import CAMS, CLASSIC, COSTLY, COSTS, Cam, cam

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CAMS", "CLASSIC", "COSTLY", "COSTS", "Cam", "cam"]
