"""Speed as ratios between pieces of work that take turns in one process, so that a busy machine slows all alike.

It also runs where ray, polars and boto3 are not installed, because it imports only core/ and measure/.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.bench.speed.available import check_device, machine, perturbations_here
from camrobust.bench.speed.peers import SEVEN, SHARED
from camrobust.bench.speed.peers import peers as others
from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.core.perturb import make_variants, variants
from camrobust.core.precision import arithmetic
from camrobust.core.segments import quickshift
from camrobust.measure.built import ModelSpec
from camrobust.measure.image import explain_variants, measure
from camrobust.measure.model import Model, load_model
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample

PLAIN = "plain forward"
SEVEN_CAMS = "seven CAMs"
ALL = "all CAMs of activations and gradients"
MODEL = "resnet50"
BATCH = {"cpu": 32, "cuda": 128}
ABLATED = ("resnet50", "vgg16", "squeezenet1_1")
"""Models on which Ablation-CAM is timed: one that ends in pooling and a linear layer, two with more layers there."""
SEGMENT_BATCH = {"cpu": 8, "cuda": 64}
SEGMENT_PEER = 8
"""Number of photos that scikit-image segments, one after the other."""
FEW = 3
"""Number of repetitions of slow work."""
SEGMENT_SETTINGS = ((4.0, 200.0, 0.2), (5.0, 200.0, 0.2), (5.0, 10.0, 1.0))
"""kernel_size, max_dist and ratio: our defaults, those of earlier work, those of scikit-image."""


def bench(
    device: str = "cpu", *, peers: bool = False, repeats: int = 15, precision: str = "fp32", only_maps: bool = False
) -> dict[str, Any]:
    """Time the shared pass on a ResNet-50 with random weights, the perturbations and the segments.

    Args:
        device: "cpu" or "cuda".
        peers: also time each method alone, in grad-cam, torchcam and captum as far as they are installed, and
            Ablation-CAM on three architectures.
        repeats: number of interleaved repetitions; medians are reported.
        precision: precision of the layers, in the shared pass and in the plain one; the peers use torch's default.
        only_maps: leave out the perturbations and the segments.

    Returns:
        Facts about the machine, and ratios to a plain inference_mode forward pass of the same batch.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(device)
    model = random_model(MODEL, device)
    planned = variants([f"gaussian_noise:sigma={0.02 * step:g}" for step in range(1, BATCH[device])])
    image = picture()
    pixels = make_variants(image[None], planned, ["bench"], "bench", 0)[0]
    given = ImageVariants(Sample("bench", "bench", None, squares(pixels.shape[-1])), pixels, planned)
    settings = MeasureSettings(CLASSIC, batch=BATCH[device], precision=precision)

    def maps(model: Model, *cams: str) -> Callable[[], object]:
        return partial(explain_variants, model, [given], replace(settings, cams=cams))

    candidates: dict[str, Callable[[], object]] = {
        PLAIN: partial(plain, model.network.module, model.inputs(pixels, precision), precision),
        "ten CAMs": maps(model, *CLASSIC),
        "ten CAMs, ranks, RBO, rows": partial(measure, model, [given], settings),
        ALL: maps(model, *_light()),
    }
    if peers:
        candidates[f"camrobust: {SEVEN_CAMS}"] = maps(model, *SEVEN)
        candidates |= {f"camrobust: {name}": maps(model, name) for name in SHARED}
        candidates |= others(model, model.normalise(pixels))
    seconds = interleaved(candidates, repeats, device)
    ratios = _ratios(seconds)
    ablation: dict[str, dict[str, float]] = {}
    if peers:
        if all(f"grad-cam: {name}" in ratios for name in SEVEN):
            ratios[f"grad-cam: {SEVEN_CAMS}"] = sum(ratios[f"grad-cam: {name}"] for name in SEVEN)
        for name in ABLATED:
            ablated = random_model(name, device)
            work = {cam: maps(ablated, cam) for cam in ("gradcam", "ablationcam")}
            work[PLAIN] = partial(plain, ablated.network.module, ablated.inputs(pixels, precision), precision)
            ablation[name] = _ratios(interleaved(work, min(repeats, FEW), device))
    return {
        "machine": machine(device),
        "model": f"{MODEL}, random weights, 224 px",
        "batch": BATCH[device],
        "precision": precision,
        "cams": {"ten CAMs": list(CLASSIC), ALL: list(_light()), SEVEN_CAMS: list(SEVEN)},
        "repeats": repeats,
        "plain_forward_ms_per_image": round(statistics.median(seconds[PLAIN]) * 1000 / BATCH[device], 3),
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "ablation": {name: {cam: round(ratio, 3) for cam, ratio in cams.items()} for name, cams in ablation.items()},
        "perturbation_ms_per_image": {} if only_maps else _perturbation_ms(image, device),
        "segments": [] if only_maps else segments(device, min(repeats, FEW)),
    }


def random_model(name: str, device: str) -> Model:
    """A torchvision model with random weights."""
    return load_model(ModelSpec(name, f"torchvision:{name}@none"), device=device)


def _light() -> tuple[str, ...]:
    """The methods that need only activations and gradients."""
    return tuple(cam.name for cam in CAMS if cam.needs in ("activations", "gradients", "head"))


def _ratios(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Time of each candidate relative to the plain pass: median of the ratios of measurements in the same turn."""
    plain = seconds[PLAIN]
    return {name: _ratio(times, plain) for name, times in seconds.items()}


def _ratio(times: list[float], plain: list[float]) -> float:
    return statistics.median(time / base for time, base in zip(times, plain, strict=True))


def picture() -> Tensor:
    """A smooth picture, (3, 224, 224) uint8, made of interpolated noise; the same on every machine."""
    coarse = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return (smooth[0] * 255).to(torch.uint8)


def squares(size: int, cells: int = 6) -> Tensor:
    """36 square segments, about as many as Quickshift finds on a photo."""
    row = torch.arange(size) * cells // size
    return row[:, None] * cells + row[None, :]


def plain(module: nn.Module, inputs: Tensor, precision: str) -> Tensor:
    """A forward pass without an explanation, in the same precision."""
    with torch.inference_mode(), arithmetic(precision, inputs.device):
        logits: Tensor = module(inputs)
    return logits


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    device: str,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each candidate in every turn, after one turn to warm up.

    Each turn has another order, so that no candidate always finds the caches as the same other one left them.

    Args:
        candidates: the work, by name.
        repeats: number of turns.
        device: "cpu" or "cuda".
        clock: gives seconds; by default those on the wall.
    """
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        names = list(candidates)
        random.Random(turn).shuffle(names)
        for name in names:
            _wait(device)
            start = clock()
            candidates[name]()
            _wait(device)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _perturbation_ms(image: Tensor, device: str) -> dict[str, float]:
    """Milliseconds for one image at severity 3, the fastest of three."""
    milliseconds = {}
    for name in perturbations_here():
        planned = variants([f"{name}:3"])
        work = {name: lambda planned=planned: make_variants(image[None].to(device), planned, ["bench"], "bench", 0)}
        milliseconds[name] = round(min(interleaved(work, 3, device)[name]) * 1000, 2)
    return milliseconds


def segments(device: str, repeats: int) -> list[dict[str, Any]]:
    """Time our Quickshift of a batch of photos against scikit-image's, which segments one image after the other.

    Args:
        device: device of ours; scikit-image runs on one core.
        repeats: number of interleaved repetitions; medians are reported.

    Returns:
        One row per setting; none if scikit-image is not installed.
    """
    try:
        from skimage.segmentation import quickshift as theirs
    except ImportError:
        return []
    photos = _photos(SEGMENT_BATCH[device])
    images = [photo.movedim(0, -1).double().div(255).numpy() for photo in photos[:SEGMENT_PEER]]
    here = photos.to(device)
    rows = []
    for kernel_size, max_dist, ratio in SEGMENT_SETTINGS:
        setting = {"kernel_size": kernel_size, "max_dist": max_dist, "ratio": ratio}
        labels: dict[str, Any] = {}
        work = {
            "ours": partial(_keep, labels, "ours", partial(quickshift, here, **setting)),
            "theirs": partial(_keep, labels, "theirs", partial(_singly, partial(theirs, rng=42, **setting), images)),
        }
        seconds = interleaved(work, repeats, device)
        pairs = zip(labels["ours"][:SEGMENT_PEER].cpu().numpy(), labels["theirs"], strict=True)
        rows.append(
            {
                **setting,
                "batch": len(photos),
                "compared": len(images),
                "ms_per_image": round(statistics.median(seconds["ours"]) * 1000 / len(photos), 2),
                "scikit_image_ms_per_image": round(statistics.median(seconds["theirs"]) * 1000 / len(images), 1),
                "times_faster": round(_ratio(seconds["theirs"], seconds["ours"]) * len(photos) / len(images), 1),
                "equal_labels": sum(bool((a == b).all()) for a, b in pairs),
            }
        )
    return rows


def _keep(results: dict[str, Any], name: str, function: Callable[[], Any]) -> None:
    results[name] = function()


def _singly(function: Callable[..., Any], images: list[Any]) -> list[Any]:
    return [function(image) for image in images]


def _photos(count: int) -> Tensor:
    """Crops of four photos that come with scikit-image, uint8: opposite corners, then places nearer to the middle."""
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    whole = [torch.from_numpy(getattr(data, name)()).movedim(-1, 0) for name in names]
    corners = []
    for shift in range(-(-count // (2 * len(names)))):
        for photo in whole:
            height, width = photo.shape[1] - shift, photo.shape[2] - shift
            corners += [photo[:, shift:, shift:][:, :224, :224], photo[:, height - 224 : height, width - 224 : width]]
    return torch.stack(corners)[:count]


def _segment_line(row: Mapping[str, Any]) -> str:
    setting = f"{row['kernel_size']:g}, {row['max_dist']:g}, {row['ratio']:g}"
    milliseconds = f"{row['ms_per_image']:.1f} | {row['scikit_image_ms_per_image']:.0f}"
    return f"| {setting} | {milliseconds} | {row['times_faster']:.1f} | {row['equal_labels']} of {row['compared']} |"


def show(results: Mapping[str, Any]) -> None:
    """Print the results as plain Markdown tables."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [
        f"{machine}; {results['model']}, batch {results['batch']}, {results['precision']}, "
        f"median of {results['repeats']}; plain forward {results['plain_forward_ms_per_image']:.1f} ms per image",
        "",
        "| work on one batch | × plain forward |",
        "|---|---|",
        *(f"| {name} | {ratio:.2f} |" for name, ratio in results["ratios"].items()),
        "",
        *(f"{name}: {', '.join(cams)}." for name, cams in results["cams"].items()),
        "",
        "| model | gradcam × plain forward | ablationcam × plain forward |",
        "|---|---|---|",
        *(
            f"| {name} | {cams['gradcam']:.2f} | {cams['ablationcam']:.2f} |"
            for name, cams in results["ablation"].items()
        ),
        "",
        "| perturbation at severity 3 | ms per image |",
        "|---|---|",
        *(f"| {name} | {ms:.2f} |" for name, ms in results["perturbation_ms_per_image"].items()),
        "",
        "| Quickshift: kernel_size, max_dist, ratio | ms per image | scikit-image | × faster | equal labels |",
        "|---|---|---|---|---|",
        *(_segment_line(row) for row in results["segments"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
