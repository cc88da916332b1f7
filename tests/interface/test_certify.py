"""Certificates in this process: `evaluate(certify=…)` and `camrobust explain PHOTO --certify`."""

import pytest
import torch
from PIL import Image

import camrobust
from camrobust.contract.certificates import CERTIFICATE_KEYS, CERTIFICATES
from camrobust.contract.errors import UserError
from tests import in_process
from tests.photos import write_photos
from tests.toys import pooled

ASKED = {"sigma": [0.02, 0.1], "samples": 30, "pilot": 3, "radii": [0.0, 0.1]}


def photos(count=2, side=64):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(side, side))


def test_evaluate_certifies_every_image_cam_sigma_and_radius(tmp_path):
    result = camrobust.evaluate(pooled(), photos(), ["gradcam", "random"], ["contrast:1"], certify=ASKED)
    rows = result.certificates
    assert rows.columns == [column.name for column in CERTIFICATES]
    assert rows.height == 2 * 2 * 2 * 2
    assert rows.select(CERTIFICATE_KEYS).is_unique().all()
    assert rows["membership"].null_count() == rows.height
    assert result.summary("certificates").height == 2 * 2 * 2
    assert result.summary().height == 2
    page = result.report(tmp_path / "page")
    assert '<h2 id="guarantees">Guarantees</h2>' in page.read_text("utf-8")
    assert result.chart("certified")
    alone = camrobust.evaluate(pooled(), photos(), ["gradcam", "random"], ["contrast:1"])
    assert alone.certificates is None
    assert alone.scores.equals(result.scores)
    with pytest.raises(UserError, match=r"summary: by must be one of by_level, .*, tests, got 'certificates'"):
        alone.summary("certificates")


def test_explain_draws_what_is_certain_below_the_maps(tmp_path, capsys):
    write_photos(tmp_path, 1, size=(80, 72))
    given = ["explain", tmp_path / "photo-000.jpg", "--model", "tests.toys:pooled", "--cam", "gradcam", "random",
             "--resize", "64", "--crop", "64"]  # fmt: skip
    plain, certified = tmp_path / "plain.png", tmp_path / "certified.png"
    assert in_process.camrobust(capsys, *given, "--output", plain)[0] == 0
    options = ["--certify", "samples=20", "pilot=2", "radii=[0, 0.1, 0.2]"]
    assert in_process.camrobust(capsys, *given, "--output", certified, *options)[0] == 0
    with Image.open(plain) as one, Image.open(certified) as other:
        assert other.height == 2 * one.height
        assert other.crop((0, 0, *one.size)).tobytes() == one.convert("RGB").tobytes()
    code, _, told = in_process.camrobust(capsys, *given, "--output", certified, "--certify", "samples")
    assert (code, told.strip().splitlines()[-1]) == (
        2, "camrobust: --certify: must be KEY=VALUE, got 'samples'; for example samples=500",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("certify", "sentence"),
    [
        (0.5, "certify: must be True, or keys as in a configuration, got 0.5; pass {'samples': 500}"),
        ({"sample": 5}, "config: certify: unknown key 'sample'; did you mean 'samples'?"),
        ({"alpha": 2}, "config: certify.alpha: must be a number above 0 and below 0.5, got 2"),
    ],
)
def test_mistakes_are_one_sentence(certify, sentence):
    with pytest.raises(UserError) as caught:
        camrobust.evaluate(pooled(), photos(1), certify=certify)
    assert str(caught.value).startswith(sentence)
