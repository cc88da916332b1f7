"""Colours that the colour-blind tell apart; scikit-image converts and measures."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.report.colours import DASHES, FLOOR, KNOWN, MARKERS, PALETTE, look

MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB."""
VIENOT = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}
"""Viénot, Brettel & Mollon 1999, on linear RGB."""


def rgb(colours):
    return np.array([[int(one[place : place + 2], 16) / 255 for place in (1, 3, 5)] for one in colours])


def linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def seen(colours, matrix):
    light = np.clip(linear(rgb(colours)) @ np.array(matrix).T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def least_distance(values):
    lab = rgb2lab(values[None])[0]
    one, other = np.triu_indices(len(lab), 1)
    return deltaE_ciede2000(lab[one], lab[other]).min()


@pytest.mark.parametrize("model", [{"normal": np.eye(3)}, MACHADO, VIENOT], ids=["normal", "Machado", "Viénot"])
def test_the_first_eight_colours_and_the_floor_are_told_apart(model):
    for matrix in model.values():
        assert least_distance(seen((*PALETTE, FLOOR), matrix)) >= 10


def test_the_measure_is_one_that_red_and_green_fail():
    """tableau10, as the figures had it."""
    both = [least_distance(seen(("#e45756", "#54a24b"), matrix)) for matrix in MACHADO.values()]
    assert min(both) < 10


@pytest.mark.parametrize("paper", ["#ffffff", "#15171a"])
def test_lines_stand_out_from_a_light_and_a_dark_page(paper):
    ink, page = (linear(rgb(colours)) @ [0.2126, 0.7152, 0.0722] for colours in ((*PALETTE, FLOOR), (paper,)))
    contrast = (np.maximum(ink, page) + 0.05) / (np.minimum(ink, page) + 0.05)
    assert contrast.min() >= 2.8


def test_every_known_cam_has_a_look_of_its_own():
    known = [cam.name for cam in CAMS if cam.name in {*KNOWN, "random"} or "." not in cam.name]
    assert {*known} == {*KNOWN, "random"}
    assert len({look(cam) for cam in known}) == len(known)
    classic = [cam for cam in CLASSIC if cam != "random"]
    assert len({look(cam).colour for cam in classic}) >= 8
    assert len(DASHES) == len(MARKERS)


def test_a_look_depends_on_the_name_alone():
    assert look("mine") == look("mine", ["random"])
    assert look("mine") not in {look(cam) for cam in KNOWN}
    assert look("grey", ["grey"]) == look("random")
