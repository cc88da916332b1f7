"""The circuit's gradients against the parameter-shift rule and differences, and the network through camrobust."""

from math import pi

import pytest
import torch
from camrobust_quantum.model import build, circuit_of

import camrobust


@pytest.fixture
def model() -> torch.nn.Module:
    """With seeded weights."""
    torch.manual_seed(0)
    return build(qubits=3, classes=3).eval()


def test_gradients_are_those_of_the_parameter_shift_rule() -> None:
    """In float64, for angles and weights: the simulation differentiates what a quantum computer would measure."""
    angles = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64, requires_grad=True)
    circuits = [circuit_of(3, 2, method).double() for method in ("backprop", "parameter-shift")]
    circuits[1].load_state_dict(circuits[0].state_dict())
    for qubit in range(3):
        found = [torch.autograd.grad(one(angles)[qubit], [angles, *one.parameters()]) for one in circuits]
        for simulated, shifted in zip(*found, strict=True):
            torch.testing.assert_close(simulated, shifted, rtol=0, atol=1e-10)
        with torch.no_grad():
            by_hand = [circuits[0](angles + pi / 2 * one) - circuits[0](angles - pi / 2 * one) for one in torch.eye(3)]
        torch.testing.assert_close(found[0][0], torch.stack(by_hand)[:, qubit] / 2, rtol=0, atol=1e-10)


def test_grad_cam_is_that_of_differences(model: torch.nn.Module) -> None:
    """ReLU Σ_k mean(∂y/∂A_k)·A_k with the derivative by central differences in float64."""
    images = torch.rand(2, 3, 32, 32)
    maps = camrobust.explain(model, images, cams=["gradcam"], targets=[0, 2], mean=(0, 0, 0), std=(1, 1, 1))["gradcam"]
    model = model.double()
    with torch.no_grad():
        features = model.features(images.double())

        def logits(values: torch.Tensor) -> torch.Tensor:
            return model.logits(model.circuit(model.angles(model.pool(values).flatten(1))))

        for one, target in enumerate((0, 2)):
            A = features[one]
            moves = 1e-6 * torch.eye(A.numel(), dtype=A.dtype).reshape(-1, *A.shape)
            slopes = (logits(A + moves) - logits(A - moves))[:, target].reshape(A.shape) / 2e-6
            wanted = (slopes.mean(dim=(1, 2), keepdim=True) * A).sum(dim=0).relu()
            torch.testing.assert_close(maps[one].double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


def test_score_rows(model: torch.nn.Module) -> None:
    """In this process, without Ray: every map is finite and not flat."""
    cams = ["gradcam", "gradcam++", "layercam", "ablationcam", "shapleycam", "random"]
    rows = camrobust.evaluate(model, torch.rand(2, 3, 64, 64), cams=cams, perturbations=["gaussian_noise:3"]).scores
    assert rows.height == 12
    assert set(rows.filter(cam="random")["status"]) == {"ok"}
    assert rows["rbo"].drop_nulls().is_between(0, 1).all()
