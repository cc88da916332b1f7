"""Images of one, two, four and more channels: perturbations, attacks, segments and pictures."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.channels import as_photo, held, unit
from camrobust.core.draws import Draws
from camrobust.core.perturb import PERTURBATIONS, attack, left_out, make_variants, perturb, variants, without_model
from camrobust.core.segments import quickshift, segment
from camrobust.core.similarity.sensitivity import PassOutput, change_between
from camrobust.measure.model import wrap
from tests.reference import perturb as reference
from tests.toys import channelled

GREY = [name for name in without_model() if PERTURBATIONS[name].takes(1)]
ANY = [name for name in without_model() if PERTURBATIONS[name].takes(4)]
LOOPS = [name for name in ANY if hasattr(reference, name) and name != "brightness"]
NORMAL = ("gaussian_noise", "speckle_noise")
DEEP = 65535


def images(channels, count=2, size=40, seed=0):
    """Smooth images at 65,536 levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    return unit(held(nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")))


def greys(count=2, size=40):
    """One channel of 256 levels, in [0, 1]."""
    return (images(1, count, size) * 255).round() / 255


def test_what_is_defined_for_how_many_channels():
    """Tinted by its definition, or made of hue: for photos alone; through luma or a file of grey: also for one."""
    takes = {entry.name: entry.channels for entry in PERTURBATIONS if entry.source and entry.channels is not None}
    assert takes == {
        "frost": (3,),
        "frost_procedural": (3,),
        "jpeg_compression": (1, 3),
        "saturate": (3,),
        "snow": (1, 3),
        "spatter": (3,),
    }


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", sorted({*GREY} - {*NORMAL}))
def test_one_channel_is_perturbed_like_a_grey_photo(name, severity):
    """The tests of photos hold them against float64 loops and imagecorruptions.

    Normal numbers are drawn in pairs, so those of one channel are not the first of three; they have loops below.
    """
    given = greys()
    one = perturb(given, f"{name}:{severity}", ["p", "q"], seed=3)
    photo = perturb(given.expand(-1, 3, -1, -1).contiguous(), f"{name}:{severity}", ["p", "q"], seed=3)
    assert one.shape == given.shape
    # JPEG converts colours to luma and back, and a grey file does not.
    torch.testing.assert_close(one, photo[:, :1], atol=1.5 / 255 if name == "jpeg_compression" else 1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted({*ANY} - {*NORMAL}))
def test_four_channels_are_perturbed_like_three_of_them(name):
    """With a fourth channel below the others, so that the brightest one, which fog and brightness look at, stays."""
    three = images(3)
    four = torch.cat([three, three.amin(dim=1, keepdim=True)], dim=1)
    made = [perturb(given, f"{name}:3", ["p", "q"], seed=3) for given in (three, four)]
    assert made[1].shape == four.shape
    torch.testing.assert_close(made[1][:, :3], made[0], atol=1e-6, rtol=0)
    assert not torch.equal(made[1][:, 3], four[:, 3])


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("name", LOOPS)
def test_equals_the_float64_loop(name, channels):
    given, entry = images(channels, size=16), PERTURBATIONS[name]
    made = perturb(given, f"{name}:3", ["p", "q"], seed=7, dataset="d")
    (strength,) = entry.severities[2]
    for number, image_id in enumerate(["p", "q"]):
        arguments = []
        if entry.random:
            draws = Draws.of(7, "d", [image_id], name, f"{entry.parameters[0].name}={strength:g}", 0)
            shape = (1 if name == "salt_pepper" else channels, 16, 16)
            arguments = [(draws.normal if name in NORMAL else draws.uniform)(shape)[0].numpy()]
        wanted = getattr(reference, name)(given[number].double().numpy(), strength, *arguments)
        np.testing.assert_allclose(made[number].numpy(), wanted, atol=2e-6)


def test_16_bits_reach_a_perturbation_and_stay():
    levels = torch.arange(0, DEEP, 13)[:4900].reshape(1, 1, 70, 70)
    given = held(levels.to(torch.uint16))
    clean, brighter, jpeg = make_variants(
        given, variants(["brightness:shift=0.2", "jpeg_compression:5"], 1), ["x"], "d", 0
    )[0]
    assert (clean * DEEP).round().equal(levels[0].float())
    assert (brighter * DEEP).round().equal((levels[0] + 13107).clamp(max=DEEP).float())
    assert (jpeg * 255).round().div(255).equal(jpeg)  # a grey file has 256 levels
    assert len(clean.unique()) == 4900


def test_8_bits_have_the_same_value_on_the_finer_grid():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert held(levels).equal(held(levels.float() / 255))
    assert held(levels).mul(DEEP).round().equal(levels.float() * 257)
    photo = levels.expand(1, 3, 16, 16)
    assert held(photo) is photo
    assert held(unit(photo)).equal(photo)


def test_a_resaved_variant_is_cut_to_8_bits_and_a_grey_file():
    given = images(1)
    planned = variants(["gaussian_noise:1", "contrast:2"], 1)
    made = make_variants(given, planned, ["p", "q"], "d", 0, jpeg=85)
    assert made[:, 0].equal(given)
    assert (made[:, 1:] * 255).round().div(255).equal(made[:, 1:])
    assert not made[:, 1].equal(made[:, 0])
    with pytest.raises(UserError, match="a JPEG file must have 1 or 3 channels, got 2 channels; leave it out"):
        make_variants(images(2), planned, ["p", "q"], "d", 0, jpeg=85)


@pytest.mark.parametrize(
    ("specs", "channels", "sentence"),
    [
        (["noise", "saturate:3"], 1, "saturate must have images of 3 channels, got 1 channel; leave it out"),
        (["fog:1", {"spatter": 2}, "frost_procedural"], 4,
         "spatter, frost_procedural must have images of 3 channels, got 4 channels; leave them out"),
        (["snow:1"], 2, "snow must have images of 1 or 3 channels, got 2 channels; leave it out"),
        (["fog:2+saturate:2"], 1, "saturate must have images of 3 channels, got 1 channel; leave it out"),
    ],
)  # fmt: skip
def test_what_is_not_defined_is_refused_by_name(specs, channels, sentence):
    specs = [spec for spec in specs if spec != "noise"]
    with pytest.raises(UserError, match=f"^perturbations: {re.escape(sentence)}$"):
        variants(specs, channels)
    assert variants(specs)


def test_directly_refused_too():
    with pytest.raises(UserError, match="saturate must have images of 3 channels, got 1 channel"):
        perturb(images(1), "saturate:1", ["p", "q"])
    with pytest.raises(UserError, match="saturate must have images of 3 channels, got 1 channel"):
        perturb(images(1), variants(["saturate:1"])[0], ["p", "q"])
    with pytest.raises(UserError, match="saturate must have images of 3 channels, got 1 channel"):
        make_variants(images(1), variants(["saturate:1"]), ["p", "q"], "d", 0)


def test_presets_leave_out_what_is_not_defined_and_say_so():
    assert {one.perturbation for one in variants(["preset:all"], 1)} == set(GREY)
    assert {one.perturbation for one in variants(["preset:digital"], 2)} == {
        "contrast", "elastic_transform", "pixelate"
    }  # fmt: skip
    assert left_out(["preset:digital", "fog:1", {"snow": 1}, "preset:noise"], 2) == (
        "preset:digital leaves out jpeg_compression, saturate: not defined for images of 2 channels",
    )
    assert left_out(["preset:all", "preset:weather"], 3) == ()


@pytest.fixture(scope="module")
def grey_model():
    return wrap(channelled(1), mean=(0.4,), std=(0.2,), image_size=40)


def test_fgsm_moves_every_value_by_epsilon_from_its_16_bits(grey_model):
    given = images(1, 1)
    (variant,) = variants(["fgsm:2"], 1)
    made = attack(grey_model, given, [variant], ["p"], "d", 0)
    leaf = given.double().requires_grad_()
    net = channelled(1).double()
    logits = net((leaf - 0.4) / 0.2)
    nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
    wanted = (given.double() + leaf.grad.sign() * variant.values[0] / 255).clamp(0, 1)
    size = leaf.grad.abs()
    sure = (size > 1e-6 * size.max()) | (size == 0)  # strides leave gaps that no gradient reaches
    assert 0.2 < float((size > 0).double().mean()) < float(sure.double().mean())
    assert float(sure.double().mean()) > 0.95
    torch.testing.assert_close(made.double()[sure], wanted[sure], atol=1e-6, rtol=0)


RANKED = "cam_attack_rank:epsilon=4,steps=4,step=1"


@pytest.mark.parametrize("spec", ["pgd:3", "pgd_l2:3", "pgd_targeted:2", "cam_attack:epsilon=4,steps=4,step=1", RANKED])
def test_attacks_stay_in_the_ball_and_on_the_16_bit_grid(grey_model, spec):
    given = images(1, 1, seed=1)
    (variant,) = variants([spec], 1)
    made = attack(grey_model, given, [variant], ["p"], "d", 0)
    steps = made.double() * DEEP
    assert float((steps - steps.round()).abs().max()) < 0.01
    moved = (made.double() - given.double()) * 255
    size = moved.flatten().norm() / 255 if variant.perturbation == "pgd_l2" else moved.abs().max()
    assert 0 < float(size) <= variant.values[0] * (1 + 1e-5)
    if spec.startswith("pgd_l2"):
        # On the grid of 255 levels most of so small a change would be rounded away or up.
        assert len((moved * 257).round().unique()) > 20


@pytest.mark.parametrize("method", ["quickshift", "slic", "felzenszwalb", "grid"])
def test_one_channel_is_cut_like_a_grey_photo(method):
    levels = (greys(size=48) * 255).round().to(torch.uint8)
    photo = segment(levels.expand(-1, 3, -1, -1).contiguous(), method)
    assert segment(held(levels), method).equal(photo)
    assert segment(levels, method).equal(photo)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_are_cut_as_scikit_image_cuts_them(channels):
    from skimage.segmentation import felzenszwalb, slic
    from skimage.segmentation import quickshift as skimage_quickshift

    (given,) = images(channels, 1, 48)
    pixels = (given.double() * DEEP).round().div(DEEP).permute(1, 2, 0).numpy()
    lab_like = pixels * (100 / channels**0.5)
    # Black and white are 100 apart, as in Lab.
    wanted = skimage_quickshift(lab_like, ratio=0.2, kernel_size=4, max_dist=200, convert2lab=False, rng=42)
    np.testing.assert_array_equal(quickshift(given[None])[0].numpy(), np.unique(wanted, return_inverse=True)[1])
    own = segment(given[None], "slic", n_segments=20, compactness=10)[0].numpy()
    wanted = slic(pixels, n_segments=20, compactness=10 * channels**0.5 / 100, start_label=0, sigma=0)
    np.testing.assert_array_equal(own, np.unique(wanted, return_inverse=True)[1])
    assert segment(given[None], "felzenszwalb", scale=20, min_size=10).max() > 0
    same = given[:1].expand(4, -1, -1)
    photo = felzenszwalb(same[:3].double().permute(1, 2, 0).numpy(), scale=20, sigma=0.8, min_size=10)
    np.testing.assert_array_equal(
        segment(same[None], "felzenszwalb", scale=20, min_size=10)[0].numpy(),
        np.unique(photo, return_inverse=True)[1],
    )
    assert segment(given[None], "grid", cells=3).max() == 8


def test_distances_are_those_of_levels():
    """The same grey image as uint8 levels and as floats is as far from its neighbour; once by hand."""
    levels = torch.tensor([[[[0, 51], [102, 255]]], [[[0, 51], [102, 204]]]], dtype=torch.uint8)
    zeros = torch.ones(2, 3), torch.ones(2, 1, 2, 2)
    whole, deep = (PassOutput(one, *zeros) for one in (levels, held(levels)))
    found = [change_between(PassOutput(one.pixels[:1].expand(2, -1, -1, -1), *zeros), one) for one in (whole, deep)]
    torch.testing.assert_close(found[0].pixels, found[1].pixels, atol=1e-7, rtol=0)
    torch.testing.assert_close(found[0].relative_pixels, found[1].relative_pixels, atol=1e-7, rtol=0)
    assert found[1].pixels.flatten().tolist() == pytest.approx([0, 0.2 / 2])
    assert found[1].relative_pixels.flatten().tolist() == pytest.approx([0, 0.2 / 2])


def test_the_picture_of_an_image_is_its_channels_mean():
    four = torch.tensor([0.0, 0.2, 0.4, 1.0])[:, None, None].expand(4, 2, 2)
    assert as_photo(four).shape == (3, 2, 2)
    assert as_photo(four).unique().tolist() == [102]
    assert as_photo(torch.full((2, 1, 2, 2), 100, dtype=torch.uint8)).unique().tolist() == [100]
    photo = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert as_photo(photo).equal(photo)


def test_wrong_shapes_are_told():
    for wrong in (torch.rand(1, 8, 8), torch.rand(1, 0, 8, 8)):
        sentence = f"perturb: images must have the shape (B, C, H, W), got {tuple(wrong.shape)}; add the batch axis"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            perturb(wrong, "contrast:1", ["x"])
    with pytest.raises(ValueError, match=r"three channels must be uint8 or in \[0, 1\], got uint16; divide"):
        held(torch.zeros(3, 4, 4, dtype=torch.uint16))
