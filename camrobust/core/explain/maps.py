"""The maps of a run's CAM methods, pass after pass; on a GPU, the methods that allow it are one CUDA graph."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.contract.registry import from_camrobust
from camrobust.core.explain.cams.registry import CAMS, Cam
from camrobust.core.explain.captured import Captured, captured
from camrobust.core.explain.evidence import Evidence, explain_marked, together
from camrobust.core.explain.network import Network


def is_static(cam: Cam, network: Network) -> bool:
    """Whether a method only computes with activations, gradients, logits, classes and the head's weights.

    A method of a user's package may do more than it says, so it never counts.
    """
    shared = cam.cost == "shared" or (cam.closed_form and network.head is not None)
    return shared and not cam.needs_host and from_camrobust(cam)


WITHOUT_GRADIENT = ("activations", "masked inputs", "tail", "head")
"""Keys of `registry.NEEDS` for which no gradient is computed."""


def refuse_without_gradient(network: Network, cams: Iterable[Cam]) -> None:
    """Raise UserError if methods need gradients and the network lets none through."""
    needing = [cam.name for cam in cams if cam.needs not in WITHOUT_GRADIENT]
    if needing and not network.differentiable:
        others = [cam.name for cam in CAMS if cam.needs in WITHOUT_GRADIENT and not cam.control]
        raise UserError(
            f"cams: no gradient passes this model (inference only, or quantised layers), which {', '.join(needing)} "
            f"need; choose of {', '.join(others)}, or measure the model in floating point"
        )


class Explainer:
    """Makes the maps of K methods from the evidence of any number of passes through one network.

        explainer = Explainer(network, [CAMS["gradcam"], CAMS["random"]])
        maps = explainer(collect(network, images, draws=draws))  # (B, 2, h, w)

    Args:
        network: through which the evidence is collected.
        cams: the K methods.
    """

    def __init__(self, network: Network, cams: Sequence[Cam]) -> None:
        refuse_without_gradient(network, cams)
        self._cams = list(cams)
        self._static = [cam for cam in cams if is_static(cam, network)]
        self._network = network
        self._replayed: Captured = captured(self._static_maps)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The maps (B, K, h, w) float32."""
        return self.marked(evidence)[0]

    def marked(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        """The maps (B, K, h, w) float32, and which of them are ambiguous (B, K) bool; None if no method says so."""
        if not (evidence.activations.is_cuda and self._static):
            return explain_marked(evidence, [cam.function for cam in self._cams])
        made = self.static_maps(evidence)
        others = [cam for cam in self._cams if cam.name not in made]
        if others:
            made |= _by_name(others, *explain_marked(evidence, [cam.function for cam in others]))
        maps, marks = zip(*(made[cam.name] for cam in self._cams), strict=True)
        return torch.stack(maps, dim=1), together(marks, evidence.targets)

    def static_maps(self, evidence: Evidence) -> dict[str, tuple[Tensor, Tensor | None]]:
        """The maps (B, h, w), and where they are ambiguous (B,), by name of the methods that a graph can hold."""
        maps, *marks = self._replayed(evidence.activations, evidence.gradients, evidence.logits, evidence.targets)
        return _by_name(self._static, maps, marks[0] if marks else None)

    def _static_maps(
        self, activations: Tensor, gradients: Tensor, logits: Tensor, targets: Tensor
    ) -> tuple[Tensor, ...]:
        """The maps (B, K', h, w) of these methods and their marks (B, K') if they make any."""
        # A method that uses more than it may fails here, on a CPU in the tests as on a GPU.
        nothing = cast(Tensor, None)
        evidence = Evidence(
            activations=activations, gradients=gradients, logits=logits, targets=targets, network=self._network,
            images=nothing, outputs=nothing, head=self._network.head, draws=None,
        )  # fmt: skip
        maps, marks = explain_marked(evidence, [cam.function for cam in self._static])
        return (maps,) if marks is None else (maps, marks)


def _by_name(cams: Sequence[Cam], maps: Tensor, marks: Tensor | None) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Maps (B, K, h, w) and marks (B, K) by the names of the K methods."""
    return {cam.name: (maps[:, place], None if marks is None else marks[:, place]) for place, cam in enumerate(cams)}
