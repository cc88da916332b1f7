"""Sums, and every summary table, are the same to the last bit in any order and for any blocks."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from camrobust.summary.aggregate import SummarySettings, reduce_scores
from camrobust.summary.characteristics import characterise
from camrobust.summary.exact_sums import LARGE, SMALL, added, column_sums, sums_at
from camrobust.summary.rows import Block, blocks_of
from camrobust.summary.significance import significance_tests
from tests.synthetic import images, scores


@pytest.mark.parametrize(("units", "scale"), [(SMALL, 1.0), (LARGE, 1e6)])
def test_order_changes_no_bit_and_the_sum_is_right(units, scale):
    generator = np.random.default_rng(0)
    values = (generator.normal(size=(4001, 3)) * scale * 10.0 ** generator.uniform(-6, 0, (4001, 3))) ** 2
    total = added(column_sums(values, units))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(values))
        pieces = np.array_split(values[order], [7, 900, 901, 3000])
        assert np.array_equal(added(np.sum([column_sums(piece, units) for piece in pieces], axis=0)), total)
        assert np.array_equal(added(sums_at(np.zeros(4001, np.int64), values[order, 0], 1, units)), total[:1])
    exact = [math.fsum(column) for column in values.T]
    np.testing.assert_allclose(total, exact, rtol=2e-16 * 4, atol=4001 * 2.0**-53)
    assert len({float(values[np.random.default_rng(seed).permutation(4001), 0].cumsum()[-1]) for seed in range(9)}) > 1


def blocks_at_random(table, seed):
    """The rows in blocks of any images, and within a block in any order."""
    generator = np.random.default_rng(seed)
    for rows in table.partition_by("dataset"):
        ids = generator.permutation(rows["image_id"].unique().sort().to_list())
        for some in np.array_split(ids, generator.integers(1, 5)):
            here = rows.filter(pl.col("image_id").is_in(some.tolist())).sample(fraction=1, shuffle=True, seed=seed)
            for block in blocks_of(here):
                yield shuffled(block, generator)


def shuffled(block, generator):
    """The same block with its images in another order."""
    order = generator.permutation(len(block.images))
    moved = np.argsort(order)
    rows = ((model, replace(part, image=moved[part.image])) for model, part in block.rows)
    return Block(block.dataset, [block.images[place] for place in order], rows)


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("intervals", ["delta", "bootstrap"])
def test_blocks_and_order_change_no_bit_of_any_table(average, intervals):
    names = {"images": 23, "models": ("m", "n"), "perturbations": ("p", "q"), "datasets": ("d", "e")}
    again = scores(**names, seed=5).with_columns(replicate=pl.lit(1, pl.Int16))
    table = pl.concat([scores(**names, seed=4), again])
    settings = SummarySettings(average, intervals=intervals, seed=1)

    def tables(blocks):
        reduction = reduce_scores(blocks, settings)
        extra = {
            "tests": significance_tests(reduction.profiles),
            "characteristics": characterise(reduction.profiles, images(table)),
        }
        return {**reduction.tables, **extra}

    expected = tables(blocks_of(table))
    for seed in range(4):
        found = tables(blocks_at_random(table, seed))
        for name, rows in expected.items():
            assert found[name].equals(rows), name
