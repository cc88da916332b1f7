"""From images to their variants."""

from collections.abc import Sequence

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb.attacks.on_prediction import Victim
from camrobust.core.perturb.digital import through_jpeg
from camrobust.core.perturb.registry import PERTURBATIONS, Perturbation
from camrobust.core.perturb.variants import Variant, variants

CLIMB_ON_GPU = 8
"""Images in one pass of an attack on a GPU, elsewhere one: always as many, filled up where there are fewer, as the sign
of a gradient near 0 depends on how many a pass holds, and the steps of an ascent amplify that."""
CUT = 1e-3
"""Of a level: what float32 may miss a whole level by before it is cut to the one below."""


def attack(
    victim: Victim, images: Tensor, planned: Sequence[Variant], image_ids: Sequence[str], dataset: str, seed: int
) -> Tensor:
    """Perturb images by what a model makes of them, one variant each.

    What an attack makes of an image does not depend on the others. Only where passes of `CLIMB_ON_GPU` images do not
    fit the device's memory, smaller ones give other bits.

    Args:
        victim: the model.
        images: (B, 3, H, W) float32 in [0, 1], at 256 levels, on its device.
        planned: B variants of one perturbation that needs a model.
        image_ids: B names.
        dataset: name of the dataset.
        seed: of the run.

    Returns:
        (B, 3, H, W) float32 in [0, 1], at 256 levels.

    Raises:
        ValueError: variants of several perturbations, or of one that needs no model.
    """
    entry = PERTURBATIONS[planned[0].perturbation]
    if not entry.needs_model or any(one.perturbation != entry.name for one in planned):
        raise ValueError(f"attack: the variants must all be of one perturbation that needs a model, got {entry.name}")
    together = CLIMB_ON_GPU if images.is_cuda else 1
    named, places = list(zip(planned, image_ids, strict=True)), list(range(len(planned)))
    made = torch.empty_like(images, memory_format=torch.contiguous_format)

    def climb(some: Sequence[int]) -> None:
        made[list(some)] = _climbed(entry, victim, images[list(some)], [named[place] for place in some], dataset, seed)

    for _ in halving_on_oom(places + places[-1:] * (-len(places) % together), together, climb):
        pass
    return made


def _climbed(
    entry: Perturbation, victim: Victim, images: Tensor, planned: Sequence[tuple[Variant, str]], dataset: str, seed: int
) -> Tensor:
    """The images of one pass; every variant with its image's name."""
    values = [one.values for one, _ in planned]
    strengths = torch.tensor(values, dtype=torch.float32, device=images.device).unbind(dim=1)
    if not entry.random:
        return entry.function(victim, images, *strengths)
    streams = [
        Draws.of(seed, dataset, [name], entry.name, one.strength, one.replicate, images.device) for one, name in planned
    ]
    return entry.function(victim, images, *strengths, Draws.join(streams))


def _apply(images: Tensor, variant: Variant, image_ids: Sequence[str], dataset: str, seed: int) -> Tensor:
    if not variant.steps:
        return _step(images, variant, image_ids, dataset, seed, variant.perturbation, variant.strength)
    for place, step in enumerate(variant.steps):
        # The whole sequence and the place name the stream: a perturbation that occurs twice draws twice.
        purpose = f"{variant.perturbation}#{place}"
        single = Variant(step.perturbation, step.severity, step.values, variant.replicate)
        images = _step(images, single, image_ids, dataset, seed, purpose, variant.strength)
    return images


def _step(
    images: Tensor, variant: Variant, image_ids: Sequence[str], dataset: str, seed: int, purpose: str, strength: str
) -> Tensor:
    entry = PERTURBATIONS[variant.perturbation]
    if entry.needs_model:
        raise UserError(f"perturb: '{entry.name}' needs a model; use camrobust.attack")
    if not entry.random:
        return entry.function(images, *variant.values)
    draws = Draws.of(seed, dataset, image_ids, purpose, strength, variant.replicate, images.device)
    return entry.function(images, *variant.values, draws)


def perturb(
    images: Tensor,
    variant: str | Variant,
    image_ids: Sequence[str],
    seed: int = 0,
    replicate: int = 0,
    dataset: str = "",
) -> Tensor:
    """Perturb some images.

    The random numbers of an image depend on (seed, dataset, image id, perturbation, strength, replicate) only: the
    batch, its order, the worker and the machine change nothing.

    Args:
        images: (B, 3, H, W) float32 in [0, 1], before the model's normalisation.
        variant: such as "gaussian_noise:3", "gaussian_noise:sigma=0.05" or "fog:2+gaussian_noise:3": at one strength.
        image_ids: B names.
        seed: of the run.
        replicate: number of the repetition, where `variant` is a text.
        dataset: name of the dataset.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        UserError: an unknown perturbation or strength, or several of them.
        ValueError: images of another shape, or as many ids as there are not images.

    Examples:
        >>> import torch
        >>> from camrobust.core.perturb import perturb
        >>> photos = torch.full((2, 3, 16, 16), 0.5)
        >>> noisy = perturb(photos, "gaussian_noise:sigma=0.05", image_ids=["cat", "dog"])
        >>> noisy.shape, torch.equal(noisy[0], noisy[1])
        (torch.Size([2, 3, 16, 16]), False)
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"perturb: images must have the shape (B, 3, H, W), got {tuple(images.shape)}; add the batch axis"
        )
    if len(image_ids) != len(images):
        raise ValueError(f"perturb: image_ids must be one per image ({len(images)}), got {len(image_ids)}")
    if isinstance(variant, str):
        found = variants([variant])
        if len(found) != 1:
            raise UserError(f"perturb: '{variant}' must be a single strength, got {len(found)}; add :1 to :5")
        only = found[0]
        variant = Variant(only.perturbation, only.severity, only.values, replicate, only.steps)
    return _apply(images, variant, image_ids, dataset, seed)


def make_variants(
    images: Tensor,
    planned: Sequence[Variant],
    image_ids: Sequence[str],
    dataset: str,
    seed: int,
    jpeg: int | None = None,
) -> Tensor:
    """Clean images and their variants as 8-bit images, as a camera or a file would hold them.

    What becomes of an image does not depend on the others; a GPU, to which a perturbation of one small image is mostly
    the asking, makes many in hardly more time.

    Args:
        images: (B, 3, H, W) uint8.
        planned: V variants.
        image_ids: B names.
        dataset: name of their dataset.
        seed: of the run.
        jpeg: quality of a JPEG file that every variant goes through, None for none. As in the published ImageNet-C,
            where it is 85, values are then cut to 8 bits instead of rounded; the clean image is left as it is.

    Returns:
        (B, V+1, 3, H, W) uint8, the clean one first. Places of variants that need a model hold the clean image.
    """
    # By a tensor: a GPU multiplies by the reciprocal of a number, which is another one in the last place.
    scaled = images.float() / torch.tensor(255.0, device=images.device)
    stack = images[:, None].repeat(1, len(planned) + 1, 1, 1, 1)
    for place, variant in enumerate(planned, start=1):
        if variant.needs_model:
            continue
        levels = _apply(scaled, variant, image_ids, dataset, seed) * 255
        if jpeg is None:
            stack[:, place] = levels.round()
        else:
            stack[:, place] = through_jpeg((levels + CUT).floor().to(torch.uint8), jpeg)
    return stack
