"""Quickshift as its definition reads: loops over pixels in float64."""

import math

import numpy as np


def _window(features, place, reach):
    """Places around a pixel in reading order, with the squared distance in colour and position."""
    (H, W, _), (y, x) = features.shape, place
    for v in range(max(0, y - reach), min(H, y + reach + 1)):
        for u in range(max(0, x - reach), min(W, x + reach + 1)):
            colours = zip(features[y, x], features[v, u], strict=True)
            yield (v, u), sum((float(a) - float(b)) ** 2 for a, b in colours) + (y - v) ** 2 + (x - u) ** 2


def _parent(features, density, place, reach, max_dist):
    nearest, parent = math.inf, place
    for other, distance in _window(features, place, reach):
        if density[other] > density[place] and distance < nearest:
            nearest, parent = distance, other
    return place if math.sqrt(nearest) > max_dist else parent


def quickshift(features, noise, kernel_size, max_dist):
    """Labels of an image by its colour features, (H, W, C), and the noise on its densities, (H, W)."""
    H, W, _ = features.shape
    reach = math.ceil(3 * kernel_size)
    places = [(y, x) for y in range(H) for x in range(W)]
    density = {
        place: sum(math.exp(-d / (2 * kernel_size**2)) for _, d in _window(features, place, reach)) + noise[place]
        for place in places
    }
    parent = {place: _parent(features, density, place, reach, max_dist) for place in places}
    root = dict(parent)
    for place in places:
        while root[place] != parent[root[place]]:
            root[place] = parent[root[place]]
    numbers = {one: number for number, one in enumerate(sorted(set(root.values())))}
    return np.array([numbers[root[place]] for place in places]).reshape(H, W)
