"""Small classifiers with known structure; builders for tests that need a `package.module:function`."""

import os
import signal
import sys
import time

import torch
from torch import nn


def seeded(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


class Pooled(nn.Module):
    """Convolutions, global average pooling, one linear layer: the closed form applies at `features`."""

    def __init__(self, classes=10, channels=8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, 4, 1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, images):
        return self.fc(self.pool(self.features(images)).flatten(1))


class Dense(nn.Module):
    """A head with a hidden layer and an in-place ReLU directly behind the target layer: no closed form."""

    def __init__(self, classes=10, channels=6):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 7, 8, 3)
        self.body = nn.Conv2d(channels, channels, 3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * 49, 16), nn.ReLU(inplace=True), nn.Linear(16, classes)
        )

    def forward(self, images):
        return self.head(self.relu(self.body(self.stem(images).relu())))


class Branching(Dense):
    """Its forward looks at values, so no tracer can cut it."""

    def forward(self, images):
        if images.mean() > 1e6:
            return self.head(images)
        return super().forward(images)


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)
        self.fc = nn.Linear(3, 4)

    def forward(self, images):
        return self.fc(self.conv(self.conv(images)).mean(dim=(2, 3)))


class Logits:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    """Gives logits inside an object, as Hugging Face models do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return Logits(self.inner(images))


def pooled(classes=10):
    return seeded(Pooled(classes))


def dense():
    return seeded(Dense())


def not_a_model():
    return 3


def failing(depth=1):
    raise RuntimeError("no such depth")


def only_on_the_driver():
    """Builds where the run is prepared and fails where it is carried out."""
    if "RAY_RAYLET_PID" in os.environ:
        raise RuntimeError("this worker has no such file")
    return pooled()


def crashing():
    """Raises on every image but the sample that it is tried with."""
    return Crashing()


class Crashing(Pooled):
    def forward(self, images):
        if images.shape[0] != 2:
            raise RuntimeError("this model does not like\nyour image")
        return super().forward(images)


class Fragile(Pooled):
    """Dies, or hangs, at a photo of one colour: black kills the process, white never ends."""

    def forward(self, images):
        if images.shape[0] != 2 and images[0].flatten(1).std(1).max() < 1e-3:
            if images[0].mean() < 0:
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10**6)
        return super().forward(images)


def fragile():
    return seeded(Fragile())


class Greedy(Pooled):
    """Takes more and more memory at a black photo, up to eight gigabytes, and gives up when nobody ends it."""

    def forward(self, images):
        if images.shape[0] != 2 and images[0].flatten(1).std(1).max() < 1e-3:
            taken = []
            for _ in range(64):
                taken.append(torch.ones(2**25))
                time.sleep(0.02)
            time.sleep(20)
            raise RuntimeError("took eight gigabytes and lived")
        return super().forward(images)


def greedy():
    return seeded(Greedy())


class Quitting(Pooled):
    def forward(self, images):
        if images.shape[0] != 2:
            sys.exit(3)
        return super().forward(images)


def quitting():
    return seeded(Quitting())


class Planted(nn.Module):
    """Two classes, drawn anew for every change of the photo; what the maps do is planted.

    `still`: one map whatever comes. `turning`: one map per class, the second the first turned upside down.
    `restless`: a map drawn anew for every change of the photo, whatever the class.
    """

    def __init__(self, kind, side=7):
        super().__init__()
        self.features = PlantedMaps(kind, side)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2)
        same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        self.fc.weight.data = torch.eye(2) if kind == "turning" else same
        self.fc.bias.data = torch.zeros(2)

    def forward(self, images):
        logits = self.fc(self.pool(self.features(images)).flatten(1))
        # The class hangs on the photo alone, not on the maps, and is far beyond what they add.
        second = drawn(images.detach().double().mean(dim=(1, 2, 3))) > 0.5
        return logits + 100 * torch.stack([~second, second], dim=1).to(logits)


class PlantedMaps(nn.Module):
    def __init__(self, kind, side):
        super().__init__()
        self.kind = kind
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("pattern", torch.rand(1, 1, side, side, generator=generator))

    def forward(self, images):
        if self.kind == "restless":
            cells = nn.functional.adaptive_avg_pool2d(
                images.detach().double().mean(1, keepdim=True), self.pattern.shape[2:]
            )
            first = drawn(cells).to(images.dtype)
        else:
            first = self.pattern.expand(len(images), -1, -1, -1)
        return torch.cat([first, 1 - first], dim=1)


def drawn(values):
    """A number in [0, 1) that any change of the value draws anew."""
    return (torch.sin(values * 1e6) * 43758.5453) % 1


def still():
    return Planted("still")


def turning():
    return Planted("turning")


def restless():
    return Planted("restless")
