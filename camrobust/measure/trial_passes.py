"""Passes of noise through a model when it is loaded, which tell whether it can be measured and what it puts out."""

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.contract.heads import OUTPUTS, Head
from camrobust.contract.quoting import short
from camrobust.core.explain.network import logits_of
from camrobust.core.explain.readout import Readout

MIXED = 1e-3
"""Largest difference of two passes of the same image, as a share of the largest logit."""
SUM = 1e-4
"""Largest difference from 1 of the sum of an image's probabilities."""
FAR = 1000
"""An input so many times larger takes logits beyond [0, 1], but not what a sigmoid makes of them."""
SQUASHING = re.compile(r"(Sigmoid|Softmax|SafeSoftmax|Hardsigmoid)Backward\d*")
RESHAPING = re.compile(r"(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Select|Slice|ToCopy|Clone|Alias)Backward\d*")
LINEAR = re.compile(r"(Addmm|Mm|Addmv|Mv|Baddbmm|Bmm|Linear|Convolution)Backward\d*")
"""Names that autograd has for steps that make probabilities, for steps that keep the values, and for linear layers."""


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
    outputs = [logits_of(module(alone.clone())) for _ in range(2)]
    if len(outputs[0]) != len(alone):
        raise UserError(
            f"model: its output must have one row for each image, got {len(outputs[0])} for {len(alone)}; do not "
            "squeeze the dimension of the images"
        )
    first, again = (rows[0] for rows in outputs)
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


def readout_of(module: nn.Module, images: Tensor, name: str, head: Head | None = None) -> Readout:
    """How a network's outputs are read.

    Args:
        module: in evaluation mode.
        images: (2, 3, H, W), normalised; they are left unchanged.
        name: of the model, for the message.
        head: as the user said; None for a binary head where there is one output, and a softmax where there are more.

    Raises:
        UserError: the network has not as many outputs as the head needs, or it cannot be seen, or is not as the user
            said, whether they are probabilities.
    """
    columns = logits_of(module(images.clone())).shape[1]
    head = head or Head("binary" if columns == 1 else "softmax")
    fault = _misfit(head, columns)
    if fault:
        raise UserError(f"model '{name}': head: {fault}")
    if head.kind == "value":
        return Readout("value", explained=_number(head) or 0, tolerance=head.tolerance or 0.0)
    outputs = what_it_puts_out(module, images)
    if head.kind != "softmax":
        last = "" if outputs == "logits" else _last_step(module, images)
        bounded = outputs != "logits" and not LINEAR.fullmatch(last)
        outputs, fault = _decided(head, bounded=bounded, ends=SQUASHING.fullmatch(last) is not None)
        if fault:
            raise UserError(f"model '{name}': {fault}")
    return Readout(head.kind, outputs, _number(head))


def _decided(head: Head, *, bounded: bool, ends: bool) -> tuple[str, str]:
    """What a network puts out whose head is binary or multilabel, and why that is not what was said; "" if it is.

    Args:
        head: as the user said.
        bounded: whether the outputs stay between 0 and 1, and are not those of a linear layer that are small by chance.
        ends: whether a sigmoid or a softmax was seen as the last step.
    """
    if head.outputs == "probabilities" and not bounded:
        return "", "head: outputs=probabilities, but some outputs are not between 0 and 1, or all are 0; leave it out"
    if head.outputs == "logits" and ends:
        return "", "head: outputs=logits, but the last step is a sigmoid or a softmax; leave it out"
    if bounded and not ends and head.outputs is None:
        # A step behind a sigmoid hides it; but a few logits may lie in [0, 1], too.
        ways = " or ".join(str(replace(head, outputs=one)) for one in OUTPUTS)
        return "", (
            "its outputs stay between 0 and 1, also for inputs 1000 times larger, but the last step is no sigmoid; "
            f"return the logits, or say which they are by head: {ways}"
        )
    return "sigmoids" if ends or head.outputs == "probabilities" else "logits", ""


def _number(head: Head) -> int | None:
    return head.explained if isinstance(head.explained, int) else None


def _misfit(head: Head, columns: int) -> str:
    """Why a network with so many outputs cannot have this head, and the remedy; "" if it can."""
    if isinstance(head.explained, str):
        return (
            "explained must be the number of an output, or a name in a list under classes, got "
            f"'{short(head.explained)}'"
        )
    if head.explained is not None and head.explained >= columns:
        return f"explained must be from 0 to {columns - 1} (number of the output), got {head.explained}"
    if head.kind == "softmax" and columns == 1:
        return "softmax needs two or more outputs, got 1; leave head out, or set head: binary"
    if head.kind == "binary" and columns != 1:
        return f"binary needs one output, got {columns}; leave head out, or set head: multilabel"
    if head.kind == "value" and head.explained is None and columns > 1:
        return f"value must name one of {columns} outputs; write head: value:tolerance={head.tolerance:g},explained=0"
    return ""


def what_it_puts_out(module: nn.Module, images: Tensor) -> str:
    """What a classifier's outputs (B, m) seem to be: "probabilities", "sigmoids" or "logits".

    Probabilities are not negative and sum to 1 for every image; sigmoids are between 0 and 1 however far the input.
    """
    outputs = logits_of(module(images.clone()))
    if not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return "logits"
    far = logits_of(module(images * FAR))
    if not bool(((far >= 0) & (far <= 1)).all()):
        return "logits"
    sums = torch.cat([outputs, far]).sum(dim=1)
    if bool(((sums - 1).abs() <= SUM).all()):
        return "probabilities"
    return "sigmoids" if bool(sums.any()) else "logits"


def _last_step(module: nn.Module, images: Tensor) -> str:
    """Autograd's name of a module's last step but for changes of shape and type; "" where it records none."""
    with torch.enable_grad():
        node = logits_of(module(images.clone().requires_grad_())).grad_fn
    while node is not None and RESHAPING.fullmatch(node.name()):
        node = node.next_functions[0][0]
    return "" if node is None else node.name()


REMARKS: dict[tuple[str, str], tuple[str, ...]] = {
    ("softmax", "probabilities"): (
        "its outputs are probabilities already; confidence and entropy are taken from them, and CAMs explain the "
        "probability; for maps of the logit, leave out the softmax",
    ),
    ("softmax", "sigmoids"): (
        "its outputs stay between 0 and 1, also for inputs 1000 times larger; confidence and entropy are those of a "
        "softmax over them; for those of logits, return logits, and for independent labels set head: multilabel",
    ),
    ("binary", "sigmoids"): (
        "its output is a probability already; class 1 begins at one half, and CAMs explain the probability; for maps "
        "of the logit, leave out the sigmoid",
    ),
    ("multilabel", "sigmoids"): (
        "its outputs are probabilities already; a label is there from one half on, and CAMs explain the probability; "
        "for maps of the logit, leave out the sigmoid",
    ),
}
"""What a user should know about a model, by how its outputs are read and what they are."""
