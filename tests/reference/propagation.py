"""Interval and linear (CROWN) bounds of a chain of matrices and ReLUs, by products of matrices."""

import numpy as np


def line_above(low, high):
    """Slope and constant of the line above a ReLU, and the slope of the one below, for l < 0 < u; else the ReLU."""
    crossing = (low < 0) & (high > 0)
    slope = np.where(crossing, high / np.where(crossing, high - low, 1), low >= 0)
    return slope, np.where(crossing, -low * slope, 0), np.where(crossing, high > -low, low >= 0)


class Ball:
    def __init__(self, image, radius, norm):
        self.image, self.radius, self.norm = image, radius, norm
        self.low, self.high = np.maximum(image - radius, 0), np.minimum(image + radius, 1)

    def at_input(self, rows):
        found = np.maximum(rows, 0) @ self.low + np.minimum(rows, 0) @ self.high
        if self.norm == "l2":
            found = np.maximum(found, rows @ self.image - self.radius * np.linalg.norm(rows, axis=1))
        return found

    def least(self, layers, known, rows):
        """Lower bounds of linear functions of the last layer's output, given bounds of every layer's input."""
        constant = np.zeros(len(rows))
        for layer, (low, high) in reversed(list(zip(layers, known, strict=False))):
            if layer is None:
                slope, above, floor = line_above(low, high)
                constant += np.minimum(rows, 0) @ above
                rows = np.maximum(rows, 0) * floor + np.minimum(rows, 0) * slope
            else:
                matrix, more = layer
                constant += rows @ more
                rows = rows @ matrix
        return self.at_input(rows) + constant

    def bounds(self, layers, method):
        """Bounds of every layer's input and of the last output; (matrix, constants) is affine, None a ReLU."""
        found = [(self.low, self.high)]
        for place, layer in enumerate(layers):
            low, high = found[-1]
            if layer is None:
                found.append((np.maximum(low, 0), np.maximum(high, 0)))
                continue
            matrix, constant = layer
            positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
            new = positive @ low + negative @ high + constant, positive @ high + negative @ low + constant
            if method == "linear" and None in layers[place + 1 : place + 2]:
                unsure, rows = (new[0] < 0) & (new[1] > 0), np.eye(len(constant))
                tight = self.least(layers[: place + 1], found, rows), -self.least(layers[: place + 1], found, -rows)
                new = (
                    np.where(unsure, np.maximum(new[0], tight[0]), new[0]),
                    np.where(unsure, np.minimum(new[1], tight[1]), new[1]),
                )
            found.append(new)
        return found
