"""Gradient attacks on certified maps of small networks: no image within a certified radius may break the certificate.

A try is one image, one CAM, one radius and one goal. The ascent climbs the mean over noisy copies of a soft rank, by
double backward through the CAM, with the clipping and the rounding of the noisy copies passed straight through. Then
the smoothed scores at the attacked image are estimated from fresh noise and compared with what was certified.

The images are small, so that a change of length ρ along the gradient moves the smoothed scores almost as far as any
change can: `used` says how far, and the last column how often the same attack breaks a certificate for radius 0.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.bench.certificates.contradictions import contradicted
from camrobust.core.certify.bounds import item_bounds
from camrobust.core.certify.certificate import MapCertificate, estimated_order, map_certificate
from camrobust.core.certify.items import ItemSums, item_sums
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.network import Network
from camrobust.core.segments import segment_matrix

SIDE, CHANNELS, CLASSES, SEGMENTS = 8, 6, 3, 8
SIGMA, SHARES, ALPHA, TOP = 0.12, (0.1, 0.3, 1.0), 0.001, 0.25
GOALS = ("item", "order")
NETWORKS = (
    ("gradcam", "relu"), ("layercam", "relu"), ("hirescam", "silu"), ("xgradcam", "relu"),
)  # fmt: skip
"""CAMs and the activation of the network that each explains."""
STEPS, COPIES, PILOT, CERTIFYING, CHECKING = 20, 24, 32, 2000, 2000
SOFT = 0.3
"""Difference of two scores, in standard deviations of a sample's scores, at which one counts softly as above."""
CHUNK = 4096
"""Noisy copies in one pass."""


@dataclass(frozen=True)
class Smoothed:
    """A network whose maps are smoothed.

    Attributes:
        network: takes images (N, 1, H, W) in [0, 1], less 1/2.
        cam: name of the CAM.
        matrix: (S, h·w), the segments' weights.
        generator: the only randomness.
    """

    network: Network
    cam: str
    matrix: Tensor
    generator: torch.Generator

    def copies(self, images: Tensor, count: int) -> Tensor:
        """Noisy copies (B·count, 1, H, W), clipped and rounded to 8 bits; their gradient passes the rounding."""
        noisy = images.repeat_interleave(count, dim=0)
        noisy = (noisy + SIGMA * torch.randn(noisy.shape, generator=self.generator)).clamp(0, 1)
        return noisy + ((noisy * 255).round() / 255 - noisy).detach()

    def scores(self, copies: Tensor, classes: Tensor) -> Tensor:
        """The segments' scores (N, S) in the maps of one class for each copy; with a graph if the copies need one."""
        graph = copies.requires_grad
        with torch.set_grad_enabled(graph):
            evidence = collect(self.network, copies - 0.5, lambda _: classes, graph=graph)
            return CAMS[self.cam].function(evidence).flatten(1) @ self.matrix.T

    def sums(self, images: Tensor, classes: Tensor, count: int) -> ItemSums:
        """What `count` fresh samples of each image say, (B, S)."""
        each = max(1, CHUNK // len(images))

        def part(now: int) -> ItemSums:
            scores = self.scores(self.copies(images, now), classes.repeat_interleave(now))
            return item_sums(scores.unflatten(0, (-1, now)).transpose(0, 1))

        return reduce(add, (part(min(each, count - start)) for start in range(0, count, each)))


def tiny_network(activation: str, generator: torch.Generator) -> Network:
    """Two convolutions, global average pooling and one linear layer, with random weights."""

    def act() -> nn.Module:
        return nn.ReLU() if activation == "relu" else nn.SiLU()

    module = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1), act(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), act(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES),
    )  # fmt: skip
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
        parameter.requires_grad_(False)
    return Network(module.eval(), module[3], "3")


def soft_ranks(scores: Tensor) -> Tensor:
    """A differentiable z, (N, S): the share of the other items above which an item stands."""
    spread = scores.detach().std(dim=-1, keepdim=True).clamp(min=1e-12)[..., None]
    above = torch.sigmoid((scores[..., :, None] - scores[..., None, :]) / (SOFT * spread))
    return (above.sum(dim=-1) - 0.5) / (scores.shape[-1] - 1)


def direction(goal: str, certified: MapCertificate, sums: ItemSums, generator: torch.Generator) -> Tensor:
    """What the attack increases is the mean of these (B, S) times z."""
    B, S = certified.order.shape
    if goal == "item":
        # A random item, down if it is in the upper half and otherwise up.
        item = torch.randint(S, (B, 1), generator=generator)
        mean = sums.lower.double() / sums.samples / sums.scale
        sign = 1 - 2 * (mean.gather(1, item) > 0.5).double()
        return torch.zeros(B, S, dtype=torch.float64).scatter_(1, item, sign).float()
    # Turn the order around, its top first.
    weights = 0.9 ** torch.arange(S).float() - 0.9 ** torch.arange(S).flip(0).float()
    return torch.empty(B, S).scatter_(1, certified.order, -weights.expand(B, S).contiguous())


def ascend(smoothed: Smoothed, images: Tensor, classes: Tensor, wanted: Tensor, radius: float) -> Tensor:
    """The attacked images: projected ascent in the l2 ball, every step with fresh noise."""
    B = len(images)
    delta = torch.zeros_like(images)
    for step in range(STEPS):
        point = (images + delta).requires_grad_()
        scores = smoothed.scores(smoothed.copies(point, COPIES), classes.repeat_interleave(COPIES))
        z = soft_ranks(scores).unflatten(0, (B, COPIES)).mean(dim=1)
        (gradient,) = torch.autograd.grad((z * wanted).sum(), point)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        delta = delta + gradient / length * radius * (1 - 0.9 * step / STEPS)
        far = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = delta * (radius / far.clamp(min=radius))
    return images + delta


def _broken(certified: MapCertificate, place: int, found: ItemSums, tail: float) -> dict[str, Tensor]:
    """How the samples at the attacked images contradict the certificate, (B,) bool each."""
    L, U = certified.lower[:, place], certified.upper[:, place]
    mean = found.lower.double() / found.samples / found.scale
    least, most = item_bounds(found, tail)
    return {
        "scores": ((most < L) | (least > U)).any(dim=-1),
        "scores_estimated": ((mean < L) | (mean > U)).any(dim=-1),
        **contradicted(certified, place, estimated_order(found), TOP),
    }


def _used(before: ItemSums, after: ItemSums, wanted: Tensor, share: float) -> Tensor:
    """How far the attacked item moved, as a share of the farthest that any change of this length can move it, (B,)."""
    means = [sums.lower.double() / sums.samples / sums.scale for sums in (before, after)]
    probits = torch.special.ndtri(torch.stack(means).clamp(1e-4, 1 - 1e-4))
    moved: Tensor = ((probits[1] - probits[0]) * wanted).sum(dim=-1)
    return moved / share


def attacks(tries: int, seed: int = 0, certifying: int = CERTIFYING, checking: int = CHECKING) -> list[dict[str, Any]]:
    """Certify maps of small networks and attack them within the certified radii.

    Args:
        tries: at least so many; they are shared out among four networks with their CAMs, three radii and two goals.
        seed: of the networks, the images and all noise.
        certifying: noisy copies for a certificate.
        checking: noisy copies for an attacked image.

    Returns:
        One row per CAM and radius. `scores` counts the tries that contradict the certified bounds beyond the sampling
        error (all tries together at 1 %), `scores_estimated` those whose plain estimate does. `rbo`, `overlaps` and
        `memberships` count contradictions by the plain estimate of the order. `certified` is the mean certified
        adjusted rank-biased overlap, `beyond_chance` the share of maps where it is above 0, `used` and `most_used` the
        median and the largest share of the possible shift (with a sampling error that is large at small radii),
        and `without_the_shift` counts the tries whose plain estimate contradicts bounds for radius 0.
    """
    images_each = max(1, -(-tries // (len(NETWORKS) * len(SHARES) * len(GOALS))))
    total = images_each * len(NETWORKS) * len(SHARES) * len(GOALS)
    rows = []
    for number, (cam, activation) in enumerate(NETWORKS):
        generator = torch.Generator().manual_seed(seed * len(NETWORKS) + number)
        labels = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE) // (SIDE * SIDE // SEGMENTS)
        smoothed = Smoothed(tiny_network(activation, generator), cam, segment_matrix(labels, SIDE, SIDE), generator)
        images = 0.3 + 0.4 * torch.rand(images_each, 1, SIDE, SIDE, generator=generator)
        with torch.no_grad():
            votes = (
                smoothed.network.logits(smoothed.copies(images, PILOT) - 0.5).argmax(dim=1).unflatten(0, (-1, PILOT))
            )
        classes = votes.mode(dim=1).values
        sums = smoothed.sums(images, classes, certifying)
        certified = map_certificate(sums, torch.tensor(SHARES).double(), ALPHA, TOP)
        at_image = map_certificate(sums, torch.zeros(len(SHARES)), ALPHA, TOP)
        for place, share in enumerate(SHARES):
            broken, unshifted, used = [], [], torch.empty(0)
            for goal in GOALS:
                wanted = direction(goal, certified, sums, generator)
                attacked = ascend(smoothed, images, classes, wanted, share * SIGMA)
                found = smoothed.sums(attacked, classes, checking)
                broken.append(_broken(certified, place, found, 0.01 / total))
                unshifted.append(_broken(at_image, place, found, 0.01 / total)["scores_estimated"])
                used = _used(sums, found, wanted, share) if goal == "item" else used
            rows.append(
                {
                    "cam": cam, "radius": f"{share:g} sigma", "tries": len(GOALS) * images_each,
                    **{name: sum(int(part[name].sum()) for part in broken) for name in broken[0]},
                    "certified": certified.rbo_adjusted[:, place].mean().item(),
                    "beyond_chance": (certified.rbo_adjusted[:, place] > 0).double().mean().item(),
                    "used": used.median().item(), "most_used": used.max().item(),
                    "without_the_shift": sum(int(part.sum()) for part in unshifted),
                }
            )  # fmt: skip
    return rows
