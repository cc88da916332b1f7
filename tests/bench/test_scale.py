"""The stages without their science, those that replay them, and the figures of the two streams; no clock is read."""

import json
import os
from contextlib import nullcontext

import pytest

from camrobust.bench.chaos.photos import write_photos
from camrobust.bench.scale import meter as module
from camrobust.bench.scale import overhead, stubs, throughput
from camrobust.bench.scale.overhead import PRESETS, variants_of
from camrobust.bench.scale.throughput import Spent
from camrobust.contract.config_file import parse_config
from camrobust.interface.cli import main
from camrobust.io.store import open_store
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.run.pipeline import KINDS
from camrobust.run.stages import load as load_module
from camrobust.run.stages.batches import pending_batch, tensors_of

IMAGES = 3


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "LONGEST", IMAGES)
    return throughput._plan(str(tmp_path / "run"))


def chain(plan, kinds, suffix=""):
    """The four stages, one after the other, in this process."""
    folder = open_run(f"{plan.config.output}{suffix}")
    batches = [pending_batch(pending_parts(plan.manifest, 1, folder.committed()))]
    for stage in (
        kinds.load(plan.config),
        kinds.perturb(plan.config, plan.parts, "cpu"),
        kinds.explain(plan.config, plan.parts, frozenset(), {}, "cpu", plan.pass_sizes["cpu"]),
        kinds.commit(folder.uri, 0),
    ):
        batches.append(stage(batches[-1]))
    return batches


def test_the_stages_of_the_bench_are_those_of_the_run():
    assert [issubclass(stub, stage) for stub, stage in zip(stubs.STUBS, KINDS, strict=True)] == [True] * 4


def test_the_stubs_carry_the_bytes_of_a_run_and_commit_all_its_rows(plan):
    original = load_module.decode
    *_, perturbed, _, committed = chain(plan, stubs.STUBS)
    assert [variants.shape for variants in tensors_of(perturbed["variants"], -1, 3, 224, 224)] == [
        (11, 3, 224, 224)
    ] * IMAGES
    assert committed["rows"].to_pylist() == [IMAGES * 10 * 4]
    assert committed["cpu_s"].to_pylist()[0] >= 0
    folder = open_run(plan.config.output)
    rows = folder.scores(folder.committed())
    assert rows["image_id"].n_unique() == IMAGES
    assert rows["cam"].n_unique() == len(throughput.CAMS)
    assert rows["rbo"].unique().to_list() == [0.5]
    # The science is back once a stage is done.
    assert load_module.decode is original


def test_a_replayed_stage_hands_out_what_its_stub_made(plan, monkeypatch):
    monkeypatch.setattr(stubs, "_MADE", {})
    made = chain(plan, stubs.STUBS)
    replayed = chain(plan, stubs.REPLAYED, "-replayed")
    assert [table.nbytes for table in replayed[:-1]] == [table.nbytes for table in made[:-1]]
    stage = stubs.ReplayedLoad(plan.config)
    assert stage(replayed[0]) is replayed[1]
    assert stage(replayed[0][:1]).num_rows == 1


def test_the_presets_have_as_many_variants_as_the_help_says():
    assert {name: variants_of(name) for name in PRESETS} == {"full": 15, "quick": 8}


def test_figures_are_marginal():
    short, long = Spent(100, 10.0, 1.0, 2.0, 3.0, 10.0, 500.0), Spent(300, 14.0, 1.1, 2.2, 3.3, 16.0, 501.5)
    row = throughput._row("own stages", short, long)
    assert (row["images"], row["seconds"], row["images_per_s"]) == (300, 14.0, 50.0)
    assert (row["driver_ms"], row["ledger_ms"], row["commit_ms"], row["everything_ms"]) == (0.5, 1.0, 1.5, 30.0)
    assert row["driver_grew_mib"] == 1.5


@pytest.mark.parametrize(("seconds_of_last", "size"), [(9.0, 2048), (13.0, 1920), (20.0, 1024), (15.0, 1371)])
def test_the_next_stream_is_longer_as_far_as_the_rate_is_known(seconds_of_last, size):
    spent = [Spent(128, 8.0, 0, 0, 0, 0, 0), Spent(512, seconds_of_last, 0, 0, 0, 0, 0)]
    assert throughput._next_size(spent, 25) == size


def test_three_streams_are_made_and_more_until_one_is_long(monkeypatch):
    seconds = iter([8.0, 30.0, 50.0])
    monkeypatch.setattr(
        throughput, "_stream", lambda _plan, _output, _kinds, count: Spent(count, next(seconds), 0, 0, 0, 0, 0)
    )
    short, long = throughput._streams(None, "", stubs.STUBS, 25)
    assert (short.images, long.images) == (512, 1024)
    seconds = iter([8.0, 9.0, 13.0, 28.0])
    short, long = throughput._streams(None, "", stubs.STUBS, 25)
    assert (short.images, long.images) == (2048, 8192)
    monkeypatch.setattr(throughput, "LONGEST", 300)
    seconds = iter([8.0, 8.1])
    short, long = throughput._streams(None, "", stubs.STUBS, 25)
    assert (short.images, long.images) == (128, 300)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The minimum number of concurrent actors:UserWarning")
def test_both_streams_run_to_the_end(monkeypatch, capsys):
    monkeypatch.setattr(throughput, "session", lambda *_: nullcontext())
    monkeypatch.setattr(throughput, "FIRST", 2)
    monkeypatch.setattr(throughput, "LONGEST", 8)
    one = {"cluster": {"explainers": [1, 1]}}  # each costs three seconds of CPU, in each of the four streams
    monkeypatch.setattr(throughput, "parse_config", lambda data: parse_config(data | one))
    assert main(["bench", "scale", "--seconds", "1", "--json"]) == 0
    alone, own = json.loads(capsys.readouterr().out)["stream"]
    assert (alone["way"], own["way"]) == ("Ray Data alone", "own stages")
    assert alone["images"] == own["images"] == 8
    assert alone["ratio"] == 1
    assert alone["ledger_ms"] == 0


def test_a_process_that_ended_still_counts(monkeypatch):
    """Workers end before the stream does; the ledger is told by its title, and not one that an earlier run has left."""
    alive = {6: 1.0, 7: 2.0, 8: 5.0}
    monkeypatch.setattr(module, "descendants", lambda _: set(alive))
    monkeypatch.setattr(module, "cpu_s", lambda pid: alive[pid])
    monkeypatch.setattr(module, "title", lambda pid: "ray::Ledger.begin" if pid in (6, 9) else "ray::IDLE")
    meter = module.Meter()
    alive |= {8: 6.0, 9: 0.5}
    meter.look()
    # It still has a number, but no time.
    alive |= {6: 1.5, 7: 2.25, 8: 0.0, 9: 0.75}
    meter.look()
    del alive[8]
    meter.look()
    assert meter.ledger_s == 0.75
    assert meter.everything_s() == (1.5 - 1.0) + (2.25 - 2.0) + (6.0 - 5.0) + 0.75


@pytest.fixture
def small_overhead(monkeypatch):
    """Tiny networks and pictures, in the session that is open."""
    original = overhead._config

    def config(*arguments):
        given = original(*arguments).model_dump(mode="json", exclude_unset=True)
        return parse_config(given | {"models": ["tests.toys:pooled"], "image": {"resize": 32, "crop": 32}})

    monkeypatch.setattr(overhead, "_config", config)
    monkeypatch.setattr(overhead, "session", lambda *_: nullcontext())


@pytest.mark.usefixtures("small_overhead")
def test_the_bare_loop_commits_all_images_and_knows_when_it_began_to_explain(tmp_path, monkeypatch):
    monkeypatch.setattr(overhead, "BLOCK", 2)
    write_photos(open_store(str(tmp_path / "photos")), IMAGES, 40, 50)
    config = overhead._config(tmp_path, str(tmp_path / "out"), "quick", {})
    taken = overhead._bare(config)
    assert 0 < taken.start_s < taken.seconds
    assert taken.cpu_s > 0
    assert open_run(config.output).committed().parts.height == IMAGES


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster", "small_overhead")
@pytest.mark.skipif(not os.environ.get("CAMROBUST_ALL"), reason="starts six workers; CAMROBUST_ALL=1 runs it")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The minimum number of concurrent actors:UserWarning")
def test_three_ways_are_timed_from_the_first_line_to_the_last_commit():
    rows = overhead.overhead(IMAGES, "quick")
    assert [row["way"].split()[0] for row in rows] == ["bare", "job,", "job,"]
    assert all(0 < row["start_s"] <= row["seconds"] and row["cpu_s"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1
