"""Whether labels are what the configuration uses them for, before anything is spent."""

from collections.abc import Mapping

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.heads import chooses_class
from camrobust.contract.imagenet import wnids
from camrobust.contract.quoting import short
from camrobust.io.class_numbers import FOLDERS, first_folders
from camrobust.run.plan import Plan


def check_use(plan: Plan, heads: Mapping[str, str], classes: Mapping[str, int | None]) -> None:
    """Refuse settings that need labels where these are missing, or where a label is no class of a model.

    Args:
        plan: the run.
        heads: how each model's outputs are read.
        classes: how many classes each model has; None for values.

    Raises:
        UserError: in one sentence, what is missing.
    """
    _check_folders(plan, classes)
    explains, only = plan.config.metric.explained_class == "label", plan.config.summary.only == "correct"
    if not (explains or only):
        return
    setting = "metric.explained_class: label" if explains else "summary.only: correct"
    for model, head in heads.items():
        if not chooses_class(head):
            raise UserError(
                f"{setting} needs models that choose one class, and model '{model}' has head: {short(head)}; make a "
                "run of its own for it"
            )
    listed = plan.manifest.filter(pl.col("dataset").is_in([dataset.name for dataset in plan.config.datasets]))
    if listed.is_empty():
        return  # `camrobust plan --images` counts images and lists none
    without = listed.filter(pl.col("label").is_null())
    if without.height == listed.height:
        raise UserError(f"{setting} needs labels, and no image has one; give the datasets labels")
    if explains:
        _check_explained(plan, setting, without, listed.height)


def _check_explained(plan: Plan, setting: str, without: pl.DataFrame, images: int) -> None:
    """Refuse to explain labels that are missing, or under attacks on the map of another class."""
    if without.height:
        raise UserError(
            f"{setting} needs the label of every image, and {without.height:,} of {images:,} have none, "
            f"such as '{short(without['image_id'][0])}'; add them, or exclude these images"
        )
    attacks = sorted({variant.perturbation for variant in plan.variants if variant.attacked_cam is not None})
    if attacks:
        raise UserError(
            f"{setting} cannot be combined with {attacks[0]}, which attacks the map of the predicted class; explain "
            "the predicted class with summary.only: correct, where both are one class"
        )


def _check_folders(plan: Plan, classes: Mapping[str, int | None]) -> None:
    """Refuse sub-folders in sorted order that are fewer than a model's classes, as a missing one shifts the others."""
    for dataset in plan.config.datasets:
        if dataset.labels != FOLDERS or dataset.label_names is not None:
            continue
        here = plan.manifest.filter((pl.col("dataset") == dataset.name) & pl.col("label").is_not_null())
        if here.is_empty():
            continue
        if first_folders(here["image_id"]) <= wnids().keys():
            continue
        highest = int(here["label"].max())  # type: ignore[arg-type]
        for model, count in classes.items():
            if count is not None and highest + 1 < count:
                raise UserError(
                    f"dataset '{dataset.name}': its sub-folders in sorted order are the labels 0 to {highest}, but "
                    f"model '{model}' has {count} classes, and a missing one would shift the others; give label_names, "
                    "a file with the number of each"
                )
