import re
from collections import Counter

import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from camrobust.core.ranks import agreement
from camrobust.core.segments import segment_matrices, segment_matrix, segment_scores
from camrobust.core.similarity import SIMILARITIES, Similarity, Together, measured
from camrobust.core.similarity.sensitivity import InputChange

SIZE, CELLS, CAMS = (32, 48), (6, 8), 3
COUNTS = [40, 7, 33]
OWNER = torch.tensor([0, 0, 1, 2, 1, 0, 2, 2, 0, 1])
EVERY = SIMILARITIES.names()


def inputs(rows=None, images=(0, 1, 2), seed=0):
    """Pairs of three images; `rows` chooses some of them, `images` the images that are in memory."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(3, CAMS, *CELLS, generator=generator).relu()[OWNER]
    noisy = (clean + 0.3 * torch.randn(clean.shape, generator=generator)).relu()
    change = torch.rand(5, len(OWNER), 1, generator=generator, dtype=torch.float64) + 0.1
    labels = torch.stack([torch.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * m // (SIZE[0] * SIZE[1]) for m in COUNTS])
    rows = torch.arange(len(OWNER)) if rows is None else rows
    clean, noisy, images = clean[rows], noisy[rows], torch.tensor(images)
    matrices = segment_matrices(labels[images], *CELLS, [COUNTS[image] for image in images])
    owner = torch.searchsorted(images, OWNER[rows])
    positions = clean.flatten(2), noisy.flatten(2)
    scores = [segment_scores(side, matrices, owner) for side in positions]
    return {
        "positions": positions,
        "grid": (clean, noisy, SIZE),
        "segments": (*scores, torch.tensor(COUNTS)[OWNER[rows]]),
        "change": (*positions, InputChange(*change[:, rows])),
    }


def test_equals_each_measure_on_its_own():
    given = inputs()
    found = measured(EVERY, **given)
    assert list(found) == EVERY
    for name, values in found.items():
        one = SIMILARITIES[name]
        arguments = given[one.takes]
        if one.takes == "segments":
            arguments = (*arguments[:2], arguments[2][:, None])
        assert values.shape == (len(OWNER), CAMS)
        assert torch.equal(values, one.function(*arguments)), name


def test_the_padding_of_the_segments_changes_nothing():
    given = inputs()
    clean, noisy, sizes = given["segments"]
    clean[..., 7:][sizes == 7], noisy[..., 7:][sizes == 7] = 5, torch.nan
    both = Together(**given)
    tau, (rbo, adjusted) = both.measure(SIMILARITIES["kendall"]), both.rbo()
    for row, m in enumerate(sizes.tolist()):
        alone = agreement(clean[row, :, :m], noisy[row, :, :m])
        torch.testing.assert_close(rbo[row], alone[0], rtol=0, atol=1e-14)
        torch.testing.assert_close(adjusted[row], alone[1], rtol=0, atol=1e-13)
        for cam in range(CAMS):
            wanted = stats.kendalltau(clean[row, cam, :m], noisy[row, cam, :m], variant="b").statistic
            assert float(tau[row, cam]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "images"), [([4], (1,)), ([9, 2, 4], (1,)), ([3, 0, 6, 8], (0, 2)), ([*range(9, -1, -1)], (0, 1, 2))]
)
def test_the_bits_of_a_row_do_not_depend_on_its_neighbours(rows, images):
    whole, some = Together(**inputs()), Together(**inputs(torch.tensor(rows), images))
    for name in EVERY:
        if name not in ("ssim", "procrustes"):
            values = whole.measure(SIMILARITIES[name])[rows]
            assert torch.equal(some.measure(SIMILARITIES[name]), values), name
    for ties in ("b", "a", "w", "index"):
        for one, other in zip(some.rbo(0.9, ties), whole.rbo(0.9, ties), strict=True):
            assert torch.equal(one, other[rows])


def test_constant_maps_and_scores_and_values_that_are_no_numbers():
    given = inputs()
    clean, noisy = given["positions"]
    clean[2, 0], noisy[3, 1], noisy[4, 2, 5], clean[5, 0, 0] = 0.5, 0, torch.nan, torch.nan
    scores, _, sizes = given["segments"]
    scores[9, 1], scores[9, 1, 7:] = -1, 4
    assert int(sizes[9]) == 7
    both = Together(**given)
    assert both.flat.nonzero().tolist() == [[2, 0], [3, 1], [9, 1]]
    assert (~both.finite).nonzero().tolist() == [[4, 2], [5, 0]]
    assert Together(given["positions"]).flat.nonzero().tolist() == [[2, 0], [3, 1]]
    scores[..., 7:][sizes == 7] = 4
    entry = SIMILARITIES["kendall"](*given["segments"][:2], sizes[:, None])
    assert entry[9].isnan().tolist() == [False, True, False]


def plugin(function):
    return Similarity("own", function, "segments", 0, 1, 1, "-", "-", default=True)


def test_a_measure_of_segments_without_sizes_sees_no_padding():
    widths = []

    def own(clean, noisy):
        widths.append(clean.shape[-1])
        return (clean - noisy).abs().mean(dim=-1)

    given = inputs()
    found = measured([plugin(own)], **given)["own"]
    assert sorted(widths) == sorted(COUNTS)
    clean, noisy, sizes = given["segments"]
    for row, m in enumerate(sizes.tolist()):
        torch.testing.assert_close(found[row], (clean - noisy)[row, :, :m].abs().mean(dim=-1))
    unpadded = measured([plugin(own)], given["positions"], segments=(clean, noisy, None))["own"]
    assert torch.equal(unpadded, (clean - noisy).abs().mean(dim=-1))


def test_a_measure_of_segments_with_sizes_is_called_once():
    def own(clean, noisy, sizes=None):
        inside = torch.arange(clean.shape[-1]) < sizes[..., None]
        return ((clean - noisy).abs() * inside).sum(dim=-1) / sizes

    given = inputs()
    clean, noisy, sizes = given["segments"]
    found = measured([plugin(own)], **given)["own"]
    for row, m in enumerate(sizes.tolist()):
        torch.testing.assert_close(found[row], (clean - noisy)[row, :, :m].abs().mean(dim=-1))


def test_measures_without_their_input_are_left_out():
    given = inputs()
    found = measured(EVERY, given["positions"])
    assert list(found) == [one.name for one in SIMILARITIES if one.takes == "positions"]
    with pytest.raises(ValueError, match=re.escape("together: segments must hold the scores of both sides, got None")):
        Together(given["positions"]).rbo()
    with pytest.raises(ValueError, match="rbo: ties must be one of b, a, w, index, got 'c'; b is the default"):
        Together(**given).rbo(0.9, "c")


class Operations(TorchDispatchMode):
    """Counts the tensor operations."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [[0], [*range(10)], [*range(10)] * 12])
def test_a_comparison_takes_few_operations_however_many_images(rows):
    """Matrices, scores, both overlaps, all default measures, flat and finite maps.

    Half a hundred of them group ties exactly, which takes two operations for every bit of the number of segments.
    """
    given = inputs(torch.tensor(rows))
    labels = torch.stack([torch.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * m // (SIZE[0] * SIZE[1]) for m in COUNTS])
    with Operations() as operations:
        matrices = segment_matrices(labels, *CELLS, COUNTS)
        clean, noisy = (segment_scores(side, matrices, OWNER[rows]) for side in given["positions"])
        both = Together(**given | {"segments": (clean, noisy, given["segments"][2])})
        both.rbo()
        for one in SIMILARITIES:
            if one.default:
                both.measure(one)
        assert both.flat.shape == both.finite.shape
    assert sum(operations.count.values()) <= 362, operations.count.most_common()


def test_scores_of_real_sizes_rank_as_before():
    """The tiled product gives the ranks of the plain one."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(224)[:, None] // 25 * 9 + torch.arange(224) // 25)[None]
    maps = torch.randn(40, 5, 49, generator=generator).relu()
    scores = segment_scores(maps, segment_matrices(labels, 7, 7, [81]), torch.zeros(40, dtype=torch.int64))[..., :81]
    plain = maps @ segment_matrix(labels[0], 7, 7, count=81).T
    assert torch.equal(scores.argsort(dim=-1, stable=True), plain.argsort(dim=-1, stable=True))
