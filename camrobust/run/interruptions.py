"""What a run costs on machines that may be taken away at any moment."""

import math
from dataclasses import dataclass

from camrobust.contract.errors import UserError

MOST_PER_BLOCK = 10.0
"""With more interruptions than this in the time of one block, a block would be begun more than 20,000 times."""


@dataclass(frozen=True)
class Fleet:
    """Machines for Explain workers, one worker each.

    Attributes:
        machines: how many work at the same time.
        interruptions_per_h: how often one of them is taken away, per hour; 0 for machines that stay.
        replacement_h: from the loss of a machine until another one works in its place, h. It is paid for.
    """

    machines: int
    interruptions_per_h: float
    replacement_h: float


@dataclass(frozen=True)
class SpotWork:
    """What is to be expected, on average, of a run on such machines.

    Attributes:
        interruptions: machines that are taken away.
        repeated_h: work that is lost with them and done again, machine hours.
        waiting_h: until their replacements work, machine hours.
        machine_h: all hours that are paid for: the work itself, repeated_h and waiting_h.
        run_h: hours from start to end.
    """

    interruptions: float
    repeated_h: float
    waiting_h: float
    machine_h: float
    run_h: float


def expected(work_h: float, block_h: float, blocks_per_commit: int, fleet: Fleet) -> SpotWork:
    """Expected hours of a run whose machines are taken away without notice, as a Poisson process each.

    A block that takes b hours is begun again when its machine goes. It is done after (e^λb - 1) interruptions and
    (e^λb - 1)/λ hours of work, on average. Finished blocks wait on their machines until k of them make a commit: with n
    machines (k - 1)/2n on each, on average, which q = b(k - 1)/2n hours are lost at an interruption, too. So of W hours
    of work U = W/(1 - iq) are done, with i = (e^λb - 1)/b interruptions per hour:

        interruptions I = iU      repeated U(e^λb - 1)/(λb) - W      waiting Iτ

    A notice ahead (`camrobust watch-spot`) lets a block end or move, so less is repeated than this.

    Args:
        work_h: W, machine hours of the run without interruptions.
        block_h: b, machine hours of one block of images.
        blocks_per_commit: k.
        fleet: n machines, λ interruptions per hour and machine, τ hours until a replacement works.

    Raises:
        UserError: machines vanish so often that the run would not end.

    References:
        Time to complete a task that starts again after Poisson failures: Ross, "Introduction to Probability Models",
        section on patterns and renewals; the share that waits for a commit is ours. `tests/run/test_interruptions.py`
        has a simulation of both.

    Example:
        >>> found = expected(100.0, 0.02, 1, Fleet(machines=10, interruptions_per_h=0.1, replacement_h=0.1))
        >>> round(found.interruptions, 1), round(found.repeated_h, 2), round(found.run_h, 2)
        (10.0, 0.1, 10.11)
    """
    rate = fleet.interruptions_per_h
    if rate == 0 or work_h == 0:
        return SpotWork(0.0, 0.0, 0.0, work_h, work_h / fleet.machines)
    hazard = rate * block_h
    if hazard > MOST_PER_BLOCK:
        raise _never(block_h, fleet)
    per_hour = math.expm1(hazard) / block_h
    lost_waiting_h = block_h * (blocks_per_commit - 1) / (2 * fleet.machines)
    if per_hour * lost_waiting_h >= 1:
        raise _never(block_h, fleet)
    useful_h = work_h / (1 - per_hour * lost_waiting_h)
    working_h = useful_h * math.expm1(hazard) / hazard
    interruptions = per_hour * useful_h
    waiting_h = interruptions * fleet.replacement_h
    machine_h = working_h + waiting_h
    return SpotWork(interruptions, working_h - work_h, waiting_h, machine_h, machine_h / fleet.machines)


def _never(block_h: float, fleet: Fleet) -> UserError:
    return UserError(
        f"plan: --interruptions must leave a machine time for its blocks of {block_h:.3g} hours, got "
        f"{fleet.interruptions_per_h:g} per hour; take machines that stay longer or are faster"
    )
