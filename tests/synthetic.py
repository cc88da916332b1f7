"""Made-up result tables with all columns of the schema."""

from io import BytesIO

import numpy as np
import polars as pl
from PIL import Image

from camrobust.contract.schema import CLEAN, FAILURES, IMAGES, MAPS, SCORES, SIMILARITIES, STATUS
from camrobust.results.arrow import arrow_schema


def similarities(rbo):
    """A value for every similarity column: rbo as given, the others made up."""
    known = {"rbo": rbo, "rbo_adjusted": (rbo - 0.3) / 0.7}
    return {column.name: 0.5 for column in SIMILARITIES} | known


def score_rows(
    images=6, models=("m",), cams=("gradcam", "random"), levels=(1, 3, 5), perturbations=("gaussian_noise",),
    datasets=("d",), flip=0.4, bad=0.05, seed=0, ids=None,
):  # fmt: skip
    generator = np.random.default_rng(seed)
    rows = []
    for dataset in datasets:
        for image in range(images):
            ease = generator.normal(0, 0.1)
            for model in models:
                for perturbation in perturbations:
                    for level in levels:
                        same = bool(generator.random() > flip)
                        for cam in cams:
                            status = "ok" if generator.random() > bad else str(generator.choice([*STATUS][1:]))
                            value = float(np.clip(0.7 + ease - 0.05 * level + generator.normal(0, 0.1), 0, 1))
                            ok = status == "ok"
                            rows.append(
                                {
                                    "dataset": dataset, "model": model, "cam": cam, "perturbation": perturbation,
                                    "image_id": ids[image] if ids else f"image-{image}", "severity": level,
                                    "strength": f"sigma={level / 10:g}", "replicate": 0, "predicted_clean": 1,
                                    "predicted_perturbed": 1 if same else 2, "confidence_clean": 0.9,
                                    "entropy_clean": 0.4,
                                    "confidence_perturbed": 0.5, "label": None, "kept_class": same, "n_segments": 30,
                                    "status": status,
                                    **{name: number if ok else None for name, number in similarities(value).items()},
                                }
                            )  # fmt: skip
    return rows


def frame(columns, rows):
    empty = pl.from_arrow(arrow_schema(columns).empty_table())
    return pl.DataFrame(rows, schema=empty.schema) if rows else empty


def scores(**keywords):
    return frame(SCORES, score_rows(**keywords))


def maps(table, cams=("gradcam", "random"), seed=0):
    """A gallery for every image of a score table."""
    generator = np.random.default_rng(seed)
    rows = []
    keys = ["dataset", "image_id", "model", "perturbation", "severity", "strength", "replicate"]
    variants = table.select(keys).unique(maintain_order=True)
    clean = variants.select("dataset", "image_id", "model").unique(maintain_order=True)
    extra = {"perturbation": CLEAN, "severity": None, "strength": "", "replicate": 0}
    for row in [*(image | extra for image in clean.to_dicts()), *variants.to_dicts()]:
        sink, mask = BytesIO(), BytesIO()
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(sink, "JPEG")
        border = np.zeros((32, 32), bool)
        border[::8] = True
        Image.fromarray(border).save(mask, "PNG")
        values = generator.random((len(cams), 7, 7)).astype("<f2")
        rows.append(
            {**row, "predicted": 1, "confidence": 0.8, "photo": sink.getvalue(), "cams": ",".join(cams),
             "outlines": mask.getvalue() if row["perturbation"] == CLEAN else None, "height": 7, "width": 7,
             "maps": values.tobytes()}
        )  # fmt: skip
    return frame(MAPS, rows)


def images(table):
    keys = table.select("dataset", "image_id").unique().sort("image_id", "dataset").to_dicts()
    rest = {"label": None, "width": 9, "height": 9, "n_segments": 30, "brightness": 0.5, "contrast": 0.1,
            "colourfulness": 3.0, "edge_density": 0.1, "high_frequency": 0.1}  # fmt: skip
    return frame(IMAGES, [{**key, **rest} for key in keys])


def failures(*ids, message="truncated or damaged"):
    return frame(FAILURES, [
        {"dataset": "d", "image_id": image, "model": None, "stage": "load", "kind": "truncated", "message": message}
        for image in ids
    ])  # fmt: skip
