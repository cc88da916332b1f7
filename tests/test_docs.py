import ast
import json
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import polars as pl
import pytest

from camrobust.contract.run_documents import FinishedRecord
from camrobust.contract.run_files import data_name
from camrobust.results.lease import acquire
from camrobust.summary.differences import MEASURES
from tests.photos import write_photos
from tests.results.test_reduce import write_run
from tests.runs import ROOT, environment


def generator():
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_in_step_with_the_registries():
    generate = generator()
    assert (ROOT / "docs" / "catalogue.md").read_text("utf-8") == generate.catalogue_page()
    assert (ROOT / "docs" / "configuration.md").read_text("utf-8") == generate.configuration_page()
    assert (ROOT / "docs" / "results.md").read_text("utf-8") == generate.results_page()
    assert "| None |" not in generate.results_page()
    assert (generate.CONFIGS / generate.FILE).read_text("utf-8") == generate.schema_text()


def test_the_readmes_configuration_is_valid():
    import yaml

    from camrobust.contract.config_file import parse_config
    from camrobust.core.explain.cams import CAMS
    from camrobust.core.perturb import variants

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    config = parse_config(yaml.safe_load(text))
    assert all(name in CAMS for name in config.cams)
    try:
        variants(config.perturbations)
    except Exception as error:
        raise AssertionError(f"README: {error}") from error


def test_the_readmes_snippet_runs_as_it_stands(tmp_path, monkeypatch):
    import torch
    from torchvision.models import resnet18

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    write_photos(tmp_path / "path" / "to" / "photos", 2)
    torch.save(resnet18().state_dict(), tmp_path / "checkpoint.pth")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].scores.height == 2 * 5 * 3
    assert names["maps"]["gradcam"].shape == (2, 7, 7)


def test_the_api_reference_builds_without_a_warning(tmp_path):
    """In a process of its own, as pdoc imports what it documents."""
    command = [sys.executable, ROOT / "docs" / "reference.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for page in (
        "camrobust",
        "camrobust/core/ranks",
        "camrobust/core/explain/cams/gradient",
        "camrobust/contract/config",
    ):
        assert (tmp_path / f"{page}.html").is_file()


def test_the_page_about_an_own_model_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "own-model.md").read_text("utf-8"), re.DOTALL)[1]
    write_photos(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "own-model.md", "exec"), {})
    assert "robustness_adjusted" in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert page.count('<tr data-cam="') == 4
    assert (tmp_path / "report" / "figures" / "curves.svg").is_file()
    assert pl.read_parquet(tmp_path / "result.parquet").height == 3 * 11 * 4


def cells(path):
    """Source, and what it shows as texts by MIME type, of every cell of code."""
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            shown = {}
            for output in cell["outputs"]:
                shown |= output.get("data", {output["output_type"]: output.get("text", "")})
            found.append(("".join(cell["source"]), {name: "".join(text) for name, text in shown.items()}))
    return found


def test_the_tour_runs_as_it_stands_and_shows_what_is_kept_in_it(tmp_path):
    command = [sys.executable, ROOT / "docs" / "tour.py", tmp_path / "tour.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    kept, shown = cells(ROOT / "docs" / "tour.ipynb"), cells(tmp_path / "tour.ipynb")
    assert [source for source, _ in shown] == [source for source, _ in kept]
    assert [[*output] for _, output in shown] == [[*output] for _, output in kept]
    everything = "".join(text for _, output in shown for text in output.values())
    assert not {"error", "stream"} & {name for _, output in shown for name in output}
    for needed in ("<table><tr><th>dataset</th>", "<svg", "data:image/jpeg", "p_corrected"):
        assert needed in everything
    assert "image/png" in shown[-1][1]
    for place in (str(ROOT), sys.prefix, str(tmp_path)):
        assert place not in (ROOT / "docs" / "tour.ipynb").read_text("utf-8")
    assert (ROOT / "docs" / "tour.ipynb").stat().st_size < 2**20


def snippets(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "results.md").read_text("utf-8"), re.DOTALL)


def shown(code, names):
    """What the lines of a snippet show that are expressions, as in a notebook."""
    found = []
    for line in ast.parse(code).body:
        if isinstance(line, ast.Expr):
            found.append(eval(compile(ast.Expression(line.value), "results.md", "eval"), names))
        else:
            exec(compile(ast.Module([line], []), "results.md", "exec"), names)
    return found


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Three complete runs of eight images; names that a folder escapes, or that look like a date.

    Beside what counts lies what a writer has left that came late.
    """
    monkeypatch.chdir(tmp_path)
    changes = {"datasets": [{"name": "made up", "images": "photos"}]}
    for name, lower in (("mine", 0), ("before", 0), ("after", 0.4)):
        run = write_run(
            tmp_path / "runs" / name, models=("2024-01-01",), changes=changes,
            moved=lambda table, lower=lower: table.with_columns(
                dataset=pl.lit("made up"), rbo_adjusted=pl.col("rbo_adjusted") - lower
            ),
        )  # fmt: skip
        counted = run.committed()
        lease = acquire(run.store, lambda _, counted=counted: counted.commits)
        run.finish(lease.number, FinishedRecord())
        lease.release()
        for key in counted.tables("scores"):
            folder = key.rpartition("/")[0]
            run.store.create(f"{folder}/{data_name(1, 'a' * 24, 'b' * 16)}", run.store.read(key))


@pytest.mark.usefixtures("written")
def test_the_page_about_results_runs_as_it_stands(capsys):
    scan, pandas, _, compare, stability = snippets("python")
    names = {}
    shown(scan, names)
    rows = names["rows"].collect()
    assert rows.height == 8 * 2 * 3
    assert rows.select("dataset", "model").unique().rows() == [("made up", "2024-01-01")]
    if find_spec("pandas"):
        shown(pandas, names)
        assert len(names["table"]) == rows.height
        assert set(names["table"]["model"]) == {"2024-01-01"}
    changed, _ = shown(compare, names)
    assert "consistency_adjusted" in changed["measure"]
    assert {*changed["measure"]} <= {*MEASURES}
    assert "compared at the 3 strengths" in capsys.readouterr().out
    noisy, every = shown(stability, names)
    assert noisy.height == 8 * 2
    assert noisy.equals(every)


@pytest.mark.usefixtures("written")
def test_the_sql_of_the_page_about_results_runs_as_it_stands():
    duckdb = pytest.importorskip("duckdb")
    scan, _, query, *_ = snippets("python")
    names = {"duckdb": duckdb}
    shown(scan, names)
    (found,) = shown(query, names)
    good = names["scores"].filter(pl.col("kept_class") & (pl.col("status") == "ok")).group_by("model", "cam")
    wanted = good.agg(pl.col("rbo_adjusted").mean()).sort("cam").rows()
    found.sort()
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in wanted], rel=1e-5)
