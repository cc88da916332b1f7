import re

import pytest
import torch
from torch.nn.functional import interpolate

from camrobust.contract.errors import UserError
from camrobust.contract.segmenters import DEFAULT, SEGMENTERS
from camrobust.core.segments import segment, segment_matrices, segment_matrix, segment_scores
from tests.reference import segments as reference


def labels_of(size=(40, 56), m=9, seed=0):
    labels = torch.randint(0, m, size, generator=torch.Generator().manual_seed(seed))
    labels.flatten()[:m] = torch.arange(m)
    return labels


@pytest.mark.parametrize("shape", [(7, 7), (13, 13), (1, 1), (5, 9), (1, 4), (40, 56), (60, 70)])
def test_equals_upsampling_and_a_mean_per_segment(shape):
    labels = labels_of()
    low = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    upsampled = interpolate(low[None].double(), size=labels.shape, mode="bilinear", align_corners=False)[0]
    means = low.flatten(1) @ segment_matrix(labels, *shape).T
    for map_number in range(3):
        for number in range(9):
            pixels = [
                float(upsampled[map_number, y, x]) for y in range(40) for x in range(56) if int(labels[y, x]) == number
            ]
            assert float(means[map_number, number]) == pytest.approx(sum(pixels) / len(pixels), abs=1e-6)


def test_rows_sum_to_1_and_zero_maps_give_exact_zeros():
    matrix = segment_matrix(labels_of(), 7, 7)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(9))
    assert (matrix @ torch.zeros(49) == 0).all()


def several(seed, count=5, size=(24, 32), most=90):
    """Labels of several images, each with its own number of segments."""
    counts = torch.randint(1, most, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([labels_of(size, m, seed + m) for m in counts]), counts


@pytest.mark.parametrize("shape", [(7, 7), (6, 9), (1, 4), (30, 20)])
def test_matrices_of_many_images_are_those_of_each_to_the_last_bit(shape):
    labels, counts = several(0)
    together = segment_matrices(labels, *shape, counts)
    assert together.shape[1] % 16 == 0
    for image, m in enumerate(counts):
        alone = segment_matrix(labels[image], *shape, count=m)
        assert torch.equal(together[image, :m], alone)
        assert not together[image, m:].any()
        torch.testing.assert_close(alone.double(), reference.matrix(labels[image], *shape, m), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (8, 12), (1, 4)])
@pytest.mark.parametrize("cams", [1, 3, 7, 10])
def test_scores_do_not_depend_on_the_neighbours(shape, cams):
    """To the last bit: other images, other numbers of segments and rows, other places."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        labels, counts = several(seed)
        matrices = segment_matrices(labels, *shape, counts)
        owner = torch.randint(0, len(counts), (17,), generator=generator)
        maps = torch.rand(17, cams, shape[0] * shape[1], generator=generator)
        scores = segment_scores(maps, matrices, owner)
        order = torch.randperm(17, generator=generator)
        assert torch.equal(segment_scores(maps[order], matrices, owner[order]), scores[order])
        for row, image in enumerate(owner.tolist()):
            m, own = counts[image], labels[image : image + 1]
            alone = segment_scores(maps[row : row + 1], segment_matrices(own, *shape, [m]), torch.tensor([0]))
            assert torch.equal(alone[0, :, :m], scores[row, :, :m])
            assert not scores[row, :, m:].any()
            plain = maps[row].double() @ segment_matrix(labels[image], *shape, count=m).double().T
            torch.testing.assert_close(scores[row, :, :m], plain, rtol=1e-13, atol=0)


def test_scores_need_matrices_of_whole_tiles():
    sentence = "segment_scores: matrices must have a multiple of 16 rows, got 9; use segment_matrices"
    with pytest.raises(ValueError, match=sentence):
        segment_scores(torch.rand(2, 3, 49), torch.rand(1, 9, 49), torch.tensor([0, 0]))


def photo():
    from skimage.data import coffee

    return torch.from_numpy(coffee()[100:180, 200:290].copy()).movedim(-1, 0)


@pytest.mark.parametrize("method", SEGMENTERS.names())
class TestEverySegmenter:
    def test_labels_are_contiguous_and_depend_on_the_image_alone(self, method):
        images = torch.stack([photo(), photo().flip(1)])
        before = images.clone()
        both = segment(images, method)
        assert torch.equal(images, before)
        assert both.dtype == torch.int64
        assert both.shape == (2, 80, 90)
        for image, labels in zip(images, both, strict=True):
            assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
            assert torch.equal(segment(image[None], method)[0], labels)

    def test_the_range_of_the_pixels_is_their_type(self, method):
        image = photo()[None]
        assert torch.equal(segment(image.double() / 255, method), segment(image, method))

    @pytest.mark.parametrize("size", [(16, 16), (1, 9), (9, 1), (1, 1)])
    def test_plain_and_thin_images_have_segments(self, method, size):
        labels = segment(torch.full((1, 3, *size), 128, dtype=torch.uint8), method)
        assert labels.shape == (1, *size)
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))

    def test_no_images_have_no_labels(self, method):
        assert segment(torch.zeros(0, 3, 8, 9), method).shape == (0, 8, 9)

    def test_wrong_shape_is_told(self, method):
        sentence = f"{method}: images must have the shape (B, C, H, W), got (3, 8, 8)"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            segment(torch.zeros(3, 8, 8), method)

    def test_facts_are_the_functions_own(self, method):
        segmenter = SEGMENTERS[method]
        function = segmenter.load()
        assert function.__name__ == method
        assert dict(zip(function.__code__.co_varnames[1:], function.__defaults__, strict=False)) == segmenter.resolve(
            {}
        )


def test_scikit_images_methods_are_called_with_their_parameters():
    from skimage.segmentation import felzenszwalb, slic

    image = photo()
    scaled = image.movedim(0, -1).double().div(255).numpy()
    wanted = slic(scaled, n_segments=9, compactness=3, sigma=1, start_label=0)
    assert (segment(image[None], "slic", n_segments=9, compactness=3, sigma=1)[0].numpy() == wanted).all()
    wanted = felzenszwalb(scaled, scale=50, sigma=0.5, min_size=30)
    assert (segment(image[None], "felzenszwalb", scale=50, sigma=0.5, min_size=30)[0].numpy() == wanted).all()


def test_a_grid_has_as_many_cells_as_asked_for_and_sides_that_differ_by_a_pixel():
    labels = segment(torch.zeros(1, 3, 30, 44), "grid", cells=7)[0]
    sizes = [(int((labels == number).any(1).sum()), int((labels == number).any(0).sum())) for number in range(49)]
    assert {down for down, _ in sizes} == {4, 5}
    assert {right for _, right in sizes} == {6, 7}
    assert labels[0, 0] == 0
    assert labels[0, -1] == 6
    assert labels[-1, 0] == 42


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"method": "slick"},
            "unknown segmenter 'slick'; did you mean 'slic'? known: felzenszwalb, grid, quickshift, slic",
        ),
        (
            {"kernel": 4},
            "segments: unknown parameter of quickshift 'kernel'; did you mean 'kernel_size'? known: kernel_size, "
            "max_dist, ratio",
        ),
        (
            {"method": "grid", "cells": 2.5},
            "segments: cells of grid must be a whole number from 1 to 4096 (rows and columns of the grid), got 2.5; "
            "the default is 7",
        ),
        (
            {"max_dist": -1},
            "segments: max_dist of quickshift must be a number of at least 0 (cut-off of the tree, larger gives fewer "
            "segments), got -1; the default is 200",
        ),
        (
            {"ratio": "much"},
            "segments: ratio of quickshift must be a number from 0 to 1 (weight of colour against position), "
            "got 'much'; the default is 0.2",
        ),
    ],
)
def test_mistakes_are_one_sentence_in_code_and_in_a_configuration(given, sentence):
    from camrobust.contract.config_file import parse_config

    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        segment(torch.zeros(1, 3, 8, 8), **given)
    with pytest.raises(UserError, match=f"^{re.escape(f'config: {sentence}')}$"):
        parse_config(configuration(given))


def configuration(segments):
    return {
        "output": "out",
        "datasets": [{"name": "a", "images": "b"}],
        "models": ["torchvision:resnet18@none"],
        "cams": ["gradcam"],
        "perturbations": ["gaussian_noise:1"],
        "segments": segments,
    }


def test_the_method_and_all_its_parameters_are_numbers_of_a_run():
    from camrobust.contract.config_file import parse_config

    plain = parse_config({name: value for name, value in configuration({}).items() if name != "segments"})
    assert plain.numbers()["segments"] == {"method": DEFAULT, "kernel_size": 4.0, "max_dist": 200.0, "ratio": 0.2}
    assert parse_config(configuration({"kernel_size": 4})).digest() == plain.digest()
    assert parse_config(configuration({"kernel_size": 5})).digest() != plain.digest()
    gridded = parse_config(configuration({"method": "grid"}))
    assert gridded.digest() != plain.digest()
    assert gridded.segments.parameters == {"cells": 7}
    assert parse_config(gridded.model_dump(mode="json")) == gridded
