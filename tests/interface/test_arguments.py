"""Arguments of the Python functions in the forms in which people give them; the others are one sentence."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import camrobust
from camrobust.contract.errors import UserError
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model
from tests.toys import Dense, Pooled, lazy, pooled, seeded

NETWORK = seeded(Pooled())
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def explained(model=NETWORK, **arguments):
    return camrobust.explain(model, IMAGES, **arguments)["gradcam"]


@pytest.mark.parametrize("three", [3, np.int64(3), torch.tensor(3), np.array([3, 3]), (3, 3)])
def test_one_class_for_all_images(three):
    torch.testing.assert_close(explained(targets=three), explained(targets=[3, 3]))
    assert not torch.equal(explained(targets=three), explained(targets=[4, 4]))


@pytest.mark.parametrize("form", ["{}", "[{}]", "nn.DataParallel"])
def test_a_layer_may_be_given_itself(form):
    module = seeded(Dense())
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = nn.DataParallel(module) if form == "nn.DataParallel" else module
    layer = [module.stem] if form == "[{}]" else module.stem
    found = camrobust.explain(model, images, target_layer=layer)["gradcam"]
    torch.testing.assert_close(found, camrobust.explain(module, images, target_layer="stem")["gradcam"])
    assert found.shape[1:] == (28, 28)


def test_a_normalisation_beside_a_name_is_used():
    name, given = "tests.toys:pooled", {"mean": [0.1, 0.2, 0.3], "std": np.array([0.4, 0.5, 0.6])}
    wanted = explained(pooled(), **given)
    torch.testing.assert_close(explained(name, **given), wanted)
    assert not torch.allclose(explained(name), wanted)
    adversarial = camrobust.attack(name, IMAGES, "fgsm:3", **given)
    assert torch.equal(adversarial, camrobust.attack(pooled(), IMAGES, "fgsm:3", **given))
    noise = ["gaussian_noise:3"]
    rows = [camrobust.evaluate(model, IMAGES, perturbations=noise, **given).scores for model in (name, pooled())]
    assert rows[0]["rbo"].to_list() == rows[1]["rbo"].to_list()


MEAN = (
    "mean: must be a list of numbers, one per channel of pixels in [0, 1], got {}; write mean=(0.5, 0.5, 0.5) for the "
    "same one in all three"
)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mean": 0.5}, MEAN.format("0.5")),
        (
            {"std": (0.5, 0.5)},
            "model 'model': mean and std must have one value for each channel, got 0.485, 0.456, 0.406 and 0.5, 0.5; "
            "name both",
        ),
        ({"mean": "imagenet"}, MEAN.format("'imagenet'")),
        ({"mean": [0.5, 0.5, float("nan")]}, MEAN.format("[0.5, 0.5, nan]")),
        ({"std": 1}, MEAN.replace("mean", "std").format("1")),
        ({"targets": [3]}, "targets: must be one per image (2), got 1; pass one number for all of them, or a list"),
        ({"image_ids": 3}, "image_ids: must be one per image (2), got int 3; name every image"),
        (
            {"target_layer": nn.ReLU()},
            "target_layer: this ReLU is not a submodule of the model; take one of model.named_modules(), or its dotted "
            "name",
        ),
        (
            {"target_layer": ["features", "fc"]},
            "target_layer: must be one layer, got a list of 2; explain one after the other, or list the model in a "
            "configuration once for each, under different names",
        ),
        (
            {"model": lazy()},
            "model 'model': the network has layers without a shape (torch.nn.Lazy…); pass an image through the network "
            "before",
        ),
        (
            {"model": load_model(ModelSpec("m", "tests.toys:pooled"), image_size=64), "mean": (0.5, 0.5, 0.5)},
            "model: one that is ready has its own target_layer, mean and std; leave them out",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_mistake_is_one_sentence(arguments, sentence):
    with pytest.raises((UserError, ValueError), match=f"^{re.escape(sentence)}$"):
        explained(**arguments)


def test_what_is_no_layer_is_a_wrong_type():
    with pytest.raises(
        TypeError, match="target_layer: must be a submodule of the model or its dotted name, got <class"
    ):
        explained(target_layer=3)


def test_one_label_for_all_images_is_not_taken():
    with pytest.raises(ValueError, match=re.escape("labels: must be one per image (2), got int 3; pass None where")):
        camrobust.evaluate(NETWORK, IMAGES, labels=3)
