"""Certificates without chance for small networks, in this process."""

from collections.abc import Sequence

import torch
from torch import nn

from camrobust.contract.defaults import CROP, RESIZE
from camrobust.core.certify.items import top_places
from camrobust.core.certify.propagation.chain import read_chain
from camrobust.core.certify.propagation.top import MapBounds, certified_radius
from camrobust.core.channels import unit
from camrobust.interface.arguments import channels_of, ready_model
from camrobust.interface.inputs import Photographs, pixels_of
from camrobust.measure.model import Model


@torch.inference_mode(False)
@torch.enable_grad()
def certified_top(
    model: nn.Module | str | Model,
    images: Photographs,
    top: float = 0.2,
    *,
    norm: str = "linf",
    method: str = "linear",
    most: float = 0.005,
    steps: int = 15,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_ids: Sequence[str] | None = None,
) -> list[MapBounds | None]:
    """The radius within which no change of an image moves another position into the top of its map, for certain.

    The map is plain CAM, of the class that is predicted for the image. Bounds are propagated through all layers, which
    takes a small network: convolutions, linear layers, batch norm, ReLU and pooling in a chain, with global average
    pooling and one linear layer at the end. Nothing is sampled, so the certificate holds without a chance of error.

    Args:
        model: a classifier or its name.
        images: as for `attack`.
        top: share of the map's positions that count as its top; ⌈top·h·w⌉ of them.
        norm: "linf": no channel of a pixel changes by more than the radius; "l2": the length of the change.
        method: "linear", or "interval", which is faster and much looser.
        most: the largest radius to try, share of the pixel range.
        steps: the radius is found by so many halvings.
        mean: mean of the normalisation; None for the builder's own, and for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        image_ids: as for `evaluate`.

    Returns:
        For each image the bounds at its radius: `ball.radius`, the `order` of the positions and their `scores`, bounds
        `lower` and `upper` of the scores, `margin` (above 0, the predicted class is certain, too) and `rbo()`. None
        where no radius that was tried is certified.

    Raises:
        UserError: the network has other layers, or an argument is out of range.
        ValueError: images of another shape.

    Examples:
        >>> import camrobust, torch
        >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(3, 4, 3, 2), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 3))
        >>> (found,) = camrobust.certified_top(model, torch.rand(1, 3, 24, 24), steps=4)
        >>> found is None or 0 < found.ball.radius <= 0.005
        True
    """
    _, pixels = pixels_of(images, RESIZE, CROP, image_ids, channels_of(model, mean))
    found = []
    with ready_model(model, None, pixels, mean, std) as ready:
        for image in unit(pixels).double():
            chain = read_chain(ready.network.module, image, ready.mean, ready.std)
            positions = chain.activations(image[None])[0, 0].numel()
            k = int(top_places(torch.tensor(positions), top))
            found.append(certified_radius(chain, image, k, norm, method, most=most, steps=steps))
    return found
