"""The commands that plan, start or protect a run: run, demo, plan, watch-spot."""

import signal
from typing import TYPE_CHECKING, Any, NoReturn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import shell_word
from camrobust.interface.command_line import Given, print_json

if TYPE_CHECKING:
    from camrobust.contract.config import RunConfig


def run(given: Given) -> int:
    """`camrobust run`."""
    from camrobust.contract.config_file import load_config
    from camrobust.interface.outputs import check_folder

    config = load_config(given.config, given.set, given.output)
    check_folder(config.output)
    return _carry_out(config, given, fresh=given.fresh, retry_failures=given.retry_failures, shard=given.shard)


def demo(given: Given) -> int:
    """`camrobust demo`."""
    from camrobust.interface.demo import demo_config
    from camrobust.interface.outputs import check_folder

    check_folder(given.output, "demo")
    return _carry_out(demo_config(given.output), given)


def _interrupt(*_: object) -> NoReturn:
    """Treat a scheduler's SIGTERM as Ctrl-C: the lease is released, and committed results stay."""
    raise KeyboardInterrupt


def _carry_out(config: "RunConfig", given: Given, **options: Any) -> int:
    from camrobust.interface.leaderboard import show_leaderboard
    from camrobust.interface.terminal import Meter, say, show_completeness
    from camrobust.run import summarise, workflow

    signal.signal(signal.SIGTERM, _interrupt)
    quiet = given.quiet or given.json
    with Meter(quiet=quiet) as meter:
        outcome = workflow.run(
            config,
            address=given.address,
            verbose=given.verbose,
            say=(lambda _: None) if quiet else say,
            progress=meter,
            **options,
        )
    folder, completeness = outcome.folder, outcome.verdict
    if given.json:
        print_json({"output": folder.uri, "measured": outcome.measured, **completeness.as_dict()})
        return outcome.exit_code
    show_completeness(completeness, folder.uri)
    if completeness.complete and completeness.score_rows:
        record = folder.run()
        show_leaderboard(summarise.summaries(folder)["by_cam"], record.same_as, record.controls)
        say(f"report: {folder.store.locate(folder.place('report') + 'index.html')}")
    if options.get("shard"):
        word = shell_word(config.output)
        say(f"this is shard {options['shard']} alone; when all are complete: camrobust aggregate {word}")
    if outcome.too_many_failures:
        say(
            f"{completeness.failure_share:.1%} of the images failed, more than max_failure_share "
            f"({config.max_failure_share:.1%}); see failures/, correct the cause, and run with --retry-failures"
        )
    return outcome.exit_code


def plan(given: Given) -> int:
    """`camrobust plan`."""
    from camrobust.contract.config_file import load_config
    from camrobust.interface.amounts import in_units
    from camrobust.interface.outputs import check_folder, is_remote
    from camrobust.interface.terminal import show_amounts
    from camrobust.run.estimate import estimate
    from camrobust.run.shards import open_output

    config = load_config(given.config, given.set, given.output)
    check_folder(config.output)
    # Before there is a bucket, the cost of a number of images is known all the same.
    looked_at = given.images is None or not is_remote(config.output)
    folder = open_output(config, given.shard) if looked_at else None
    rows = estimate(
        config,
        given.forwards_per_s,
        given.workers,
        given.images,
        given.dollars_per_hour,
        given.interruptions,
        given.replacement_s,
        given.shard,
    )
    if folder is not None and not folder.holds("run.json"):
        folder.check_ours()
    if given.json:
        print_json(rows)
    else:
        show_amounts("Plan", in_units(rows))
    return 0


def watch_spot(given: Given) -> int:
    """`camrobust watch-spot`."""
    from camrobust.interface.terminal import say
    from camrobust.run.spot import watch

    if (given.node_id is None) != (given.address is None):
        raise UserError("watch-spot: --node-id and --address belong together; give both or neither")
    watch(given.metadata, given.interval, say, (given.node_id, given.address) if given.node_id else None)
    return 0
