"""Float64 loops for methods that mask the image, one image at a time."""

import numpy as np

from tests.reference.cams import score_weighted, upsampled


def ss_cam(A, image, logit, noises):
    def score(mask):
        return sum(logit(image * (mask + noise)) for noise in noises) / len(noises)

    return score_weighted(A, image, score)


def is_cam(A, image, logit, steps=10):
    def score(mask):
        total, masked = 0.0, 0 * mask
        for step in range(1, steps + 1):
            masked = masked + mask * step / steps
            total += logit(image * masked)
        return total / steps

    return score_weighted(A, image, score)


def opti_cam(A, image, logit, steps=50, rate=0.1, move=1e-6):
    """Adam's steps along slopes of the logit by central differences; also the number of the step that stopped."""
    A = np.maximum(A, 0)
    large = np.array([upsampled(one, *image.shape[1:]) for one in A])

    def shares(w):
        return np.exp(w) / np.exp(w).sum()

    def score(w):
        mask = sum(share * one for share, one in zip(shares(w), large, strict=True))
        return logit(image * (mask - mask.min()) / (mask.max() - mask.min()))

    w = np.full(len(A), 0.5)
    m, v, before = np.zeros(len(A)), np.zeros(len(A)), -np.inf
    for step in range(steps):
        if step % 5 == 0:
            now = score(w)
            if now < before:
                break
            before = now
        slope = np.array([score(w + move * one) - score(w - move * one) for one in np.eye(len(A))]) / (2 * move)
        slope[large.max(axis=(1, 2)) == 0] = 0  # it only scales the map, which is scaled back
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        w = w + rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
    else:
        step = steps
    return sum(share * one for share, one in zip(shares(w), A, strict=True)), step
