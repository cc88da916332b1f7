"""The layout is the architecture: a room may import what lies before it, nothing else."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "camrobust"
BELOW: dict[str, set[str]] = {
    "contract": set(),
    "core": {"contract"},
    "measure": {"contract", "core"},
    "io": {"contract"},
    "summary": {"contract"},
    "results": {"contract", "io", "summary"},
    "report": {"contract", "summary"},
}
BELOW["run"] = {"measure", "results", "report", *BELOW["measure"], *BELOW["results"]}
BELOW["bench"] = {"run", *BELOW["run"]}
BELOW["interface"] = {"bench", *BELOW["bench"]}
CORE: dict[str, set[str]] = {
    "channels": set(),
    "draws": set(),
    "memory": set(),
    "precision": set(),
    "ties": set(),
    "ranks": {"ties"},
    "rank_lists": {"ranks"},
    "scaling": set(),
    "segments": {"channels"},
    "similarity": {"ranks", "scaling", "ties"},
}
CORE["certify"] = {"ranks", "similarity"}
CORE["explain"] = {"draws", "memory", "precision", "scaling", "similarity"}
CORE["perturb"] = {"channels", "explain", "ranks", "segments", *CORE["explain"]}
LIBRARIES = {
    "ray": {"run", "bench"},
    "boto3": {"io"},
    "botocore": {"io"},
    "pydantic": {"contract"},
    "altair": {"report"},
    "torch": {"core", "measure", "run", "bench", "interface"},
    "polars": {"io", "summary", "results", "report", "run", "bench", "interface"},
    "pyarrow": {"io", "summary", "results", "run", "bench", "interface"},
}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(module, *, lazy=True):
    """Full names of what a module imports; without lazy, only what is imported when the module is loaded."""
    inner = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not lazy:
        inner += [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.If) and _for_types(node)]
    later = set() if lazy else {id(node) for some in inner for node in ast.walk(some)}
    for node in ast.walk(MODULES[module]):
        if id(node) in later:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _for_types(node):
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room(module, level=1):
    return [*module.split("."), "", ""][level]


def test_no_import_climbs():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if room(module) in BELOW
        for name in imports(module)
        if name in MODULES and room(name) not in {room(module), *BELOW[room(module)]}
    ]
    assert wrong == []


def test_no_import_climbs_inside_core():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if room(module) == "core" and room(module, 2)
        for name in imports(module)
        if room(name) == "core" and room(name, 2) not in {room(module, 2), *CORE[room(module, 2)]}
    ]
    assert wrong == []


def test_no_two_modules_import_each_other():
    """`import_module` in a package that loads its methods is not an import of that package by name."""
    below = {module: {name for name in imports(module, lazy=False) if name in MODULES} for module in MODULES}
    TopologicalSorter(below).prepare()


def test_every_library_has_its_rooms():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imports(module)
        if room(module) not in LIBRARIES.get(name.split(".")[0], {room(module)})
    ]
    assert wrong == []


def test_nothing_lies_outside_of_a_room():
    top = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert top == BELOW.keys() | {"__init__.py", "__main__.py", "py.typed"}
    assert len(top) <= 14


def test_files_are_short():
    lengths = sorted(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py"))
    assert lengths[-1] <= 320
    assert lengths[len(lengths) // 2] <= 130


def loaded_with(module):
    """Names of all that is imported when a module is loaded, packages around it included."""
    found, left = set(), [module]
    while left:
        name = left.pop()
        parents = {name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)}
        for one in ({name, *parents} & MODULES.keys()) - found:
            found.add(one)
            left.extend(imports(one, lazy=False))
        found.add(name)
    return found


def test_workers_with_torch_start_without_polars_and_scipy():
    """The two cost each process 0.3 s of a core and 38 MiB."""
    stages = [f"camrobust.run.stages.{stage}" for stage in ("load", "perturb", "explain")]
    methods = [name for name in MODULES if name.startswith("camrobust.core.")]
    slow = {name.split(".")[0] for one in stages + methods for name in loaded_with(one)} & {"polars", "scipy", "boto3"}
    assert slow == set()


def test_the_commit_worker_imports_no_torch():
    code = "import sys; sys.modules['torch'] = None; import camrobust.run.stages.commit"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_science_runs_without_ray_polars_and_boto3():
    code = (
        "import sys\n"
        "for name in ('ray', 'polars', 'boto3', 'pyarrow', 'pydantic', 'altair'): sys.modules[name] = None\n"
        "import camrobust.core.explain.cams, camrobust.measure.image, camrobust.bench.speed.passes"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
