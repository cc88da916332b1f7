"""Methods of a user's own through a whole run, and run folders that name plugins but must not lead to their import."""

import json
import os
import shutil
import subprocess
import sys

import polars as pl
import pytest
import yaml

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.schema import SCORES
from camrobust.interface.cli import main
from camrobust.interface.evaluation import load_run
from camrobust.results.commits import keep_rest
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.results.reduce import otherwise_found
from camrobust.run import workflow
from camrobust.run.plan import make_plan
from camrobust.run.stages.batches import pending_batch, rows_of
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb
from camrobust.run.unchanged import check_plugins
from tests.documents import VARIANT, change_document, run_record
from tests.photos import write_photos
from tests.plugin_files import DIMMED, METHODS, registries, write_module
from tests.results.test_reduce import write_run
from tests.runs import ROOT, environment

EXAMPLE, QUANTUM = (ROOT / "docs" / "examples" / name for name in ("camrobust-example", "camrobust-quantum"))
ADDED = {"name": "largest_gap", "type": "float32", "meaning": "Largest change of a position.", "low": 0, "high": None,
         "direction": "lower = more alike"}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write_module(tmp_path, "own.methods", METHODS + DIMMED)
    with registries():
        yield tmp_path


def configured(folder, **changes):
    write_photos(folder / "photos", 2)
    return parse_config(
        {
            "output": str(folder / "out"), "plugins": ["own.methods"],
            "datasets": [{"name": "d", "images": str(folder / "photos")}], "models": ["tests.toys:pooled"],
            "cams": ["gradcam", "negated"], "perturbations": ["contrast:5", "dimmed:1,5"], "gallery_images": 0,
        } | changes
    )  # fmt: skip


def measured(config):
    """A run without Ray: each worker's code once, in this process."""
    folder = open_run(config.output)
    workflow._begin(config, folder, lambda _: None)()
    plan = make_plan(config, folder.manifest())
    rows = pending_batch(pending_parts(plan.manifest, len(plan.parts), folder.committed()))
    perturbed = Perturb(config, plan.parts, "cpu", None, plan.sources)(Load(config)(rows))
    explained = Explain(config, plan.parts, frozenset(), plan.weights, "cpu", 8, None, plan.sources)(perturbed)
    Commit(config.output, 0)(explained)
    return folder, plan, explained


def test_a_run_has_rows_of_all_three_and_says_where_they_are_from(folder):
    run, plan, _ = measured(configured(folder))
    document = json.loads((folder / "out" / "run.json").read_text())
    assert document["plugins"] == {"own.methods": {
        "package": "unknown", "version": "unknown", "sha256": plan.sources["own.methods"], "cams": ["negated"],
        "perturbations": ["dimmed"], "similarities": ["largest_gap"]}}  # fmt: skip
    assert document["similarities"] == [ADDED]
    assert document["families"]["dimmed"] == "light"
    rows = run.scores(run.committed())
    assert rows.columns == [*(column.name for column in SCORES), "largest_gap"]
    assert rows.height == 2 * 2 * 3
    assert (rows.filter(status="ok")["largest_gap"] > 0).all()
    assert load_run(folder / "out").scores.equals(rows)
    assert set(workflow.aggregate(run)["by_cam"]["cam"]) == {"gradcam", "negated"}


def test_a_similarity_that_was_not_asked_for_has_no_column(folder):
    run, *_ = measured(configured(folder, metric={"similarities": ["cosine"]}))
    assert json.loads((folder / "out" / "run.json").read_text())["similarities"] == []
    assert run.scores(run.committed()).columns == [column.name for column in SCORES]


def test_kept_rows_keep_the_columns_of_plugins(folder):
    run, *_ = measured(configured(folder))
    before = run.scores(run.committed())
    gone = pl.DataFrame({"dataset": ["d"], "image_id": ["photo-000.jpg"]})
    (kept,) = keep_rest(run.store, run.committed(), gone, 1, run.run().score_columns())
    assert "-kept-" in kept
    (file,) = (folder / "out").glob("scores/*/*/00000001-*.parquet")
    rest = pl.read_parquet(file, hive_partitioning=False)
    assert rest.equals(before.filter(pl.col("image_id") != "photo-000.jpg").drop("dataset", "model"))


def test_a_run_without_plugins_has_the_files_that_it_had(folder):
    config = configured(folder, plugins=[], cams=["gradcam"], perturbations=["contrast:5"])
    run, _, explained = measured(config)
    assert run.run().score_columns() == SCORES
    assert rows_of(explained["scores"]).column_names == [column.name for column in SCORES]
    assert "plugins" not in config.numbers()
    assert config.digest() == config.model_copy(update={"plugins": ("own.methods",)}).digest()


def test_workers_refuse_another_source(folder):
    config = configured(folder)
    plan = make_plan(config)
    for worker in (Perturb, Explain):
        before, after = ((), ()) if worker is Perturb else ((frozenset(), {}), (8,))
        with pytest.raises(UserError, match=r"^plugin 'own.methods': its source on this worker is not the driver's"):
            worker(config, plan.parts, *before, "cpu", *after, None, {"own.methods": "0" * 64})


def test_methods_must_come_from_a_plugin_that_the_configuration_names(folder):
    make_plan(configured(folder))
    with pytest.raises(UserError, match=r"^config: 'negated' was registered by 'own.methods', which workers do not"):
        make_plan(configured(folder, plugins=[]))


CHANGES = [
    ({"version": "0.9"}, "own.methods: unknown 0.9 then, unknown unknown now"),
    ({"sha256": "0" * 64}, "own.methods: another source file"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_a_run_is_not_resumed_with_another_version(folder, change, told):
    config = configured(folder)
    began = make_plan(config).plugins
    check_plugins(config, began)
    for recorded, what in (
        ({"own.methods": began["own.methods"].model_copy(update=change)}, told),
        ({}, "own.methods added"),
        (began | {"more": began["own.methods"]}, "more removed"),
    ):
        with pytest.raises(UserError) as error:
            check_plugins(config, recorded)
        assert str(error.value) == (
            f"plugins: not as they were when this run began ({what}); put them back, or use --fresh"
        )


def test_resuming_looks_at_the_plugins_before_it_measures(folder):
    config = configured(folder)
    workflow._begin(config, open_run(config.output), lambda _: None)()
    document = json.loads((folder / "out" / "run.json").read_text())
    document["plugins"]["own.methods"]["version"] = "3"
    (folder / "out" / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"own.methods: unknown 3 then, unknown unknown now"):
        workflow.run(config)


def test_a_driver_that_begins_second_looks_at_the_plugins_too(folder):
    config = configured(folder)
    first, second = (workflow._begin(config, open_run(config.output), lambda _: None) for _ in range(2))
    first()
    assert second().plugins == open_run(config.output).run().plugins
    document = json.loads((folder / "out" / "run.json").read_text())
    document["plugins"]["own.methods"]["sha256"] = "0" * 64
    (folder / "out" / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"own.methods: another source file"):
        second()


def test_runs_are_not_taken_together_where_one_name_is_of_two_versions():
    plugin = {"package": "own", "version": "1", "sha256": "a", "cams": ["x"], "perturbations": ["y"],
              "similarities": ["z"]}  # fmt: skip
    used = {"cams": ("x", "gradcam"), "variants": [VARIANT, VARIANT | {"perturbation": "fog+y"}],
            "similarities": [{"name": "z"}]}  # fmt: skip
    run = run_record(**used, plugins={"own.methods": plugin})
    newer = {"own.methods": plugin | {"version": "2"}}
    assert otherwise_found(run, run) == []
    assert otherwise_found(run, run_record(**used, plugins=newer)) == ["plugins.x", "plugins.y", "plugins.z"]
    assert otherwise_found(run, run_record(**used)) == ["plugins.x", "plugins.y", "plugins.z"]
    assert otherwise_found(run, run_record(plugins=newer)) == []
    plus = used | {"variants": [VARIANT, VARIANT | {"perturbation": "y++fog"}]}
    versions = [{"own.methods": plugin | {"perturbations": ["y+"], "version": version}} for version in "12"]
    assert "plugins.y+" in otherwise_found(*(run_record(**plus, plugins=plugins) for plugins in versions))


READERS = ("verify", "status", "aggregate", "report", "compare")


def test_nobody_who_reads_a_run_imports_its_plugins(tmp_path, monkeypatch, capsys):
    """A stranger's folder names a module that lies where it would be found, and that leaves a file when imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "imported"
    write_module(tmp_path, "planted", f"from pathlib import Path\nPath({str(mark)!r}).touch()")
    changes = {"plugins": ["planted"]}
    for name in ("first", "second"):
        run = write_run(tmp_path / name, changes=changes)
        change_document(run, plugins={"planted": {"cams": ["gradcam"]}}, similarities=[ADDED])
    for command in READERS:
        both = ["first", "second"] if command == "compare" else ["first"]
        assert main([command, *both]) == 0, capsys.readouterr().err
    assert load_run(tmp_path / "first").scores["largest_gap"].is_null().all()
    assert "planted" not in sys.modules
    assert not mark.exists()
    with pytest.raises(UserError, match=r"^plugin 'planted': registers no CAM"):
        make_plan(parse_config(json.loads((tmp_path / "first" / "run.json").read_text())["config"]))
    assert mark.exists()
    sys.modules.pop("planted")


FORGED = [
    ({"similarities": [ADDED | {"name": "status"}]}, "similarities.0.name: 'status' is another column of the scores"),
    ({"similarities": [ADDED | {"name": "segments"}]}, "similarities.0.name: 'segments' is another column of the sco"),
    ({"similarities": [ADDED | {"name": "a/b"}]}, "similarities.0.name: String should match pattern"),
    ({"similarities": [ADDED | {"type": "string"}]}, "similarities.0.type: String should match pattern"),
    ({"similarities": [ADDED, ADDED]}, "similarities must have different names"),
    ({"plugins": {"os;x": {}}}, "plugins.os;x.[key]: String should match pattern"),
    ({"plugins": {"x": {"package": "a b"}}}, "plugins.x.package: String should match pattern"),
    ({"plugins": {"x": {"version": "1\nrm"}}}, "plugins.x.version: String should match pattern"),
]


@pytest.mark.parametrize(("changes", "problem"), FORGED)
def test_what_run_json_says_of_plugins_is_checked(tmp_path, changes, problem):
    run = write_run(tmp_path / "run")
    change_document(run, **changes)
    with pytest.raises(UserError) as error:
        run.run()
    assert problem in str(error.value)


def installed(sources, target):
    """The example packages as pip installs them, from copies in a folder."""
    copies = [shutil.copytree(example, sources / example.name) for example in (EXAMPLE, QUANTUM)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
                           "--disable-pip-version-check", "--target", str(target), *map(str, copies)],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def outside(site, cwd, *command):
    """A command that knows camrobust and the example, but not this checkout's tests."""
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=cwd, env=environment(PYTHONPATH=path),
                          capture_output=True, text=True, check=False, timeout=400)  # fmt: skip


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_examples_run_as_their_readmes_say(cluster, tmp_path, monkeypatch, capsys):
    """As installed; beside a plugin that lies only in the folder where the command is called, and in one run."""
    site = cluster.site
    installed(tmp_path / "source", site)
    tests = [EXAMPLE / "test_methods.py", QUANTUM / "test_model.py"]
    tested = outside(site, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, *tests)
    assert tested.returncode == 0, tested.stdout
    assert "7 passed" in tested.stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(site)
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "run.yaml").write_text((EXAMPLE / "run.yaml").read_text())
    write_module(tmp_path, "beside", METHODS)
    of_example, of_quantum = (yaml.safe_load((example / "run.yaml").read_text()) for example in (EXAMPLE, QUANTUM))
    models = json.dumps([*of_example["models"], *of_quantum["models"]])
    more = ["--set", "plugins=[camrobust_example.methods, beside]", "--set", "cams=[gradcam, abs-gradcam, negated]",
            "--set", f"models={models}", "--set", f"image={json.dumps(of_quantum['image'])}",
            "--set", "cluster.explainers=[1, 1]"]  # fmt: skip

    def here(*command):
        with registries():
            code = main([*map(str, command)])
        return code, *capsys.readouterr()

    _, listed, _ = here("list", "cams", "--json", "--plugins", "camrobust_example.methods")
    assert {row["name"]: row["package"] for row in json.loads(listed)}["abs-gradcam"] == "camrobust-example 0.1.0"
    code, _, said = here("plan", "run.yaml", "--forwards-per-s", "10", *more)
    assert code == 0, said
    done = outside(site, tmp_path, "camrobust", "run", "run.yaml", "--address", cluster.address, *more)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "example"
    document = json.loads((out / "run.json").read_text())
    recorded = document["plugins"]["camrobust_example.methods"]
    assert (recorded["package"], recorded["version"]) == ("camrobust-example", "0.1.0")
    assert document["plugins"]["beside"]["package"] == "unknown"
    rows = load_run(out).scores
    assert rows.height == 3 * 3 * 3 * 2
    builder = document["builders"]["hybrid"]
    assert (builder["package"], builder["version"]) == ("camrobust-quantum", "0.1.0")
    for cam in ("abs-gradcam", "negated"):
        for perturbation, count in (("dead_rows", 6), ("gaussian_noise", 3)):
            some = rows.filter(cam=cam, perturbation=perturbation, status="ok")
            assert some.height == 2 * count
            assert some["area_shift"].is_between(0, 1).all()
            assert (some["largest_gap"] > 0).all()
    assert here("verify", out)[0] == 0
    methods = next(site.rglob("camrobust_example/methods.py"))
    methods.write_text(methods.read_text() + "# changed\n")
    code, _, said = here("run", "run.yaml", *more)
    assert code == 2
    assert said == (
        "camrobust: plugins: not as they were when this run began (camrobust_example.methods: another source file); "
        "put them back, or use --fresh\n"
    )
