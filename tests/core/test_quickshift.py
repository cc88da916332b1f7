import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from camrobust.core.segments.colour import lab
from camrobust.core.segments.quickshift import BLOCK, quickshift, trees
from camrobust.io.images import decode
from tests.reference.quickshift import quickshift as quickshift_loop

SETTINGS = [(4, 200, 0.2), (5, 200, 0.2), (5, 10, 1.0)]
PHOTOS = 50 if os.environ.get("CAMROBUST_ALL") else 4


def pictures(count, size, seed=0):
    """Smooth colours with noise, uint8, some of them in few levels so that distances tie."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    levels = torch.tensor([255, 8, 3])[torch.arange(count) % 3].reshape(-1, 1, 1, 1)
    return ((smooth * levels).round() / levels * 255).to(torch.uint8)


def oracle(images, kernel_size, max_dist, ratio):
    from skimage.segmentation import quickshift as skimage_quickshift

    return [
        skimage_quickshift(
            image.movedim(0, -1).numpy() / 255.0, kernel_size=kernel_size, max_dist=max_dist, ratio=ratio, rng=42
        )
        for image in images
    ]


@pytest.mark.parametrize(
    ("kernel_size", "max_dist", "ratio"), [(1, 200, 0.2), (1.5, 3, 1.0), (2, 2, 0.1), (1.2, 0, 0.5), (2, 50, 0)]
)
def test_equals_the_loop(kernel_size, max_dist, ratio):
    images = pictures(3, (11, 14))
    found = quickshift(images, kernel_size, max_dist, ratio)
    noise = np.random.default_rng(42).normal(scale=1e-5, size=(11, 14))
    for image, labels in zip(images, found, strict=True):
        features = lab(image[None])[0].movedim(0, -1).numpy() * ratio
        np.testing.assert_array_equal(labels.numpy(), quickshift_loop(features, noise, kernel_size, max_dist))


@pytest.mark.parametrize("size", [(40, 53), (7, 64), (1, 30), (30, 1), (1, 1)])
@pytest.mark.parametrize("setting", [*SETTINGS, (3.3, 4.5, 0.6), (10, 1000, 0.5)])
def test_equals_scikit_image_at_every_size(size, setting):
    images = pictures(3, size)
    for labels, wanted in zip(quickshift(images, *setting), oracle(images, *setting), strict=True):
        np.testing.assert_array_equal(labels.numpy(), wanted)


@pytest.mark.data
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_scikit_image_on_photos(shared_data, setting):
    files = sorted((shared_data / "images").iterdir())[::5][:PHOTOS]
    images = torch.stack([torch.from_numpy(decode(file.read_bytes(), 256, 224).pixels) for file in files])
    assert len(images) == PHOTOS
    found = quickshift(images, *setting)
    wanted = oracle(images, *setting)
    unequal = [file.name for file, a, b in zip(files, found, wanted, strict=True) if not np.array_equal(a.numpy(), b)]
    assert unequal == []


def test_blocks_change_no_label(monkeypatch):
    images = pictures(3, (40, 53))
    found = quickshift(images)
    for block in (64, 2**12, 2**22):
        monkeypatch.setitem(BLOCK, "cpu", block)
        assert torch.equal(quickshift(images), found)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_label_and_stay_as_they_were(threads):
    before, images = torch.get_num_threads(), pictures(5, (40, 53))
    wanted = torch.cat([quickshift(image[None]) for image in images])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(quickshift(images), wanted)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gpu_gives_the_labels_of_a_cpu(setting):
    images = pictures(9, (120, 131))
    wanted = quickshift(images, *setting)
    kernel_size, max_dist, ratio = setting
    assert torch.equal(trees(lab(images).cuda() * ratio, kernel_size, max_dist).cpu(), wanted)
    # The GPU's own colours differ in the last bits, which decide between equally near parents.
    assert (quickshift(images.cuda(), *setting).cpu() != wanted).double().mean() < 0.002


def test_a_plain_image_is_what_its_noise_makes_of_it():
    image = torch.full((1, 3, 48, 40), 77, dtype=torch.uint8)
    np.testing.assert_array_equal(quickshift(image)[0].numpy(), oracle(image, 4, 200, 0.2)[0])


def test_lab_is_scikit_images():
    from skimage.color import rgb2lab

    levels = torch.cartesian_prod(*[torch.arange(0, 256, 15)] * 3).to(torch.uint8)
    image = levels.t().reshape(1, 3, 18, 18 * 18)
    wanted = rgb2lab(image[0].movedim(0, -1).numpy() / 255.0)
    np.testing.assert_array_equal(lab(image)[0].movedim(0, -1).numpy(), wanted)
    assert torch.equal(lab(image.double() / 255), lab(image))


def test_lab_of_another_device_is_the_same_up_to_rounding(monkeypatch):
    image = pictures(3, (20, 30))
    wanted = lab(image)
    monkeypatch.setattr("camrobust.core.segments.colour._apply", lambda on_cpu, elsewhere, values: elsewhere(values))
    torch.testing.assert_close(lab(image), wanted, rtol=0, atol=1e-12)


def test_runs_without_scikit_image():
    code = (
        "import sys\n"
        "sys.modules['skimage'] = None\n"
        "import torch\n"
        "from camrobust.core.segments import segment\n"
        "print(segment(torch.zeros(1, 3, 8, 8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1, 8, 8])"
