"""The price of machines that vanish: the formula against a simulation, block by block, and against its limits."""

import heapq
import math
import random

import pytest

from camrobust.contract.errors import UserError
from camrobust.run.interruptions import Fleet, SpotWork, expected


def simulated(blocks, block_h, blocks_per_commit, fleet, dice):
    """One run: machines take blocks from a queue, are lost at random, and lose what no commit holds."""
    rate, left, waiting = fleet.interruptions_per_h, blocks, []
    lost, committed, busy_h = 0, 0, 0.0
    # They do not begin together, or they would also end their blocks together.
    events = [(dice.random() * block_h, machine, "begin") for machine in range(fleet.machines)]
    gone = [dice.expovariate(rate) for _ in events]
    heapq.heapify(events)
    while committed < blocks:
        now, machine, kind = heapq.heappop(events)
        if kind == "end":
            waiting.append(machine)
            if len(waiting) >= min(blocks_per_commit, blocks - committed):
                committed += len(waiting)
                waiting.clear()
        elif kind == "loss":
            lost += 1
            left += 1 + waiting.count(machine)
            waiting = [one for one in waiting if one != machine]
            now += fleet.replacement_h
            gone[machine] = now + dice.expovariate(rate)
        if not left:  # others may give theirs back
            heapq.heappush(events, (now + block_h / 10, machine, "begin"))
        elif now >= gone[machine]:  # lost while it had nothing to do
            gone[machine] = now + dice.expovariate(rate)
            heapq.heappush(events, (now, machine, "begin"))
        else:
            left -= 1
            ends = min(now + block_h, gone[machine])
            busy_h += ends - now
            heapq.heappush(events, (ends, machine, "end" if ends < gone[machine] else "loss"))
    return lost, busy_h, lost * fleet.replacement_h


@pytest.mark.parametrize(
    ("block_h", "blocks_per_commit", "fleet"),
    [
        (0.05, 1, Fleet(1, 0.5, 0.1)),
        (0.5, 1, Fleet(1, 1.0, 0.2)),
        (0.1, 8, Fleet(4, 0.3, 0.05)),
        (0.05, 20, Fleet(8, 1.0, 0.1)),
    ],
)
def test_a_simulation_of_poisson_interruptions_agrees(block_h, blocks_per_commit, fleet):
    dice, blocks, runs = random.Random(1), 400, 40
    found = [simulated(blocks, block_h, blocks_per_commit, fleet, dice) for _ in range(runs)]
    lost, busy_h, waited_h = (sum(column) / runs for column in zip(*found, strict=True))
    guess = expected(blocks * block_h, block_h, blocks_per_commit, fleet)
    assert guess.interruptions == pytest.approx(lost, rel=0.1)
    assert guess.waiting_h == pytest.approx(waited_h, rel=0.1)
    assert guess.machine_h == pytest.approx(busy_h + waited_h, rel=0.03)
    assert guess.repeated_h == pytest.approx(busy_h - blocks * block_h, rel=0.15)


def test_the_arithmetic_is_exact_where_it_can_be_done_by_hand():
    # A block of ln 2 hours at one interruption per hour is begun twice, and takes one hour in all.
    found = expected(10 * math.log(2), math.log(2), 1, Fleet(2, 1.0, 0.25))
    assert found.interruptions == pytest.approx(10, rel=1e-12)
    assert found.repeated_h == pytest.approx(10 - 10 * math.log(2), rel=1e-12)
    assert found.waiting_h == pytest.approx(2.5, rel=1e-12)
    assert found.machine_h == pytest.approx(12.5, rel=1e-12)
    assert found.run_h == pytest.approx(6.25, rel=1e-12)
    # Three blocks to a commit: at each loss, (3 - 1)/(2·2) of a block is lost that was done already.
    more = expected(10 * math.log(2), math.log(2), 3, Fleet(2, 1.0, 0.25))
    assert more.interruptions == pytest.approx(10 / (1 - 0.5), rel=1e-12)
    # Rarely: half a block for each.
    rare = expected(1000, 0.01, 1, Fleet(5, 0.001, 0.0))
    assert rare.interruptions == pytest.approx(1, rel=1e-4)
    assert rare.repeated_h == pytest.approx(0.005, rel=1e-4)


def test_machines_that_stay_add_nothing_and_hopeless_ones_are_refused():
    assert expected(8.0, 0.1, 5, Fleet(4, 0.0, 0.1)) == SpotWork(0.0, 0.0, 0.0, 8.0, 2.0)
    with pytest.raises(UserError, match="--interruptions must leave a machine time for its blocks of 1 hours, got 20 "):
        expected(8.0, 1.0, 1, Fleet(4, 20.0, 0.1))
    with pytest.raises(UserError, match="take machines that stay longer or are faster"):
        expected(8.0, 0.5, 100, Fleet(1, 1.0, 0.1))
