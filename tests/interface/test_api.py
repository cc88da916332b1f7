import re
import shutil
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import camrobust
from camrobust.contract.errors import UserError
from camrobust.contract.schema import SCORES, SIMILARITIES
from camrobust.core.explain.cams import CAMS
from camrobust.core.segments import quickshift
from camrobust.interface.maps import Maps
from camrobust.measure.model import wrap
from tests.photos import write_photos
from tests.toys import Pooled, Viewing, pooled, seeded

SIMILAR = [column.name for column in SIMILARITIES]
EVERY = [one.name for one in CAMS if one.needs != "attention"]


def images(count=3, size=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def test_evaluate_gives_the_schemas_rows_and_puts_the_model_back():
    model = pooled().train()
    result = camrobust.evaluate(model, images(), cams=["gradcam", "random"], labels=[1, 2, 3])
    assert result.scores.columns == [column.name for column in SCORES]
    assert result.scores.height == 3 * 2 * 5
    assert result.scores["label"].unique().sort().to_list() == [1, 2, 3]
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert result.summary().height == 2
    assert result.summary("by_dataset")["n_pairs"].to_list() == [15]
    with pytest.raises(UserError, match="summary: by must be one of by_level"):
        result.summary("by_cams")


def test_evaluate_is_the_same_for_one_image_and_many():
    model = pooled()
    together = camrobust.evaluate(model, images(), seed=3).scores
    again = camrobust.evaluate(model, images(), seed=3).scores
    assert together.equals(again)
    alone = camrobust.evaluate(model, images()[:1], seed=3).scores
    first = together.filter(pl.col("image_id") == alone["image_id"][0])
    assert first["image_id"].to_list() == together["image_id"][:5].to_list()
    np.testing.assert_allclose(alone["rbo"].to_numpy(), first["rbo"].to_numpy(), atol=1e-4)


def test_every_row_tells_how_sure_the_model_is_of_the_clean_image():
    model, given = pooled(), images(2)
    noise = ["contrast:3", "contrast:5"]
    scores = camrobust.evaluate(model, given, perturbations=noise, image_ids=["0", "1"]).scores
    inputs = wrap(model, image_size=96).normalise((given * 255).round().to(torch.uint8))
    sure = model(inputs).softmax(dim=1)
    wanted = pl.DataFrame({"image_id": ["0", "1"], "entropy": (-sure * sure.log()).sum(dim=1).numpy(),
                           "confidence": sure.amax(dim=1).numpy()})  # fmt: skip
    joined = scores.join(wanted, on="image_id")
    assert joined.height == 4
    np.testing.assert_allclose(joined["entropy_clean"], joined["entropy"], rtol=1e-5)
    np.testing.assert_allclose(joined["confidence_clean"], joined["confidence"], rtol=1e-5)


def test_evaluate_takes_files_and_arrays(tmp_path):
    write_photos(tmp_path, 2)
    files = sorted(tmp_path.iterdir())
    scores = camrobust.evaluate(pooled(), files, perturbations=["contrast:3"]).scores
    assert [name.rpartition("@")[0] for name in scores["image_id"]] == [file.name for file in files]
    arrays = [image.numpy() for image in images(2)]
    assert camrobust.evaluate(pooled(), arrays, perturbations=["contrast:3"]).scores.height == 2


def test_evaluate_cuts_images_as_asked_and_records_how_many_segments_each_has():
    def segments(**given):
        return camrobust.evaluate(pooled(), images(2), perturbations=["contrast:3"], **given).scores["n_segments"]

    assert segments(segments={"method": "grid", "cells": 5}).unique().to_list() == [25]
    wanted = [int(labels.max()) + 1 for labels in quickshift((images(2) * 255).round().to(torch.uint8), max_dist=5)]
    assert segments(segments={"max_dist": 5}).to_list() == wanted
    with pytest.raises(UserError, match="unknown segmenter 'gird'; did you mean 'grid'"):
        segments(segments={"method": "gird"})


def test_measures_that_were_not_asked_for_are_null():
    few = camrobust.evaluate(pooled(), images(1), perturbations=["contrast:5"], similarities=["ssim"]).scores
    usual = camrobust.evaluate(pooled(), images(1), perturbations=["contrast:5"]).scores
    assert few.columns == usual.columns
    empty = {name for name in SIMILAR if few[name].null_count() == few.height}
    assert empty == {*SIMILAR} - {"rbo", "rbo_adjusted", "ssim"}
    assert {name for name in SIMILAR if usual[name].null_count() == usual.height} == {"ssim", "procrustes"}
    with pytest.raises(UserError, match="unknown similarity 'sim'; did you mean 'ssim'"):
        camrobust.evaluate(pooled(), images(1), similarities=["sim"])


def test_explain_gives_maps_of_one_pass(brief):
    model = pooled()
    maps = camrobust.explain(model, images(2), cams=EVERY)
    assert list(maps) == EVERY
    assert all(value.shape == maps["gradcam"].shape for value in maps.values())
    first = camrobust.explain(model, images(2), targets=[0, 0])["gradcam"]
    other = camrobust.explain(model, images(2), targets=[1, 1])["gradcam"]
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: camrobust.explain(pooled(), torch.zeros(3, 96, 96)),
            "images: must have the shape (B, 3, H, W), got (3,",
        ),
        (
            lambda: camrobust.explain(pooled(), images(2), targets=[1]),
            "targets: must be one per image (2), got 1; pass one number for all of them, or a list",
        ),
        (lambda: camrobust.evaluate(pooled(), images(2), labels=[1]), "labels: must be one per image (2), got 1; pass"),
    ],
)
def test_mistakes_in_values(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()


def test_mistakes_in_names_and_files(tmp_path):
    with pytest.raises(UserError, match="unknown CAM 'gradcm'; did you mean 'gradcam'"):
        camrobust.evaluate(pooled(), images(1), cams=["gradcm"])
    (tmp_path / "x.jpg").write_text("no")
    with pytest.raises(UserError, match=r"x\.jpg' cannot be used: not an image that Pillow can read"):
        camrobust.evaluate(pooled(), [tmp_path / "x.jpg"])
    with pytest.raises(UserError, match="images: must hold at least one image, got none"):
        camrobust.evaluate(pooled(), [])


def test_overlay_is_a_picture_of_the_images_size():
    pixels = images(1)[0]
    values = torch.rand(7, 7)
    picture = camrobust.overlay(pixels, values)
    assert picture.size == (96, 96)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(picture), np.asarray(camrobust.overlay(array, values.numpy())))
    assert np.array_equal(np.asarray(picture), np.asarray(camrobust.overlay(Image.fromarray(array), values)))
    plain = np.asarray(camrobust.overlay(pixels, values, strength=0))
    assert np.array_equal(plain[..., 0], plain[..., 1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (np.zeros((3, 9, 9), np.uint8), torch.rand(2, 2)),
            "image: must be (H, W, 3) uint8, got (3, 9, 9) uint8; pass",
        ),
        ((torch.rand(3, 9, 9), torch.rand(1, 2, 2)), "values: must be one map (h, w), got (1, 2, 2); choose one of"),
        ((torch.rand(3, 9, 9), torch.rand(2, 2), 2), "strength: must be in [0, 1], got 2"),
    ],
)
def test_overlay_says_what_it_cannot_draw(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        camrobust.overlay(*arguments)


@pytest.mark.gpu
def test_maps_and_scores_on_the_gpu_equal_the_cpus():
    on_cpu = camrobust.explain(pooled(), images(4), cams=EVERY)
    on_gpu = camrobust.explain(pooled().cuda(), images(4), cams=EVERY)
    for name, values in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), values, rtol=1e-3, atol=1e-4)


def test_all_of_imagenet_c_and_a_sequence_are_measured(tmp_path):
    write_photos(tmp_path, 1)
    perturbations = ["preset:imagenet-c", {"compose": ["fog:1", "gaussian_noise:2"], "replicates": 2}]
    scores = camrobust.evaluate(
        pooled(), [tmp_path / "photo-000.jpg"], perturbations=perturbations, resize=64, crop=64, resave_jpeg_quality=85
    ).scores
    assert scores.height == 77
    composed = scores.filter(pl.col("perturbation") == "fog+gaussian_noise")
    assert composed["strength"].to_list() == ["amount=1.5,decay=2+sigma=0.12"] * 2
    assert composed["replicate"].to_list() == [0, 1]
    assert composed["severity"].to_list() == [None, None]
    assert composed["confidence_perturbed"].n_unique() == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cams": ["gradcam", "gradcam"]}, "cams: must be one or more different names, got 'gradcam' twice"),
        ({"cams": []}, "cams: must be one or more different names, got none"),
        (
            {"resave_jpeg_quality": 101},
            "resave_jpeg_quality: must be a whole number from 1 to 100 (JPEG quality), got 101",
        ),
        ({"explained_class": "other"}, "explained_class: must be one of predicted, clean, label, got 'other'"),
        ({"precision": "fp8"}, "precision: must be one of fp32, tf32, bf16, fp16, got 'fp8'"),
        ({"segments": "slick"}, "did you mean 'slic'?"),
    ],
)
def test_evaluate_refuses_what_a_configuration_refuses(given, sentence):
    with pytest.raises((UserError, KeyError), match=re.escape(sentence)):
        camrobust.evaluate(pooled(), images(1), **{"cams": ["gradcam"], **given})


def test_an_image_given_twice_is_refused(tmp_path):
    write_photos(tmp_path, 1)
    path = tmp_path / "photo-000.jpg"
    with pytest.raises(UserError, match="occurs twice, and would count as one image; give it once"):
        camrobust.evaluate(pooled(), [path, path])


def test_an_evaluation_draws_itself_and_hostile_names_are_text():
    result = camrobust.evaluate(pooled(), images(2), cams=["gradcam", "random"], perturbations=["gaussian_noise:1-3"])
    named = result.scores.with_columns(model=pl.lit("<script>alert(1)</script>"), dataset=pl.lit('"<b>&$x$\u202e'))
    page = replace(result, scores=named)._repr_html_()
    assert "<script" not in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page
    assert r"<td>&quot;&lt;b&gt;&amp;$x$\u202e</td>" in page
    # A notebook sets what stands between two $ as a formula, but not in here.
    assert page.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert page.count("<svg") == 1
    by_parameter = camrobust.evaluate(pooled(), images(2), perturbations=["gaussian_noise:sigma=0.1"])
    assert "<svg" not in by_parameter._repr_html_()


def test_maps_draw_themselves_over_the_first_images():
    maps = camrobust.explain(pooled(), images(8), cams=["gradcam", "eigencam"])
    page = maps._repr_html_()
    assert page.count("<tr>") == 1 + 6
    assert page.count("<img ") == 6 * 3
    assert 'alt="image 0, eigencam"' in page
    assert "<script" not in page
    shown = Maps({"<b>": maps["gradcam"]}, images(1))._repr_html_()
    assert "<th>&lt;b&gt;</th>" in shown
    drawn = Image.open(BytesIO(b64decode(page.split("base64,")[2].split('"')[0])))
    wanted = camrobust.overlay(images(1)[0], maps["gradcam"][0])
    assert np.abs(np.asarray(drawn, float) - np.asarray(wanted, float)).mean() < 3


def test_photos_are_taken_as_a_folder_paths_or_pictures(tmp_path):
    write_photos(tmp_path, 2)
    files = sorted(tmp_path.iterdir())
    pictures = [Image.open(file).convert("RGB") for file in files]
    settings = {"perturbations": "contrast:3", "cams": "gradcam", "resize": 64, "crop": 64}
    tables = [
        camrobust.evaluate(pooled(), given, **settings).scores.drop("image_id")
        for given in (tmp_path, str(tmp_path), files, pictures)
    ]
    for table in tables[1:]:
        assert table.equals(tables[0])
    maps = [
        camrobust.explain(pooled(), given, "gradcam", resize=64, crop=64)["gradcam"]
        for given in (tmp_path, files, pictures)
    ]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    assert camrobust.overlay(files[0], maps[0][0]).size == (224, 224)
    with pytest.raises(UserError, match=r"images: there is no file .*nothing\.jpg; correct the path"):
        camrobust.explain(pooled(), [tmp_path / "nothing.jpg"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"images": images(2) * 255},
            r"images: must be uint8 or in \[0, 1\], before normalisation, got .* divide by 255",
        ),
        ({"images": (images(2) - 0.5) / 0.2}, "before normalisation"),
        ({"mean": (114.0,) * 3}, r"mean and std must be those of pixels in \[0, 1\], got 114, 114, 114"),
        ({"std": (0.2, 0.2, 0.0)}, "mean and std must be"),
        ({"labels": ["cat", "dog"]}, "labels: must be class numbers from 0 to 9, got 'cat'"),
        ({"labels": [float("inf"), 1]}, "labels: must be class numbers from 0 to 9, got inf"),
        ({"labels": [0.5, 1]}, "labels: must be class numbers from 0 to 9, got 0.5"),
        ({"labels": [3, 10]}, "labels: must be class numbers from 0 to 9, got 10"),
        ({"labels": [-1, True]}, "labels: must be class numbers from 0 to 9, got -1"),
        ({"images": images(2)[:0]}, "images: must hold at least one image"),
        ({"images": [(images(2)[0], 3)]}, "images: each must be a path, a picture, an array or a tensor, got tuple"),
        ({"resave_jpeg_quality": 85.5}, "resave_jpeg_quality: must be a whole number from 1 to 100"),
    ],
)
def test_pixels_and_labels_of_another_kind_are_refused(settings, sentence):
    given = {"images": images(2), "perturbations": ["contrast:3"], **settings}
    with pytest.raises((UserError, ValueError, TypeError), match=sentence):
        camrobust.evaluate(pooled(), **given)


def test_explain_refuses_normalised_pixels_too():
    with pytest.raises(ValueError, match=r"images: must be uint8 or in \[0, 1\], before normalisation"):
        camrobust.explain(pooled(), (images(2) - 0.5) / 0.2)


def test_a_model_that_views_its_feature_map_is_measured_with_channels_first():
    module = seeded(Viewing())
    assert not wrap(module, image_size=96).channels_last
    assert wrap(seeded(Pooled()), image_size=96).channels_last
    scores = camrobust.evaluate(module, images(2), cams=["gradcam"], perturbations=["contrast:3"]).scores
    wanted = camrobust.evaluate(seeded(Pooled()), images(2), cams=["gradcam"], perturbations=["contrast:3"]).scores
    assert scores["status"].to_list() == ["ok"] * 2
    np.testing.assert_allclose(scores["cosine"], wanted["cosine"], rtol=1e-4)


def test_pictures_are_turned_upright_and_converted_as_files_are(tmp_path):
    write_photos(tmp_path, 1)
    file = tmp_path / "photo-000.jpg"
    with Image.open(file) as picture:
        turned = picture.getexif()
        turned[0x0112] = 6
        picture.save(tmp_path / "turned.jpg", exif=turned)
        picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("turned.jpg", "cmyk.jpg"):
        with Image.open(tmp_path / name) as picture:
            found = camrobust.explain(pooled(), [picture])["gradcam"]
            assert torch.equal(found, camrobust.explain(pooled(), picture)["gradcam"])
        assert torch.equal(found, camrobust.explain(pooled(), tmp_path / name)["gradcam"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"must have the shape \(3, H, W\), got \(32, 32, 3\); put colours first"),
        ([np.zeros((3, 32, 32), np.uint8), np.zeros((3, 32, 48), np.uint8)], "arrays must all have one size"),
        (torch.full((1, 3, 32, 32), torch.nan), "before normalisation, got nan"),
    ],
)
def test_arrays_that_are_no_batch_of_images_are_refused(given, sentence):
    with pytest.raises((UserError, ValueError), match=sentence):
        camrobust.evaluate(pooled(), given)


def test_a_crop_larger_than_the_photo_is_refused(tmp_path):
    write_photos(tmp_path, 1)
    with pytest.raises(UserError, match="crop must be from 8 px to resize"):
        camrobust.evaluate(pooled(), tmp_path, resize=100)


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_wherever_they_are_called(outside):
    module, photos = pooled(), images(1)

    def everything():
        made = camrobust.attack(module, photos, "fgsm:3")
        maps = camrobust.explain(module, photos * 1, ["gradcam", "smoothgradcam++"])
        found = camrobust.evaluate(module, photos, perturbations=["contrast:3", "cam_attack:1"]).scores
        return made, torch.stack([*maps.values()]), found, camrobust.minimal_eps(module, photos, most=2, steps=2)

    wanted = everything()
    with outside():
        found = everything()
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert found[2].equals(wanted[2])
    assert found[3] == wanted[3]


def test_scores_of_files_do_not_depend_on_where_they_lie(tmp_path, monkeypatch):
    noise = ["gaussian_noise:3"]
    write_photos(tmp_path / "one", 2)
    shutil.copytree(tmp_path / "one", tmp_path / "other" / "place")
    one, other = tmp_path / "one", tmp_path / "other" / "place"
    wanted = camrobust.evaluate(pooled(), one, perturbations=noise).scores
    assert wanted["image_id"].to_list() == ["photo-000.jpg", "photo-001.jpg"]
    assert camrobust.evaluate(pooled(), other, perturbations=noise).scores.equals(wanted)
    named = [*wanted["image_id"]]
    files = sorted(other.iterdir())
    assert camrobust.evaluate(pooled(), files, perturbations=noise, image_ids=named).scores.equals(wanted)
    listed = camrobust.evaluate(pooled(), sorted(one.iterdir()), perturbations=noise).scores
    assert camrobust.evaluate(pooled(), [*map(str, files)], perturbations=noise).scores.equals(listed)
    monkeypatch.chdir(other)
    assert camrobust.evaluate(pooled(), "photo-001.jpg", perturbations=noise).scores.equals(listed[1:])
    twins = [one / "photo-000.jpg", other / "photo-000.jpg"]
    sentence = (
        rf"^images: '{listed['image_id'][0]}' occurs twice, and would count as one image; give it once, or tell the "
        "two apart by image_ids$"
    )
    with pytest.raises(UserError, match=sentence):
        camrobust.evaluate(pooled(), twins, perturbations=noise)
    told_apart = camrobust.evaluate(pooled(), twins, perturbations=noise, image_ids=["a", "b"]).scores
    assert told_apart["rbo"].n_unique() == 2


def test_a_files_draws_do_not_depend_on_what_else_is_in_the_call(tmp_path):
    for number, name in enumerate(("da", "db")):
        write_photos(tmp_path / name, 1, seed=number)
        (tmp_path / name / "photo-000.jpg").rename(tmp_path / name / "x.JPEG")
    files = [tmp_path / name / "x.JPEG" for name in ("da", "db")]
    noise = {"perturbations": ["gaussian_noise:3"], "cams": ["gradcam", "random"]}
    both = camrobust.evaluate(pooled(), files, **noise).scores
    first, second = (camrobust.evaluate(pooled(), [file], **noise).scores for file in files)
    assert pl.concat([first, second]).equals(both)
    assert first["image_id"][0] != second["image_id"][0]
    assert all(re.fullmatch(r"x\.JPEG@[0-9a-f]{12}", name) for name in both["image_id"])


@pytest.mark.parametrize("given", [images(4), [*images(4)], [one.numpy() for one in images(4)]])
def test_a_tensors_draws_do_not_depend_on_its_place(given):
    noise = {"perturbations": ["gaussian_noise:3"], "cams": ["gradcam", "random"]}
    every = camrobust.evaluate(pooled(), given, **noise).scores
    assert every["image_id"].n_unique() == 4
    assert camrobust.evaluate(pooled(), given[2:], **noise).scores.equals(every[4:])
    alone = camrobust.evaluate(pooled(), given[3:], **noise, image_ids=["3"]).scores
    assert not alone["rbo"].equals(every["rbo"][6:])
    maps = camrobust.explain(pooled(), given, "random")["random"]
    assert torch.equal(camrobust.explain(pooled(), given[1:], "random")["random"], maps[1:])
    assert torch.equal(camrobust.attack(pooled(), given[1:], "pgd:3"), camrobust.attack(pooled(), given, "pgd:3")[1:])
    named = camrobust.attack(pooled(), given, "pgd:3", image_ids=[*"abcd"])
    assert torch.equal(camrobust.attack(pooled(), given[3:], "pgd:3", image_ids=["d"]), named[3:])
    assert not torch.equal(named, camrobust.attack(pooled(), given, "pgd:3"))


def test_the_same_pixels_are_one_image_to_evaluate_and_have_one_map(tmp_path):
    twice = images(1).expand(2, 3, 96, 96)
    with pytest.raises(UserError, match=r"^images: '[0-9a-f]{16}' occurs twice, and would count as one image; give it"):
        camrobust.evaluate(pooled(), twice)
    first, second = camrobust.explain(pooled(), twice, "random")["random"]
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("image_ids", "sentence"),
    [
        (["a"], "image_ids: must be one per image (2), got 1; name every image"),
        ("ab", "image_ids: must be one per image (2), got 1; name every image"),
        (["a", ""], "image_ids: each must be a text that is not empty, got ''; name every image"),
        (["a", 3], "image_ids: each must be a text that is not empty, got 3; name every image"),
        (["a", "a"], "image_ids: 'a' occurs twice; give each image its own"),
        (["a", "\udce9"], "image_ids: '\\udce9' is not valid UTF-8; write it otherwise"),
    ],
)
def test_ids_are_one_text_of_its_own_for_each_image(image_ids, sentence):
    for verb in (camrobust.evaluate, camrobust.explain, camrobust.attack, camrobust.minimal_eps):
        with pytest.raises((UserError, ValueError), match=f"^{re.escape(sentence)}$"):
            verb(pooled(), images(2), image_ids=image_ids)


def test_logits_that_are_no_numbers_are_no_prediction():
    module = seeded(Pooled())
    module.fc.bias.data[3] = torch.nan
    scores = camrobust.evaluate(module, images(1), cams=["gradcam", "random"], perturbations=["contrast:3"]).scores
    assert set(scores["status"]) == {"not_finite"}
    assert scores["rbo"].null_count() == scores.height


def test_classes_to_explain_are_checked_and_lists_of_one_are_lists():
    with pytest.raises(UserError, match="targets: must be class numbers from 0 to 9, got 10"):
        camrobust.explain(pooled(), images(1), targets=[10])
    with pytest.raises(UserError, match="cams: must be one or more different names, got none"):
        camrobust.explain(pooled(), images(1), cams=[])
    with pytest.raises(
        UserError, match=r"minimal_eps: most must be 1 to 255 and steps at least 1, both whole, got 2\.5"
    ):
        camrobust.minimal_eps(pooled(), images(1), most=2.5)
    with pytest.raises(UserError, match="minimal_eps: cam must be differentiable, got 'random'; choose one of cam, "):
        camrobust.minimal_eps(pooled(), images(1), cam="random")
    found = camrobust.evaluate(pooled(), images(1), perturbations=["contrast:3"], similarities="kendall").scores
    assert found["kendall"].null_count() == 0
    for labels in ([3, None], np.array([3, 4]), torch.tensor([3, 4])):
        scores = camrobust.evaluate(pooled(), images(2), perturbations=["contrast:3"], labels=labels).scores
        assert scores["label"].to_list() == [3, None if labels[1] is None else 4]
    mean = np.array([0.5, 0.5, 0.5])
    assert torch.equal(
        camrobust.explain(pooled(), images(1), mean=mean)["gradcam"],
        camrobust.explain(pooled(), images(1), mean=(0.5, 0.5, 0.5))["gradcam"],
    )
