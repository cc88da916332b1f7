"""The layout is the architecture: a room may import what lies before it, nothing else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "camrobust"
BELOW = {
    "errors": set(),
    "defaults": set(),
    "quoting": set(),
    "secrecy": {"errors", "quoting"},
    "plaindata": {"errors", "quoting"},
    "spreadsheet": set(),
    "registry": {"errors", "quoting"},
    "segmenters": {"errors", "quoting", "registry"},
    "schema": set(),
    "config": {"defaults", "errors", "plaindata", "quoting", "registry", "secrecy", "segmenters"},
    "core": {"defaults", "errors", "quoting", "registry", "schema", "segmenters"},
    "weights": {"errors", "quoting"},
    "models": {"errors", "quoting", "registry", "schema", "core", "weights"},
    "measure": {"errors", "registry", "schema", "core", "models"},
    "coded": set(),
    "io": {"errors", "quoting", "registry", "schema", "secrecy", "spreadsheet", "config", "coded"},
    "summary": {"errors", "quoting", "registry", "schema", "coded"},
    "report": {"errors", "quoting", "registry", "schema", "secrecy", "spreadsheet", "summary"},
    "status": {"errors", "config", "io"},
    "verify": {"errors", "registry", "schema", "config", "io", "summary"},
}
BELOW["classes"] = {"errors", "io", "models", "quoting"}
BELOW["plan"] = {"weights", "classes", "errors", "registry", "schema", "config", "core", "models", "measure", "io"}
BELOW["cluster"] = BELOW["plan"] | {"plan"}
BELOW["bench"] = BELOW["measure"] | {"defaults", "measure"}
BELOW["catalogue"] = BELOW["core"] | {"core"}
TOP = {
    "api", "chaos", "cli", "combine", "compare", "demo", "estimate", "interface", "machinery", "photographs", "picture",
    "sheet", "terminal", "workflow", "__init__",
}  # fmt: skip
FOREIGN = {
    "ray": {"cluster"},
    "boto3": {"io"},
    "botocore": {"io"},
    "polars": {"coded", "io", "summary", "report", "verify", "plan", "cluster", "spreadsheet", *TOP},
    "pyarrow": {"io", "cluster", *TOP},
    "pydantic": {"config", "io"},
    "torch": {"core", "weights", "models", "measure", "plan", "cluster", "bench", "catalogue", *TOP},
    "altair": {"report"},
}


def room(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        here = room(".".join(parts))
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                yield path.relative_to(PACKAGE.parent), here, name


def test_no_import_climbs():
    wrong = []
    for path, here, name in imports():
        if name.split(".")[0] == "camrobust" and here not in TOP:
            there = room(name)
            if there not in {here, "__init__"} | BELOW[here]:
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_every_library_has_its_rooms():
    wrong = [
        f"{path} imports {name}"
        for path, here, name in imports()
        if name.split(".")[0] in FOREIGN and here not in FOREIGN[name.split(".")[0]]
    ]
    assert wrong == []


def test_every_file_has_a_room():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert rooms <= BELOW.keys() | TOP


@pytest.mark.parametrize("module", ["camrobust.core.cams", "camrobust.measure", "camrobust.bench.passes"])
def test_the_science_runs_without_ray_polars_and_boto3(module):
    code = (
        "import sys\n"
        "for name in ('ray', 'polars', 'boto3', 'pyarrow', 'pydantic', 'altair'): sys.modules[name] = None\n"
        f"import {module}"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_jobs_are_short():
    jobs = sorted((PACKAGE.parent / "jobs").glob("*.py"))
    assert {job.name for job in jobs} == {"evaluate.py", "aggregate.py", "benchmark.py"}
    assert all(len(job.read_text().splitlines()) <= 60 for job in jobs)


def test_no_secret_and_no_machine_path_is_written_down():
    root = PACKAGE.parent
    files = [path for folder in ("camrobust", "jobs", "docs") for path in (root / folder).rglob("*") if path.is_file()]
    pattern = re.compile(r"/work/|/home/(?!ray)|AKIA[0-9A-Z]{16}|aws_secret_access_key\s*=\s*['\"]")
    texts = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".jinja")]
    assert [str(path) for path in texts if pattern.search(path.read_text())] == []
