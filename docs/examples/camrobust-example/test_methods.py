"""The three methods against plain arithmetic, and all of them through camrobust."""

import camrobust_example.methods  # noqa: F401 - importing it registers its methods
import torch
from torch import nn

import camrobust
from camrobust.core.perturb import perturb
from camrobust.core.similarity import SIMILARITIES


def test_the_cam_ignores_signs() -> None:
    """All channels negated give the same map."""
    torch.manual_seed(0)
    layer, head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    images = torch.rand(2, 3, 16, 16)
    maps = camrobust.explain(model, images, cams=["abs-gradcam"])["abs-gradcam"]
    with torch.no_grad():
        for values in (layer.weight, layer.bias, head.weight):
            assert values is not None
            values.neg_()
    assert torch.allclose(maps, camrobust.explain(model, images, cams=["abs-gradcam"])["abs-gradcam"])
    assert maps.shape == (2, 14, 14)
    assert maps.min() >= 0


def test_the_perturbation_blackens_whole_rows() -> None:
    """Rows are black or left alone, and the same seed gives the same rows."""
    images = torch.rand(2, 3, 40, 8) / 2 + 0.5
    noisy = perturb(images, "dead_rows:5", ["a", "b"])
    black = (noisy == 0).all(dim=3)
    assert (black.all(dim=1) | (noisy == images).all(dim=3).all(dim=1)).all()
    assert black.any()
    assert noisy.equal(perturb(images, "dead_rows:5", ["a", "b"]))


def test_the_similarity_counts_hot_positions() -> None:
    """One position of four against three."""
    clean, noisy = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert SIMILARITIES["area_shift"](clean, noisy) == 0.5


def test_a_score_row_has_all_three() -> None:
    """In this process, without Ray."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    rows = camrobust.evaluate(
        model, torch.rand(2, 3, 64, 64), cams=["abs-gradcam"], perturbations=["dead_rows:5"]
    ).scores
    assert rows.height == 2
    assert rows["area_shift"].is_between(0, 1).all()
