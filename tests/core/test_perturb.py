import re
from io import BytesIO
from typing import Annotated

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.ndimage import gaussian_filter

from camrobust.contract.errors import UserError
from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb import (
    PERTURBATIONS,
    Variant,
    make_variants,
    perturb,
    perturbation,
    size_warnings,
    variants,
    without_model,
)
from camrobust.core.perturb.filters import smooth_exactly, smooth_in_order
from tests.reference import perturb as reference

NAMES = without_model()
RANDOM = [name for name in NAMES if PERTURBATIONS[name].random]
NORMAL = ("gaussian_noise", "speckle_noise")
NOT_IN_ORDER = ("elastic_transform", "glass_blur", "saturate", "spatter")
"""Their published strengths are of two kinds, or change in several ways at once."""


def photos(count=2, size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).float() / 255


@pytest.fixture(scope="module")
def astronaut():
    from skimage.data import astronaut

    return torch.from_numpy(astronaut()[:224, 100:324].copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(reference, name)])
def test_equals_the_float64_loop(name, severity):
    entry, images = PERTURBATIONS[name], photos()
    perturbed = perturb(images, f"{name}:{severity}", ["p", "q"], seed=7, dataset="d")
    (strength,) = entry.severities[severity - 1]
    for number, image_id in enumerate(["p", "q"]):
        arguments = []
        if entry.random:
            draws = Draws.of(7, "d", [image_id], name, f"{entry.parameters[0].name}={strength:g}", 0)
            shape = (1, 24, 24) if name == "salt_pepper" else (3, 24, 24)
            arguments = [(draws.normal if name in NORMAL else draws.uniform)(shape)[0].numpy()]
        wanted = getattr(reference, name)(images[number].double().numpy(), strength, *arguments)
        np.testing.assert_allclose(perturbed[number].numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaussian_blur_equals_scikit_image(severity, astronaut):
    from skimage.filters import gaussian

    (sigma,) = PERTURBATIONS["gaussian_blur"].severities[severity - 1]
    wanted = gaussian(astronaut[0].double().permute(1, 2, 0).numpy(), sigma, mode="nearest", channel_axis=-1)
    perturbed = perturb(astronaut, f"gaussian_blur:{severity}", ["a"])[0].permute(1, 2, 0)
    np.testing.assert_allclose(perturbed.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_equals_scikit_images_hsv(severity, astronaut):
    from skimage.color import hsv2rgb, rgb2hsv

    (shift,) = PERTURBATIONS["brightness"].severities[severity - 1]
    hsv = rgb2hsv(astronaut[0].double().permute(1, 2, 0).numpy())
    hsv[..., 2] = np.clip(hsv[..., 2] + shift, 0, 1)
    perturbed = perturb(astronaut, f"brightness:{severity}", ["a"])[0].permute(1, 2, 0)
    np.testing.assert_allclose(perturbed.numpy(), hsv2rgb(hsv), atol=2e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_jpeg_is_pillows(severity, astronaut):
    (quality,) = PERTURBATIONS["jpeg_compression"].severities[severity - 1]
    sink = BytesIO()
    pixels = (astronaut[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(sink, "JPEG", quality=int(quality))
    perturbed = (perturb(astronaut, f"jpeg_compression:{severity}", ["a"])[0] * 255).round().permute(1, 2, 0)
    np.testing.assert_array_equal(perturbed.numpy(), np.asarray(Image.open(sink)))


@pytest.mark.parametrize("rate", [3, 60, 900])
def test_shot_noise_counts_are_poisson(rate):
    level = 0.4
    image = torch.full((1, 3, 150, 150), level)
    # Above full brightness counts are clipped, so the distribution is compared below it.
    counts = perturb(image, f"shot_noise:rate={rate}", ["a"]).flatten().numpy() * rate
    mean = round(level * 255) / 255 * rate
    assert np.allclose(counts, counts.round(), atol=1e-3 * max(1, rate))
    top = int(rate)
    steps = np.arange(0, top)
    shares = np.array([(counts.round() <= k).mean() for k in steps])
    assert np.abs(shares - stats.poisson.cdf(steps, mean)).max(initial=0) < 1.63 / np.sqrt(counts.size)


@pytest.mark.parametrize(("name", "share"), [("impulse_noise", 0.27), ("salt_pepper", 0.2)])
def test_share_of_replaced_values(name, share):
    grey = torch.full((1, 3, 200, 200), 0.5)
    perturbed = perturb(grey, f"{name}:5", ["a"])
    assert abs(float((perturbed == 0).float().mean()) - share / 2) < 0.01
    assert abs(float((perturbed == 1).float().mean()) - share / 2) < 0.01
    together = (perturbed[0, 0] != 0.5) & (perturbed[0, 1] != 0.5)
    expected = share if name == "salt_pepper" else share**2
    assert abs(float(together.float().mean()) - expected) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_properties(name):
    images = photos(3)
    kept = images.clone()
    perturbed = perturb(images, f"{name}:4", ["a", "b", "c"], seed=3)
    assert torch.equal(images, kept)
    assert perturbed.shape == images.shape
    assert perturbed.dtype == torch.float32
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert perturbed.data_ptr() != images.data_ptr()
    assert torch.equal(perturbed, perturb(images, f"{name}:4", ["a", "b", "c"], seed=3))
    backwards = perturb(images.flip(0), f"{name}:4", ["c", "b", "a"], seed=3).flip(0)
    alone = torch.cat([perturb(images[n : n + 1], f"{name}:4", [one], seed=3) for n, one in enumerate("abc")])
    # A mean over a batch may round in the last place; what is drawn may not differ by a bit.
    if PERTURBATIONS[name].random:
        assert torch.equal(perturbed, backwards)
        assert torch.equal(perturbed, alone)
    torch.testing.assert_close(perturbed, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_IN_ORDER])
def test_stronger_is_further(name, astronaut):
    names = [str(number) for number in range(12)]
    images = astronaut[:, :, ::2, ::2].expand(12, -1, -1, -1)
    distances = [float((perturb(images, f"{name}:{s}", names) - images).abs().mean()) for s in range(1, 6)]
    assert distances[0] > 0.001
    if PERTURBATIONS[name].random and PERTURBATIONS[name].family == "weather":
        assert distances[0] < distances[4]
    else:
        assert distances == sorted(distances)


@pytest.mark.parametrize("name", RANDOM)
def test_seed_image_dataset_and_replicate_draw_anew(name):
    images = photos(1)
    base = perturb(images, f"{name}:3", ["a"])
    others = [
        perturb(images, f"{name}:3", ["a"], seed=1),
        perturb(images, f"{name}:3", ["b"]),
        perturb(images, f"{name}:3", ["a"], replicate=1),
        perturb(images, f"{name}:3", ["a"], dataset="e"),
    ]
    assert not any(torch.equal(base, other) for other in others)


def test_a_severity_and_its_parameter_are_the_same_draw():
    images = photos(1)
    assert torch.equal(perturb(images, "gaussian_noise:1", ["a"]), perturb(images, "gaussian_noise:sigma=0.08", ["a"]))


def test_variants_are_clean_first_and_8_bit():
    image = (photos(1)[0] * 255).to(torch.uint8)
    planned = variants(["gaussian_noise:1,5", "contrast:2"])
    stack = make_variants(image[None], planned, ["a"], "d", 0)[0]
    assert stack.dtype == torch.uint8
    assert torch.equal(stack[0], image)
    single = perturb(image[None].float() / 255, planned[1], ["a"], dataset="d")
    assert torch.equal(stack[2], (single[0] * 255).round().to(torch.uint8))


def test_specifications_become_variants():
    assert [v.severity for v in variants(["gaussian_noise"])] == [1, 2, 3, 4, 5]
    assert [v.severity for v in variants(["contrast:1,3-4"])] == [1, 3, 4]
    assert variants(["contrast:factor=0.5"])[0] == Variant("contrast", None, (0.5,), 0)
    assert variants([{"contrast": {"factor": [0.5, 0.6]}}])[1].strength == "factor=0.6"
    planned = variants([{"gaussian_noise": [1, 3], "replicates": 2}])
    assert [(v.severity, v.replicate) for v in planned] == [(1, 0), (3, 0), (1, 1), (3, 1)]
    assert len(variants(["preset:noise"])) == 30
    assert variants(["defocus_blur:radius=3,alias=0.1"])[0] == Variant("defocus_blur", None, (3, 0.1), 0)
    curve = variants([{"defocus_blur": {"radius": [3, 5], "alias": 0.25}}])
    assert [one.strength for one in curve] == ["radius=3,alias=0.25", "radius=5,alias=0.25"]
    close = variants([{"contrast": {"factor": [0.1234567, 0.1234568]}}])
    assert [one.strength for one in close] == ["factor=0.1234567", "factor=0.1234568"]
    assert len(variants(["preset:all"])) == 5 * len(NAMES)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("gaussian_noise:5-1", "perturbations: levels must go up, got '5-1' in 'gaussian_noise:5-1'; write 1-5"),
        ("gaussian_noise:sigma=0.1,sigma=0.2", "perturbations: 'sigma' is given twice in 'sigma=0.1,sigma=0.2'; write"),
        (
            {"gaussian_noise": {"sigma": []}, "replicates": 2},
            "perturbations: sigma of gaussian_noise must be one number or several, got an empty list; severities 1 to "
            "5 have 0.08, 0.12, 0.18, 0.26, 0.38",
        ),
        ("gausian_noise:3", "unknown perturbation 'gausian_noise'; did you mean 'gaussian_noise'? known: brightness,"),
        (
            "gaussian_noise:7",
            "perturbations: severity must be 1 to 5, got 7 in 'gaussian_noise:7'; give a physical value as "
            "gaussian_noise:sigma=…",
        ),
        ("contrast:0", "perturbations: severity must be 1 to 5, got 0 in 'contrast:0'"),
        ("contrast:high", "perturbations: levels must be like 3, 1-5 or 1,3,5, got 'high' in 'contrast:high'"),
        ("contrast:sigma=1", "unknown parameter of contrast 'sigma'; known: factor"),
        (
            "contrast:factor=much",
            "perturbations: factor of contrast must be a number from 0 to 100 (times the distance from the mean), got "
            "'much'; severities 1 to 5 have 0.4, 0.3, 0.2, 0.1, 0.05",
        ),
        (
            "gaussian_noise:sigma=-1",
            "perturbations: sigma of gaussian_noise must be a number of at least 0 (share of the pixel range), got -1; "
            "severities 1 to 5 have 0.08, 0.12, 0.18, 0.26, 0.38",
        ),
        (
            "gaussian_noise:sigma=nan",
            "sigma of gaussian_noise must be a number of at least 0 (share of the pixel range), got nan; ",
        ),
        (
            "gaussian_noise:sigma=inf",
            "sigma of gaussian_noise must be a number of at least 0 (share of the pixel range), got inf; ",
        ),
        (
            "jpeg_compression:quality=101",
            "quality of jpeg_compression must be a whole number from 1 to 100 (JPEG quality), got 101; ",
        ),
        (
            "salt_pepper:amount=1.5",
            "amount of salt_pepper must be a number from 0 to 1 (share of the pixels), got 1.5; ",
        ),
        (
            "shot_noise:rate=0",
            "rate of shot_noise must be a number from 0.01 to 10000 (photons at full brightness), got 0; ",
        ),
        ("preset:nois", "unknown preset 'nois'; did you mean 'noise'? known: adversarial, all, blur, digital,"),
        (
            {"contrast": 1, "replicates": 2},
            "'contrast' is not random, so its replicates would be identical; leave them out",
        ),
        (
            {"gaussian_noise": 1, "replicates": 0},
            "perturbations: replicates must be 1 to 1000, got 0; choose another number",
        ),
        (
            {"defocus_blur": {"radius": 3}},
            "perturbations: defocus_blur must have values for radius, alias; add alias",
        ),
        ("fog:amount=2", "perturbations: fog must have values for amount, decay; add decay"),
        (
            {"defocus_blur": {"radius": [3, 4], "alias": [0.1, 0.2, 0.3]}},
            "perturbations: the lists of defocus_blur must be equally long, or one value, got radius 2, alias 3; write "
            "one entry for each pairing",
        ),
        (
            "defocus_blur:radius=3.5,alias=0.1",
            "perturbations: radius of defocus_blur must be a whole number from 1 to 50 (px), got 3.5; severities 1 to "
            "5 have 3, 4, 6, 8, 10",
        ),
        ("defocus_blur:radius=3,alias=-1", "alias of defocus_blur must be a number from 0.01 to 10 (px), got -1; "),
        (
            "glass_blur:sigma=-1,delta=1,iterations=1",
            "sigma of glass_blur must be a number from 0 to 100 (px), got -1; ",
        ),
        ("gaussian_blur:sigma=-2", "sigma of gaussian_blur must be a number from 0 to 100 (px), got -2; "),
        (
            "defocus_blur:6",
            "must be 1 to 5, got 6 in 'defocus_blur:6'; give a physical value as defocus_blur:radius=…,alias=…",
        ),
        ({"fog": 0}, "perturbations: severity must be 1 to 5, got 0 in 'fog: 0'"),
        (
            {"contrast": {"factor": True}},
            "factor of contrast must be a number from 0 to 100 (times the distance from the mean), got True; ",
        ),
        (
            {"contrast": {"factor": None}},
            "(times the distance from the mean), got None; severities 1 to 5 have 0.4, 0.3",
        ),
        ("preset:papier", "unknown preset 'papier'"),
        (
            {"compose": ["fog:2"]},
            "perturbations: compose must be a list of two or more, as [fog:2, gaussian_noise:3], got ['fog:2']",
        ),
        (
            {"compose": ["fog:1-2", "contrast:1-3"]},
            "the steps of compose must have equally many strengths, or one, got fog 2, contrast 3; write one entry",
        ),
        (
            {"compose": ["preset:noise", "contrast:1"]},
            "a step of compose must be one perturbation without replicates, got 'preset:noise'; put replicates beside",
        ),
        (
            {"compose": ["contrast:1", "gaussian_blur:1"], "replicates": 2},
            "'contrast+gaussian_blur' is not random, so its replicates would be identical; leave them out",
        ),
        (
            {"gaussian_noise": 1, "contrast": 1},
            "must name one perturbation (and replicates), got gaussian_noise, contrast; write one entry for each",
        ),
    ],
)
def test_mistakes_are_one_sentence(spec, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        variants([spec])


def test_a_variant_twice_and_none_at_all():
    with pytest.raises(UserError, match=re.escape("'gaussian_noise' at sigma=0.08 occurs twice; for more draws")):
        variants(["gaussian_noise:1", "gaussian_noise:sigma=0.08"])
    with pytest.raises(UserError, match="perturbations: must name at least one"):
        variants([])


def test_images_and_ids_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=re.escape("perturb: images must have the shape (B, C, H, W), got (3, 8, 8)")):
        perturb(torch.zeros(3, 8, 8), "contrast:1", ["a"])
    sentence = "image_ids must have one entry per image (1), got 2; an image's random numbers depend on its id"
    with pytest.raises(ValueError, match=re.escape(f"perturb: {sentence}")):
        perturb(torch.zeros(1, 3, 8, 8), "contrast:1", ["a", "b"])
    with pytest.raises(ValueError, match=re.escape(f"make_variants: {sentence}")):
        make_variants(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), variants(["gaussian_noise:1"]), ["a", "b"], "d", 0)
    with pytest.raises(UserError, match="'contrast' must be a single strength, got 5; add :1 to :5"):
        perturb(torch.zeros(1, 3, 8, 8), "contrast", ["a"])


def test_presets_hold_the_published_lists():
    names = [variant.perturbation for variant in variants(["preset:imagenet-c"])]
    assert (len(names), len(set(names))) == (75, 15)
    extra = {variant.perturbation for variant in variants(["preset:imagenet-c-extra"])}
    assert extra == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert not extra & set(names)
    for family in ("noise", "blur", "weather", "digital"):
        members = {variant.perturbation for variant in variants([f"preset:{family}"])}
        assert {PERTURBATIONS[name].family for name in members} == {family}
    listed = {variant.perturbation for name in ("noise", "blur", "weather", "digital")
              for variant in variants([f"preset:{name}"])}  # fmt: skip
    assert listed | {"frost_procedural"} == set(NAMES)


def test_a_sequence_is_one_after_the_other():
    (both,) = variants([{"compose": ["gaussian_blur:2", "jpeg_compression:2"]}])
    assert (both.perturbation, both.severity, both.strength) == (
        "gaussian_blur+jpeg_compression", 2, "sigma=2+quality=18",
    )  # fmt: skip
    images = photos(1)
    wanted = perturb(perturb(images, "gaussian_blur:2", ["a"]), "jpeg_compression:2", ["a"])
    assert torch.equal(perturb(images, "gaussian_blur:2+jpeg_compression:2", ["a"]), wanted)
    assert variants(["gaussian_blur:2+jpeg_compression:2"]) == (both,)
    levels = variants([{"compose": ["fog:1-5", "contrast:3"]}])
    assert [one.severity for one in levels] == [None, None, 3, None, None]
    assert len(variants([{"compose": ["fog:1-5", "contrast:3"], "replicates": 3}])) == 15


def test_the_steps_of_a_sequence_draw_independently():
    grey = torch.full((1, 3, 64, 64), 0.5)
    single = perturb(grey, "gaussian_noise:sigma=0.01", ["a"]) - 0.5
    double = perturb(grey, "gaussian_noise:sigma=0.01+gaussian_noise:sigma=0.01", ["a"]) - 0.5
    # Twice the same numbers would have twice the deviation, two streams have the square root of two of it.
    assert abs(float(double.std() / single.std()) - 2**0.5) < 0.05


def test_jpeg_after_is_cut_to_8_bits_and_coded():
    image = (photos(1, 32)[0] * 255).round().to(torch.uint8)
    planned = variants(["gaussian_blur:1", "pixelate:2"])
    stack = make_variants(image[None], planned, ["a"], "d", 0, 85)[0]
    assert torch.equal(stack[0], image)
    for place, variant in enumerate(planned, start=1):
        levels = perturb(image[None].float() / 255, variant, ["a"])[0].double().numpy() * 255
        cut = np.floor(levels + 0.001).astype(np.uint8).transpose(1, 2, 0)
        sink = BytesIO()
        Image.fromarray(cut).save(sink, "JPEG", quality=85, optimize=True)
        np.testing.assert_array_equal(stack[place].permute(1, 2, 0).numpy(), np.asarray(Image.open(sink)))


def test_another_image_size_has_a_warning():
    planned = variants(["fog:1", "salt_pepper:1", "gaussian_blur:sigma=2"])
    assert size_warnings(planned, 224) == ()
    assert size_warnings(planned, 64) == (
        "image.crop is 64 px, but severities 1 to 5 of fog were chosen for 224 px (ImageNet-C: Hendrycks & Dietterich, "
        "arXiv 1903.12261); results at 64 px are not comparable with published ones",
    )
    assert size_warnings(variants(["fog:1+contrast:2"]), 64)[0].count("contrast, fog") == 1
    assert size_warnings(planned[1:], 64) == ()


def test_frost_without_its_photographs_is_refused(monkeypatch):
    from camrobust.core.perturb import frost

    monkeypatch.setattr(frost, "PACKAGE", "a_package_that_is_not_installed")
    sentence = (
        "perturbations: frost needs the photographs in the package imagecorruptions-imaug (Apache-2.0), which is not "
        "installed; pip install 'camrobust[frost]', or use frost_procedural, which is not ImageNet-C"
    )
    for spec in ("frost:3", "preset:imagenet-c", "fog:1+frost:1"):
        with pytest.raises(UserError, match=re.escape(sentence)):
            variants([spec])
    assert variants(["frost_procedural:3"])


def test_frost_covers_an_image_larger_than_its_photographs():
    images = torch.zeros(1, 3, 640, 700)
    assert float(perturb(images, "frost:5", ["a"]).min(dim=3).values.mean()) > 0.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 33, 57), (3, 9, 8)])
def test_every_size_works(name, shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    for severity in (1, 5):
        perturbed = perturb(images, f"{name}:{severity}", ["a", "b"])
        assert perturbed.shape == images.shape
        assert torch.isfinite(perturbed).all()


HAZE = """
from __future__ import annotations

from typing import Annotated

from torch import Tensor

from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb import perturbation


@perturbation(severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="weather", source="mypkg", size=32)
def haze(images: Tensor, share: Annotated[float, Parameter(0, 1, "share", "weight of white")]) -> Tensor:
    return images * (1 - share) + share


@perturbation("rain", severities=((0.1, 2), (0.2, 2), (0.3, 3), (0.4, 3), (0.5, 4)), family="weather")
def _falling(
    images: Tensor, draws: Draws, share: Annotated[float, Parameter(0, 1)], times: Annotated[int, Parameter(1, 9)] = 2
) -> Tensor:
    for _ in range(times):
        images = images * (1 - share * draws.uniform(images.shape[1:]))
    return images
"""


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(PERTURBATIONS, "_entries", dict(PERTURBATIONS._entries))


@pytest.mark.parametrize("channels", [3, "1", (), ("1",), (0,), (True,), (2.0,), [1, 3]])
def test_channels_of_a_perturbation_are_numbers_of_channels(own_registry, channels):
    from camrobust.core.perturb import perturbation

    sentence = "perturbation: channels of mine must be a tuple of whole numbers from 1 to 256, or None for any, got "
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}.*{re.escape('; write channels=(1, 3)')}$"):
        perturbation("mine", severities=((),) * 5, family="weather", channels=channels)(lambda images: images)
    assert "mine" not in PERTURBATIONS
    perturbation("mine", severities=((),) * 5, family="weather", channels=(1, 3))(lambda images: images)
    assert [PERTURBATIONS["mine"].takes(count) for count in (1, 2, 3)] == [True, False, True]


def test_a_users_function_is_registered_by_its_signature(own_registry):
    exec(HAZE, {"__name__": "mypkg.weather"})
    haze, rain = PERTURBATIONS["haze"], PERTURBATIONS["rain"]
    assert haze.parameters == (Parameter(0, 1, "share", "weight of white", name="share"),)
    assert (haze.size, haze.random, haze.needs_model) == (32, False, False)
    assert rain.parameters == (Parameter(0, 1, name="share"), Parameter(1, 9, whole=True, default=2, name="times"))
    assert (rain.size, rain.random, rain.severities[0]) == (None, True, (0.1, 2))
    assert list(map(str, (*haze.parameters, *rain.parameters))) == [
        "share: weight of white (share)", "share", "times = 2",
    ]  # fmt: skip
    images = photos()
    assert torch.equal(perturb(images, "haze:2", ["a", "b"]), images * 0.8 + 0.2)
    assert torch.equal(perturb(images, "rain:1", ["a", "b"]), perturb(images, "rain:share=0.1", ["a", "b"]))
    assert not torch.equal(perturb(images, "rain:1", ["a", "b"]), perturb(images, "rain:1", ["a", "c"]))
    assert variants(["rain:share=0.3"])[0].strength == "share=0.3,times=2"
    warnings = size_warnings(variants(["haze", "fog"]), 64)
    assert [warning.split(", but ")[1].partition(";")[0] for warning in warnings] == [
        "severities 1 to 5 of haze were chosen for 32 px (mypkg)",
        "severities 1 to 5 of fog were chosen for 224 px (ImageNet-C: Hendrycks & Dietterich, arXiv 1903.12261)",
    ]  # fmt: skip
    with pytest.raises(
        UserError, match=re.escape("times of rain must be a whole number from 1 to 9, got 2.5; severit")
    ):
        variants(["rain:share=0.3,times=2.5"])


def plain(images, share):
    return images


def described(images, share: Annotated[float, Parameter(0, 1, "share")]):
    return images


@pytest.mark.parametrize(
    ("function", "severities", "error", "sentence"),
    [
        (
            plain, (0.1, 0.2, 0.3, 0.4, 0.5), ValueError,
            "perturbation: share of plain must be annotated with a Parameter; write share: Annotated[float, "
            "Parameter(low, high, unit, meaning)]",
        ),
        (
            described, (0.1, 0.2, 0.3), ValueError,
            "perturbation: severities of described must be 5 strengths with one value per parameter (share), got (0.1, "
            "0.2, 0.3); correct the decorator",
        ),
        (
            described, (0.1, 0.2, 0.3, 0.4, (0.5, 1)), ValueError,
            "perturbation: severities of described must be 5 strengths with one value per parameter (share), got (0.1, "
            "0.2, 0.3, 0.4, (0.5, 1)); correct the decorator",
        ),
        (
            described, (0.1, 0.2, 0.3, 0.4, 5), UserError,
            "perturbation: share of described must be a number from 0 to 1 (share), got 5; correct the severities",
        ),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused(function, severities, error, sentence, own_registry):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        perturbation(severities=severities, family="noise")(function)
    with pytest.raises(ValueError, match="perturbation 'fog' is registered"):
        perturbation("fog", severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="noise")(described)


@pytest.mark.parametrize("edge", ["nearest", "reflect"])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.44, 19.5, 170.8])
def test_exact_sums_are_scipys_filter_and_whole_multiples(edge, sigma):
    planes = torch.rand(2, 70, 75, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smoothed = smooth_exactly(planes, sigma, edge, truncate=3)
    wanted = gaussian_filter(planes.numpy(), (0, sigma, sigma), mode=edge, truncate=3) if sigma else planes.numpy()
    np.testing.assert_allclose(smoothed.numpy(), wanted, atol=2e-6)
    assert torch.equal((smoothed * 2.0**50).round() * 2.0**-50, smoothed)
    # In reversed order, hence with reversed sums, not a bit may differ.
    assert torch.equal(smooth_exactly(planes.flip(1, 2), sigma, edge, truncate=3).flip(1, 2), smoothed)


@pytest.mark.parametrize("sigma", [0.7, 2.44])
def test_sums_in_order_are_scipys_filter(sigma):
    planes = torch.rand(1, 2, 70, 75, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = gaussian_filter(planes.numpy(), (0, 0, sigma, sigma), mode="nearest")
    np.testing.assert_allclose(smooth_in_order(planes.float(), sigma).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["Haze", "3haze", "haze", "haze+", "2e+", "Haze++"])
def test_a_name_of_any_kind_can_be_a_step_of_a_sequence(monkeypatch, name):
    monkeypatch.setattr(PERTURBATIONS, "_entries", dict(PERTURBATIONS._entries))

    @perturbation(name, severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="weather")
    def haze(images, share: Annotated[float, Parameter(0, 1e9)]):
        return images * share

    for spec in (f"fog:2+{name}:3", {"compose": ["fog:2", f"{name}:3"]}):
        (variant,) = variants([spec])
        assert [(step.perturbation, step.severity) for step in variant.steps] == [("fog", 2), (name, 3)]
    (variant,) = variants([f"{name}:share=1e+3+{name}:3"])
    assert [step.values for step in variant.steps] == [(1000.0,), (0.3,)]
    for spec, value in ((f"{name}:share=1e+3", 1000.0), (f"{name}:share=+3", 3.0), (f"{name}:share=2.E+2", 200.0)):
        (variant,) = variants([spec])
        assert (variant.perturbation, variant.values) == (name, (value,))
