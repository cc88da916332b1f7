"""What a new run will do, and run.json as it begins."""

from collections.abc import Callable
from dataclasses import replace

from camrobust.contract.config import RunConfig
from camrobust.contract.defaults import METRIC
from camrobust.contract.image_config import OWN
from camrobust.contract.record import new_record
from camrobust.contract.run_record import RunRecord, VariantRecord
from camrobust.measure.plugins import added_similarities
from camrobust.results.environment import hardware, utc, versions
from camrobust.results.folder import FENCED, RunFolder
from camrobust.run.plan import Plan, controls, families, make_plan, pass_sizes, settings_of
from camrobust.run.tried_models import check_models


def planned(config: RunConfig, folder: RunFolder, say: Callable[[str], None], source: str) -> tuple[Plan, RunRecord]:
    """List images and check every model: the plan, and run.json without its manifest."""
    say("listing images and checking models …")
    plan = make_plan(config)
    folder.check_ours()
    facts = check_models(plan)
    warnings = [*plan.warnings, *(remark for fact in facts.values() for remark in fact["remarks"])]
    largest = max(fact["bytes_per_image"] for fact in facts.values())
    plan = replace(
        plan,
        weights={name: fact["weights_sha256"] for name, fact in facts.items()},
        pass_sizes=pass_sizes(config, plan.parts, largest),
        states={name: fact["state_sha256"] for name, fact in facts.items()},
        builders={name: fact["builder"] for name, fact in facts.items()},
        readouts={name: (fact["head"], fact["outputs"]) for name, fact in facts.items()},
        kept={name: fact["kept"] for name, fact in facts.items() if fact["kept"]},
    )
    record = new_record(
        RunRecord,
        version=versions()["camrobust"],
        digest=f"{FENCED}{config.digest()}",
        config=config.model_dump(mode="json"),
        numbers=config.numbers(),
        metric=METRIC,
        planned=plan.counts(),
        models=[model.name for model in config.models],
        cams=list(config.cams),
        controls=controls(config.cams),
        families=families(plan.variants),
        variants=[
            VariantRecord(perturbation=variant.perturbation, severity=variant.severity, strength=variant.strength,
                          replicate=variant.replicate, attacked_cam=variant.attacked_cam)
            for variant in plan.variants
        ],
        warnings=warnings, left_out=dict(plan.left_out),
        target_layers={name: fact["target_layer"] for name, fact in facts.items()},
        heads={name: fact["head"] for name, fact in facts.items()},
        outputs={name: fact["outputs"] for name, fact in facts.items()},
        weights_sha256=dict(plan.weights), state_sha256=dict(plan.states), builders=dict(plan.builders),
        pass_sizes=dict(plan.pass_sizes),
        tails={name: fact["tail"] for name, fact in facts.items()},
        preprocessing={
            name: {**config.image.model_dump(include={*OWN}), **fact["colours"], "source": source}
            for name, fact in facts.items()
        },
        classes_kept={name: list(kept) for name, kept in plan.kept.items()},
        same_as={name: fact["same_as"] for name, fact in facts.items()},
        classes={name: fact["class_names"] for name, fact in facts.items() if fact["class_names"]},
        plugins=dict(plan.plugins),
        similarities=added_similarities(settings_of(config, 1)),
        versions=versions(),
        hardware=hardware(),
        started=utc(),
    )  # fmt: skip
    said = (
        f"images: {config.image.in_words}",
        *plan.notes,
        *(f"warning: {warning}" for warning in warnings),
        *plan.size,
    )
    for line in said:
        say(line)
    return plan, record
