import random
import re

import pytest
import torch

from camrobust.core.rank_lists import TIES, overlaps, rbo_lists
from camrobust.core.ranks import rbo
from tests.reference import ranks as reference


def ranking(generator, count, tied=True):
    """Some letters, in tie groups of one to three."""
    letters = generator.sample("abcdefghijklmno", count)
    found = []
    while letters:
        size = generator.choice((1, 1, 2, 3)) if tied else 1
        group, letters = letters[:size], letters[size:]
        found.append(set(group) if len(group) > 1 else group[0])
    return found


def pairs(count, tied=True, seed=0):
    generator = random.Random(seed)
    return [tuple(ranking(generator, generator.randint(1, 10), tied) for _ in range(2)) for _ in range(count)]


def test_lists_that_share_only_some_items():
    found = rbo_lists("abcdefg", "zcavwxy", 0.9)
    assert found.ext == pytest.approx(0.288217, abs=1e-6)
    assert found.low == pytest.approx(0.221686, abs=1e-6)
    assert found.high == pytest.approx(0.580676, abs=1e-6)
    assert found.residual == pytest.approx(0.580676 - 0.221686, abs=2e-6)
    seen = overlaps("abcdefg", "zcavwxy")
    assert sum(seen) / len(seen) == pytest.approx(0.3122, abs=5e-5)


@pytest.mark.parametrize(("order", "wanted"), [("abcde", 1), ("edcba", 0.737775), ("bacde", 0.9), ("abced", 0.981775)])
def test_known_values_of_the_same_items(order, wanted):
    assert rbo_lists("abcde", order, 0.9).ext == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("ties", "wanted"), [("w", 1), ("a", 0.95), ("b", 1)])
def test_known_values_with_ties(ties, wanted):
    assert rbo_lists([{"a", "b"}, "c"], [{"b", "a"}, "c"], 0.9, ties).ext == pytest.approx(wanted, abs=1e-9)


# Computed with the authors' own program (github.com/julian-urbano/sigir2024-rbo, Python): ext, min and max at p = 0.9.
AUTHORS = [
    (
        ["red", {"blue", "green"}, "yellow", "pink"],
        [{"blue", "red"}, "white", {"yellow", "black", "purple"}, "green"],
        {
            "w": (0.693589076, 0.472335592, 0.835408925),
            "a": (0.668452357, 0.449158652, 0.812231986),
            "b": (0.712655462, 0.486965858, 0.850039191),
        },
    ),
    (
        ["a", {"b", "c"}, "d"],
        [{"c", "b"}, "x", {"a", "y"}, "z", "d"],
        {
            "w": (0.720881357, 0.414107652, 0.8077365),
            "a": (0.679986964, 0.384070152, 0.777699),
            "b": (0.701338557, 0.394177538, 0.787806386),
        },
    ),
]


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("first", "second", "wanted"), AUTHORS)
def test_equals_the_authors_program_under_ties(first, second, wanted, ties):
    found = rbo_lists(first, second, 0.9, ties)
    assert (found.ext, found.low, found.high) == pytest.approx(wanted[ties], abs=1e-8)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("unseen", ["low", "high"])
def test_bounds_are_what_continued_lists_give(ties, unseen):
    for first, second in pairs(15):
        wanted = reference.rbo_of_lists(first, second, 0.8, ties, unseen)
        assert getattr(rbo_lists(first, second, 0.8, ties), unseen) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
def test_lies_between_its_bounds_and_is_symmetric(ties):
    for first, second in pairs(60, seed=1):
        found = rbo_lists(first, second, 0.8, ties)
        back = rbo_lists(second, first, 0.8, ties)
        assert (back.ext, back.low, back.high) == pytest.approx((found.ext, found.low, found.high), abs=1e-12)
        assert 0 <= found.low <= found.ext + 1e-12
        assert found.ext <= found.high + 1e-12
        assert found.high <= 1 + 1e-12


def test_without_ties_the_rules_agree():
    for first, second in pairs(20, tied=False):
        ext = [rbo_lists(first, second, 0.9, ties).ext for ties in TIES]
        assert ext == pytest.approx([ext[0]] * 3, abs=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_equals_the_tensor_form_for_the_same_items(ties):
    scores = torch.randint(0, 4, (20, 2, 7), generator=torch.Generator().manual_seed(0)).float()
    for one, other in scores:
        lists = [
            [set(group) if len(group) > 1 else group[0] for group in reference.groups(values.tolist())]
            for values in (one, other)
        ]
        assert float(rbo(one, other, 0.9, ties)) == pytest.approx(rbo_lists(*lists, 0.9, ties).ext, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("aa", "ab"),
            "rbo_lists: a list must have items, each of them once, got ['a', 'a']; remove empty groups and repeats",
        ),
        (
            (["a", {"a"}], "b"),
            "rbo_lists: a list must have items, each of them once, got ['a', {'a'}]; remove empty groups and repeats",
        ),
        (("", "b"), "rbo_lists: a list must have items, each of them once, got []; remove empty groups and repeats"),
        (
            (["a", set()], "b"),
            "rbo_lists: a list must have items, each of them once, got ['a', set()]; remove empty groups and repeats",
        ),
        (("a", "b", 0), "rbo_lists: p must be between 0 and 1, got 0; 0.9 puts 86 % of the weight on the top 10"),
        (("a", "b", 0.9, "index"), "rbo_lists: ties must be one of b, a, w, got 'index'; b is the default"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        rbo_lists(*arguments)
