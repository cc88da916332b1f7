"""run.json as a run writes it, for folders that are made up without measuring."""

import json

from camrobust.contract.run_record import RunRecord

VARIANT = {"perturbation": "gaussian_noise", "severity": 1, "strength": "sigma=0.08", "replicate": 0}


def run_document(images, models=("m",), cams=("gradcam",), variants=(VARIANT,), parts=1, **changes):
    """A complete document of a run over so many images, whose counts add up; `changes` replace whole keys."""
    planned = {
        "images": images, "models": len(models), "cams": len(cams), "variants": len(variants), "parts": parts,
        "attack_passes": 0, "forwards": images * len(models) * (len(variants) + parts),
        "rows": images * len(models) * len(cams) * len(variants),
    }  # fmt: skip
    names = {"datasets": [{"name": "d", "images": "photos"}], "models": [{"name": name} for name in models]}
    document = {
        "format": 1, "version": "0.2", "digest": "0" * 16,
        "config": {"seed": 0, "metric": {"average": "macro"}, "summary": {"intervals": "delta"}, **names},
        "numbers": {"seed": 0, "metric": {"average": "macro"}, **names},
        "planned": planned, "models": list(models), "cams": list(cams),
        "controls": [name for name in cams if name == "random"],
        "families": {one["perturbation"]: "noise" for one in variants}, "variants": list(variants), "warnings": [],
        "target_layers": dict.fromkeys(models, "layer4"), "weights_sha256": dict.fromkeys(models),
        "tails": dict.fromkeys(models, "cut"), "same_as": {name: {} for name in models}, "classes": {},
        "versions": {"python": "3.13", "camrobust": "0.2"}, "hardware": {"system": "x"},
        "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return document | changes


def run_record(images=1, **keywords):
    """The same as a reader gets it."""
    return RunRecord.model_validate(run_document(images, **keywords))


def change_document(run, **changes):
    """Replace whole keys of the run.json of a folder."""
    run.write_json("run.json", json.loads(run.store.read("run.json")) | changes)
