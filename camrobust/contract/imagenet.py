"""The classes of ImageNet-1k by their WordNet ids, such as n01440764, in the usual order of a network's 1000 logits."""

from functools import cache
from importlib.resources import files

COUNT = 1000
IMAGENET = "imagenet"
"""`classes: imagenet`: the names of these classes."""


@cache
def wnids() -> dict[str, int]:
    """The number of each class by its WordNet id; they are numbered in sorted order.

    Examples:
        >>> from camrobust.contract.imagenet import wnids
        >>> wnids()["n01440764"], wnids()["n15075141"], len(wnids())
        (0, 999, 1000)
    """
    names = files("camrobust.contract").joinpath("imagenet_wnids.txt").read_text("ascii").split()
    return {name: number for number, name in enumerate(names)}
