"""A run in several shards, each measured by a driver of its own, read as one run.

A shard is a run folder like any other, `OUTPUT/shard-I-of-N`, with its own lease and commits. `OUTPUT/shards.json`
holds what all of them have in common: whoever begins first writes it, and the others take models, weights and the list
of images from it. Each image belongs to the shard that a hash of its name gives (`contract.sharding`), so shards of one
list have no image in common and leave none out. Summary tables and the report of all shards lie in OUTPUT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.run_record import RunRecord, ShardsRecord
from camrobust.contract.sharding import SHARDS, ShardRecord, shards_of
from camrobust.results.counted import Committed
from camrobust.results.documents import read_record
from camrobust.results.folder import RunFolder, open_run

COMMON = (
    "digest", "numbers", "metric", "models", "cams", "controls", "families", "variants", "target_layers", "heads",
    "outputs", "weights_sha256", "state_sha256", "builders", "pass_sizes", "tails", "same_as", "classes", "plugins",
    "similarities", "manifest",
)  # fmt: skip
"""Fields of run.json that all shards take from shards.json. Machines, versions and times may differ."""


@dataclass(frozen=True)
class ShardedRun(RunFolder):
    """All shards of a run as one run folder; what is written goes into the output that holds them.

    Attributes:
        whole: the record of the run.
        shards: the folders of its shards, the first first.
    """

    whole: ShardsRecord
    shards: tuple[RunFolder, ...]

    @property
    def folders(self) -> Sequence[RunFolder]:
        """The folders in which drivers measured."""
        return self.shards

    def record(self) -> ShardsRecord:
        """What run.json would hold without shards."""
        return self.whole

    def generation(self) -> int:
        """The sum of the shards' numbers: it grows when any of them begins or is continued."""
        return sum(shard.generation() for shard in self.shards)

    def committed(self) -> Committed:
        """The results of all shards that count now, by their keys in the output."""
        return pooled([(f"{place.folder}/", held.committed()) for place, held in self._placed()])

    def _placed(self) -> list[tuple[ShardRecord, RunFolder]]:
        return list(zip(shards_of(self.whole.shards), self.shards, strict=True))


def pooled(shards: Sequence[tuple[str, Committed]]) -> Committed:
    """The results of several folders as if one folder held them.

    Args:
        shards: for each folder, the start of its keys in the folder above it, and its results.
    """
    parts: list[pl.DataFrame] = []
    commits: list[str] = []
    contents: list[Mapping[str, int]] = []
    uncounted: list[str] = []
    for start, held in shards:
        parts.append(held.parts.with_columns(pl.col("commit") + len(commits)))
        commits += [f"{start}{key}" for key in held.commits]
        contents += [{f"{start}{key}": size for key, size in files.items()} for files in held.contents]
        uncounted += [f"{start}{key}" for key in held.uncounted]
    return Committed(pl.concat(parts), commits, contents, sorted(uncounted))


def shards_record(output: RunFolder) -> ShardsRecord | None:
    """shards.json; None if the output holds no shards.

    Raises:
        UserError: it is not as camrobust writes it.
    """
    return read_record(output.store, SHARDS, ShardsRecord, "is damaged; choose another output")


def sharded(folder: RunFolder) -> ShardsRecord | None:
    """shards.json of an output that holds shards and no run of its own; raises as `shards_record` does."""
    return None if folder.holds("run.json") else shards_record(folder)


def shard_folder(output: RunFolder, shard: ShardRecord) -> RunFolder:
    """The folder of a shard.

    Raises:
        UserError: it is a link.
    """
    return open_run(output.store.locate(shard.folder))


def open_results(uri: str) -> RunFolder:
    """The run at an address, to be read: a run folder, or all shards of a run as one.

    Raises:
        UserError: the address cannot hold a run, or a shard is missing or is not one of this run.
    """
    folder = open_run(uri)
    whole = sharded(folder)
    return folder if whole is None else _all_shards(folder, whole)


def _all_shards(output: RunFolder, whole: ShardsRecord) -> ShardedRun:
    shards, missing = [], []
    for shard in shards_of(whole.shards):
        folder = shard_folder(output, shard)
        record = folder.record()
        if record is None:
            missing.append(str(shard))
        else:
            check_shard(folder, record, whole, shard)
            shards.append(folder)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"shards: {output.uri} holds a run in {whole.shards} shards, but not {', '.join(missing[:5])}{more}; run "
            f"the same configuration with --shard {missing[0]}"
        )
    return ShardedRun(output.store, whole, tuple(shards))


def check_shard(folder: RunFolder, record: RunRecord, whole: ShardsRecord, shard: ShardRecord) -> None:
    """Refuse a folder that is not this shard of this run.

    Args:
        folder: of the shard.
        record: its run.json.
        whole: shards.json.
        shard: what it should be.

    Raises:
        UserError: it is not; the message names what differs.
    """
    other = [name for name in COMMON if getattr(record, name) != getattr(whole, name)]
    other += [] if record.shard == shard else ["shard"]
    if other:
        raise UserError(
            f"shards: {folder.uri} is not shard {shard} of the run that {SHARDS} beside it describes (different: "
            f"{', '.join(other[:5])}); put back the folder that is"
        )
