"""Convolutions, and a variational quantum circuit as the head."""

import pennylane as qml
from torch import Tensor, nn


def circuit_of(qubits: int, layers: int, diff_method: str) -> nn.Module:
    """A layer from angles (B, qubits) to the expectations of Z on each qubit (B, qubits), in [-1, 1].

    The angles enter as rotations around Y. Each of the layers that follow has a trainable rotation of every qubit and a
    ring of CNOTs, which entangle the qubits.
    """

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method=diff_method)
    def circuit(inputs: Tensor, weights: Tensor) -> list[object]:
        qml.AngleEmbedding(inputs, wires=range(qubits), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(qubit)) for qubit in range(qubits)]

    return qml.qnn.TorchLayer(circuit, {"weights": (layers, qubits, 3)})


class Hybrid(nn.Module):
    """A convolutional body, pooling, one angle per qubit, the circuit, and a linear layer that gives logits."""

    def __init__(self, qubits: int, classes: int, layers: int, diff_method: str) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.angles = nn.Linear(8 * 4, qubits)
        self.circuit = circuit_of(qubits, layers, diff_method)
        self.logits = nn.Linear(qubits, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        angles = self.angles(self.pool(self.features(images)).flatten(1))
        return self.logits(self.circuit(angles))


def build(qubits: int = 4, classes: int = 3, layers: int = 2, diff_method: str = "backprop") -> nn.Module:
    """The network with random weights."""
    return Hybrid(qubits, classes, layers, diff_method)
