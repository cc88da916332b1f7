import pytest

from camrobust.contract.config_file import parse_config
from camrobust.measure.built import ModelSpec
from camrobust.run.class_names import class_names
from camrobust.run.plan import make_plan
from camrobust.run.tried_models import check_models
from tests.photos import write_photos


@pytest.mark.parametrize(
    ("builder", "weights", "arguments", "known"),
    [
        ("torchvision:resnet50", None, {}, True),
        ("torchvision:resnet50@IMAGENET1K_V2", None, {}, True),
        ("timm:resnet10t", None, {}, True),
        ("torchvision:resnet50@none", None, {}, False),
        ("timm:resnet10t@none", None, {}, False),
        ("torchvision:resnet50", "mine.pth", {}, False),
        ("torchvision:resnet50@IMAGENET1K_V2", "mine.pth", {}, False),
        ("timm:resnet10t", None, {"checkpoint_path": "mine.pth"}, False),
        ("tests.toys:pooled", None, {}, False),
    ],
)
def test_only_published_weights_say_what_the_classes_are(builder, weights, arguments, known):
    spec = ModelSpec("m", builder, weights, arguments=arguments)
    names = class_names(spec, None, 1000)
    assert names[282:283] == (["tiger cat"] if known else [])
    assert class_names(spec, None, 10) == []
    assert class_names(spec, "imagenet", 1000)[282] == "tiger cat"


def test_names_come_from_a_list_or_a_file(tmp_path):
    spec = ModelSpec("m", "torchvision:resnet50", "mine.pth")
    assert class_names(spec, ("ant", "bee"), 2) == ["ant", "bee"]
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffant\r\n\r\n bee\u2028x \r\n\r\n".encode())
    assert class_names(spec, str(path), 3) == ["ant", "", "bee\u2028x"]
    path.write_text("")
    assert class_names(spec, str(path), 0) == []


def test_names_are_found_when_a_run_begins_and_are_no_part_of_its_digest(tmp_path):
    write_photos(tmp_path / "photos", 1)
    data = {
        "output": str(tmp_path / "out"),
        "datasets": [{"name": "d", "images": str(tmp_path / "photos")}],
        "cams": ["gradcam"],
        "perturbations": ["contrast:1"],
    }
    model = {"name": "m", "builder": "tests.toys:pooled"}
    plain, named = (parse_config(data | {"models": [one]}) for one in (model, model | {"classes": list("abcdefghij")}))
    assert plain.digest() == named.digest()
    assert check_models(make_plan(plain))["m"]["class_names"] == []
    assert check_models(make_plan(named))["m"]["class_names"] == list("abcdefghij")
