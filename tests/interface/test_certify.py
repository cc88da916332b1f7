"""Certificates in this process: `evaluate(certify=…)` and `camrobust explain PHOTO --certify`."""

import re

import pytest
import torch
from PIL import Image, ImageFont

import camrobust
from camrobust.contract.certificates import CERTIFICATE_KEYS, CERTIFICATES
from camrobust.contract.errors import UserError
from camrobust.interface import certified_grid
from camrobust.interface.picture_grid import CELL, LEFT, LINE, MARGIN, picture_grid
from camrobust.report.pictures import data_uri, decoded, membership
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


def test_explain_in_python_gives_the_rows_of_evaluate_and_draws_the_certain_segments():
    cams, network = ["gradcam", "random"], pooled().train()
    maps = camrobust.explain(network, photos(), cams, certify=ASKED)
    assert network.training
    rows = maps.certificates
    evaluated = camrobust.evaluate(pooled(), photos(), cams, ["contrast:1"], certify=ASKED).certificates
    assert rows.drop("membership").equals(evaluated.drop("membership"))
    assert rows["membership"].null_count() == 0
    plain = camrobust.explain(pooled(), photos(), cams)
    assert all(torch.equal(maps[name], plain[name]) for name in cams)
    page = maps._repr_html_()
    assert page.count("<img ") == 2 * (1 + 2 + 2)
    assert page.count("<th>gradcam: certain within 0 (sigma 0.02)</th>") == 1
    (of_last,) = rows.filter(image_id=rows["image_id"][-1], radius=0, sigma=0.02, cam="random").to_dicts()
    photo = (photos()[1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    drawn = membership(photo, decoded(of_last["membership"], "PNG", "L"))
    assert page.rindex(data_uri(drawn)) == page.rindex("data:")
    grid = maps.certain(1)
    # Below the photo and gradcam, in the first of four columns.
    top = MARGIN + 2 * (CELL + 2 * LINE + MARGIN)
    assert grid.crop((LEFT, top, LEFT + CELL, top + CELL)).tobytes() == drawn.resize((CELL, CELL)).tobytes()
    assert grid.width == LEFT + 4 * (CELL + MARGIN)
    assert plain.certificates is None
    assert "certain" not in plain._repr_html_()


def test_a_picture_has_one_sigma_unless_others_are_named_and_many_images_are_kept():
    few = {"samples": 3, "pilot": 1, "radii": [0.1]}
    maps = camrobust.explain(pooled(), photos(7), certify=few)
    assert set(maps.certificates["sigma"]) == {0.12}
    assert maps._repr_html_().count("<tr>") == 1 + 6
    assert maps.certain(6).width > maps.certain(6).height / 3
    for number in (7, -1):
        with pytest.raises(UserError, match=f"certain: image must be a number from 0 to 6, got {number}"):
            maps.certain(number)
    with pytest.raises(UserError, match="no certificates of these maps; call explain with certify=True"):
        camrobust.explain(pooled(), photos()).certain()
    with pytest.raises(UserError, match="targets: certify explains the class that most noisy copies are given; leave"):
        camrobust.explain(pooled(), photos(), targets=1, certify=few)
    with pytest.raises(UserError, match="occurs twice, and would count as one image; give it once"):
        camrobust.explain(pooled(), photos(1).expand(2, -1, -1, -1), certify=few)


def test_explain_draws_what_is_certain_below_the_maps(tmp_path, capsys, monkeypatch):
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
    told = []
    monkeypatch.setattr(
        certified_grid, "picture_grid", lambda names, columns: (told.extend(columns), picture_grid(names, columns))[1]
    )
    assert in_process.camrobust(capsys, *given, "--output", certified, *options, "tries=2")[0] == 0
    lines = [column[1].lines[-1] for column in told]
    assert re.fullmatch(r"seen: drawn again -?\d\.\d\d", lines[0])
    assert all(re.fullmatch(r"seen: attacked -?\d\.\d\d, random -?\d\.\d\d", line) for line in lines[1:])
    assert ImageFont.load_default(14).getlength("seen: attacked -0.00, random -0.00") < CELL
    with Image.open(certified) as seen:
        assert seen.height == other.height + 3 * LINE
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
