"""Small classifiers with a known structure, and builders for tests that need a `package.module:function`."""

import os
import signal
import sys
import time

import numpy as np
import torch
from torch import nn

SECRET = "hunter2-of-the-environment"


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


class Viewing(Pooled):
    """Calls `view` on its feature map, which fails if channels are last in memory."""

    def forward(self, images):
        flat = self.features(images).view(len(images), -1)
        return self.fc(flat.reshape(len(images), self.fc.in_features, -1).mean(dim=2))


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
    """Its forward branches on values, so it cannot be traced."""

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


class Channelled(Pooled):
    """The same for images of any number of channels."""

    def __init__(self, channels=1):
        super().__init__()
        self.features[0] = nn.Conv2d(channels, 8, 3, 4, 1)


class Normalised(Channelled):
    """Names its normalisation itself."""

    mean, std = (0.4,), (0.2,)


def channelled(channels=1):
    return seeded(Channelled(channels))


def normalised():
    return seeded(Normalised())


def dense():
    return seeded(Dense())


def not_a_model():
    return 3


def failing(depth=1):
    raise RuntimeError("no such depth")


def only_on_the_driver():
    """Builds on the driver and fails on a worker."""
    if "RAY_RAYLET_PID" in os.environ:
        raise RuntimeError("this worker has no such file")
    return pooled()


def crashing():
    """A model that raises on all images except the two of the trial pass."""
    return Crashing()


class Crashing(Pooled):
    def forward(self, images):
        if images.shape[0] != 2:
            raise RuntimeError("this model does not like\nyour image")
        return super().forward(images)


class Fragile(Pooled):
    """Kills its process at a black photo and hangs at a white one."""

    def forward(self, images):
        if images.shape[0] != 2 and images[0].flatten(1).std(1).max() < 1e-3:
            if images[0].mean() < 0:
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10**6)
        return super().forward(images)


def fragile():
    return seeded(Fragile())


class Greedy(Pooled):
    """Takes up to eight gigabytes at a black photo, and raises if it is not killed by then."""

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


class Patient(Pooled):
    """Takes as many seconds for a pass as it is told or PATIENCE_S says, so that there is time to end its process."""

    seconds = None

    def forward(self, images):
        time.sleep(float(os.environ.get("PATIENCE_S", "0")) if self.seconds is None else self.seconds)
        return super().forward(images)


def patient(seconds=None):
    model = seeded(Patient(), 1)
    model.seconds = seconds
    return model


class Quitting(Pooled):
    def forward(self, images):
        if images.shape[0] != 2:
            sys.exit(3)
        return super().forward(images)


def quitting():
    return seeded(Quitting())


def drawn_by_torch():
    """Random weights from torch's global generator, which nobody here seeds; reads a secret from the environment."""
    if os.environ["MODEL_STORE_TOKEN"] != SECRET:
        raise RuntimeError("another token")
    return Pooled()


def drawn_elsewhere():
    """Random weights that no seed of torch fixes."""
    network = Pooled()
    network.fc.weight.data += torch.from_numpy(np.random.default_rng().normal(size=network.fc.weight.shape)).float()
    return network


def lazy():
    """Layers that take their shapes from the first pass."""
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Planted(nn.Module):
    """A model of two classes with planted maps; its class is drawn anew for every change of the photo.

    `still`: always the same map. `turning`: one map per class, the second is 1 minus the first.
    `restless`: the map, too, is drawn anew for every change of the photo, independent of the class.
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
        # The class depends on the photo alone: this term is far larger than what the maps add.
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
    """Pseudo-random numbers in [0, 1) that change completely with any change of the values."""
    return (torch.sin(values * 1e6) * 43758.5453) % 1


def still():
    return Planted("still")


def turning():
    return Planted("turning")


def restless():
    return Planted("restless")


class Smooth(Pooled):
    """A curved head (tanh), so that second derivatives are not zero."""

    def __init__(self, classes=10, channels=8):
        super().__init__(classes, channels)
        self.hidden = nn.Linear(channels, channels)

    def forward(self, images):
        return self.fc(self.hidden(self.pool(self.features(images).tanh()).flatten(1)).tanh())


class Separate(Pooled):
    """Ends in a convolution with one channel per class, as SqueezeNet does."""

    def __init__(self, classes=10, channels=8):
        super().__init__(classes, channels)
        self.fc = nn.Sequential(
            nn.Dropout(), nn.Conv2d(channels, classes, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, images):
        return self.fc(self.features(images)).flatten(1)


class Circuit(nn.Module):
    """A variational quantum circuit of some qubits, simulated: logits are the expectations of Z on each.

    Angles enter by RY, a ring of CNOTs entangles, trainable RYs follow, twice. All amplitudes are real.
    """

    def __init__(self, qubits=4, layers=2):
        super().__init__()
        self.qubits = qubits
        self.angles = nn.Parameter(torch.zeros(layers, qubits))

    def _ry(self, state, qubit, angle):
        state = state.movedim(qubit + 1, -1)
        cosine, sine = (angle / 2).cos(), (angle / 2).sin()
        shape = (-1, *[1] * (self.qubits - 1))
        cosine, sine = cosine.reshape(shape), sine.reshape(shape)
        low, high = state.unbind(-1)
        return torch.stack((cosine * low - sine * high, sine * low + cosine * high), dim=-1).movedim(-1, qubit + 1)

    def _cnot(self, state, control, target):
        low, high = state.unbind(control + 1)
        return torch.stack((low, high.flip(target if target > control else target + 1)), dim=control + 1)

    def forward(self, inputs):
        state = torch.zeros(len(inputs), *[2] * self.qubits, dtype=inputs.dtype, device=inputs.device)
        state[(slice(None), *[0] * self.qubits)] = 1
        for layer in self.angles:
            for qubit in range(self.qubits):
                state = self._ry(state, qubit, inputs[:, qubit])
            for qubit in range(self.qubits - 1):
                state = self._cnot(state, qubit, qubit + 1)
            for qubit in range(self.qubits):
                state = self._ry(state, qubit, layer[qubit].expand(len(inputs)))
        chances = state**2
        marginals = [chances.movedim(qubit + 1, 1).flatten(2).sum(dim=2) for qubit in range(self.qubits)]
        return torch.stack([marginal[:, 0] - marginal[:, 1] for marginal in marginals], dim=1)


class Hybrid(Pooled):
    """A convolutional body and a quantum head."""

    def __init__(self, qubits=4, channels=8):
        super().__init__(qubits, channels)
        self.circuit = Circuit(qubits)

    def forward(self, images):
        return self.circuit(super().forward(images))


class Tokens(nn.Module):
    """A vision transformer in the style of Hugging Face: blocks return tuples, the model a mapping with logits."""

    def __init__(self, prefix=1, classes=5, width=16, blocks=2):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, width))
        self.place = nn.Parameter(torch.zeros(1, prefix + 16, width))
        self.blocks = nn.ModuleList(TokenBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.prefix.expand(len(images), -1, -1), tokens), dim=1) + self.place
        for block in self.blocks:
            tokens = block(tokens)[0]
        tokens = self.norm(tokens)
        return {"logits": self.head(tokens[:, 0] if self.prefix.shape[1] else tokens.mean(dim=1))}


class TokenBlock(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens):
        B, N, C = tokens.shape
        q, k, v = self.qkv(self.norm1(tokens)).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.dropout(torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1))
        tokens = tokens + self.out((weights @ v).transpose(1, 2).reshape(B, N, C))
        return (tokens + self.mlp(self.norm2(tokens)), weights)


class Normalising(Pooled):
    """Changes its input in place."""

    def forward(self, images):
        return super().forward(images.sub_(0.5))


class Raising(Pooled):
    """Raises a given error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


def small_vit():
    """torchvision's transformer with a fiftieth of the parameters of its smallest."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=224, patch_size=16, num_layers=4, num_heads=3, hidden_dim=192, mlp_dim=384)


class Pair(nn.Module):
    """The network of one logit z as one of two logits, -z and z."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        z = self.inner(images)
        z = z["logits"] if isinstance(z, dict) else z.reshape(len(images), 1)
        return torch.cat([-z, z], dim=1)


class PlantedLogit(Planted):
    """`Planted` with one logit, about 100 for the second class and -100 for the first."""

    def forward(self, images):
        first, second = super().forward(images).unbind(1)
        return (second - first)[:, None]


def turning_logit():
    return PlantedLogit("turning")
