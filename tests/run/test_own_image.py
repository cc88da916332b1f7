"""Which size and filter a run's images have where its configuration says none."""

import json

import pytest

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.results.reduce import check_combinable
from camrobust.run.own_image import with_own_image
from tests.documents import VARIANT, run_document, run_record


def config(folder, *builders, **changes):
    data = {
        "output": str(folder / "out"), "datasets": [{"name": "d", "images": "photos"}], "models": list(builders),
        "cams": ["gradcam"], "perturbations": ["contrast:1"],
    }  # fmt: skip
    return parse_config(data | changes)


def test_models_that_want_the_same_give_the_run_their_size_and_filter(tmp_path):
    found, source = with_own_image(config(tmp_path, "torchvision:inception_v3"))
    assert (found.image.in_words, source) == ("resize 342 px, crop 299 px, bilinear", "weights")
    pair = config(tmp_path, "torchvision:resnet18", "torchvision:squeezenet1_1", "torchvision:densenet121")
    found, source = with_own_image(pair)
    assert (found.image.in_words, source) == ("resize 256 px, crop 224 px, bilinear", "weights")
    assert found.digest() == pair.digest()  # runs of earlier versions go on


def test_models_that_differ_are_refused_with_the_sentence_that_makes_two_runs(tmp_path):
    with pytest.raises(UserError) as caught:
        with_own_image(config(tmp_path, "torchvision:resnet18", "torchvision:inception_v3"))
    assert str(caught.value) == (
        "models: 'resnet18' wants images of resize 256 px, crop 224 px, bilinear, and 'inception_v3' resize 342 px, "
        "crop 299 px, bilinear, but a run perturbs its images once for all models; make a run of each, which camrobust "
        "aggregate pools, or set image for both"
    )
    with pytest.raises(
        UserError, match="bilinear, and 'efficientnet_b0' resize 256 px, crop 224 px, bicubic, but a run"
    ):
        with_own_image(config(tmp_path, "torchvision:resnet18@none", "torchvision:efficientnet_b0"))


@pytest.mark.parametrize("image", [{"resize": 256, "crop": 224}, {"crop": 64}, {"interpolation": "bicubic"}])
def test_what_the_configuration_says_is_kept(image, tmp_path):
    given = config(tmp_path, "torchvision:resnet18", "torchvision:inception_v3", image=image)
    assert with_own_image(given) == (given, "configuration")


def test_without_published_weights_it_is_256_and_224(tmp_path):
    for builder in ("tests.toys:pooled", "torchvision:inception_v3@none"):
        given = config(tmp_path, builder)
        assert with_own_image(given) == (given, "default")
        assert given.image.in_words == "resize 256 px, crop 224 px, bilinear"
    of_file = config(tmp_path, {"builder": "torchvision:inception_v3", "weights": "w.pth"})
    assert with_own_image(of_file)[1] == "default"


def test_channels_alone_leave_size_and_filter_to_the_weights(tmp_path):
    found, _ = with_own_image(config(tmp_path, "torchvision:inception_v3", image={"channels": 3}))
    assert (found.image.crop, found.image.channels) == (299, 3)


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"resize": 256, "crop": 224}, "resize 256 px, crop 224 px, bilinear"),
        ({"resize": 320, "crop": 300, "interpolation": "lanczos"}, "resize 320 px, crop 300 px, lanczos"),
        ({"resize": "\x1b[2J"}, "resize 256 px, crop 224 px, bilinear"),
    ],
)
def test_a_run_that_has_begun_keeps_its_images_and_its_digest(recorded, words, tmp_path):
    given = config(tmp_path, "torchvision:inception_v3")
    document = run_document(3) | {"numbers": given.numbers() | {"image": recorded}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps(document))
    assert with_own_image(given)[0].image.in_words == words
    assert with_own_image(given, fresh=True)[0].image.crop == 299


def record(model, image, source="weights"):
    document = run_document(2, models=(model,), variants=[VARIANT])
    numbers = document["numbers"] | {"image": image}
    return run_record(2, models=(model,), numbers=numbers, preprocessing={model: {**image, "source": source}})


SMALL, LARGE = {"resize": 256, "crop": 224}, {"resize": 342, "crop": 299, "interpolation": "bicubic"}


def test_runs_of_models_with_their_own_sizes_are_pooled(tmp_path):
    check_combinable({"a": record("m", SMALL), "b": record("n", LARGE)})
    for one, other in (
        (record("m", SMALL), record("m", LARGE)),
        (record("m", SMALL), record("n", LARGE, "configuration")),
        (record("m", SMALL), record("n", SMALL | {"channels": 1})),
    ):
        with pytest.raises(UserError, match=r"cannot be combined \(different: image"):
            check_combinable({"a": one, "b": other})
