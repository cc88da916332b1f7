"""Keeps messages of Ray's C++ parts off the terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STANDARD_ERROR = 2


@contextmanager
def only_python_speaks() -> Iterator[None]:
    """While open, standard error shows only what Python prints to `sys.stderr`.

    Ray's workers write to files of their own, so nothing changes for them.
    """
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # it is closed, and nobody reads it
        yield
        return
    before, own = sys.stderr, None
    with suppress(AttributeError, OSError, ValueError):
        before.flush()
        if before.fileno() == STANDARD_ERROR:
            # Never closed: a progress bar that began inside holds it, and must be able to show the cursor again after
            # Ctrl-C has left this block.
            own = sys.stderr = os.fdopen(os.dup(kept), "w", 1, before.encoding, before.errors, closefd=False)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, STANDARD_ERROR)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        if own is not None:
            sys.stderr = before
            with suppress(OSError, ValueError):
                own.flush()
