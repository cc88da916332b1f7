"""The cost of certificates against plain forward passes of as many images, in one process."""

import statistics
from functools import partial
from typing import Any

import torch

from camrobust.bench.speed.available import check_device, machine
from camrobust.bench.speed.passes import MODEL, interleaved, picture, plain, random_model, squares
from camrobust.core.explain.cams import CLASSIC
from camrobust.measure.certificates import certificates
from camrobust.measure.settings import (
    LARGEST_GPU_PASS,
    LARGEST_PASS,
    CertifySettings,
    ImageVariants,
    MeasureSettings,
    Sample,
)

SIGMAS = ((0.12,), (0.05, 0.12, 0.25))
PLAIN = "plain forward"


def certifying(device: str = "cpu", samples: int = 48, repeats: int = 5) -> list[dict[str, Any]]:
    """Time certificates of ten CAMs, from noise to rows, on a ResNet-50 with random weights.

    Args:
        device: "cpu" or "cuda".
        samples: of one image and sigma; rounded up to full passes.
        repeats: number of interleaved repetitions; medians of ratios are reported.

    Returns:
        For one sigma and for three, which share their noise: the time relative to plain inference_mode forward passes
        of as many images, pilots included.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(device)
    batch = LARGEST_PASS if device == "cpu" else LARGEST_GPU_PASS
    samples = -(-samples // batch) * batch
    model, image = random_model(MODEL, device), picture()[None]
    given = ImageVariants(Sample("bench", "bench", None, squares(image.shape[-1])), image, ())
    settings = MeasureSettings(CLASSIC, batch=batch)
    inputs = model.inputs(image.expand(batch, -1, -1, -1), settings.precision)

    def forwards(passes: int) -> torch.Tensor:
        for _ in range(passes):
            logits = plain(model.network.module, inputs, settings.precision)
        return logits

    rows = []
    for sigmas in SIGMAS:
        asked = CertifySettings(sigmas, samples, batch, 0.01, (0.05, 0.1, 0.2, 0.5), "rank", 0.2)
        passes = len(sigmas) * (samples + batch) // batch
        seconds = interleaved(
            {
                PLAIN: partial(forwards, passes),
                "certificates": partial(certificates, model, [given], settings, asked),
            },
            repeats,
            device,
        )
        ratios = [mine / base for mine, base in zip(seconds["certificates"], seconds[PLAIN], strict=True)]
        rows.append(
            {
                "sigmas": len(sigmas),
                "copies": passes * batch,
                "ratio to plain forwards": round(statistics.median(ratios), 3),
                "plain ms per image": round(statistics.median(seconds[PLAIN]) * 1000 / passes / batch, 2),
                **machine(device),
            }
        )
    return rows
