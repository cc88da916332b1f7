"""Whether perturbations are defined for images of a number of channels."""

from collections.abc import Iterable

from camrobust.contract.errors import UserError
from camrobust.core.channels import spoken
from camrobust.core.perturb.digital import JPEG_CHANNELS
from camrobust.core.perturb.registry import Perturbation


def check_defined(entries: Iterable[Perturbation], channels: int, jpeg: int | None = None) -> None:
    """Refuse perturbations that are not defined for the images.

    Args:
        entries: the perturbations.
        channels: of the images.
        jpeg: quality of a JPEG file through which every variant passes; None for no file.

    Raises:
        UserError: naming those that are not defined for so many channels.
    """
    wrong = {entry.name: entry.channels for entry in entries if not entry.takes(channels)}
    for counts in dict.fromkeys(wrong.values()):
        names = [name for name, own in wrong.items() if own == counts]
        raise UserError(
            f"perturbations: {', '.join(names)} must have images of {_either(counts or ())}, got {spoken(channels)}; "
            f"leave {'it' if len(names) == 1 else 'them'} out"
        )
    if jpeg is not None and channels not in JPEG_CHANNELS:
        raise UserError(
            f"resave_jpeg_quality: a JPEG file must have {_either(JPEG_CHANNELS)}, got {spoken(channels)}; leave it out"
        )


def _either(counts: tuple[int, ...]) -> str:
    return f"{' or '.join(map(str, counts))} channel{'' if counts == (1,) else 's'}"
