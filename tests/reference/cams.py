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
