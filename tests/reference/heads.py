"""How outputs are read, for one image at a time, in plain Python: what is decided, explained and how surely."""

import math


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softmax(row):
    top = max(row)
    shares = [math.exp(one - top) for one in row]
    return [one / sum(shares) for one in shares]


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def softmax_head(row, clean):
    """(explained class, its confidence, entropy, kept)"""
    shares = softmax(row)
    c = row.index(max(row))
    return c, shares[c], entropy(shares), c == clean.index(max(clean))


def binary_head(row, clean):
    (z,) = row
    c = 1 if z > 0 else 0
    return c, sigmoid(z if c else -z), entropy([sigmoid(z), sigmoid(-z)]), (z > 0) == (clean[0] > 0)


def multilabel_head(row, clean, label=None):
    c = clean.index(max(clean)) if label is None else label
    return c, sigmoid(row[c]), entropy([sigmoid(row[c]), sigmoid(-row[c])]), (row[c] > 0) == (clean[c] > 0)


def value_head(row, clean, tolerance, output=0):
    return output, row[output], abs(row[output] - clean[output]) <= tolerance
