"""Certificates without chance, attacked within their balls by gradients and by random images."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.core.certify.propagation.chain import Chain, read_chain
from camrobust.core.certify.propagation.linear import METHODS, Ball
from camrobust.core.certify.propagation.top import MapBounds, certified_radius

SIDE, CHANNELS, CLASSES, TOP = 12, 6, 3, 4
MOST = {"linf": 0.02, "l2": 0.2}
"""Largest radius that is tried, by norm."""
STEPS, RANDOM, BEYOND = 40, 100, 4
ROUNDING = 1e-9


def small_network(pooling: bool, generator: torch.Generator) -> nn.Sequential:
    """Three convolutions with batch norm and ReLU, or with ReLU and max pooling; random weights."""
    between = nn.MaxPool2d(3, 2, 1) if pooling else nn.BatchNorm2d(CHANNELS)
    module = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1), between, nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES),
    )  # fmt: skip
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    return module.eval()


def maps_of(chain: Chain, images: Tensor, target: int) -> Tensor:
    """Plain CAM of one class, (B, h·w) float64."""
    return torch.einsum("bchw,c->bhw", chain.activations(images), chain.weight[target]).flatten(1)


def random_images(ball: Ball, count: int, generator: torch.Generator) -> Tensor:
    """Images in the ball, half of them in its corners or on its surface."""
    noise = torch.randn(count, *ball.image.shape, generator=generator, dtype=torch.float64)
    half = count // 2
    if ball.norm == "linf":
        noise = torch.cat([noise[:half].sign(), noise[half:].clamp(-1, 1)])
    else:
        noise = noise / torch.linalg.vector_norm(noise, dim=(1, 2, 3), keepdim=True)
        noise[half:] *= torch.rand(count - half, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (ball.image + ball.radius * noise).clamp(0, 1)


def attacked_images(chain: Chain, ball: Ball, found: MapBounds, k: int) -> Tensor:
    """The results of one projected ascent for every item of the top k and every other one that may overtake it."""
    pairs = torch.cartesian_prod(found.order[:k], found.order[k:])
    delta = torch.zeros(len(pairs), *ball.image.shape, dtype=torch.float64)
    for step in range(STEPS):
        point = (ball.image + delta).clamp(0, 1).requires_grad_()
        maps = maps_of(chain, point, found.target)
        (gradient,) = torch.autograd.grad((maps.gather(1, pairs[:, 1:]) - maps.gather(1, pairs[:, :1])).sum(), point)
        size = ball.radius * (5 if step < STEPS // 2 else 2) / STEPS
        if ball.norm == "linf":
            delta = (delta + size * gradient.sign()).clamp(-ball.radius, ball.radius)
        else:
            length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
            delta = delta + size * gradient / length
            length = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
            delta = delta * (ball.radius / length.clamp(min=ball.radius))
    return (ball.image + delta).clamp(0, 1)


def left(maps: Tensor, found: MapBounds, k: int) -> Tensor:
    """In which maps (B, m) another item is among the top k, (B,) bool."""
    inside, outside = found.order[:k], found.order[k:]
    return maps[:, inside].amin(dim=1) < maps[:, outside].amax(dim=1)


def outside(maps: Tensor, found: MapBounds) -> Tensor:
    """In which maps (B, m) a score is beyond its bounds, (B,) bool."""
    return ((maps < found.lower - ROUNDING) | (maps > found.upper + ROUNDING)).any(dim=1)


def in_balls(images: int, seed: int = 0) -> list[dict[str, Any]]:
    """Certify the top of maps of small networks in l∞ and l2 balls, and attack it there.

    Args:
        images: so many for each of two networks.
        seed: of the networks, the images and the random images in the balls.

    Returns:
        One row per norm and method: the images, the share with a certified radius and its mean; the attacked and random
        images in the balls, and how many of them contradict the top or the bounds; the share of certified images
        whose top an attack breaks within `BEYOND` times the radius.
    """
    return [_row(images, norm, method, seed) for norm in MOST for method in METHODS]


def _row(images: int, norm: str, method: str, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Chain, MapBounds]] = []
    for pooling in (False, True):
        module = small_network(pooling, generator)
        for picture in torch.rand(images, 3, SIDE, SIDE, generator=generator, dtype=torch.float64):
            chain = read_chain(module, picture, torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25))
            certified = certified_radius(chain, picture, TOP, norm, method, most=MOST[norm], steps=8)
            if certified is not None:
                found.append((chain, certified))
    row: dict[str, Any] = {"norm": norm, "method": method, "images": 2 * images, "certified": len(found) / (2 * images)}
    row["radius"] = sum(bounds.ball.radius for _, bounds in found) / len(found) if found else None
    row |= dict.fromkeys(("tries", "top_broken", "bounds_broken", "broken_beyond"), 0)
    for chain, bounds in found:
        _attack(chain, bounds, row, generator)
    row["broken_beyond"] = row["broken_beyond"] / len(found) if found else None
    return row


def _attack(chain: Chain, found: MapBounds, row: dict[str, Any], generator: torch.Generator) -> None:
    """Add what attacks on one certified image find to its row."""
    inside = torch.cat([attacked_images(chain, found.ball, found, TOP), random_images(found.ball, RANDOM, generator)])
    maps = maps_of(chain, inside, found.target)
    wide = replace(found.ball, radius=BEYOND * found.ball.radius)
    further = maps_of(chain, attacked_images(chain, wide, found, TOP), found.target)
    row["tries"] += len(inside)
    row["top_broken"] += int(left(maps, found, TOP).sum())
    row["bounds_broken"] += int(outside(maps, found).sum())
    row["broken_beyond"] += bool(left(further, found, TOP).any())
