import re

import pytest
import torch

from camrobust.contract.defaults import PRECISIONS
from camrobust.core.explain.cams import CLASSIC
from camrobust.core.perturb import variants
from camrobust.core.precision import arithmetic
from camrobust.measure.image import explain_variants
from camrobust.measure.model import wrap
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample
from tests.toys import Dense, Pooled, seeded


def explained(model, batch, precision="fp32", count=7):
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample = Sample("d", "i", None, torch.zeros(64, 64, dtype=torch.int64))
    planned = variants([f"gaussian_noise:sigma={0.01 * step:g}" for step in range(1, count)])
    settings = MeasureSettings(CLASSIC, batch=batch, precision=precision)
    return explain_variants(model, [ImageVariants(sample, pixels, planned)], settings)[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_maps_are_float32_and_near_those_of_full_precision(precision):
    model = wrap(seeded(Pooled()), image_size=64)
    full, found = explained(model, 7), explained(model, 7, precision)
    assert found.maps.dtype == found.confidences.dtype == torch.float32
    assert found.maps.isfinite().all()
    size = full.maps.abs().amax(dim=(2, 3), keepdim=True)
    error = ((found.maps - full.maps) / size).abs().max()
    assert error <= (0.05 if precision in ("bf16", "fp16") else 0)
    assert (error > 0) == (precision in ("bf16", "fp16"))


def test_small_gradients_survive_half_precision():
    module = seeded(Pooled())
    module.fc.weight.data *= 3e-5
    model = wrap(module, image_size=64)
    maps = explained(model, 7, "fp16").maps[:, CLASSIC.index("layercam")]
    wanted = explained(model, 7).maps[:, CLASSIC.index("layercam")]
    torch.testing.assert_close(maps / wanted.max(), wanted / wanted.max(), rtol=0, atol=0.05)


def test_an_unknown_precision_is_refused():
    sentence = "precision: must be one of fp32, tf32, bf16, fp16, got 'fp8'"
    with pytest.raises(ValueError, match=re.escape(sentence)), arithmetic("fp8", torch.device("cpu")):
        pass


class Small(Pooled):
    """Holds three images; a pass of more is out of memory."""

    tried = ()

    def forward(self, images):
        self.tried = (*self.tried, len(images))
        if len(images) > 3:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().forward(images)


def test_a_pass_that_runs_out_of_memory_is_halved_once_and_for_all():
    model = wrap(seeded(Small()), image_size=64)
    whole = explained(wrap(seeded(Pooled()), image_size=64), 7)
    module = model.network.module
    module.tried = ()
    first = explained(model, 16)
    # Every pass is filled up, so that all of them have the same shape.
    assert module.tried == (16, 8, 4, 2, 2, 2, 2)
    module.tried = ()
    explained(model, 16)
    assert module.tried == (2, 2, 2, 2)
    torch.testing.assert_close(first.maps, whole.maps, rtol=1e-4, atol=1e-5)
    module.tried = ()
    model.fits.images = None
    with pytest.raises(torch.cuda.OutOfMemoryError):
        explained(wrap(seeded(Full()), image_size=64), 1)


class Full(Pooled):
    def forward(self, images):
        if len(images) != 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().forward(images)


@pytest.mark.gpu
def test_a_gpu_short_of_memory_makes_smaller_passes():
    torch.cuda.empty_cache()
    model = wrap(seeded(Pooled(channels=64)), image_size=64, device="cuda")
    whole = explained(model, 512, count=512)
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 40 * 2**20) / total)
    try:
        found = explained(model, 512, count=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.fits.images in (256, 128, 64, 32)
    torch.testing.assert_close(found.maps, whole.maps, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_is_as_near_as_its_precision_says(precision):
    # Behind the first convolution lies another one, through which the gradient comes back.
    here, there = (
        wrap(seeded(Pooled(channels=64)), image_size=64, target_layer="features.0", device=device)
        for device in ("cpu", "cuda")
    )
    wanted, found = explained(here, 7).maps, explained(there, 7, precision).maps.cpu()
    size = wanted.abs().amax(dim=(2, 3), keepdim=True)
    # Eigenvectors of what is nearly degenerate turn with the last bits, so the mean over positions counts.
    error = ((found - wanted) / size).abs().mean()
    assert error <= {"fp32": 1e-5, "tf32": 5e-2, "bf16": 5e-2, "fp16": 5e-2}[precision]


def test_precision_without_a_closed_form():
    model = wrap(seeded(Dense()), image_size=224)
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample = Sample("d", "i", None, torch.zeros(224, 224, dtype=torch.int64))
    image = ImageVariants(sample, pixels, variants(["gaussian_noise:1"]))
    maps = [
        explain_variants(model, [image], MeasureSettings(("ablationcam",), precision=precision))[0].maps
        for precision in ("fp32", "bf16")
    ]
    torch.testing.assert_close(maps[1] / maps[0].max(), maps[0] / maps[0].max(), rtol=0, atol=0.1)
