"""Float64 loops over channels and positions, written from the papers' formulas, one image at a time."""

import numpy as np


def gradcam(A, g, **_):
    C, h, w = A.shape
    out = np.zeros((h, w))
    for k in range(C):
        out += g[k].mean() * A[k]
    return np.maximum(out, 0)


def gradcam_plus_plus(A, g, **_):
    C, h, w = A.shape
    out = np.zeros((h, w))
    for k in range(C):
        total = A[k].sum()
        weight = 0.0
        for i in range(h):
            for j in range(w):
                x = g[k, i, j]
                if x > 0:
                    # alpha * g with alpha = g^2 / (2 g^2 + S g^3), scaled so that nothing underflows
                    weight += x / (2 + total * x) if 2 + total * x != 0 else 0.0
        out += weight * A[k]
    return np.maximum(out, 0)


def xgradcam(A, g, **_):
    C, h, w = A.shape
    out = np.zeros((h, w))
    for k in range(C):
        total = A[k].sum()
        if total != 0:
            out += (g[k] * A[k]).sum() / total * A[k]
    return np.maximum(out, 0)


def hirescam(A, g, **_):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += g[k] * A[k]
    return np.maximum(out, 0)


def layercam(A, g, **_):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += np.maximum(g[k], 0) * A[k]
    return np.maximum(out, 0)


def gradcam_elementwise(A, g, **_):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += np.maximum(g[k] * A[k], 0)
    return out


def _first_component(values):
    C, h, w = values.shape
    rows = values.reshape(C, h * w).T
    rows = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    component = left[:, 0] * sizes[0]
    if np.dot(component, rows.sum(axis=1)) < 0:
        component = -component
    return component.reshape(h, w)


def eigencam(A, g, **_):
    return _first_component(A)


def eigengradcam(A, g, **_):
    return _first_component(g * A)


def ablationcam(A, g, *, score, y):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        without = A.copy()
        without[k] = 0
        out += (y - score(without)) / y * A[k]
    return np.maximum(out, 0)


REFERENCE = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "gradcam-elementwise": gradcam_elementwise,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
    "ablationcam": ablationcam,
}


def class_activation_map(A, row):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += row[k] * A[k]
    return out


def fem(A):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += (A[k] > A[k].mean() + 2 * A[k].std()).mean() * A[k]
    return np.maximum(out, 0)


def salient(component, A):
    """The component whose sign is that of its correlation with the positions' distances from their mean; ambiguity."""
    positions = A.reshape(len(A), -1).T
    mean = positions.mean(axis=0)
    distance = np.array([np.sqrt(sum((position - mean) ** 2)) for position in positions])
    found = np.corrcoef(component.ravel(), distance)[0, 1]
    return (component if found >= 0 else -component), abs(found) < 0.05


def two_variances(A):
    """The second eigenvalue as a share of the first."""
    rows = A.reshape(len(A), -1).T
    sizes = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    return (sizes[1] / sizes[0]) ** 2


def seg_eigencam(A, g):
    rows = (np.abs(g) * A).reshape(len(A), -1).T
    rows = rows - rows.mean(axis=0)
    component = rows @ np.linalg.svd(rows, full_matrices=False)[2][0]
    return (-component if -component.min() > component.max() else component).reshape(A.shape[1:])


def kpca_cam(A):
    rows = A.reshape(len(A), -1).T
    rows = rows - rows.mean(axis=0)
    n = len(rows)
    kernel = np.array([[np.tanh(a @ b / rows.shape[1] + 1) for a in rows] for b in rows])
    centre = np.eye(n) - np.full((n, n), 1 / n)
    values, vectors = np.linalg.eigh(centre @ kernel @ centre)
    component = vectors[:, -1] * np.sqrt(values[-1])
    return (component if component @ rows.sum(axis=1) >= 0 else -component).reshape(A.shape[1:])


def weighted(weights, A):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        out += weights[k] * A[k]
    return np.maximum(out, 0)


def finercam(A, gradient, logits, target):
    """`gradient(j)` is that of logit j at A."""
    others = sorted((abs(value - logits[target]), j) for j, value in enumerate(logits) if j != target)[:3]
    contrast = gradient(target) - 0.6 * sum(gradient(j) for _, j in others) / len(others)
    return weighted(contrast.mean(axis=(1, 2)), A)


def diffgradcam(A, gradient, count, target):
    """`gradient(j)` is that of logit j at A, of `count` logits."""
    others = [gradient(j) for j in range(count) if j != target]
    return weighted((gradient(target) - sum(others) / len(others)).mean(axis=(1, 2)), A)


def shapleycam(A, gradient_at, step=1e-5):
    """`gradient_at(A)` is that of the explained logit; the Hessian times A by central differences."""
    product = (gradient_at(A * (1 + step)) - gradient_at(A * (1 - step))) / (2 * step)
    return weighted((gradient_at(A) - 0.5 * product).mean(axis=(1, 2)), A)


def upsampled(values, height, width):
    """Bilinear, pixel centres at half, borders repeated."""
    h, w = values.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = values[y0, x0] * (1 - x + x0) + values[y0, x1] * (x - x0)
            low = values[y1, x0] * (1 - x + x0) + values[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


def scorecam(A, image, logit):
    return score_weighted(A, image, lambda mask: logit(image * mask))


def score_weighted(A, image, score):
    """`score(mask)` of the mask of a channel."""
    scores = []
    for k in range(len(A)):
        mask = upsampled(A[k], *image.shape[1:])
        spread = mask.max() - mask.min()
        scores.append(score((mask - mask.min()) / spread) if spread else -np.inf)
    shares = np.exp(np.array(scores) - max(scores))
    return weighted(shares / shares.sum(), A)


def recipro_cam(A, probability):
    h, w = A.shape[1:]
    out = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            kept = np.zeros_like(A)
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= i + down < h and 0 <= j + right < w:
                        share = 0.5 ** (2 + abs(down) + abs(right))
                        kept[:, i + down, j + right] = share * A[:, i + down, j + right]
            out[i, j] = probability(kept)
    return out


def smoothgradcam_plus_plus(A, gradients):
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        weight = 0.0
        for i in range(A.shape[1]):
            for j in range(A.shape[2]):
                seen = np.array([g[k, i, j] for g in gradients])
                below = 2 * (seen**2).mean() + A[k].sum() * (seen**3).mean()
                weight += (seen**2).mean() / below * max(seen.mean(), 0) if below else 0.0
        out += weight * A[k]
    return np.maximum(out, 0)


def fullgrad(image, slopes, biases, size):
    """`slopes` and `biases` are x·∂y/∂x (3, H, W) and b·∂y/∂b (C, h, w) of each layer."""
    H, W = image.shape[1:]
    total = np.zeros((H, W))
    for one in [slopes, *biases]:
        for channel in np.abs(one):
            spread = channel.max() - channel.min()
            if spread > 1e-5 * channel.max():
                total += upsampled((channel - channel.min()) / spread, H, W)
    h, w = size
    return total.reshape(h, H // h, w, W // w).mean(axis=(1, 3))


def cf_cam(A, g, labels_of, softmax=False):
    """`labels_of(points)` clusters, -1 for outliers."""
    C, h, w = A.shape
    norms = np.array([np.sqrt((A[k] ** 2).sum()) for k in range(C)])
    strong = norms >= np.percentile(norms, 75)
    weights, counts = np.array([g[k].mean() for k in range(C)]), strong.copy()
    rest = np.flatnonzero(~strong)
    labels = labels_of(A[rest].reshape(len(rest), -1))
    for label in set(labels) - {-1}:
        members = rest[labels == label]
        mean = sum(g[k] for k in members) / len(members)
        smooth = np.zeros((h, w))
        for i in range(h):
            for j in range(w):
                near = np.array([[np.exp(-((i - a) ** 2 + (j - b) ** 2) / 2) for b in range(w)] for a in range(h)])
                smooth[i, j] = (near * mean).sum() / near.sum()
        weights[members], counts[members] = smooth.mean(), True
    if softmax:
        weights = np.where(counts, np.exp(weights), 0) / np.exp(weights[counts]).sum()
    return weighted(weights * counts, A)


def attention_rollout(layers):
    """`layers` are attention weights (heads, N, N); the class token's row."""
    rolled = np.eye(layers[0].shape[-1])
    for heads in layers:
        step = heads.mean(axis=0) + np.eye(len(rolled))
        rolled = (step / step.sum(axis=1, keepdims=True)) @ rolled
    return rolled[0]


def agcam(scores, gradients):
    out = np.zeros(scores[0].shape[-1])
    for layer, slope in zip(scores, gradients, strict=True):
        for head in range(len(layer)):
            out += np.maximum(slope[head, 0], 0) / (1 + np.exp(-layer[head, 0]))
    return out
