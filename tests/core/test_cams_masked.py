"""SS-CAM, IS-CAM and Opti-CAM, compared with float64 loops and with torchcam."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS, masked, optimised
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import frozen
from camrobust.core.explain.target_layer import build_network
from tests.core.test_cams_methods import Case, agree
from tests.reference import cams_masked as reference
from tests.toys import seeded


def noises_of(case, one):
    draws = case.draws.apart("ss-cam")
    return [2 * draws.normal((1, *case.images.shape[2:]))[one].double().numpy() for _ in range(masked.SAMPLES)]


def logit_of(case, one):
    def logit(image):
        with torch.no_grad():
            return float(case.logits(one, image=image)[case.targets[one]])

    return logit


@pytest.mark.parametrize(("kind", "samples"), [("small", 4), ("tokens", 2)])
def test_ss_cam_and_is_cam(kind, samples, monkeypatch):
    monkeypatch.setattr(masked, "SAMPLES", samples)
    case = Case(kind)
    noisy, integrated = case.maps("ss-cam"), case.maps("is-cam")
    for one in range(2):
        A, image = case.arrays(one)[0], case.images[one].numpy()
        agree(noisy[one], reference.ss_cam(A, image, logit_of(case, one), noises_of(case, one)), 1e-3)
        agree(integrated[one], reference.is_cam(A, image, logit_of(case, one), samples), 1e-3)
    assert np.abs(noisy - integrated).max() > 1e-3 * np.abs(noisy).max()


@pytest.mark.parametrize(("kind", "steps"), [("small", 50), ("tokens", 12)])
def test_opti_cam(kind, steps, monkeypatch):
    monkeypatch.setattr(optimised, "STEPS", steps)
    case = Case(kind)
    for one, ours in enumerate(case.maps("opti-cam")):
        A, image = case.arrays(one)[0], case.images[one].numpy()
        wanted, _ = reference.opti_cam(A, image, logit_of(case, one), steps)
        agree(ours, wanted, 2e-3)


def test_opti_cam_raises_the_logit():
    case = Case("pooled", 6)
    maps = torch.as_tensor(case.maps("opti-cam"))[:, None]
    equal = case.evidence.activations.relu().mean(dim=1, keepdim=True)

    def logits(of_maps):
        mask = torch.nn.functional.interpolate(of_maps, size=(64, 64), mode="bilinear")
        low, high = mask.amin(dim=(1, 2, 3), keepdim=True), mask.amax(dim=(1, 2, 3), keepdim=True)
        with torch.no_grad():
            scores = case.network.logits(case.images.float() * (mask - low) / (high - low))
        return case.evidence.explained_logit(scores)

    assert (logits(maps) > logits(equal)).all()


def test_ss_cam_draws_from_the_images_own_stream():
    case = Case("small")
    other = Draws.of(0, "d", ["1", "0"], "cam", "s", 0)
    with frozen(case.module):
        swapped = collect(case.network, case.images.float().flip(0), draws=other)
        maps = explain(swapped, [CAMS["ss-cam"].function])[:, 0].flip(0)
    assert np.array_equal(maps.numpy(), case.maps("ss-cam"))


class Fixed:
    """Stands for torchcam's noise: the next of ours at every call, the same for all channels."""

    def __init__(self, noises):
        self.noises = iter(noises)

    def sample(self, size):
        return next(self.noises).expand(size)


@pytest.mark.parametrize("name", ["ss-cam", "is-cam"])
def test_torchcam_agrees(name):
    """With maps enlarged by an odd factor: torchcam scales before it enlarges, and other factors lose the extremes."""
    from torchcam.methods import ISCAM, SSCAM

    body = nn.Sequential(nn.Conv2d(3, 6, 3, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, 3), nn.ReLU())
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(6, 5)}
    module = seeded(nn.Sequential(OrderedDict(body=body, **head))).eval()
    images = torch.randn(2, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    network = build_network(module, images, "body")
    draws = Draws.of(0, "d", ["0", "1"], "cam", "s", 0)
    with frozen(module):
        evidence = collect(network, images, draws=draws)
        ours = explain(evidence, [CAMS[name].function])[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make, more = (SSCAM, {"std": masked.MASK_NOISE}) if name == "ss-cam" else (ISCAM, {})
        with make(module, "body", num_samples=masked.SAMPLES, input_shape=(3, 45, 45), **more) as extractor:
            fresh = draws.apart("ss-cam")
            extractor._distrib = Fixed([2 * fresh.normal((1, 45, 45)) for _ in range(masked.SAMPLES)])
            module(images)
            (theirs,) = extractor(evidence.targets.tolist(), normalized=False)
    agree(ours.numpy(), theirs.numpy(), 1e-5)
