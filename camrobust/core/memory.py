"""Passes over some images, repeated in halves where the device runs out of memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def halving_on_oom(
    places: Sequence[int],
    batch: int,
    one_pass: Callable[[Sequence[int]], Result],
    remember: Callable[[int], None] = lambda _: None,
    *,
    filled: bool = False,
) -> Iterator[Result]:
    """Yield the results of passes over at most `batch` places; a pass that runs out of memory is repeated in halves.

    Args:
        places: indices of all images, in order.
        batch: the largest number of places in one pass.
        one_pass: computes the result for some places.
        remember: called with the smaller batch after a pass ran out of memory.
        filled: a pass over fewer places is filled up to `batch`, so it takes as much memory.

    Raises:
        torch.cuda.OutOfMemoryError: a pass over a single place does not fit.
    """
    start = 0
    while start < len(places):
        chunk = places[start : start + batch]
        try:
            result = one_pass(chunk)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch = ((batch if filled else len(chunk)) + 1) // 2
            remember(batch)
            torch.cuda.empty_cache()
            continue
        yield result
        start += batch
