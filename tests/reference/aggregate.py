"""Consistency, responsiveness and RM by loops over images; their intervals from the residual of every image."""

from collections import defaultdict

from scipy.stats import t


def mean(values):
    return sum(values) / len(values) if values else None


def ratio(per_image, average):
    """The estimate, and the residual e_i of every image that contributes."""
    pairs = {
        image: ((sum(v) / len(v), 1.0) if average == "macro" else (sum(v), float(len(v))))
        for image, v in per_image.items()
        if v
    }
    total = sum(b for _, b in pairs.values())
    if not total:
        return None, {}
    C = sum(a for a, _ in pairs.values()) / total
    return C, {image: (a - C * b) / total for image, (a, b) in pairs.items()}


def bounds(estimate, variance, images, low, high):
    if images < 2:
        return None, None
    half = t.ppf(0.975, images - 1) * max(variance, 0) ** 0.5
    return min(max(estimate - half, low), high), min(max(estimate + half, low), high)


def group(rows, column, average="macro"):
    same, flipped = defaultdict(list), defaultdict(list)
    images = {(row["dataset"], row["image_id"]) for row in rows}
    for row in rows:
        if row["status"] == "ok" and row[column] is not None:
            image = (row["dataset"], row["image_id"])
            (same if row["kept_class"] else flipped)[image].append(
                row[column] if row["kept_class"] else 1 - row[column]
            )
    low, high = (0, 1) if column == "rbo" else (-float("inf"), float("inf"))
    C, e = ratio(same, average)
    R, f = ratio(flipped, average)
    G = len(images)
    var_c = sum(x * x for x in e.values()) * len(e) / (len(e) - 1) if len(e) > 1 else None
    var_r = sum(x * x for x in f.values()) * len(f) / (len(f) - 1) if len(f) > 1 else None
    estimates = {
        "consistency": (C, *(bounds(C, var_c, len(e), low, high) if var_c is not None else (None, None))),
        "responsiveness": (R, *(bounds(R, var_r, len(f), low, high) if var_r is not None else (None, None))),
        "robustness": (None, None, None),
    }
    if C is not None and R is not None:
        estimates["robustness"] = (C * R, None, None)
        if var_c is not None and var_r is not None:
            cov = sum(e[i] * f[i] for i in e.keys() & f.keys()) * G / (G - 1)
            variance = R * R * var_c + C * C * var_r + 2 * C * R * cov
            estimates["robustness"] = (C * R, *bounds(C * R, variance, min(len(e), len(f)), low, high))
    return estimates
