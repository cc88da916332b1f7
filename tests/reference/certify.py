"""Certificates by their definitions: plain loops over lists."""

import math
from itertools import permutations
from statistics import NormalDist, variance

NORMAL = NormalDist()


def contributions(scores, kind, K):
    """(lower, upper) of every item of one sample, and whether the sample is flat."""
    m = len(scores)
    if not all(map(math.isfinite, scores)) or max(scores) == min(scores):
        return [0.0] * m, [1.0] * m, True
    higher = [sum(other > score for other in scores) for score in scores]
    equal = [sum(other == score for other in scores) for score in scores]
    if kind == "rank":
        z = [(m - (above + (tied + 1) / 2)) / (m - 1) for above, tied in zip(higher, equal, strict=True)]
        return z, z, False
    lower = [float(above + tied <= K) for above, tied in zip(higher, equal, strict=True)]
    return lower, [float(above < K) for above in higher], False


def quantile(chance):
    """The largest p in [0, 1], to the last bits, at which a chance that grows with p is not above 0."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) <= 0 else (low, middle)
    return low


def clopper_pearson(k, n, tail):
    def at_least(p, hits):
        return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(hits, n + 1))

    lower = quantile(lambda p: at_least(p, k) - tail) if k else 0.0
    upper = quantile(lambda p: tail - (1 - at_least(p, k + 1))) if k < n else 1.0
    return lower, upper


def hoeffding(z, tail):
    half = math.sqrt(math.log(1 / tail) / (2 * len(z)))
    mean = math.fsum(z) / len(z)
    return max(0, mean - half), min(1, mean + half)


def empirical_bernstein(z, tail):
    n = len(z)
    half = math.sqrt(2 * variance(z) * math.log(2 / tail) / n) + 7 * math.log(2 / tail) / (3 * (n - 1))
    mean = math.fsum(z) / n
    return max(0, mean - half), min(1, mean + half)


def shifted(bound, distance):
    return bound if bound in (0, 1) else NORMAL.cdf(NORMAL.inv_cdf(bound) + distance)


def overlaps(lower, upper):
    """t_d of items in their order."""
    m = len(lower)
    found = []
    for d in range(1, m + 1):
        sound = [t for t in range(1, d + 1) if min(lower[:t]) > max(upper[2 * d - t :], default=-math.inf)]
        found.append(max([*sound, 0, 2 * d - m]))
    return found


def rbo(shared, p):
    m = len(shared)
    return p**m + (1 - p) / p * math.fsum(p**d * shared[d - 1] / d for d in range(1, m + 1))


def adjusted(raw, m, p):
    chance = p**m + (1 - p) / p * math.fsum(p**d * d / m for d in range(1, m + 1))
    return (raw - chance) / (1 - chance)


def membership(lower, upper, K):
    m = len(lower)
    found = []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        inside = sum(upper[j] >= lower[i] for j in others) < K
        outside = sum(lower[j] > upper[i] for j in others) >= K
        found.append(inside - outside)
    return found


def possible_orders(lower, upper):
    """Every order that scores within the boxes can have; equal scores stand in any order."""
    for order in permutations(range(len(lower))):
        ceiling = math.inf
        for item in order:
            ceiling = min(ceiling, upper[item])
            if ceiling < lower[item]:
                break
        else:
            yield order
