"""Passes of noise through a model when it is loaded, which tell whether it can be measured and what it puts out."""

import torch
from torch import Tensor, nn

from camrobust.core.explain.network import logits_of

MIXED = 1e-3
"""Largest difference of two passes of the same image, as a share of the largest logit."""
SUM = 1e-4
"""Largest difference from 1 of the sum of an image's probabilities."""
FAR = 1000
"""An input so many times larger takes logits beyond [0, 1], but not what a sigmoid makes of them."""


def what_it_depends_on(module: nn.Module, images: Tensor) -> str | None:
    """What else than the image its logits depend on, and the remedy, as the end of a sentence; None for a sound model.

    The first image passes twice alone, then once in front of another one and once behind it.

    Args:
        module: a classifier in evaluation mode.
        images: (2, 3, H, W), normalised; they are left unchanged.
    """
    # Two images of noise have nearly the same mean and deviation, so the second one is made darker.
    image, other = images[:1], images[1:2] / 4 - 0.5
    alone = image if _takes(module, image) else torch.cat([image, image])
    first, again = (logits_of(module(alone.clone()))[0] for _ in range(2))
    before = logits_of(module(torch.cat([image, other])))[0]
    behind = logits_of(module(torch.cat([other, image])))[1]
    allowed = MIXED * float(first.abs().max())
    if bool((again - first).abs().max() > allowed):
        return (
            "differ from call to call; in evaluation mode switch off dropout and all else that draws random numbers or "
            "keeps a state"
        )
    if any(bool((company - first).abs().max() > allowed) for company in (before, behind)):
        return (
            "depend on the other images of the pass; compute means and deviations over each image alone (a batch norm "
            "needs track_running_stats=True)"
        )
    return None


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        module(images.clone())
    except (Exception, SystemExit):  # noqa: BLE001 - a model may refuse a single image with any error
        return False
    return True


def what_it_puts_out(module: nn.Module, images: Tensor) -> str:
    """What a classifier's outputs (B, n) are: "probabilities", "sigmoids" or "logits".

    Probabilities are not negative and sum to 1 for every image; sigmoids are between 0 and 1 however far the input.
    """
    outputs = logits_of(module(images.clone()))
    if outputs.shape[1] < 2 or not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return "logits"
    far = logits_of(module(images * FAR))
    if not bool(((far >= 0) & (far <= 1)).all()):
        return "logits"
    sums = torch.cat([outputs, far]).sum(dim=1)
    if bool(((sums - 1).abs() <= SUM).all()):
        return "probabilities"
    return "sigmoids" if bool(sums.any()) else "logits"


REMARKS: dict[str, tuple[str, ...]] = {
    "logits": (),
    "probabilities": (
        "its outputs are probabilities already; confidence and entropy are taken from them, and CAMs explain the "
        "probability; for maps of the logit, leave out the softmax",
    ),
    "sigmoids": (
        "its outputs stay between 0 and 1, also for inputs 1000 times larger; confidence and entropy are those of a "
        "softmax over them; for those of logits, return logits",
    ),
}
"""What a user should know about a model, by what it puts out."""
