"""Similarity of two maps (nested lists of floats) by loops over positions, in float64."""

import math
from itertools import combinations

import numpy as np


def values(grid):
    return [value for row in grid for value in row]


def mean(numbers):
    numbers = list(numbers)
    return math.fsum(numbers) / len(numbers)


def cosine(a, b, _size=None):
    a, b = (values(side) if isinstance(side[0], list) else side for side in (a, b))
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def pearson(a, b, _size=None):
    a, b = (values(side) if isinstance(side[0], list) else side for side in (a, b))
    return cosine([x - mean(a) for x in a], [y - mean(b) for y in b])


def ranks(numbers):
    return [mean(place for place, other in enumerate(sorted(numbers), 1) if other == one) for one in numbers]


def spearman(a, b, _size):
    return pearson(ranks(values(a)), ranks(values(b)))


def kendall(a, b, _size):
    pairs = list(combinations(zip(values(a), values(b), strict=True), 2))
    signs = [((x > u) - (x < u), (y > v) - (y < v)) for (x, y), (u, v) in pairs]
    untied = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    return sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1])


def shares(numbers):
    low = min(numbers)
    total = math.fsum(number - low for number in numbers)
    return [(number - low) / total for number in numbers]


def l1(a, b, _size):
    return math.fsum(abs(x - y) for x, y in zip(shares(values(a)), shares(values(b)), strict=True)) / 2


def js(a, b, _size):
    total = 0.0
    for x, y in zip(shares(values(a)), shares(values(b)), strict=True):
        total += sum(one * math.log2(2 * one / (x + y)) / 2 for one in (x, y) if one > 0)
    return math.sqrt(total)


def topk_iou(a, b, _size):
    a, b = values(a), values(b)
    k = -(-len(a) // 5)

    def membership(numbers):
        threshold = sorted(numbers, reverse=True)[k - 1]
        above = sum(v > threshold for v in numbers)
        equal = sum(v == threshold for v in numbers)
        return [1.0 if v > threshold else (k - above) / equal if v == threshold else 0.0 for v in numbers]

    x, y = membership(a), membership(b)
    return sum(map(min, x, y)) / sum(map(max, x, y))


def com_shift(a, b, size):
    H, W = size

    def centre(grid):
        h, w = len(grid), len(grid[0])
        mass = shares(values(grid))
        places = [((i + 0.5) * H / h, (j + 0.5) * W / w) for i in range(h) for j in range(w)]
        return [math.fsum(m * place[axis] for m, place in zip(mass, places, strict=True)) for axis in (0, 1)]

    return math.dist(centre(a), centre(b)) / math.hypot(H, W)


def enlarged(grid, size):
    """Min-max scaled, then bilinear with align_corners=False."""
    low, high = min(values(grid)), max(values(grid))

    def sources(pixels, cells):
        for pixel in range(pixels):
            place = max(0.0, (pixel + 0.5) * cells / pixels - 0.5)
            first = min(int(place), cells - 1)
            yield first, min(first + 1, cells - 1), place - first

    return [
        [
            ((grid[i][k] * (1 - v) + grid[i][m] * v) * (1 - u) + (grid[j][k] * (1 - v) + grid[j][m] * v) * u - low)
            / (high - low)
            for k, m, v in sources(size[1], len(grid[0]))
        ]
        for i, j, u in sources(size[0], len(grid))
    ]


def ssim(a, b, size):
    a, b = enlarged(a, size), enlarged(b, size)
    line = [math.exp(-((step - 5) ** 2) / (2 * 1.5**2)) for step in range(11)]
    window = [[u * v / sum(line) ** 2 for v in line] for u in line]
    found = []
    for top in range(size[0] - 10):
        for left in range(size[1] - 10):
            x = y = xx = yy = xy = 0.0
            for i in range(11):
                for j in range(11):
                    w, p, q = window[i][j], a[top + i][left + j], b[top + i][left + j]
                    x, y, xx, yy, xy = x + w * p, y + w * q, xx + w * p * p, yy + w * q * q, xy + w * p * q
            above = (2 * x * y + 0.0001) * (2 * (xy - x * y) + 0.0009)
            found.append(above / ((x * x + y * y + 0.0001) * (xx - x * x + yy - y * y + 0.0009)))
    return mean(found)


def procrustes(a, b, _size):
    """1 - (Σσ)², σ the singular values of XᵀY, found as roots of the eigenvalues of (XᵀY)ᵀ(XᵀY)."""

    def points(grid):
        centred = np.array(grid, dtype=float) - np.array(grid, dtype=float).mean(axis=0)
        return centred / math.sqrt((centred**2).sum())

    x, y = points(a), points(b)
    squares = np.linalg.eigvalsh((x.T @ y).T @ (x.T @ y))
    return 1 - sum(math.sqrt(max(square, 0.0)) for square in squares) ** 2


def norm(numbers):
    return math.sqrt(math.fsum(number * number for number in numbers))


def sensitivity(a, b, _size=None):
    return norm(y - x for x, y in zip(values(a), values(b), strict=True)) / norm(values(a))


def repeated(grid, size):
    """Every cell repeated over the pixels that it covers; the size must be a multiple of the grid's."""
    H, W = size
    return [grid[i * len(grid) // H][j * len(grid[0]) // W] for i in range(H) for j in range(W)]


def by_largest(numbers):
    largest = max(abs(number) for number in numbers)
    return [number / largest for number in numbers]


def relative(clean, noisy, floor):
    return norm((y - x) / max(abs(x), floor) for x, y in zip(clean, noisy, strict=True))


def stability(name, clean, noisy, seen, size):
    """One of the ratios for one pair, at the image's size.

    Args:
        name: as in the registry.
        clean: map, nested lists.
        noisy: map.
        seen: pairs of flat lists: pixels as whole grey levels, logits, activations.
        size: (H, W) px.
    """
    a, b = repeated(clean, size), repeated(noisy, size)
    pixels, logits, activations = seen
    moved = norm((y - x) / 255 for x, y in zip(*pixels, strict=True))
    change = [y - x for x, y in zip(by_largest(a), by_largest(b), strict=True)]
    ratio = relative(a, b, max(abs(x) for x in a) / 255)
    if name == "lipschitz":
        return norm(change) / moved
    if name == "continuity":
        return math.fsum(map(abs, change)) / moved
    if name == "ris":
        return ratio / relative(*pixels, 1)
    if name == "ros":
        return ratio / norm(y - x for x, y in zip(*logits, strict=True))
    return ratio / relative(*activations, max(abs(x) for x in activations[0]) / 255)
