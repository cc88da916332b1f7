import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from camrobust.core.draws import Draws, philox4x32
from tests.reference.perturb import philox4x32 as plain_philox

ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES,) * 4, (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def streams(ids=("a", "b", "c"), **changes):
    settings = {"seed": 1, "dataset": "d", "purpose": "noise", "strength": "sigma=1", "replicate": 0} | changes
    return Draws.of(settings["seed"], settings["dataset"], list(ids), settings["purpose"], settings["strength"],
                    settings["replicate"])  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_philox_gives_random123s_known_answers(counter, key, wanted):
    words = philox4x32(torch.tensor([counter]), key)[0].tolist()
    assert " ".join(f"{value:08x}" for value in words) == wanted
    assert plain_philox(counter, key) == words


def test_philox_equals_plain_integers_on_many_counters():
    counters = torch.randint(0, 2**32, (200, 4), generator=torch.Generator().manual_seed(0))
    key = (0x01234567, 0x89ABCDEF)
    words = philox4x32(counters, key)
    assert words.tolist() == [plain_philox(counter, key) for counter in counters.tolist()]


def test_uniform_is_exact_24_bit_and_uniform():
    values = streams(["x"]).uniform((200_000,))[0]
    assert torch.equal((values.double() * 2**24).round() / 2**24, values.double())
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.numpy(), "uniform").pvalue > 0.01


def test_normal_is_normal():
    values = streams(["x"]).normal((200_001,))[0].numpy()
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_an_image_draws_the_same_whatever_its_company_and_order(kind):
    together = getattr(streams(), kind)((3, 5, 7))
    backwards = getattr(streams(("c", "b", "a")), kind)((3, 5, 7))
    alone = torch.cat([getattr(streams((image_id,)), kind)((3, 5, 7)) for image_id in "abc"])
    joined = getattr(Draws.join([streams((image_id,)) for image_id in "abc"]), kind)((3, 5, 7))
    assert torch.equal(together, backwards.flip(0))
    assert torch.equal(together, alone)
    assert torch.equal(together, joined)


def test_every_call_takes_new_numbers_and_repeats_with_the_stream():
    draws, again = streams(), streams()
    first, second = draws.uniform((50,)), draws.uniform((50,))
    assert not torch.equal(first, second)
    assert torch.equal(first, again.uniform((50,)))
    assert torch.equal(second, again.uniform((50,)))


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"dataset": "e"}, {"purpose": "other"}, {"strength": "sigma=2"}, {"replicate": 1}, {"ids": "xyz"}],
)
def test_everything_that_names_a_stream_changes_it(change):
    assert not torch.equal(streams().uniform((20,)), streams(**change).uniform((20,)))


def test_names_cannot_run_into_each_other():
    assert not torch.equal(streams(["ab"], dataset="c").uniform((9,)), streams(["b"], dataset="ca").uniform((9,)))


def test_another_process_with_another_number_of_threads_draws_the_same_bytes():
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from camrobust.core.draws import Draws\n"
        "d = Draws.of(1, 'd', ['a'], 'noise', 'sigma=1', 0)\n"
        "import sys; sys.stdout.buffer.write(d.normal((70001,)).numpy().tobytes())"
    )
    written = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert written == streams(["a"]).normal((70001,)).numpy().tobytes()
