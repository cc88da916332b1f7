"""Rank-biased overlap by its definition: sets and loops, ties by enumerating every order."""

from itertools import permutations, product

import numpy as np


def overlap(first, second, p):
    """RBO_ext of two lists of the same items without ties."""
    m = len(first)
    total = sum(len(set(first[:d]) & set(second[:d])) / d * p**d for d in range(1, m + 1))
    return p**m + (1 - p) / p * total


def groups(scores):
    return [[i for i, s in enumerate(scores) if s == value] for value in sorted(set(scores), reverse=True)]


def orders(scores):
    for parts in product(*(list(permutations(group)) for group in groups(scores))):
        yield [item for part in parts for item in part]


def contribution(scores, item, d):
    """Share of the orders in which the item stands among the first d."""
    every = list(orders(scores))
    return sum(item in order[:d] for order in every) / len(every)


def rbo(a, b, p, ties):
    m = len(a)
    if ties == "index":
        first, second = (sorted(range(m), key=lambda i, s=s: (-s[i], i)) for s in (a, b))
        return overlap(first, second, p)
    if ties == "a":
        pairs = [(x, y) for x in orders(a) for y in orders(b)]
        return sum(overlap(x, y, p) for x, y in pairs) / len(pairs)
    total = last = 0.0
    for d in range(1, m + 1):
        if ties == "b":
            c = [contribution(a, i, d) for i in range(m)]
            e = [contribution(b, i, d) for i in range(m)]
            norm = (sum(x * x for x in c) * sum(y * y for y in e)) ** 0.5
            last = sum(x * y for x, y in zip(c, e, strict=True)) / norm
        else:
            top = [{i for i in range(m) if sum(s[j] > s[i] for j in range(m)) < d} for s in (a, b)]
            last = 2 * len(top[0] & top[1]) / (len(top[0]) + len(top[1]))
        total += last * p**d
    return last * p**m + (1 - p) / p * total


def shares(scores, ties):
    """c(d) of every item, (m items, m depths), from its tie group's first rank and size."""
    m = len(scores)
    above = (scores[None, :] > scores[:, None]).sum(axis=1)
    equal = scores[None, :] == scores[:, None]
    if ties == "index":
        above = above + np.tril(equal, -1).sum(axis=1)
        equal = np.eye(m)
    depths = np.arange(1, m + 1)
    if ties == "w":
        return (depths > above[:, None]).astype(float)
    return ((depths - above[:, None]) / equal.sum(axis=1)[:, None]).clip(0, 1)


def rbo_of_shares(a, b, p, ties):
    """RBO_ext from the contributions of every item at every depth."""
    c, e = shares(a, ties), shares(b, ties)
    depths = np.arange(1, len(a) + 1)
    norm = {
        "b": np.sqrt((c**2).sum(axis=0) * (e**2).sum(axis=0)),
        "w": (c.sum(axis=0) + e.sum(axis=0)) / 2,
    }.get(ties, depths)
    overlaps = (c * e).sum(axis=0) / norm
    return overlaps[-1] * p ** len(a) + (1 - p) / p * (overlaps * p**depths).sum()


def chance(a, b, p, ties):
    """Mean over every renaming of the second list's items; under "index", of both lists' items."""
    first = list(permutations(a)) if ties == "index" else [a]
    found = [rbo(one, other, p, ties) for one in first for other in permutations(b)]
    return sum(found) / len(found)


def flat(ranking):
    """Groups of a list in which a set is a tie group."""
    return [sorted(one) if isinstance(one, set) else [one] for one in ranking]


def completed(first, second, unseen, depth):
    """Both lists continued to `depth` groups: with items of their own ("low"), or so that they agree most ("high")."""
    short, long = sorted((flat(first), flat(second)), key=lambda groups: sum(map(len, groups)))
    has = [{item for group in groups for item in group} for groups in (short, long)]
    if unseen == "low":
        ends = [[[f"{side}{n}"] for n in range(depth)] for side in "st"]
    else:
        only_long = [[item] for group in long for item in group if item not in has[0]]
        only_short = [[item] for group in short for item in group if item not in has[1]]
        new = [[f"new{n}"] for n in range(depth)]
        ends = [only_long + new, only_short + new]
    return [groups + end for groups, end in zip((short, long), ends, strict=True)]


def top(groups, d, ties):
    """c(d) of the items that have begun to enter."""
    shares, seen = {}, 0
    for group in groups:
        if seen >= d:
            break
        shares |= dict.fromkeys(group, 1.0 if ties == "w" else min(1.0, (d - seen) / len(group)))
        seen += len(group)
    return shares


def rbo_of_lists(first, second, p, ties, unseen, depth=160):
    """Σ (1-p) p^(d-1) A_d of the completed lists, down to a depth that weighs nothing."""
    total = 0.0
    groups = completed(first, second, unseen, depth)
    for d in range(1, depth):
        c, e = (top(one, d, ties) for one in groups)
        shared = sum(share * e.get(item, 0) for item, share in c.items())
        if ties == "a":
            by = d
        elif ties == "w":
            by = (len(c) + len(e)) / 2
        else:
            by = (sum(x * x for x in c.values()) * sum(y * y for y in e.values())) ** 0.5
        total += (1 - p) * p ** (d - 1) * shared / by
    return total
