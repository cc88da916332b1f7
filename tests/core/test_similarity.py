import numpy as np
import pytest
import torch
from scipy import stats

from camrobust.core.similarity import SIMILARITIES, average_ranks, flat
from camrobust.schema import SIMILARITIES as COLUMNS


def maps(count=6, n=49, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(0, levels, (count, n), generator=generator).float()
    return torch.rand(count, n, generator=generator)


def l1(a, b):
    a, b = a - a.min(), b - b.min()
    return sum(abs(x / a.sum() - y / b.sum()) for x, y in zip(a, b, strict=True)) / 2


def topk_iou(a, b):
    k = -(-len(a) // 5)

    def membership(values):
        threshold = sorted(values, reverse=True)[k - 1]
        above = sum(v > threshold for v in values)
        equal = sum(v == threshold for v in values)
        return [1.0 if v > threshold else (k - above) / equal if v == threshold else 0.0 for v in values]

    x, y = membership(a), membership(b)
    return sum(map(min, x, y)) / sum(map(max, x, y))


ORACLES = {
    "pearson": lambda a, b: stats.pearsonr(a, b).statistic,
    "spearman": lambda a, b: stats.spearmanr(a, b).statistic,
    "l1": l1,
    "topk_iou": topk_iou,
}


def test_the_schema_has_a_column_for_every_similarity():
    assert {column.name for column in COLUMNS} == {*SIMILARITIES.names(), "rbo", "rbo_adjusted"}


@pytest.mark.parametrize("name", SIMILARITIES.names())
@pytest.mark.parametrize("levels", [None, 4])
def test_equals_the_oracle(name, levels):
    a, b = maps(seed=1, levels=levels), maps(seed=2, levels=levels)
    found = SIMILARITIES[name].function(a, b)
    wanted = [ORACLES[name](x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES.names())
def test_properties(name):
    entry = SIMILARITIES[name]
    a, b = maps(seed=1), maps(seed=2)
    kept = a.clone()
    found = entry.function(a, b)
    assert torch.equal(a, kept)
    assert ((found >= entry.low) & (found <= entry.high)).all()
    torch.testing.assert_close(found, entry.function(b, a))
    torch.testing.assert_close(entry.function(a, a), torch.full((6,), float(entry.same), dtype=found.dtype))
    torch.testing.assert_close(found, entry.function(a * 5 + 3, b * 2 - 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entry.function(a[:1], b)[3], entry.function(a[0], b[3]))
    assert entry.function(torch.full((1, 49), 0.3), b).isnan().all()


def test_ranks_share_ties():
    values = maps(3, levels=4)
    np.testing.assert_array_equal(average_ranks(values).numpy(), stats.rankdata(values.numpy(), axis=1))


def test_flat_allows_for_rounding_only():
    values = torch.tensor([[0.0, 0, 0], [1, 1, 1 + 1e-7], [1, 1, 1.00001], [0, 0, 1e-30], [-3, -3, -3]])
    assert flat(values).tolist() == [True, True, False, False, True]
