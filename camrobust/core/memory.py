"""A pass over some images, made in halves where the device's memory does not hold them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Found = TypeVar("Found")


def halving_on_oom(
    places: Sequence[int],
    batch: int,
    one_pass: Callable[[Sequence[int]], Found],
    remember: Callable[[int], None] = lambda _: None,
) -> Iterator[Found]:
    """What passes over at most `batch` places find; one that runs out of the device's memory is made in halves.

    Args:
        places: all of them, in order.
        batch: most places of a pass.
        one_pass: over some places.
        remember: takes a batch that is tried after one that did not fit.
    """
    start = 0
    while start < len(places):
        some = places[start : start + batch]
        try:
            found = one_pass(some)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch = (len(some) + 1) // 2
            remember(batch)
            torch.cuda.empty_cache()
            continue
        yield found
        start += batch
