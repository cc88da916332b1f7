"""An image's map must not depend on the other images of its pass: passes of one size give the same bits."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import frozen
from camrobust.core.explain.target_layer import build_network
from tests.runs import ROOT
from tests.toys import Branching, Dense, Hybrid, Pooled, Separate, Smooth, Tokens, seeded

KINDS = {
    "pooled": (Pooled, 64),
    "wide": (lambda: Pooled(channels=200), 64),
    "dense": (Dense, 224),
    "branching": (Branching, 224),
    "smooth": (Smooth, 64),
    "separate": (Separate, 64),
    "hybrid": (Hybrid, 64),
    "tokens": (Tokens, 32),
}
SLOW = {"ss-cam", "is-cam", "opti-cam"}
"""Run on two networks only; Score-CAM, whose masks they have, runs on all."""
PASS = 12
"""Images of a pass."""


def photos(count, size, seed):
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def maps_of(network, images, numbers, names):
    """Maps (B, K, h, w); `numbers` name the images."""
    draws = Draws.of(0, "d", [str(number) for number in numbers], "cam", "s", 0)
    return explain(collect(network, images, draws=draws), [CAMS[name].function for name in names])


def applicable(network, images, without):
    """The methods that the network allows."""
    names = []
    for name in sorted({*CAMS.names()} - without):
        try:
            maps_of(network, images, range(len(images)), [name])
        except UserError:
            continue
        names.append(name)
    return names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_map_has_the_same_bits_at_any_place_and_among_any_images(kind, memory, brief):
    build, size = KINDS[kind]
    module = seeded(build()).eval()
    mine, others = photos(PASS, size, 4), photos(PASS, size, 5)
    mine, others = mine.contiguous(memory_format=memory), others.contiguous(memory_format=memory)
    network = build_network(module, mine[:2])
    with frozen(module):
        without = set() if kind in ("pooled", "tokens") else SLOW
        names = applicable(network, mine[:2], without)
        assert len(names) >= len(CAMS.names()) - len(without) - 5
        wanted = maps_of(network, mine, range(PASS), names)
        for turn in (1, 5):
            places = [(place + turn) % PASS for place in range(PASS)]
            moved = maps_of(network, mine[places].contiguous(memory_format=memory), places, names)
            different = (moved != wanted[places]).flatten(2).any(dim=2)
            assert [names[one] for one in torch.where(different.any(dim=0))[0]] == []
        mixed = others.clone(memory_format=torch.preserve_format)
        mixed[3] = mine[3]
        numbers = [3 if place == 3 else 100 + place for place in range(PASS)]
        among = maps_of(network, mixed, numbers, names)[3]
        different = (among != wanted[3]).flatten(1).any(dim=1)
        assert [names[one] for one in torch.where(different)[0]] == []


@pytest.mark.parametrize(("given", "wanted"), [(None, "AUTO"), ("COMPATIBLE", "COMPATIBLE")])
def test_products_of_mkl_do_not_depend_on_where_a_matrix_lies(given, wanted):
    """On some processors they do by default: this test fails there without the variable."""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    if given:
        environment["MKL_CBWR"] = given
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == [wanted, "0"]


PRODUCTS = """
import os
import torch
import camrobust

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
weight, different = torch.randn(16, 294, generator=generator), 0
for count in (1, 2, 3, 5):
    for _ in range(20):
        rows = torch.randn(count, 294, generator=generator)
        order = torch.randperm(count, generator=generator)
        plain, moved = (torch.nn.functional.linear(some, weight) for some in (rows, rows[order]))
        different += int((plain[order] != moved).any(dim=1).sum())
print(os.environ["MKL_CBWR"], different)
"""
