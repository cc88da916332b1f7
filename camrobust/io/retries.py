"""How often and how long a call to any object store is tried."""

import os
import random
import time

ATTEMPTS = 8
OBJECT_TIMEOUT_S = 600
"""For one whole object. A store that sends a few bytes now and then is given up, too."""
BACKOFF_S = 20
"""The longest pause between two attempts."""


def attempts() -> int:
    """The number of attempts for one call: AWS_MAX_ATTEMPTS, or 8."""
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(given) if given.isdigit() and int(given) else ATTEMPTS


def pause(attempt: int, first_s: float) -> None:
    """Sleep between two attempts.

    Args:
        attempt: the number of the attempt; the longest possible pause doubles with each.
        first_s: the longest possible pause at attempt 0, seconds.
    """
    time.sleep(random.uniform(0, min(BACKOFF_S, first_s * 2**attempt)))
