"""The classifier of the chaos runs. It is small, because the trials test the machinery around it."""

import torch
from torch import nn


def build(seed: int = 0) -> nn.Module:
    """A convolutional classifier of ten classes; the seed decides its weights, the same on every machine."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module
