"""Time of every perturbation at every severity, against imagecorruptions, which takes one image at a time."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.bench.speed.available import check_device, perturbations_here
from camrobust.contract.errors import UserError
from camrobust.core.perturb import Variant, perturb, variants

BATCH = {"cpu": 16, "cuda": 128}
PEER_IMAGES = 2
"""The peer takes one image at a time, so a few images tell as much as many."""
SEVERITIES = 5


def perturbing(device: str, repeats: int, *, peers: bool) -> list[dict[str, Any]]:
    """Milliseconds per image of each perturbation, its five severities together.

    We take the images as one batch; the peer takes them one by one, as its users call it. Both run in this process, in
    turns of shuffled order. The fastest turn counts.

    Args:
        device: "cpu" or "cuda", where ours runs.
        repeats: number of turns.
        peers: also time imagecorruptions.

    Returns:
        One row per perturbation, and one for all that the peer has, with milliseconds, share of our total and ratio.

    Raises:
        UserError: the peer is not installed, or this machine has no such device.
    """
    check_device(device)
    images = _pictures(BATCH[device])
    work: dict[tuple[str, str], Callable[[], object]] = {}
    scaled = images.to(device).float() / 255
    names = [str(number) for number in range(len(images))]
    for name in perturbations_here():
        work["ours", name] = partial(_ours, scaled, variants([name]), names)
    if peers:
        corrupt, known = _peer()
        arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images[:PEER_IMAGES]]
        for name in known:
            work["peer", name] = partial(_theirs, corrupt, arrays, name)
    fastest = dict.fromkeys(work, float("inf"))
    for turn in range(repeats + 1):
        order = list(work)
        random.Random(turn).shuffle(order)
        for key in order:
            seconds = _seconds(work[key], device)
            if turn:
                fastest[key] = min(fastest[key], seconds)
    count = {"ours": len(images), "peer": min(PEER_IMAGES, len(images))}
    return _rows({key: seconds * 1000 / count[key[0]] for key, seconds in fastest.items()})


def _pictures(count: int) -> Tensor:
    """Pictures (count, 3, 224, 224) uint8 of interpolated coarse and fine noise, the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(count, 3, 224, 224)
    for cells, weight in ((7, 0.6), (28, 0.25), (224, 0.15)):
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        pictures += weight * interpolate(noise, size=(224, 224), mode="bilinear")
    return (pictures * 255).to(torch.uint8)


def _ours(images: Tensor, planned: Sequence[Variant], names: list[str]) -> None:
    """Perturb all images at once at every strength, and convert them to 8 bits as a run and the peer do."""
    for variant in planned:
        (perturb(images, variant, names) * 255).round().to(torch.uint8)


def _theirs(corrupt: Callable[..., object], images: Sequence[np.ndarray], name: str) -> None:
    """Perturb one image after the other at every severity."""
    for image in images:
        for severity in range(1, SEVERITIES + 1):
            corrupt(image, severity, name)


def _peer() -> tuple[Callable[..., object], list[str]]:
    try:
        from imagecorruptions import corrupt, get_corruption_names
    except ImportError as error:
        raise UserError("bench: imagecorruptions is not installed; pip install imagecorruptions-imaug") from error
    return corrupt, get_corruption_names("all")


def _seconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _rows(times: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    ours = {name: ms for (who, name), ms in times.items() if who == "ours"}
    theirs = {name: ms for (who, name), ms in times.items() if who == "peer"}
    compared = sorted(theirs or ours)
    total = sum(ours[name] for name in compared)
    rows = [_row(name, ours[name], theirs.get(name), ours[name] / total) for name in sorted(ours)]
    both = _row(f"these {len(compared)}", total, sum(theirs.values()) if theirs else None, 1.0)
    return [*(row for row in rows if row["perturbation"] in compared), both,
            *(row for row in rows if row["perturbation"] not in compared)]  # fmt: skip


def _row(name: str, ours: float, theirs: float | None, share: float) -> dict[str, Any]:
    compared = {} if theirs is None else {"peer_ms": round(theirs, 2), "times_faster": round(theirs / ours, 1)}
    return {"perturbation": name, "ms": round(ours, 2), "share": f"{share:.0%}", **compared}
