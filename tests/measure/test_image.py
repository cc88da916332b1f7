import re

import numpy as np
import pytest
import torch

import camrobust
from camrobust.core.explain import components
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import make_variants, variants
from camrobust.core.segments import segment_matrices
from camrobust.core.similarity import SIMILARITIES
from camrobust.core.similarity.sensitivity import InputChange
from camrobust.measure.comparison import Comparison, Pairs
from camrobust.measure.image import explain_variants, measure
from camrobust.measure.model import wrap
from camrobust.measure.score_rows import MARKS, _status
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample, pass_size
from tests.toys import Dense, Pooled, pooled, seeded

EVERY = tuple(cam.name for cam in CAMS if cam.needs not in ("attention", "head"))
SIDE = 224


def photos(count, side=SIDE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def in_cells(side, cell):
    rows = torch.arange(side) // cell
    return rows[:, None] * (int(rows.max()) + 1) + rows


def images(plans, side=SIDE):
    """An image for every list of perturbations; each has another number of segments."""
    made = []
    for number, (pixels, specs) in enumerate(zip(photos(len(plans), side), plans, strict=True)):
        planned = variants(specs)
        stack = make_variants(pixels[None], planned, [str(number)], "set", 0)[0]
        sample = Sample("set", str(number), number, in_cells(side, side // (3 + number)))
        made.append(ImageVariants(sample, stack, planned))
    return made


def rows_of(columns, image):
    chosen = columns["image_id"] == image.sample.image_id
    return {name: values[chosen] for name, values in columns.items()}


def assert_same_bits(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name, strict=True)


PLANS = [["gaussian_noise:1-5", "contrast:1-3"], ["contrast:2"], ["speckle_noise:1-5"], ["brightness:1,4"]]


@pytest.mark.parametrize(("toy", "side", "batch"), [(Pooled, 64, 4), (Pooled, 64, 8), (Dense, 224, 5)])
@pytest.mark.parametrize("explained_class", ["predicted", "clean"])
def test_the_rows_of_an_image_do_not_depend_on_its_neighbours(toy, side, batch, explained_class, brief):
    model, given = wrap(seeded(toy()), image_size=side), images(PLANS, side)
    cams = EVERY if toy is Pooled else ("gradcam", "layercam", "eigencam", "ablationcam", "random")
    settings = MeasureSettings(
        cams, batch=batch, explained_class=explained_class, similarities=tuple(SIMILARITIES.names())
    )
    together, _ = measure(model, given, settings)
    reordered, _ = measure(model, [given[place] for place in (2, 0, 3, 1)], settings)
    for image in given:
        alone, _ = measure(model, [image], settings)
        assert_same_bits(rows_of(together, image), alone)
        assert_same_bits(rows_of(reordered, image), alone)
        assert (alone["status"] == "ok").mean() > 0.5


def test_the_size_of_a_pass_moves_last_bits_only():
    model, given = wrap(pooled(), image_size=SIDE), images(PLANS)
    found, wanted = (measure(model, given, MeasureSettings(("gradcam", "eigencam"), batch=size))[0] for size in (3, 8))
    for name in SIMILARITIES.names():
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-4, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(found["rbo"], wanted["rbo"])


def test_maps_are_kept_for_the_images_that_are_asked_for():
    model, given = wrap(pooled(), image_size=SIDE), images(PLANS)
    settings = MeasureSettings(("gradcam", "layercam"), batch=4)
    _, kept = measure(model, given, settings, keep={0, 3})
    every = explain_variants(model, given, settings)
    assert list(kept) == [0, 3]
    for place, explained in kept.items():
        assert torch.equal(explained.maps, every[place].maps)
        assert torch.equal(explained.pixels, given[place].pixels)
        assert explained.maps.shape[:2] == (len(given[place].variants) + 1, 2)


def test_the_timeout_starts_anew_with_every_pass():
    renewed = []
    measure(
        wrap(pooled(), image_size=SIDE),
        images(PLANS),
        MeasureSettings(("gradcam",), batch=7),
        lambda: renewed.append(1),
    )
    assert len(renewed) == 3  # 20 rows


def test_a_comparison_that_runs_out_of_memory_is_repeated_in_halves(monkeypatch):
    model, given = wrap(pooled(), image_size=SIDE), images(PLANS)
    wanted, _ = measure(model, given, MeasureSettings(("gradcam", "random"), batch=4))
    compare = Comparison.__call__

    def short(self, pairs):
        if len(pairs.noisy) > 4:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return compare(self, pairs)

    monkeypatch.setattr(Comparison, "__call__", short)
    found, _ = measure(model, given, MeasureSettings(("gradcam", "random"), batch=8))
    assert model.fits.images == 4
    assert_same_bits(found, wanted)


def test_a_model_keeps_what_it_needs_for_one_form_of_passes():
    model, given = wrap(pooled(), image_size=SIDE), images(PLANS[:1])
    for seed in range(3):
        measure(model, given, MeasureSettings(("gradcam",), seed))
    assert len(model.prepared) == 1


def test_a_map_without_numbers_has_no_procrustes_and_stops_nothing():
    nothing = torch.full((1, 1, 4, 4), torch.nan)
    assert SIMILARITIES["procrustes"](nothing, torch.rand(1, 1, 4, 4), (8, 8)).isnan().all()


def test_pixels_and_variants_must_match():
    image = images([["contrast:1-2"]])[0]
    sentence = "measure: pixels must hold 3 variants, got 2; clean comes first"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ImageVariants(image.sample, image.pixels[:2], image.variants)


@pytest.mark.parametrize("target", ["predicted", "clean"])
def test_the_explained_class_follows_the_setting(target):
    module = pooled()
    # One class per channel, centred on these images, so that the four images are of different classes.
    module.fc = torch.nn.Linear(8, 8)
    module.fc.weight.data, module.fc.bias.data = torch.eye(8), torch.zeros(8)
    model, planned = wrap(module, image_size=96), variants(["gaussian_noise:5", "contrast:5", "brightness:5"])
    stripes = (torch.arange(96) // torch.tensor([[1], [3], [8], [40]]) % 2)[:, None, None, :].expand(4, 3, 96, 96)
    noise = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    pixels = ((noise * torch.tensor([1.0, 0.2, 0.6])[:, None, None] + stripes) / 2 * 255).to(torch.uint8)
    features = module.features(model.normalise(pixels)).mean(dim=(2, 3))
    module.fc.bias.data = -features.mean(dim=0)
    image = ImageVariants(Sample("d", "a", None, torch.zeros(96, 96, dtype=torch.int64)), pixels, planned)
    # With passes of two images the clean one is in another pass than the last variants.
    (found,) = explain_variants(model, [image], MeasureSettings(("gradcam",), explained_class=target, batch=2))
    clean = int(found.predictions[0])
    wanted = [clean] * 4 if target == "clean" else found.predictions.tolist()
    maps = camrobust.explain(model, pixels, targets=wanted)["gradcam"]
    torch.testing.assert_close(found.maps[:, 0], maps, rtol=1e-4, atol=1e-6)
    assert len(set(found.predictions.tolist())) > 1


def compared(maps, labels, settings, explained=True, ambiguous=None):
    """The agreement of the maps (V+1, K, h, w) of one image with the first one."""
    V, m = len(maps) - 1, int(labels.max()) + 1
    pairs = Pairs(
        maps[:1].expand(V, -1, -1, -1),
        maps[1:],
        segment_matrices(labels[None], *maps.shape[-2:], [m]).expand(V, -1, -1),
        torch.full((V,), m),
        torch.full((V,), explained),
        torch.zeros(maps[1:].shape[:2], dtype=torch.bool) if ambiguous is None else ambiguous,
        InputChange(*torch.ones(5, V, 1)),
    )
    return Comparison(settings, tuple(labels.shape))(pairs)


def test_a_flat_map_has_no_ranking_and_nan_is_no_number():
    maps = torch.rand(4, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    maps[1, 0] = 0
    maps[2, 1, 0, 0] = torch.nan
    labels = torch.arange(32 * 32).reshape(32, 32) // 128
    settings = MeasureSettings(("a", "b"), similarities=tuple(SIMILARITIES.names()))
    found = compared(maps, labels, settings)
    assert found["flat"].tolist() == [[True, False], [False, False], [False, False]]
    assert found["finite"].tolist() == [[True, True], [True, False], [True, True]]
    for name, values in found.items():
        if name not in MARKS:
            assert values.isnan().tolist() == [[True, False], [False, True], [False, False]], name
    assert compared(maps, torch.zeros(32, 32, dtype=torch.int64), settings)["flat"].all()
    unknown = compared(maps, labels, settings, explained=False)
    assert not unknown["finite"].any()
    assert unknown["rbo"].isnan().all()
    marks = torch.tensor([[False, True], [False, False], [True, False]])
    marked = compared(maps, labels, settings, ambiguous=marks)
    assert torch.equal(marked["ambiguous"], marks)
    assert marked["rbo"].isnan().tolist() == [[True, True], [False, True], [True, False]]
    states = _status(*(marked[name].numpy() for name in MARKS)).reshape(3, 2).tolist()
    assert states == [["flat_map", "ambiguous"], ["ok", "not_finite"], ["ambiguous", "ok"]]


def test_an_ambiguous_clean_map_marks_all_rows_of_its_image(monkeypatch):
    monkeypatch.setattr(components, "LARGEST_SHARE", -1.0)
    (image,) = images([["gaussian_noise:1-3"]], 96)
    model = wrap(pooled(), image_size=96)
    settings = MeasureSettings(("gradcam", "eigencam", "eigencam-salient"))
    rows, _ = measure(model, [image], settings)
    states = dict(zip(rows["cam"], rows["status"], strict=True))
    assert states == {"gradcam": "ok", "eigencam": "ok", "eigencam-salient": "ambiguous"}
    assert np.isnan(rows["rbo"][rows["status"] == "ambiguous"].astype(float)).all()


def test_what_changed_does_not_depend_on_the_size_of_a_pass():
    (image,) = images([["gaussian_noise:1-5", "contrast:1-3"]], 96)
    model = wrap(pooled(), image_size=96)
    one, many = (
        explain_variants(model, [image], MeasureSettings(("gradcam",), batch=batch))[0].change for batch in (2, 32)
    )
    assert one.pixels.shape == (9, 1)
    assert float(one.pixels[0]) == 0
    assert torch.equal(one.pixels, many.pixels)
    for name in ("relative_pixels", "logits", "representation"):
        torch.testing.assert_close(getattr(one, name), getattr(many, name), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("images", "device", "bytes_per_image", "wanted"),
    [
        (2, "cpu", 0, 8), (9, "cpu", 0, 9), (16, "cpu", 0, 8), (20, "cpu", 0, 10), (96, "cpu", 0, 8),
        (96, "cuda", 0, 128), (96, "cpu", 2**30, 2), (96, "cpu", 2**40, 1), (96, "cuda", 2**30, 16),
    ],
)  # fmt: skip
def test_the_size_of_passes_follows_a_rule(images, device, bytes_per_image, wanted):
    assert pass_size(images, device, bytes_per_image) == wanted
