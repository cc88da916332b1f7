"""Planned rows and score rows, counted one by one."""

from collections import Counter


def completeness(images, models, cams, variants, rows, failures):
    """The counts of `verify.Completeness` by name.

    Args:
        images: (dataset, image_id) of the manifest.
        models: names of the models.
        cams: names of the CAMs.
        variants: (perturbation, strength, replicate).
        rows: (dataset, image_id, model, cam, perturbation, strength, replicate) of every score row.
        failures: (dataset, image_id, model or None).
    """
    planned = {(cam, *variant) for cam in cams for variant in variants}
    counts = {}
    for dataset, image_id, model, *variant in rows:
        counts.setdefault((dataset, image_id, model), Counter())[tuple(variant)] += 1
    pairs = {(*image, model) for image in images for model in models}
    failed = {pair for pair in pairs if any(pair[:2] == line[:2] and line[2] in (None, pair[2]) for line in failures)}
    missing = surplus = failed_rows = 0
    for pair in pairs:
        have = counts.get(pair, Counter())
        missing += pair not in failed and have.total() < len(planned)
        wrong = any(variant not in planned or count > 1 for variant, count in have.items())
        surplus += wrong or (pair in failed and have.total() >= len(planned))
        failed_rows += max(0, len(planned) - have.total()) if pair in failed else 0
    return {
        "planned_rows": len(pairs) * len(planned),
        "score_rows": sum(count.total() for count in counts.values()),
        "failed_rows": failed_rows,
        "missing": missing,
        "surplus": surplus + sum(pair not in pairs for pair in counts),
        "images": len(images),
        "failed_images": len({pair[:2] for pair in failed}),
    }
