"""Float64 loops for methods that look at several layers or values, one image at a time."""

import numpy as np

from tests.reference.cams import gradcam, gradcam_plus_plus, upsampled


def scaled(values):
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread else 0 * values


def averaged(values, size):
    """Means over equal cells."""
    h, w = size
    H, W = values.shape
    return values.reshape(h, H // h, w, W // w).mean(axis=(1, 3))


def refinecam(layers, image, size):
    """`layers` are A and g of each stage, `image` and `size` the heights and widths of image and map."""
    product = np.ones(image)
    for A, g in layers:
        product *= scaled(upsampled(scaled(gradcam_plus_plus(A, g)), *image))
    return averaged(product, size)


def winsor_cam(layers, size):
    """`layers` are A and g of each convolutional layer."""
    importances = []
    for _, g in layers:
        importances.append(max(0.0, np.mean([channel.mean() for channel in g])))
    positive = sorted(value for value in importances if value > 0)
    largest = [max(len(A[0]) for A, _ in layers), max(len(A[0, 0]) for A, _ in layers)]
    total = np.zeros(largest)
    if not positive:
        return averaged(total, size)
    place = 0.9 * (len(positive) - 1)
    low = int(place)
    high = min(low + 1, len(positive) - 1)
    limit = positive[low] + (place - low) * (positive[high] - positive[low])
    cut = [min(value, limit) for value in positive]
    for (A, g), value in zip(layers, importances, strict=True):
        if value > 0:
            spread = max(cut) - min(cut)
            share = 0.1 + 0.9 * (min(value, limit) - min(cut)) / spread if spread else 1.0
            total += share * upsampled(scaled(gradcam(A, g)), *largest)
    return averaged(total, size)


def slope(function, x, x0, derivative):
    """Of DeepLIFT's rescale rule."""
    return (function(x) - function(x0)) / (x - x0) if x != x0 else derivative(x)


def relu_slope(x, x0):
    return slope(lambda t: max(t, 0.0), x, x0, lambda t: float(t > 0))


def deeplift_of_hidden_layer(A, first, second, bias):
    """Contributions of A to second·ReLU(first·ReLU(A) + bias), against A = 0; `second` is a row."""
    flat = A.ravel()
    hidden = first @ np.maximum(flat, 0) + bias
    found = np.zeros(len(flat))
    for k in range(len(flat)):
        for j in range(len(hidden)):
            found[k] += flat[k] * relu_slope(flat[k], 0.0) * first[j, k] * relu_slope(hidden[j], bias[j]) * second[j]
    return found.reshape(A.shape)


def max_pool_contributions(x, x0, weights, size):
    """Contributions of x to Σ_windows weight·max, against x0; windows of size × size do not overlap."""
    found = np.zeros(x.shape)
    for c, i, j in np.ndindex(weights.shape):
        places = [(c, i * size + a, j * size + b) for a in range(size) for b in range(size)]
        top, top0 = max(places, key=lambda place: x[place]), max(places, key=lambda place: x0[place])
        found[top if x[top] >= x0[top0] else top0] += weights[c, i, j] * (x[top] - x0[top0])
    return found
