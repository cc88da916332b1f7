"""Rank-biased overlap by its definition: sets and loops, ties by enumerating every order."""

from itertools import permutations, product


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


def chance(a, b, p, ties):
    """Mean over every renaming of the second list's items."""
    found = [rbo(a, [b[i] for i in order], p, ties) for order in permutations(range(len(b)))]
    return sum(found) / len(found)
