"""Scores that differ by rounding are tied, in every rank; the rule is exact and does not chain."""

import numpy as np
import pytest
import torch
from scipy import stats

from camrobust.core.ranks import TIES, agreement, rbo
from camrobust.core.segments import segment, segment_matrices, segment_matrix, segment_scores
from camrobust.core.similarity import SIMILARITIES, Together
from camrobust.core.similarity.correlation import average_ranks, kendall, spearman
from camrobust.core.similarity.mass import topk_iou
from camrobust.core.ties import TIED, tie_groups
from tests.reference import ties as reference

ULP = 2.0**-23


def grouped(scores):
    """First and last rank of every score (N, n), by our function."""
    falling, order = scores.double().neg().sort(dim=-1, stable=True)
    groups = tie_groups(falling, scores.double().abs().amax(dim=-1, keepdim=True))
    return [torch.empty_like(order).scatter_(-1, order, one) for one in groups]


def chains(n, seed):
    """Rows in which scores lie between half an ulp and eight ulp apart, in groups and chains of all lengths."""
    random = np.random.default_rng(seed)
    steps = random.choice([0, 0.5, 1, 2, 3.9, 4, 4.1, 8, 1e5], size=(24, n)) * random.uniform(0.5, 1.5, (24, n)) * ULP
    scores = 1 - steps.cumsum(axis=1)
    return torch.as_tensor(random.permuted(scores * random.choice([-3, 1, 1e-20, 1e20], (24, 1)), axis=1))


def merged(scores):
    """The scores with every group at its first one."""
    return np.array([reference.merged(row) for row in scores.tolist()])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31, 64, 65, 200])
def test_groups_equal_the_loop(n):
    for seed in range(3):
        scores = chains(n, seed)
        first, last = grouped(scores)
        for row, wanted in enumerate(map(reference.groups_of, scores.tolist())):
            assert (first[row].tolist(), last[row].tolist()) == wanted


@pytest.mark.parametrize("n", [2, 7, 64, 1000])
def test_a_chain_of_small_steps_is_not_one_group(n):
    # Steps of one ulp: groups of five, whose last lies four from the first.
    first, _ = grouped(1 - torch.arange(n, dtype=torch.float64)[None] * ULP)
    assert first[0].tolist() == [rank // 5 * 5 for rank in range(n)]


def test_a_step_of_more_than_four_ulp_is_none():
    apart = torch.tensor([[1, 1 - TIED, 1 - 2.01 * TIED]], dtype=torch.float64)
    assert [one.tolist() for one in grouped(apart)] == [[[0, 0, 2]], [[1, 1, 2]]]


@pytest.mark.parametrize("ties", TIES)
def test_overlap_of_scores_that_are_nearly_tied_is_that_of_tied_scores(ties):
    for seed in range(3):
        first, second = chains(40, seed), chains(40, seed + 10)
        tied = [torch.as_tensor(merged(side)) for side in (first, second)]
        for found, wanted in zip(agreement(first, second, ties=ties), agreement(*tied, ties=ties), strict=True):
            torch.testing.assert_close(found, wanted, equal_nan=True)


def test_every_rank_follows_the_rule():
    for seed in range(3):
        first, second = chains(40, seed), chains(40, seed + 10)
        tied = [merged(side) for side in (first, second)]
        for row in range(len(first)):
            a, b = tied[0][row], tied[1][row]
            assert average_ranks(first)[row].tolist() == stats.rankdata(a).tolist()
            if len(set(a)) > 1 and len(set(b)) > 1:
                assert float(spearman(first, second)[row]) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
                assert float(kendall(first, second)[row]) == pytest.approx(stats.kendalltau(a, b)[0], abs=1e-12)
                wanted = topk_iou(torch.as_tensor(a), torch.as_tensor(b))
                assert float(topk_iou(first, second)[row]) == pytest.approx(float(wanted), abs=1e-12)


def test_padding_is_tied_with_nothing():
    scores = torch.tensor([[0.0, -1e-30, -1.0, 5.0, 5.0]])
    wanted = rbo(scores[:, :3], scores[:, :3].flip(1))
    padded = torch.cat([scores[:, :3].flip(1), scores[:, 3:]], dim=1)
    torch.testing.assert_close(rbo(scores, padded, sizes=torch.tensor([3])), wanted)


def pictures():
    """Photos with plain backgrounds, on which segments are plateaus."""
    plain = torch.full((1, 3, 224, 224), 0.5)
    patch = plain.clone()
    patch[:, :, 60:120, 80:160] = torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    return {"plain": plain, "patch": patch}


@pytest.fixture(scope="module", params=[("plain", "grid"), ("patch", "grid"), ("patch", "quickshift")])
def labels(request):
    picture, method = request.param
    return segment(pictures()[picture], method)[0]


@pytest.mark.parametrize("side", [7, 14, 56, 224])
def test_plateaus_are_tied_on_any_grid(labels, side):
    """One bright cell on a plain map; two such maps differ by a factor, so they rank all segments alike."""
    m = int(labels.max()) + 1
    matrices = segment_matrices(labels[None].long(), side, side, [m])
    maps = torch.stack([torch.full((side * side,), level) for level in (0.37, 0.21, 1 / 3, 1e-5)])
    maps[:, side // 2 * side + side // 2] *= 3
    scores = segment_scores(maps[:, None], matrices, torch.zeros(4, dtype=torch.int64))[:, 0, :m]
    # Outside the bright cell all segments are one plateau.
    bright = segment_matrix(labels.long(), side, side)[:, side // 2 * side + side // 2] > 1e-6
    first, last = grouped(scores)
    wanted = torch.where(bright, 0, bright.sum())
    assert torch.equal(first[:, ~bright], wanted[~bright].expand(4, -1))
    assert bool((last[:, ~bright] == m - 1).all())
    for other in range(1, 4):
        together = Together(
            (maps[:1, None], maps[other : other + 1, None]),
            segments=(scores[:1, None], scores[other : other + 1, None], None),
        )
        raw, adjusted = together.rbo()
        assert float(raw) == pytest.approx(1, abs=1e-12)
        assert float(adjusted) == pytest.approx(1, abs=1e-12)
        for name in ("kendall", "spearman", "topk_iou"):
            assert float(together.measure(SIMILARITIES[name])) == pytest.approx(1, abs=1e-12)
