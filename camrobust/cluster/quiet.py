"""What Ray's C++ parts write to standard error by themselves, kept off the terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation

STANDARD_ERROR = 2


@contextmanager
def only_python_speaks() -> Iterator[None]:
    """While open, standard error shows what Python writes to `sys.stderr`, and nothing else of this process.

    Ray's workers write to files of their own and are not touched.
    """
    kept = os.dup(STANDARD_ERROR)
    before = sys.stderr
    number = None
    with suppress(AttributeError, OSError, UnsupportedOperation):
        before.flush()
        number = before.fileno()
    if number == STANDARD_ERROR:
        sys.stderr = os.fdopen(os.dup(kept), "w", 1, before.encoding, before.errors)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, STANDARD_ERROR)
    os.close(sink)
    try:
        yield
    finally:
        sys.stderr.flush()
        if number == STANDARD_ERROR:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
