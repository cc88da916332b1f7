"""What is found out about the models of a run before a cluster starts, by loading each of them once."""

from collections.abc import Sequence
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.core.channels import noise, spoken
from camrobust.core.perturb.apply import refuse_attack, refuse_target
from camrobust.core.perturb.variants import Variant
from camrobust.io.manifest import check_labels
from camrobust.measure.coinciding import coinciding
from camrobust.measure.kept_classes import choosing_among, kept_numbers
from camrobust.measure.model import Model, bytes_per_image, load_model
from camrobust.measure.prepared import try_out
from camrobust.measure.same_network import builder_record
from camrobust.run.class_names import class_names, kept_classes
from camrobust.run.labels import check_use
from camrobust.run.plan import Plan, fetch_weights, fingerprint, settings_of, spec_of


def check_models(plan: Plan) -> dict[str, dict[str, Any]]:
    """Load every model once, on the CPU, so that mistakes show before a cluster starts.

    Returns:
        Facts of each model by its name, among them target layer, head, classes, and CAMs that coincide.

    Raises:
        UserError: a model cannot be built, labels are out of its range, or names are not one per class.
    """
    facts: dict[str, dict[str, Any]] = {}
    crop = plan.config.image.crop
    probe = noise(2, plan.config.channels, crop)
    for config in plan.config.models:
        weights = fetch_weights(config)
        spec = spec_of(config)
        model = load_model(spec, weights, crop, seed=plan.config.seed)
        names, classes = class_names(spec, config.classes, model.classes, model.class_names), model.classes
        texts = kept_classes(config.name, config.classes_kept)
        kept = kept_numbers(config.name, texts, names, classes) if texts else ()
        model = choosing_among(model, kept)
        _check_channels(model, plan.config.channels)
        _refuse_attacks(model, plan.variants)
        if plan.config.compile:
            try_out(model, settings_of(plan.config, len(probe)), crop)
        facts[config.name] = {
            "target_layer": model.network.layer_name,
            "classes": classes if model.network.readout.has_classes else None,
            "kept": kept,
            "colours": {
                name: [round(value, 7) for value in getattr(model, name).flatten().tolist()] for name in ("mean", "std")
            },
            "head": model.network.readout.head,
            "outputs": model.network.readout.outputs,
            "class_names": names,
            "weights_sha256": fingerprint(weights),
            "state_sha256": model.state_sha256,
            "builder": builder_record(spec),
            "bytes_per_image": bytes_per_image(model, crop),
            "layout": model.network.layout.order,
            "remarks": model.remarks,
            "tail": "cut" if model.network.tail is not None else "full passes",
            "same_as": coinciding(model, plan.config.cams, probe, plan.config.precision),
        }
    check_labels(plan.manifest, {name: fact["classes"] for name, fact in facts.items() if fact["classes"] is not None},
                 {name: fact["kept"] for name, fact in facts.items() if fact["kept"]})  # fmt: skip
    check_use(plan, {name: fact["head"] for name, fact in facts.items()},
              {name: fact["classes"] for name, fact in facts.items()})  # fmt: skip
    return facts


def _refuse_attacks(model: Model, planned: Sequence[Variant]) -> None:
    """Refuse a model that some of the planned attacks cannot attack.

    Raises:
        UserError: no gradient passes it, or it lacks the class that an attack wants.
    """
    for variant in planned:
        if variant.needs_model:
            try:
                refuse_attack(model, variant.perturbation)
                refuse_target(model, model.classes, variant)
            except UserError as error:
                raise UserError(f"model '{model.name}': {error}") from error


def _check_channels(model: Model, channels: int) -> None:
    """Refuse a model whose builder names a normalisation of other channels than the run's images have."""
    if model.channels != channels:
        raise UserError(
            f"model '{model.name}': its mean and std must be those of {spoken(channels)}, as the images of the run, "
            f"got {model.channels}; name mean and std, or set image.channels"
        )
