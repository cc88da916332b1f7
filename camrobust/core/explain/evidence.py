"""The evidence that the shared pass collects for every CAM, and the maps that methods make of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from typing import Any

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.explain.components import components
from camrobust.core.explain.hooks import replaced_output
from camrobust.core.explain.layout import with_tensor
from camrobust.core.explain.network import Network
from camrobust.core.explain.readout import own
from camrobust.core.explain.shared_pass import Choose as Choose
from camrobust.core.explain.shared_pass import run_with_gradient
from camrobust.core.explain.tail import PooledHead
from camrobust.core.precision import arithmetic

CHUNK_BYTES = 128 * 2**20
"""Largest size of the replaced activations, or of the images, in one re-run."""


@dataclass
class Evidence:
    """The input of every CAM method, for one batch of images and one target layer.

    Attributes:
        activations: A, (B, C, h, w) float32.
        gradients: g = ∂y_c/∂A, (B, C, h, w) float32, y the logits.
        logits: y, (B, n) float32, the scores of the classes; of a network with one logit z, -z and z (`readout`).
        targets: c, the explained class of each image, (B,) int64.
        network: the model and its target layer.
        images: (B, 3, H, W), normalised.
        outputs: the output of the target layer in its own layout.
        head: weights of the tail if it is global average pooling and one linear layer, else None.
        draws: one random stream per image, None if the caller gave none.
        cache: results that one method leaves for another, by name.
    """

    activations: Tensor
    gradients: Tensor
    logits: Tensor
    targets: Tensor
    network: Network
    images: Tensor
    outputs: Tensor
    head: PooledHead | None
    draws: Draws | None
    cache: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def product(self) -> Tensor:
        """g·A, (B, C, h, w)."""
        return self.gradients * self.activations

    @cached_property
    def positive_gradients(self) -> Tensor:
        """ReLU(g), (B, C, h, w)."""
        return self.gradients.relu()

    @cached_property
    def mean_gradients(self) -> Tensor:
        """mean_s(g), the mean over positions, (B, C)."""
        return self.gradients.mean(dim=(2, 3))

    @cached_property
    def sums(self) -> Tensor:
        """S = Σ_s A, the sum over positions, (B, C)."""
        return self.activations.sum(dim=(2, 3))

    @cached_property
    def scores(self) -> Tensor:
        """y_c, the logit of the explained class, (B,)."""
        return self.explained_logit(self.logits)

    def weighted(self, weights: Tensor) -> Tensor:
        """Σ_k w_k·A_k, (B, h, w), for weights (B, C) of the channels; (B, K, h, w) for weights (B, K, C)."""
        rows = weights if weights.ndim == 3 else weights[:, None]
        sums = torch.bmm(rows, self.activations.flatten(2)).reshape(*rows.shape[:2], *self.activations.shape[2:])
        return sums if rows is weights else sums[:, 0]

    def streams(self, method: str) -> Draws:
        """The random streams, one per image.

        Raises:
            ValueError: the evidence was collected without random streams.
        """
        if self.draws is None:
            raise ValueError(
                f"{method}: draws must hold one random stream per image, got None; pass draws= to collect()"
            )
        return self.draws

    def reruns(self, count: int, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Re-runs of the tail or the model, `count` for every image, in passes that memory limits.

        A pass holds a number of whole images that divides B, or a part of one image. All images are thus treated alike,
        and a map does not depend on the image's neighbours.

        Args:
            count: re-runs of one image.
            most: largest number of re-runs in a pass.

        Yields:
            The image of each re-run (N,) int64, and the number of the re-run within its image (N,), image by image.
        """
        size = self.activations[0].numel() * 4 if self.network.tail is not None else self.images[0].numel() * 4 * 8
        limit = max(1, min(CHUNK_BYTES // size, most or CHUNK_BYTES))
        B, device = len(self.images), self.images.device
        together = next(images for images in range(max(1, min(B, limit // count)), 0, -1) if B % images == 0)
        for images in torch.arange(B, device=device).split(together):
            for numbers in torch.arange(count, device=device).split(limit):
                yield images.repeat_interleave(len(numbers)), numbers.repeat(len(images))

    def explained_logit(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """The explained class's entry (N,) of logits (N, n); `rows` (N,) is the image of each, by default 0 … B-1."""
        targets = self.targets if rows is None else self.targets[rows]
        return own(logits, targets)

    @cached_property
    def _context(self) -> tuple[object, ...]:
        """The tail's inputs beside the target layer's output."""
        tail = self.network.tail
        if tail is None:
            return ()
        with torch.no_grad(), arithmetic(self.network.precision, self.images.device):
            return tail.context(self.images)

    def logits_of_outputs(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Logits (N, n) float32 for other outputs (N, …) of the target layer, in its own layout.

        Only the tail runs, or the whole model if the tail cannot be cut out. Differentiable while autograd records.

        Args:
            outputs: N outputs; they are left unchanged.
            rows: (N,) int64, the image of the batch that each output belongs to.
        """
        network, outputs = self.network, outputs.to(self.outputs.dtype).clone()
        with arithmetic(network.precision, outputs.device):
            if network.tail is not None:
                return network.scores(network.tail(outputs, self._context, rows, len(self.images))).float()
            with replaced_output(network.layer, lambda output: with_tensor(output, outputs)):
                return network.scores(network.module(self.images[rows])).float()

    def logits_of_activations(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Logits (N, n) float32 for other activations (N, C, h, w); `rows` as in `logits_of_outputs`."""
        return self.logits_of_outputs(self.network.layout.from_map(activations, self.outputs[rows]), rows)


def collect(
    network: Network,
    images: Tensor,
    choose: Choose | None = None,
    draws: Draws | None = None,
    *,
    graph: bool = False,
) -> Evidence:
    """Run the shared pass. The model must be frozen (see `frozen`).

    Args:
        network: the model and its target layer.
        images: (B, 3, H, W), normalised, on the model's device.
        choose: logits (B, n) to the explained classes (B,); None for those that the network predicts.
        draws: B random streams, for methods that draw.
        graph: keep the graph back to the images, which must require a gradient, for a second derivative.

    Returns:
        The evidence; detached from any graph unless `graph` is set.

    Raises:
        UserError: the target layer did not run exactly once, its output has no positions, or no gradient reaches it.
    """
    # The backward pass is in full precision; the layers' own precision is set in the forward pass.
    with arithmetic("fp32", images.device):
        outputs, gradients, logits, targets = run_with_gradient(
            network, images, choose or network.readout.predicted, graph=graph
        )
    return Evidence(
        activations=network.layout.to_map(outputs).float(),
        gradients=network.layout.to_map(gradients),
        logits=logits,
        targets=targets,
        network=network,
        images=images,
        outputs=outputs,
        head=network.head,
        draws=draws,
    )


Method = Callable[[Evidence], Tensor]
"""A function of the evidence of B images."""


@dataclass(eq=False)
class WeightedSum:
    """A method that weights the channels: Σ_k w_k·A_k. All such methods of a pass share one product.

    Attributes:
        weights: evidence to the weights (B, C).
        relu: negative values of the map become 0.
    """

    weights: Method
    relu: bool

    def __post_init__(self) -> None:
        # Registries name a method's module and compare functions of modules that were loaded again.
        update_wrapper(self, self.weights)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The map (B, h, w) of this method alone."""
        return _weighted_sums(evidence, [self])[self]


@dataclass(eq=False)
class FirstComponent:
    """A method whose map is a first principal component. All such methods of a pass share one decomposition.

    Attributes:
        values: evidence to (B, C, h, w), of which it is the component.
        salient: the sign is that of `components.with_salient_sign`, not that of the sum over channels.
    """

    values: Method
    salient: bool = False

    def __post_init__(self) -> None:
        update_wrapper(self, self.values)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The map (B, h, w) of this method alone."""
        return _first_components(evidence, [self])[self][0]


@dataclass(eq=False)
class Marked:
    """A method that says for which images its map is ambiguous.

    Attributes:
        both: evidence to the map (B, h, w) and the mark (B,) bool.
    """

    both: Callable[[Evidence], tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        update_wrapper(self, self.both)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The map (B, h, w) alone."""
        return self.both(evidence)[0]


def _weighted_sums(evidence: Evidence, cams: Sequence[WeightedSum]) -> dict[Method, Tensor]:
    """The map (B, h, w) of each method."""
    cams = sorted(cams, key=lambda cam: not cam.relu)
    maps = evidence.weighted(torch.stack([cam.weights(evidence) for cam in cams], dim=1))
    clipped = sum(cam.relu for cam in cams)
    return dict(zip(cams, (*maps[:, :clipped].relu().unbind(1), *maps[:, clipped:].unbind(1)), strict=True))


def _first_components(evidence: Evidence, cams: Sequence[FirstComponent]) -> dict[Method, tuple[Tensor, Tensor | None]]:
    """The map (B, h, w) of each method, and where it is ambiguous (B,). Equal values are decomposed once."""
    values = {cam: cam.values(evidence) for cam in cams}
    different = {id(of_cam): of_cam for of_cam in values.values()}
    found, places = components([*different.values()]), [*different]
    made: dict[Method, tuple[Tensor, Tensor | None]] = {}
    for cam, of_cam in values.items():
        place = places.index(id(of_cam))
        made[cam] = (found.salient[0][place], found.salient[1][place]) if cam.salient else (found.by_sum[place], None)
    return made


def explain(evidence: Evidence, cams: Sequence[Method]) -> Tensor:
    """The maps (B, K, h, w) float32 of K CAM methods from the same evidence."""
    return explain_marked(evidence, cams)[0]


def explain_marked(evidence: Evidence, cams: Sequence[Method]) -> tuple[Tensor, Tensor | None]:
    """The maps (B, K, h, w) float32 of K CAM methods from the same evidence, and which are ambiguous (B, K) bool.

    Only methods that fix the sign of a component mark maps; None if there is no such method. What they mark may turn
    into another map under mild noise, for reasons that lie in the method and not in the image.
    """
    weighted = [cam for cam in cams if isinstance(cam, WeightedSum)]
    of_components = [cam for cam in cams if isinstance(cam, FirstComponent)]
    with torch.no_grad(), arithmetic("fp32", evidence.activations.device):
        made: dict[Method, tuple[Tensor, Tensor | None]] = {}
        if weighted:
            made = {cam: (one, None) for cam, one in _weighted_sums(evidence, weighted).items()}
        if of_components:
            made |= _first_components(evidence, of_components)
        for cam in cams:
            if cam not in made:
                made[cam] = cam.both(evidence) if isinstance(cam, Marked) else (cam(evidence), None)
        maps, marks = zip(*(made[cam] for cam in cams), strict=True)
        return torch.stack(maps, dim=1), together(marks, evidence.targets)


def together(marks: Sequence[Tensor | None], targets: Tensor) -> Tensor | None:
    """The marks (B, K) of K methods; those of a method that makes none are False, and None if no method makes any."""
    if all(mark is None for mark in marks):
        return None
    nowhere = torch.zeros_like(targets, dtype=torch.bool)
    return torch.stack([nowhere if mark is None else mark for mark in marks], dim=1)
