"""Planned rows against found rows, counted one by one."""

from collections import Counter


def verdict(images, models, cams, variants, rows, failures):
    """Counts as `verify.Verdict` names them.

    Args:
        images: (dataset, image_id) of the manifest.
        models: names.
        cams: names.
        variants: (perturbation, parameter, replicate).
        rows: (dataset, image_id, model, cam, perturbation, parameter, replicate) of every score row.
        failures: (dataset, image_id, model or None).
    """
    planned = {(cam, *variant) for cam in cams for variant in variants}
    found = {}
    for dataset, image_id, model, *variant in rows:
        found.setdefault((dataset, image_id, model), Counter())[tuple(variant)] += 1
    units = {(*image, model) for image in images for model in models}
    failed = {unit for unit in units if any(unit[:2] == one[:2] and one[2] in (None, unit[2]) for one in failures)}
    missing = surplus = failed_rows = 0
    for unit in units:
        have = found.get(unit, Counter())
        missing += unit not in failed and have.total() < len(planned)
        wrong = any(one not in planned or count > 1 for one, count in have.items())
        surplus += wrong or (unit in failed and have.total() >= len(planned))
        failed_rows += max(0, len(planned) - have.total()) if unit in failed else 0
    return {
        "planned_rows": len(units) * len(planned),
        "score_rows": sum(one.total() for one in found.values()),
        "failed_rows": failed_rows,
        "missing": missing,
        "surplus": surplus + sum(unit not in units for unit in found),
        "images": len(images),
        "failed_images": len({unit[:2] for unit in failed}),
    }
