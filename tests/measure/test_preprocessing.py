"""Size, crop and filter of published weights, pixel by pixel against the libraries' own transforms."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from camrobust.contract.image_config import ImageConfig
from camrobust.io.images import decode
from camrobust.measure.built import ModelSpec
from camrobust.measure.preprocessing import of_processor, of_timm, published_preprocessing


def picture(width=500, height=375):
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    sink = BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(sink, "PNG")
    return sink.getvalue()


def ours(content, image):
    photo = decode(
        content, image.resize, image.crop, interpolation=image.interpolation, squash=image.aspect == "squash"
    )
    return photo.pixels.astype(int)


def levels(normalised, mean, std):
    """Whole levels of what a transform normalised."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (mean, std))
    return np.rint((np.asarray(normalised) * std + mean) * 255).astype(int)


TORCHVISION = {
    "resnet18": (256, 224, "bilinear"),
    "resnet50": (232, 224, "bilinear"),
    "efficientnet_b1@IMAGENET1K_V1": (256, 240, "bicubic"),
    "inception_v3": (342, 299, "bilinear"),
    "vit_b_16@IMAGENET1K_SWAG_E2E_V1": (384, 384, "bicubic"),
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("size", [(500, 375), (301, 487)])
def test_pixels_are_those_of_torchvisions_own_transform(name, size):
    from torchvision import models

    found = published_preprocessing(ModelSpec("m", f"torchvision:{name}"))
    assert (found.resize, found.crop, found.interpolation, found.aspect) == (*TORCHVISION[name], "keep")
    bare, _, tag = name.partition("@")
    preset = models.get_model_weights(bare)[tag or "DEFAULT"].transforms()
    content = picture(*size)
    theirs = preset(Image.open(BytesIO(content)))
    assert np.array_equal(ours(content, found), levels(theirs, preset.mean, preset.std))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_base_patch16_clip_224.openai", "resnet50.a1_in1k"])
def test_pixels_are_those_of_timms_own_transform(name):
    timm = pytest.importorskip("timm")
    found = published_preprocessing(ModelSpec("m", f"timm:{name}"))
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(), verbose=False)
    transform = timm.data.create_transform(**data)
    content = picture()
    theirs = levels(transform(Image.open(BytesIO(content))), data["mean"], data["std"])
    assert np.array_equal(ours(content, found), theirs)


def test_timms_squash_and_img_size():
    settings = {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"}
    assert of_timm(settings, {}) == ImageConfig(resize=224, crop=224, interpolation="bicubic", aspect="squash")
    assert of_timm(settings | {"crop_mode": "border"}, {}) is None
    found = of_timm(settings | {"crop_mode": "center", "crop_pct": 0.9}, {"img_size": 288})
    assert (found.resize, found.crop, found.aspect) == (320, 288, "keep")
    assert of_timm(settings | {"interpolation": "random"}, {}) is None


PROCESSORS = {
    "ViTImageProcessor": (224, 224, "bilinear", "squash"), "CLIPImageProcessor": (224, 224, "bicubic", "keep"),
    "ConvNextImageProcessor": (384, 384, "bicubic", "squash"), "DeiTImageProcessor": (256, 224, "bicubic", "squash"),
    "BitImageProcessor": (224, 224, "bicubic", "keep"), "SiglipImageProcessor": (224, 224, "bicubic", "squash"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processors_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name)()
    found = of_processor(processor)
    assert (found.resize, found.crop, found.interpolation, found.aspect) == PROCESSORS[name]
    content = picture()
    values = processor(images=Image.open(BytesIO(content)), return_tensors="pt")["pixel_values"][0]
    theirs = levels(torch.as_tensor(values), processor.image_mean, processor.image_std)
    assert np.abs(ours(content, found) - theirs).max() <= 2  # they resize tensors, whose filters round otherwise


def test_convnext_crops_below_384_px_and_odd_processors_say_nothing():
    class Processor:
        size, crop_pct, resample = {"shortest_edge": 224}, 224 / 256, 3

    found = of_processor(Processor())
    assert (found.resize, found.crop, found.interpolation, found.aspect) == (256, 224, "bicubic", "keep")
    for odd in ({"size": {"height": 224, "width": 160}}, {"size": None}, {"do_resize": False}, {"resample": 9},
                {"size": {"shortest_edge": 224, "longest_edge": 300}}, {"size": {"shortest_edge": 224}}):  # fmt: skip
        other = type("Odd", (), {"size": {"height": 224, "width": 224}, "crop_pct": None, "resample": 2, **odd})
        assert of_processor(other()) is None


@pytest.mark.parametrize(
    "builder", ["torchvision:resnet18@none", "timm:resnet18@none", "torchvision:resnet", "torchvision:resnet18@V9",
                "tests.toys:pooled", "timm:no_such_model", "nothing"]
)  # fmt: skip
def test_random_weights_own_builders_and_mistakes_say_nothing(builder):
    assert published_preprocessing(ModelSpec("m", builder)) is None
    assert published_preprocessing(ModelSpec("m", "torchvision:resnet18", weights="w.pth")) is None
