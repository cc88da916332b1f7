"""Whether what a run began with is still there when it is resumed: weights, networks, builders and plugins."""

from collections.abc import Mapping

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import COUNT
from camrobust.contract.model_config import ModelConfig
from camrobust.contract.run_record import PluginRecord, RunRecord
from camrobust.measure.kept_classes import kept_numbers
from camrobust.measure.plugins import change_since, load_plugins
from camrobust.run.class_names import kept_classes
from camrobust.run.plan import build, check_file, fetch_weights


def check_networks(config: RunConfig, began: RunRecord) -> None:
    """Refuse to resume a run whose weights files, networks, builders or heads have changed.

    Args:
        config: the run's configuration.
        began: run.json; what it does not hold, as in runs of earlier versions, is not checked.

    Raises:
        UserError: a file has changed, or is gone, a builder makes another network, or its outputs are read otherwise.
    """
    readouts = began.readouts()
    for model in config.models:
        _check_kept(model, began)
        sha256, state = began.weights_sha256.get(model.name), began.state_sha256.get(model.name)
        if state is None:
            check_file(model, None if sha256 is None else fetch_weights(model), sha256)
            continue
        builder, readout = began.builders.get(model.name), readouts[model.name]
        crop = config.image.crop
        build(model, crop, sha256=sha256, state=state, builder=builder, readout=readout, seed=config.seed)


def _check_kept(model: ModelConfig, began: RunRecord) -> None:
    """Refuse a file of classes that does not say what it said when the run began."""
    names, texts = began.classes.get(model.name, []), kept_classes(model.name, model.classes_kept)
    if texts and kept_numbers(model.name, texts, names, len(names) or COUNT) != tuple(began.classes_kept[model.name]):
        raise UserError(
            f"model '{model.name}': classes_kept is not as it was when this run began; put it back, or use --fresh"
        )


def check_plugins(config: RunConfig, began: Mapping[str, PluginRecord]) -> None:
    """Refuse to resume a run whose plugins have changed since it began.

    Args:
        config: of the run.
        began: the plugins as run.json has them.

    Raises:
        UserError: a plugin was added, removed or changed, or cannot be loaded.
    """
    now = load_plugins(config.plugins)
    changes = [f"{name} {'added' if name in now else 'removed'}" for name in sorted({*now} ^ {*began})]
    both = [name for name in now if name in began]
    changes += [f"{name}: {change}" for name in both if (change := change_since(began[name], now[name]))]
    if changes:
        raise UserError(
            f"plugins: not as they were when this run began ({', '.join(changes)}); put them back, or use --fresh"
        )
