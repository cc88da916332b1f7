"""Attacks on a model's predictions and maps, in this process.

Gradients are computed even where the caller is under torch.no_grad() or torch.inference_mode().
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from camrobust.contract.defaults import CROP, RESIZE
from camrobust.contract.errors import UserError
from camrobust.core.channels import held, unit
from camrobust.core.perturb import attack as attacked
from camrobust.core.perturb import variants
from camrobust.core.perturb.apply import refuse_attack
from camrobust.core.perturb.attacked_cams import check_differentiable
from camrobust.core.perturb.attacks.minimal_eps import Search
from camrobust.core.perturb.attacks.minimal_eps import minimal_eps as smallest_radii
from camrobust.interface.arguments import TargetLayer, channels_of, ready_model
from camrobust.interface.inputs import Photographs, pixels_of
from camrobust.measure.model import Model


@torch.inference_mode(False)
@torch.enable_grad()
def attack(
    model: nn.Module | str | Model,
    images: Photographs,
    perturbation: str = "pgd:3",
    target_layer: TargetLayer = None,
    *,
    cam: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> Tensor:
    """Adversarial images for one model, made from clean ones.

    Args:
        model: a classifier or its name. A module's parameters and mode are restored afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, rounded to 256 levels (65,536 if they do
            not have three channels, as many as mean and std have values); or files as for
            `evaluate`, cropped as it does by default.
        perturbation: one of the family adversarial at one strength: "fgsm:3", "pgd:epsilon=4,steps=20,step=1",
            "cam_attack:3".
        target_layer: a submodule or its dotted name, None to discover it; only attacks on maps use it.
        cam: for attacks on maps: the differentiable CAM that is attacked; None for the one that `perturbation` names,
            which is Grad-CAM if it names none.
        mean: mean of the normalisation; None for the builder's own, and for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        head: how the outputs are read, as for `evaluate`.
        seed: seed of the random start.
        image_ids: names that the random draws depend on, as for `evaluate`.

    Returns:
        (B, 3, H, W) uint8 on the CPU; for other numbers of channels float32, multiples of 1/65535.

    Raises:
        UserError: an unknown perturbation, one that needs no model, or several strengths; a CAM that cannot be climbed,
            or one for an attack that is not on maps.
        ValueError: images of another shape.

    Examples:
        >>> import camrobust, torch, torchvision
        >>> model, photos = torchvision.models.squeezenet1_1(), torch.rand(2, 3, 64, 64)
        >>> adversarial = camrobust.attack(model, photos, "fgsm:3")
        >>> adversarial.shape, adversarial.dtype
        (torch.Size([2, 3, 64, 64]), torch.uint8)
    """
    planned = variants([perturbation], channels_of(model, mean))
    if len(planned) != 1 or not planned[0].needs_model:
        raise UserError(f"attack: '{perturbation}' must be one strength of a perturbation that needs a model; see "
                        "`camrobust list perturbations`")  # fmt: skip
    if cam is not None:
        if planned[0].attacked_cam is None:
            raise UserError(
                f"attack: cam must be left out for {planned[0].perturbation}, which attacks no map, got '{cam}'"
            )
        check_differentiable("attack", cam)
        planned = (replace(planned[0], attacked_cam=cam),)
    with _victim(model, images, target_layer, mean, std, head, image_ids) as (ready, names, pixels):
        adversarial = attacked(ready, pixels, planned * len(pixels), names, "images", seed)
    return held(adversarial).cpu()


@torch.inference_mode(False)
@torch.enable_grad()
def minimal_eps(
    model: nn.Module | str | Model,
    images: Photographs,
    cam: str = "gradcam",
    target_layer: TargetLayer = None,
    *,
    below: float = 0.5,
    similarity: str = "topk_iou",
    most: int = 16,
    steps: int = 20,
    objective: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> list[int | None]:
    """The smallest ε/255 at which an attack was found that keeps the class and makes the map differ from the clean one.

    Every radius is tried, from 1 upwards, so that the answer does not depend on `most`. The attack climbs a
    differentiable form of the measure that decides. An image for which no radius is found takes up to 2·most·steps
    passes and as many double backward passes.

    Args:
        model: a classifier or its name. A module's parameters and mode are restored afterwards.
        images: as for `attack`.
        cam: a smooth CAM: cam, gradcam, gradcam++, gradcam-elementwise, hirescam, layercam or xgradcam.
        target_layer: a submodule or its dotted name, None to discover it.
        below: the maps differ when their similarity falls below this value, or their distance exceeds it; between the
            bounds of the measure.
        similarity: a measure that compares positions, from `camrobust list similarities`.
        most: largest radius to try, levels of 255.
        steps: steps of each ascent, the first a quarter of the radius.
        objective: None climbs the measure; "top" takes mass from the most important positions instead, "centre" moves
            the centre of mass, "region" moves mass into the least important quarter of the image.
        mean: mean of the normalisation; None for the builder's own, and for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        head: how the outputs are read, as for `evaluate`.
        seed: seed of the random starts.
        image_ids: names that the random draws depend on, as for `evaluate`.

    Returns:
        For each image the radius in levels of 255; None where no attack up to `most` was found, which does not prove
        that there is none.

    Raises:
        UserError: an unsuitable CAM, objective or similarity, or a threshold, radius or number of steps out of its
            range.

    Examples:
        >>> import camrobust, torch, torchvision
        >>> model, photos = torchvision.models.squeezenet1_1(), torch.rand(2, 3, 64, 64)
        >>> radii = camrobust.minimal_eps(model, photos, most=4, steps=2)
        >>> all(radius is None or 1 <= radius <= 4 for radius in radii)
        True
    """
    search = Search(cam, similarity, below, most, steps, objective, seed)
    with _victim(model, images, target_layer, mean, std, head, image_ids) as (ready, names, pixels):
        return smallest_radii(ready, pixels, names, search)


@contextmanager
def _victim(
    model: nn.Module | str | Model, images: Photographs, target_layer: TargetLayer, mean: Sequence[float] | None,
    std: Sequence[float] | None, head: str | None, image_ids: Sequence[str] | None,
) -> Iterator[tuple[Model, list[str], Tensor]]:  # fmt: skip
    """The model, the images' names, and the images in [0, 1], at whole levels, on the model's device."""
    names, pixels = pixels_of(images, RESIZE, CROP, image_ids, channels_of(model, mean))
    with ready_model(model, target_layer, pixels, mean, std, head) as ready:
        refuse_attack(ready, "an attack")
        yield ready, names, unit(pixels.to(ready.device))
