"""Beginning a run, or one shard of it: which folder a driver measures in, and what the shards agree on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.record import new_record
from camrobust.contract.run_record import PlannedRecord, RunRecord, ShardsRecord
from camrobust.contract.sharding import SHARDS, ShardRecord
from camrobust.results.environment import hardware, utc, versions
from camrobust.results.folder import RunFolder, fresh_folder, of_shard, open_run
from camrobust.results.shards import ShardedRun, check_shard, shard_folder, shards_record

if TYPE_CHECKING:
    from camrobust.run.plan import Plan


def open_output(config: RunConfig, shard: ShardRecord | None = None, *, fresh: bool = False) -> RunFolder:
    """The folder in which a driver measures: the output, or the folder of its shard in it.

    Args:
        config: the run.
        shard: what the driver measures; None for all of it.
        fresh: start over in a new folder beside an existing one.

    Raises:
        UserError: the output holds another kind of run, other shards, or a run of another configuration.
    """
    if shard is None:
        return _without_shards(fresh_folder(config.output) if fresh else open_run(config.output))
    if fresh:
        raise UserError("--fresh: every shard would choose a new folder of its own; choose another --output for all")
    output = open_run(config.output)
    if output.holds("run.json"):
        raise UserError(f"output: {output.uri} holds a run without shards; leave --shard out, or choose another output")
    whole, folder = shards_record(output), shard_folder(output, shard)
    begun = folder.record()
    if whole is None:
        if begun is not None:
            raise UserError(f"output: {folder.uri} holds a run, but there is no {SHARDS} beside it; put it back")
        return folder
    if whole.shards != shard.of:
        raise UserError(
            f"--shard: {output.uri} holds a run in {whole.shards} shards, got {shard}; give I/{whole.shards}, or "
            "choose another output"
        )
    output.check_same(whole, config)
    if begun is not None:
        check_shard(folder, begun, whole, shard)
    return folder


def _without_shards(folder: RunFolder) -> RunFolder:
    whole, begun = shards_record(folder), folder.record()
    if whole is not None:
        raise UserError(
            f"output: {folder.uri} holds a run in {whole.shards} shards; give --shard I/{whole.shards}, or choose "
            "another output"
        )
    if begun is not None and begun.shard is not None:
        raise UserError(
            f"output: {folder.uri} holds only shard {begun.shard} of a run; give the folder above it and --shard "
            f"{begun.shard}"
        )
    return folder


def beginning_of(
    config: RunConfig,
    folder: RunFolder,
    shard: ShardRecord,
    planned: Callable[[RunFolder], tuple["Plan", RunRecord]],
    say: Callable[[str], None],
) -> Callable[[], None]:
    """Prepare the beginning of a shard. The first shard plans the run for all, and the others take what it wrote.

    Args:
        config: the run.
        folder: of the shard.
        shard: which of the run's shards.
        planned: lists the images and checks the models of a run in some output, without shards.
        say: takes lines for the user.

    Returns:
        A function that writes the run.json of the shard, and before it shards.json where there is none.
    """
    output = open_run(config.output)
    output.check_links()
    plan_and_record = None if shards_record(output) else planned(output)
    folder.check_ours()

    def begin() -> None:
        if plan_and_record is None or not _agree(output, *plan_and_record, shard.of):
            _check_agrees(config, shard, output)
        images, whole = _begin_shard(folder, output, shard)
        say(f"shard {shard}: {images} of {whole} images")

    return begin


def _agree(output: RunFolder, plan: "Plan", record: RunRecord, shards: int) -> bool:
    """Write down what the shards of a run have in common; False if another driver has done so in the meantime."""
    return output.begin(new_record(ShardsRecord, **dict(record), shards=shards), plan.manifest, SHARDS)


def _check_agrees(config: RunConfig, shard: ShardRecord, output: RunFolder) -> None:
    """Refuse to begin a shard of a run that another driver has planned with other settings, weights or plugins."""
    from camrobust.run.unchanged import check_networks, check_plugins

    open_output(config, shard)
    whole = _standing(output).whole
    check_plugins(config, whole.plugins)
    check_networks(config, whole)


def _standing(output: RunFolder) -> ShardedRun:
    """The run that shards.json describes, without its shards."""
    whole = shards_record(output)
    if whole is None:
        raise UserError(f"output: {output.store.locate(SHARDS)} is gone; choose another output")
    return ShardedRun(output.store, whole, ())


def _begin_shard(folder: RunFolder, output: RunFolder, shard: ShardRecord) -> tuple[int, int]:
    """Write the run.json of a shard and its copy of the list of images; returns how many it measures, and of how many.

    Raises:
        UserError: another driver has begun something else there in the meantime.
    """
    stands = _standing(output)
    whole, images = stands.whole, of_shard(stands.whole_manifest(), shard).height
    counts = {
        name: getattr(whole.planned, name) // whole.planned.images * images
        for name in ("images", "attack_passes", "forwards", "rows")
    }
    own = {
        "planned": PlannedRecord(**(dict(whole.planned) | counts)),
        "shard": shard, "version": versions()["camrobust"], "versions": versions(), "hardware": hardware(),
        "started": utc(),
    }  # fmt: skip
    record = new_record(RunRecord, **(dict(whole) | own))
    if not folder.begin(record, stands.manifest_content()):
        check_shard(folder, folder.run(), whole, shard)
    return images, whole.planned.images
