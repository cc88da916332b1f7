"""Gradients by DeepLIFT's rescale rule, for any code that calls functions of torch.

References:
    Shrikumar et al. 2017, arXiv 1704.02685, "Learning important features through propagating activation differences".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torch.overrides import TorchFunctionMode

from camrobust.core.scaling import ratio

ELEMENTWISE = frozenset(
    (
        "abs", "celu", "clamp", "clip", "elu", "erf", "exp", "gelu", "hardsigmoid", "hardswish", "hardtanh",
        "leaky_relu", "log", "log1p", "logsigmoid", "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu",
        "softplus", "softsign", "special_erf", "special_expit", "sqrt", "square", "tanh", "threshold",
    )
)  # fmt: skip
"""Functions that change each value by itself, by their names in torch."""
SAME = 1e-6
"""Two values whose difference is at most this share of the larger one count as equal."""


class RescaleRule(TorchFunctionMode):
    """Within this context, element-wise functions and 2-D max pooling have the gradients of the rescale rule.

    The first half of every tensor belongs to inputs x, the second half to references x0. The slope of a function f is
    (f(x) - f(x0))/(x - x0), in both halves; where x and x0 are equal, it is the derivative. In a window of max pooling,
    the slope belongs to the place of the larger one of the two maxima. All other functions keep their derivatives.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; an in-place function still writes into its argument."""
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        halves = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad and len(args[0]) % 2 == 0
        if halves and name in ELEMENTWISE:
            return _elementwise(func, *args, **kwargs)
        if halves and name == "max_pool2d" and not kwargs.get("return_indices"):
            return _max_pool(*args, **kwargs)
        return func(*args, **kwargs)


def _elementwise(function: Callable[..., Any], values: Tensor, *options: Any, **named: Any) -> Tensor:
    """The function's results for values (2B, …), with the slopes of the rule."""
    changed = values.clone()
    before = changed._version  # noqa: SLF001 - the only sign of a write in place
    results = with_slopes(values, function(changed, *options, **named))
    return values.copy_(results) if changed._version != before else results  # noqa: SLF001


def _max_pool(values: Tensor, *options: Any, **named: Any) -> Tensor:
    """Max pooling of (2B, C, H, W), with the slopes of the rule."""
    results, places = max_pool2d(values, *options, **(named | {"return_indices": True}))
    largest, largest0 = results.detach().chunk(2)
    place, place0 = places.chunk(2)
    chosen = torch.where(largest >= largest0, place, place0).flatten(2).repeat(2, 1, 1)
    return with_slopes(values.flatten(2).gather(2, chosen).reshape(results.shape), results)


def with_slopes(sources: Tensor, results: Tensor) -> Tensor:
    """The results, with the slopes of the rescale rule as their gradients.

    Args:
        sources: (2B, …), of each result the value that it depends on by the rule.
        results: (2B, …), what the function gives.
    """
    (x, x0), (y, y0) = sources.detach().chunk(2), results.detach().chunk(2)
    equal = (x - x0).abs() <= SAME * torch.maximum(x.abs(), x0.abs())
    slope, equal = torch.cat((slope := ratio(y - y0, x - x0), slope)), torch.cat((equal, equal))
    return torch.where(equal, results, results.detach() + slope * (sources - sources.detach()))
