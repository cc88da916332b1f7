"""The perturbations: one decorated function each, in any module of this package.

All take images (B, C, H, W) float32 in [0, 1], before the model's normalisation, and return a new tensor of the same
shape and range. C is 3, or a number for which the perturbation is defined. A function under `@perturbation(...)`
appears in `camrobust list perturbations`, may be named in configurations, and is covered by the tests that run over the
registry.
"""

from importlib import import_module
from pkgutil import walk_packages

from camrobust.core.perturb.apply import attack, make_variants, perturb
from camrobust.core.perturb.defined import check_defined
from camrobust.core.perturb.presets import PRESETS, left_out
from camrobust.core.perturb.registry import PERTURBATIONS, Perturbation, perturbation, without_model
from camrobust.core.perturb.variants import Variant, size_warnings, variants

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

__all__ = [
    "PERTURBATIONS",
    "PRESETS",
    "Perturbation",
    "Variant",
    "attack",
    "check_defined",
    "left_out",
    "make_variants",
    "perturb",
    "perturbation",
    "size_warnings",
    "variants",
    "without_model",
]
