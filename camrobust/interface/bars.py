"""Progress bars for notebooks and scripts, by tqdm."""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Done = TypeVar("Done", bound=Sized)


@contextmanager
def bar(shown: bool, what: str, total: int) -> Iterator[Callable[[Done], Done]]:
    """A bar while the block is open; gives a function that moves it on by the length of what is done, and returns that.

    Args:
        shown: False for no bar.
        what: stands before it.
        total: number of images.
    """
    if not shown:
        yield lambda done: done
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit="image") as moving:

        def advance(done: Done) -> Done:
            moving.update(len(done))
            return done

        yield advance
