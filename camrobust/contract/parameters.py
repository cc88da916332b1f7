"""The numbers that perturbations, attacks and segmenters take. Without torch: configurations are checked by them."""

import sys
from dataclasses import dataclass
from math import isinf, nan
from numbers import Real
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import shown

LARGEST = sys.float_info.max
"""The upper bound of a parameter that has none; infinity is refused, since JSON cannot hold it."""


@dataclass(frozen=True)
class Parameter:
    """A number that a method takes.

    Attributes:
        low: least value.
        high: largest value, infinity for no bound.
        unit: of the value, empty for none.
        meaning: what the value is.
        whole: only whole numbers are taken.
        default: the value where the user gives none; None where the user must give one.
        name: of the method's argument.
    """

    low: float
    high: float
    unit: str = ""
    meaning: str = ""
    whole: bool = False
    default: float | None = None
    name: str = ""

    def check(self, value: object, where: str, method: str, remedy: str) -> float:
        """The value, an int for a whole number and a float for any other.

        Args:
            value: what the user gave.
            where: start of the error message.
            method: whose parameter it is.
            remedy: end of the error message.

        Raises:
            UserError: the value is not a number, is out of bounds, or is not whole where it must be.
        """
        # NaN lies within no bounds.
        number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else nan
        within = self.low <= number <= min(self.high, LARGEST)
        if within and not (self.whole and number != int(number)):
            return int(number) if self.whole else float(number)
        kind = "a whole number" if self.whole else "a number"
        bounds = f"of at least {self.low:g}" if isinf(self.high) else f"from {self.low:g} to {self.high:g}"
        explained = f" ({self.unit or self.meaning})" if self.unit or self.meaning else ""
        got = f"{value:g}" if isinstance(value, float) else shown(value)
        raise UserError(f"{where}: {self.name} of {method} must be {kind} {bounds}{explained}, got {got}; {remedy}")

    def __str__(self) -> str:
        """For example "sigma = 0.8: smoothing before (px)"."""
        default = "" if self.default is None else f" = {self.default:g}"
        meaning = f": {self.meaning}" if self.meaning else ""
        return self.name + default + meaning + (f" ({self.unit})" if self.unit else "")
