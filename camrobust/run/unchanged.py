"""Whether what a run began with is still there when it is resumed: weights, networks, builders and plugins."""

from collections.abc import Mapping

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.run_record import PluginRecord, RunRecord
from camrobust.measure.networks import filled
from camrobust.measure.plugins import change_since, load_plugins
from camrobust.measure.same_network import check_builder, check_state
from camrobust.run.plan import check_file, fetch_weights, spec_of


def check_weights(config: RunConfig, began: RunRecord) -> None:
    """Refuse to resume a run whose weights files, networks or builders have changed since it began.

    Args:
        config: the run's configuration.
        began: run.json; what it does not hold, as in runs of earlier versions, is not checked.

    Raises:
        UserError: a file has changed, or is gone, or a builder makes another network.
    """
    for model in config.models:
        recorded, state, spec = began.weights_sha256.get(model.name), began.state_sha256.get(model.name), spec_of(model)
        weights = None if recorded is None and state is None else fetch_weights(model)
        check_file(model, weights, recorded)
        if state is not None:
            _, now = filled(spec, weights, config.seed)
            check_builder(spec, began.builders.get(model.name))
            check_state(spec, state, now)


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
