"""Networks of one, two and four channels: in Python, on the command line, and in a whole run."""

import re
from io import BytesIO

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import relu

import camrobust
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.hooks import hooked
from camrobust.interface.cli import main
from camrobust.results.folder import open_run
from camrobust.run.plan import make_plan
from camrobust.run.stages.batches import pending_batch, tensors_of
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb
from tests import in_process
from tests.runs import KEYS, report, scores
from tests.toys import channelled, normalised

SIDE = 64
ONE = {"mean": (0.4,), "std": (0.2,)}


def radiographs(count=2, channels=1):
    """16 bits, smooth."""
    coarse = np.random.default_rng(0).random((count, channels, 6, 6)).astype(np.float32)
    planes = [[np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in image] for image in coarse]
    return np.rint(np.array(planes).clip(0, 1) * 65535).astype(np.uint16)


def normalisation(channels):
    return {"mean": (0.4,) * channels, "std": (0.2,) * channels}


def plain_gradcam(net, images, mean, std):
    """Grad-CAM by plain autograd in float64, through nothing of ours."""
    net = net.double()
    activations = net.features((images - mean) / std)
    activations.retain_grad()
    logits = net.fc(net.pool(activations).flatten(1))
    logits.amax(dim=1).sum().backward()
    return relu((activations.grad.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)).detach()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_maps_of_16_bit_images_equal_plain_autograd(channels):
    given = radiographs(channels=channels)
    images = torch.from_numpy(given.astype(np.float64)) / 65535
    wanted = plain_gradcam(channelled(channels), images, 0.4, 0.2)
    for form in (list(given), images.float(), torch.from_numpy(given)):
        maps = camrobust.explain(channelled(channels), form, "gradcam", "features", **normalisation(channels))
        torch.testing.assert_close(maps["gradcam"].double(), wanted, atol=2e-6, rtol=1e-5)
    assert maps._repr_html_().count("<img") >= 2


def test_every_cam_sees_one_channel_as_three_equal_ones():
    """A twin whose first weights are a third, shown the grey photo, has the same activations and gradients behind.

    FullGrad scales each channel of the input by itself, so three of them count three times.
    """
    one, three = channelled(1), channelled(3)
    three.load_state_dict(one.state_dict() | {"features.0.weight": one.features[0].weight.repeat(1, 3, 1, 1) / 3})
    cams = [cam.name for cam in CAMS if cam.source and cam.needs != "attention" and "fullgrad" not in cam.name]
    images = torch.from_numpy(radiographs(1)).float() / 65535
    maps = [
        camrobust.explain(net, images.expand(-1, channels, -1, -1), cams, "features", image_ids=["x"],
                          mean=(0.4,) * channels, std=(0.2,) * channels)
        for net, channels in ((one, 1), (three, 3))
    ]  # fmt: skip
    assert len(cams) > 15
    for name in cams:
        largest = float(maps[1][name].abs().max())
        torch.testing.assert_close(maps[0][name], maps[1][name], atol=2e-4 * largest, rtol=0, msg=name)


@pytest.mark.parametrize("form", ["array", "tensor", "picture", "file"])
def test_16_bits_reach_the_network(form, tmp_path):
    (given,) = radiographs(1)
    path = tmp_path / "x.png"
    Image.fromarray(given[0]).save(path)
    with Image.open(path) as picture:
        picture.load()
    forms = {
        "array": [given],
        "tensor": torch.from_numpy(given[None].astype(np.float32)) / 65535,
        "picture": picture,
        "file": str(path),
    }
    net, seen = channelled(), []
    with hooked([net.features[0]], lambda _module, inputs, _output: seen.append(inputs[0])):
        camrobust.evaluate(
            net, forms[form], "gradcam", "brightness:shift=0", target_layer="features", resize=SIDE, crop=SIDE, **ONE
        )
    levels = ((seen[-1] * 0.2 + 0.4) * 65535).double()
    assert float((levels[0] - torch.from_numpy(given.astype(float))).abs().max()) < 0.02
    assert levels[1].allclose(levels[0])  # a shift of 0 leaves every level


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_evaluate_and_attack(channels):
    images = torch.from_numpy(radiographs(channels=channels))
    noise = ["gaussian_noise:2", "glass_blur:1", "fgsm:2", "cam_attack:epsilon=2,steps=2,step=1"]
    options = {**normalisation(channels), "target_layer": "features"}
    both = camrobust.evaluate(channelled(channels), images, ["gradcam", "eigencam"], noise, **options)
    assert both.scores.height == 2 * 2 * 4
    assert both.scores["rbo"].null_count() < 8
    alone = camrobust.evaluate(channelled(channels), images[:1], ["gradcam", "eigencam"], noise, **options)
    assert alone.scores.drop("rbo").height == 8
    assert alone.scores.equals(both.scores[:8])
    adversarial = camrobust.attack(channelled(channels), images, "pgd:epsilon=2,steps=2,step=1", **options)
    moved = (adversarial.double() - images.double() / 65535).abs().max() * 255
    assert 1 < float(moved) <= 2.0001
    assert camrobust.overlay(images[0], torch.rand(4, 4)).size == (SIDE, SIDE)
    assert len(camrobust.minimal_eps(channelled(channels), images, most=2, steps=1, **options)) == 2


def test_8_bit_greys_are_the_same_image_in_every_form(tmp_path):
    levels = (radiographs(1)[0] >> 8).astype(np.uint8)
    Image.fromarray(levels[0]).save(tmp_path / "x.png")
    forms = (levels, levels / np.float32(255), levels.astype(np.uint16) * 257, Image.fromarray(levels[0]))
    rows = [
        camrobust.evaluate(
            channelled(), [form], "gradcam", "gaussian_noise:1", target_layer="features", resize=SIDE, crop=SIDE, **ONE
        ).scores
        for form in (*forms, str(tmp_path / "x.png"))
    ]
    assert all(one.equals(rows[0]) for one in rows[1:4])  # one name, a hash of the pixels, so one random stream
    assert rows[4]["image_id"][0].startswith("x.png@")


def test_12_bits_in_16_are_refused_as_in_files():
    """They would be measured at a sixteenth of their brightness. One dark channel, or a black image, is nothing odd."""
    deep = radiographs(2)
    short = deep >> 4
    sentence = (
        "images: a uint16 image must use more than a quarter of the 16 bits, got no value above {}, so perhaps not all "
        "bits are used; divide by the level that is white, 4095 for 12 bits"
    )
    for given in ([short[0]], [deep[0], short[0]], torch.from_numpy(short)):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence.format(short[0].max()))}$"):
            camrobust.evaluate(channelled(), given, "gradcam", "gaussian_noise:1", **ONE)
    from camrobust.interface.inputs import check_batch

    check_batch(torch.from_numpy(np.stack([deep[0, 0], short[0, 0]])[None]), 2)
    check_batch(torch.zeros(1, 1, 8, 8, dtype=torch.uint16), 1)
    check_batch(torch.full((1, 1, 8, 8), 16384, dtype=torch.uint16), 1)
    with pytest.raises(ValueError, match="got no value above 16383, so"):
        check_batch(torch.full((1, 1, 8, 8), 16383, dtype=torch.uint16), 1)


def test_mistakes_are_one_sentence():
    one, photo = torch.rand(1, 1, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE)
    for call, sentence in (
        (lambda: camrobust.evaluate(channelled(), one),
         "images: must have the shape (B, 3, H, W), got (1, 1, 64, 64); add the batch axis, put channels first, and "
         "give mean and std one value for each channel"),
        (lambda: camrobust.explain(channelled(), list(one)), "images: each array must have the shape (3, H, W), got"),
        (lambda: camrobust.explain(channelled(), photo),
         "its first convolution takes 1 channel, so name mean and std of the normalisation for each of them"),
        (lambda: camrobust.explain(channelled(), one, mean=(0.4,)),
         "mean and std must have one value for each channel, got 0.4 and 0.229, 0.224, 0.225; name both"),
        (lambda: camrobust.explain("tests.toys:normalised", photo),
         "images: must have 1 channel, as the model's mean and std, got 3; pass mean and std"),
        (lambda: camrobust.evaluate(channelled(), one, perturbations=["frost_procedural"], **ONE),
         "perturbations: frost_procedural must have images of 3 channels, got 1 channel; leave it out"),
        (lambda: camrobust.evaluate(channelled(2), torch.rand(1, 2, 64, 64), resave_jpeg_quality=85,
                                    **normalisation(2)),
         "resave_jpeg_quality: a JPEG file must have 1 or 3 channels, got 2 channels; leave it out"),
    ):  # fmt: skip
        with pytest.raises((ValueError, UserError), match=re.escape(sentence)):
            call()


def test_a_preset_warns_of_what_it_leaves_out():
    with (
        pytest.warns(UserWarning, match="^preset:quick leaves out")
        if False
        else pytest.warns(
            UserWarning, match="^preset:digital leaves out saturate: not defined for images of 1 channel$"
        )
    ):
        result = camrobust.evaluate(
            channelled(), torch.rand(1, 1, 32, 32), "gradcam", "preset:digital", target_layer="features", **ONE
        )
    assert set(result.scores["perturbation"]) == {"contrast", "elastic_transform", "pixelate", "jpeg_compression"}


def test_a_model_by_name_takes_its_normalisation():
    images = torch.from_numpy(radiographs())
    named = camrobust.explain("tests.toys:channelled", images, "gradcam", "features", **ONE)
    assert named["gradcam"].equal(camrobust.explain(channelled(), images, "gradcam", "features", **ONE)["gradcam"])


@pytest.mark.parametrize("given", [["--mean", ".4", "--std", ".2"], []])
def test_explain_draws_a_radiograph(tmp_path, given, capsys):
    """The channels are those of mean and std, given or the builder's own."""
    Image.fromarray(radiographs(1)[0, 0]).save(tmp_path / "x.png")
    model = "tests.toys:channelled" if given else "tests.toys:normalised"
    out = tmp_path / "grid.png"
    arguments = ["explain", str(tmp_path / "x.png"), "--model", model, *given, "--resize", "64", "--crop", "64",
                 "--target-layer", "features", "--cam", "gradcam", "--output", str(out)]  # fmt: skip
    assert main([*arguments, "--perturb", "gaussian_noise:5", "fgsm:2"]) == 0
    drawn = np.asarray(Image.open(out).convert("RGB")).astype(int)
    clean = drawn[8 : 8 + 224, 150 : 150 + 224]
    assert np.abs(clean - clean[..., :1]).max() == 0
    wanted = Image.fromarray((radiographs(1)[0, 0] / 257).round().astype(np.uint8)).resize((224, 224))
    assert np.abs(clean[..., 0] - np.asarray(wanted).astype(int)).mean() < 3
    out.unlink()
    assert main([*arguments, "--perturb", "saturate:1"]) == 2
    assert "saturate must have images of 3 channels, got 1 channel" in capsys.readouterr().err
    assert not out.exists()


def data(tmp_path, channels=1, **changes):
    return {
        "output": str(tmp_path / "out"),
        "datasets": [{"name": "rays", "images": str(tmp_path / "rays")}],
        "models": [{"name": "net", "builder": "tests.toys:channelled", "arguments": {"channels": channels},
                    "target_layer": "features", "mean": [0.4] * channels, "std": [0.2] * channels}],
        "image": {"resize": 72, "crop": SIDE},
        "segments": {"method": "grid"},
        "cams": ["gradcam", "eigencam"],
        "perturbations": ["gaussian_noise:1,5", "fgsm:2"],
        "gallery_images": 2,
    } | changes  # fmt: skip


def write(folder, channels):
    folder.mkdir()
    for number, image in enumerate(radiographs(2, channels)):
        if channels == 1:
            Image.fromarray(image[0]).save(folder / f"{number}.png")
        elif number:
            first, *others = map(Image.fromarray, image)
            first.save(folder / f"{number}.tif", save_all=True, append_images=others)
        else:
            np.save(folder / f"{number}.npy", image)


def test_a_whole_run_of_radiographs(tmp_path):
    """The builder names the normalisation, the configuration the channels."""
    write(tmp_path / "rays", 1)
    Image.new("RGB", (80, 80), (9, 99, 200)).save(tmp_path / "rays" / "colour.png")
    model = {"name": "net", "builder": "tests.toys:normalised", "target_layer": "features"}
    noise = ["preset:imagenet-c-extra", "fgsm:2"]
    config = data(tmp_path, models=[model], perturbations=noise)
    config["image"]["channels"], config["datasets"][0]["name"] = 1, "images"
    assert in_process.run(parse_config(config)).exit_code == 0
    out = tmp_path / "out"
    run, rows = open_run(str(out)).run(), scores(out)
    left = "preset:imagenet-c-extra leaves out spatter, saturate: not defined for images of 1 channel"
    assert left in run.warnings
    assert {one.perturbation for one in run.variants} == {"speckle_noise", "gaussian_blur", "fgsm"}
    images = pl.read_parquet(out / "images" / "**" / "*.parquet")
    assert images["colourfulness"].null_count() == images.height == 3
    assert images["brightness"].null_count() == 0
    maps = pl.read_parquet(out / "maps" / "**" / "*.parquet")
    assert_grey_pictures(maps["photo"])
    assert report(out).read_text().count("data:image/jpeg") >= 4
    # In this process the same images have the same random numbers, and so the same rows, within rounding.
    names = rows["image_id"].unique().sort().to_list()
    with pytest.warns(UserWarning, match=left):
        own = camrobust.evaluate(
            normalised(), [str(tmp_path / "rays" / name) for name in names], ["gradcam", "eigencam"], noise, resize=72,
            crop=SIDE, target_layer="features", segments="grid", image_ids=names, **ONE,
        )  # fmt: skip
    own = own.scores.with_columns(model=pl.lit("net")).sort(KEYS)
    assert own.select("image_id", "strength", "predicted_perturbed").equals(
        rows.select("image_id", "strength", "predicted_perturbed")
    )
    for name in ("confidence_perturbed", "pearson"):
        np.testing.assert_allclose(own[name].to_numpy(), rows[name].to_numpy(), atol=1e-4)


def assert_grey_pictures(contents):
    for content in contents:
        picture = np.asarray(Image.open(BytesIO(content))).astype(int)
        assert picture.shape == (SIDE, SIDE, 3)
        assert np.abs(picture - picture[..., :1]).max() <= 2  # grey, but for JPEG


def test_the_stages_of_a_run_of_four_channels(tmp_path):
    """Through Arrow from stage to stage; pixels are those of the files, to the last of 16 bits."""
    write(tmp_path / "rays", 4)
    Image.new("RGB", (80, 80)).save(tmp_path / "rays" / "colour.png")
    plan = make_plan(parse_config(data(tmp_path, 4, image={"resize": SIDE, "crop": SIDE})))
    pending = plan.manifest.with_columns(parts=pl.lit([0], pl.List(pl.Int16)))
    loaded = Load(plan.config)(pending_batch(pending))
    assert loaded["kind"].to_pylist() == [None, None, "unsupported"]
    pixels = tensors_of(loaded["pixels"], 4, SIDE, SIDE)
    np.testing.assert_array_equal(np.rint(np.stack(pixels[:2]) * 65535), radiographs(2, 4))
    perturbed = Perturb(plan.config, plan.parts, "cpu")(loaded)
    shown = frozenset({("rays", "0.npy")})
    explain = Explain(plan.config, plan.parts, shown, plan.weights, "cpu", plan.pass_sizes["cpu"])
    measured = explain(perturbed)
    assert [len(rows) for rows in measured["scores"].to_pylist()] == [2 * 3, 2 * 3, 0]
    assert_grey_pictures([row["photo"] for row in measured["maps"].to_pylist()[0]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"perturbations": ["saturate:1"]},
         "perturbations: saturate must have images of 3 channels, got 1 channel; leave it out"),
        ({"image": {"channels": 3}},
         "config: all models of a run must take images of one number of channels (mean, std, image.channels), got 1 "
         "and 3; make a run for each"),
        ({"models": [{"builder": "tests.toys:pooled"}], "image": {"channels": 1}},
         "model 'tests.toys:pooled': its mean and std must be those of 1 channel, as the images of the run, got 3; "
         "name mean and std, or set image.channels"),
        ({"models": [{"builder": "tests.toys:normalised"}]},
         "model 'tests.toys:normalised': its mean and std must be those of 3 channels, as the images of the run, got "
         "1; name mean and std, or set image.channels"),
        ({"models": [{"builder": "tests.toys:pooled", "mean": [0.4], "std": [0.2, 0.2]}]},
         "config: models.0: mean and std must have one value for each channel, got 1 and 2 values; name both"),
        ({"models": [{"builder": "tests.toys:pooled", "mean": [0.4]}]},
         "config: models.0: mean and std must have one value for each channel, got 1 and no values; name both"),
        ({"models": [{"builder": "tests.toys:channelled", "mean": [0.4] * 2, "std": [0.2] * 2}],
          "resave_jpeg_quality": 85},
         "config: resave_jpeg_quality needs images of 1 or 3 channels, got 2; leave it out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(command, changes, sentence, tmp_path, capsys):
    write(tmp_path / "rays", 1)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(data(tmp_path, **changes)))
    code, out, err = in_process.camrobust(capsys, command, path)
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_the_digest_of_runs_of_photos_stays(tmp_path):
    """It says nothing of channels, whether they are named or not."""
    photos = data(tmp_path, 3)
    plain = parse_config(photos)
    assert "channels" not in plain.numbers()["image"]
    assert parse_config(photos | {"image": photos["image"] | {"channels": 3}}).digest() == plain.digest()
    own = [{"name": "net", "builder": "tests.toys:normalised"}]
    said = [data(tmp_path, 1, models=own, image={"crop": 64, "channels": count}) for count in (1, 2)]
    assert len({parse_config(one).digest() for one in said}) == 2


def test_a_sheet_of_a_radiograph_leaves_out_what_is_not_defined(tmp_path, capsys):
    Image.fromarray(radiographs(1)[0, 0]).save(tmp_path / "x.png")
    arguments = [
        "sheet",
        str(tmp_path / "x.png"),
        "--channels",
        "1",
        "--cell",
        "32",
        "--output",
        str(tmp_path / "s.png"),
    ]
    assert main([*arguments, "--perturb", "gaussian_noise:1,5"]) == 0
    drawn = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)[:32, 170 : 170 + 32]
    assert np.abs(drawn - drawn[..., :1]).max() == 0
    grey = np.asarray(Image.fromarray(drawn[..., 0].astype(np.uint8)))
    wanted = radiographs(1)[0, 0] / 257
    assert abs(grey.mean() - wanted.mean()) < 4
    assert main([*arguments, "--perturb", "saturate:1"]) == 2
    assert "saturate must have images of 3 channels, got 1 channel" in capsys.readouterr().err
    from camrobust.interface.contact_sheet import installed

    names, missing = installed(1)
    assert "saturate is not defined for images of 1 channel" in missing
    assert "saturate" not in names
    assert "gaussian_noise" in names
