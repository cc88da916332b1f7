"""From images to their variants."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.channels import check_channels, held, unit
from camrobust.core.draws import Draws
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb.attacks.on_prediction import ATTACKED_TOGETHER_ON_GPU, Victim
from camrobust.core.perturb.attacks.on_rank import Ranking
from camrobust.core.perturb.defined import check_defined
from camrobust.core.perturb.digital import through_jpeg
from camrobust.core.perturb.registry import PERTURBATIONS, Perturbation
from camrobust.core.perturb.variants import Variant, variants

CUT = 1e-3
"""Share of a level by which float32 may fall short of a whole level before values are cut to 8 bits."""


def refuse_attack(victim: Victim, name: str) -> None:
    """Raise UserError if no gradient passes a model, which all attacks follow."""
    if not victim.network.differentiable:
        raise UserError(
            f"perturbations: no gradient passes this model (inference only, or quantised layers), which {name} needs; "
            "leave out the family adversarial, or measure the model in floating point"
        )


def refuse_target(victim: Victim, classes: int, variant: Variant) -> None:
    """Raise UserError if a variant of an attack on a model wants a class that the model does not have.

    Args:
        victim: the model.
        classes: how many scores it has.
        variant: an attack; one that has no parameter `target` wants no class.
    """
    target = PERTURBATIONS[variant.perturbation].arguments(variant.values).get("target")
    if target is None:
        return
    readout = victim.network.readout
    if not readout.has_classes:
        raise UserError(
            f"perturbations: {variant.perturbation} wants a class, and this model puts out values; leave it out for a "
            "model with head: value"
        )
    if target < 0 or readout.has(int(target), classes):
        return
    if readout.among:
        raise UserError(
            f"perturbations: target {int(target)} of {variant.perturbation} is not among the classes_kept of this "
            "model; choose one of them"
        )
    raise UserError(
        f"perturbations: target of {variant.perturbation} must be below {classes} (number of classes of this "
        f"model), got {int(target)}; choose another class"
    )


def attack(
    victim: Victim, images: Tensor, planned: Sequence[Variant], image_ids: Sequence[str], dataset: str, seed: int,
    ranking: Ranking | None = None,
) -> Tensor:  # fmt: skip
    """Attack a model, one variant per image.

    The result for an image does not depend on the other images, unless the device's memory is too small for passes of
    `ATTACKED_TOGETHER_ON_GPU` images: smaller passes give other bits.

    Args:
        victim: the model.
        images: (B, C, H, W) float32 in [0, 1], at whole levels, on the model's device.
        planned: B variants of one perturbation that needs a model; if it attacks maps, all of the map of one CAM.
        image_ids: B names.
        dataset: name of the dataset.
        seed: of the run.
        ranking: how the images' segments are ranked, for attacks on the ranking; None for all defaults.

    Returns:
        (B, C, H, W) float32 in [0, 1], at 256 levels, or 65,536 if C is not 3.

    Raises:
        ValueError: variants of several perturbations or of one that needs no model, or not B variants and names.
    """
    _check_names("attack", images, image_ids)
    attacks = sorted({(variant.perturbation, variant.attacked_cam or "") for variant in planned})
    if len(attacks) != 1 or not planned[0].needs_model:
        raise ValueError(
            "attack: planned must hold variants of one perturbation that needs a model, got "
            f"{', '.join(' '.join(one).strip() for one in attacks)}; call attack once for each"
        )
    entry = PERTURBATIONS[planned[0].perturbation]
    refuse_attack(victim, entry.name)
    if entry.needs_ranking and ranking is None:
        ranking = Ranking.of(images)
    together = ATTACKED_TOGETHER_ON_GPU if images.is_cuda else 1
    named, places = list(zip(planned, image_ids, strict=True)), list(range(len(planned)))
    made = torch.empty_like(images, memory_format=torch.contiguous_format)

    def one_pass(chosen: Sequence[int]) -> None:
        rows = list(chosen)
        arguments = {} if ranking is None or not entry.needs_ranking else {"ranking": ranking.rows(rows)}
        made[rows] = _attacked(entry, victim, images[rows], [named[row] for row in rows], dataset, seed, arguments)

    # Short passes are filled up, because the size of a pass decides the sign of gradients near 0, and the steps of an
    # ascent amplify that.
    for _ in halving_on_oom(places + places[-1:] * (-len(places) % together), together, one_pass):
        pass
    return made


def _attacked(
    entry: Perturbation, victim: Victim, images: Tensor, named: Sequence[tuple[Variant, str]], dataset: str, seed: int,
    more: Mapping[str, Any],
) -> Tensor:  # fmt: skip
    """The images of one pass; `named` holds each image's variant and name, `more` other arguments of the attack."""
    values = [variant.values for variant, _ in named]
    strengths = torch.tensor(values, dtype=torch.float32, device=images.device).unbind(dim=1)
    arguments = {**entry.arguments(strengths), **more}
    if entry.attacked_cam is not None:
        arguments["cam"] = named[0][0].attacked_cam or entry.attacked_cam
    if entry.random:
        arguments["draws"] = Draws.join(
            [
                Draws.of(seed, dataset, [name], entry.name, variant.strength, variant.replicate, images.device)
                for variant, name in named
            ]
        )
    return entry.function(victim=victim, images=images, **arguments)


def _apply(images: Tensor, variant: Variant, image_ids: Sequence[str], dataset: str, seed: int) -> Tensor:
    """Images (B, C, H, W) in [0, 1], through every step of a variant."""
    for place, step in enumerate(variant.steps or (variant,)):
        entry = PERTURBATIONS[step.perturbation]
        if entry.needs_model:
            raise UserError(f"perturb: '{entry.name}' needs a model; use camrobust.attack")
        arguments = entry.arguments(step.values)
        if entry.random:
            # The whole sequence and the place name the stream, so that a perturbation that occurs twice draws anew.
            purpose = f"{variant.perturbation}#{place}" if variant.steps else variant.perturbation
            arguments["draws"] = Draws.of(
                seed, dataset, image_ids, purpose, variant.strength, variant.replicate, images.device
            )
        images = entry.function(images=images, **arguments)
    return images


def _check_names(where: str, images: Tensor, image_ids: Sequence[str]) -> None:
    """Every image has its own random stream; this is the only place that checks it."""
    check_channels(where, images)
    if len(image_ids) != len(images):
        raise ValueError(
            f"{where}: image_ids must have one entry per image ({len(images)}), got {len(image_ids)}; "
            "an image's random numbers depend on its id"
        )


def perturb(
    images: Tensor,
    variant: str | Variant,
    image_ids: Sequence[str],
    seed: int = 0,
    replicate: int = 0,
    dataset: str = "",
) -> Tensor:
    """Perturb images at one strength.

    The random numbers of an image depend only on (seed, dataset, image id, perturbation, strength, replicate). The
    batch, its order, the worker and the machine change nothing.

    Args:
        images: (B, C, H, W) float32 in [0, 1], before the model's normalisation.
        variant: such as "gaussian_noise:3", "gaussian_noise:sigma=0.05" or "fog:2+gaussian_noise:3".
        image_ids: B names.
        seed: of the run.
        replicate: number of the repetition, if `variant` is a text.
        dataset: name of the dataset.

    Returns:
        (B, C, H, W) float32 in [0, 1], a new tensor.

    Raises:
        UserError: an unknown perturbation or strength, several of them, or one that is not defined for C channels.
        ValueError: images of another shape, or not one id per image.

    Examples:
        >>> import torch
        >>> from camrobust.core.perturb import perturb
        >>> photos = torch.full((2, 3, 16, 16), 0.5)
        >>> noisy = perturb(photos, "gaussian_noise:sigma=0.05", image_ids=["cat", "dog"])
        >>> noisy.shape, torch.equal(noisy[0], noisy[1])
        (torch.Size([2, 3, 16, 16]), False)
    """
    _check_names("perturb", images, image_ids)
    if isinstance(variant, str):
        planned = variants([variant], images.shape[1])
        if len(planned) != 1:
            raise UserError(f"perturb: '{variant}' must be a single strength, got {len(planned)}; add :1 to :5")
        variant = replace(planned[0], replicate=replicate)
    check_defined(variant.entries, images.shape[1])
    return _apply(images, variant, image_ids, dataset, seed)


def make_variants(
    images: Tensor,
    planned: Sequence[Variant],
    image_ids: Sequence[str],
    dataset: str,
    seed: int,
    jpeg: int | None = None,
) -> Tensor:
    """Clean images and their variants with whole levels, like the images of a camera or a file.

    The variants of an image do not depend on the other images. On a GPU launch overhead dominates, so many small
    images cost little more than one.

    Args:
        images: (B, C, H, W) as they are measured: uint8 photos, or other images as `core.channels.held` makes them.
        planned: V variants.
        image_ids: B names.
        dataset: name of the dataset.
        seed: of the run.
        jpeg: quality of a JPEG file through which every variant passes, None for no file. As in the published
            ImageNet-C (quality 85), values are then cut to 8 bits instead of rounded. The clean image stays as it is.

    Returns:
        (B, V+1, C, H, W) of the same type, the clean image first. Variants that need a model are left as the clean
        image.

    Raises:
        UserError: a perturbation, or the JPEG file, is not defined for so many channels.
        ValueError: images of another shape, or not one id per image.
    """
    _check_names("make_variants", images, image_ids)
    check_defined((entry for variant in planned for entry in variant.entries), images.shape[1], jpeg)
    images = held(images)
    scaled = unit(images)
    stack = images[:, None].repeat(1, len(planned) + 1, 1, 1, 1)
    made = [place for place, variant in enumerate(planned, start=1) if not variant.needs_model]
    for place in made:
        perturbed = _apply(scaled, planned[place - 1], image_ids, dataset, seed)
        stack[:, place] = held(perturbed) if jpeg is None else _cut(perturbed, images.dtype)
    if jpeg is not None and made:
        # All at once, so that a GPU stops only once.
        coded = through_jpeg(_eight_bits(stack[:, made].flatten(0, 1)), jpeg)
        stack[:, made] = (coded if images.dtype == torch.uint8 else unit(coded)).unflatten(0, (len(images), len(made)))
    return stack


def _cut(images: Tensor, kind: torch.dtype) -> Tensor:
    """Images in [0, 1], cut to 256 levels, as they are measured."""
    levels = (images * 255 + CUT).floor().to(torch.uint8)
    return levels if kind == torch.uint8 else unit(levels)


def _eight_bits(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
