"""What stands around the package: metadata, links, the version, workflows, and what a package index shows."""

import re
import tomllib
import zipfile
from email import message_from_string

import pytest
import yaml
from pre_commit.clientlib import load_config
from readme_renderer.markdown import render

from tests.runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION = PROJECT["project"]["version"]
HOME = PROJECT["project"]["urls"]["Repository"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "examples").glob("*/*.md")]


def read(name):
    return (ROOT / name).read_text("utf-8")


def test_one_version_stands_everywhere():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["version"] == VERSION
    number, date = re.search(r"^## \[(\d.*?)\] - (.*)$", read("CHANGELOG.md"), re.MULTILINE).groups()
    assert (number, date) == (VERSION, str(cited["date-released"]))
    images = re.findall(r"image: (\S+/camrobust):(\S+)", read("cluster.yaml") + read("jobs/rayjob.yaml"))
    assert len(images) == 4
    assert {tag for _, tag in images} == {VERSION}
    tags = re.findall(r"/blob/([^/]+)/", str(PROJECT["project"]["urls"]))
    assert {*tags} == {f"v{VERSION}"}


def test_one_home_stands_everywhere():
    """So that one command gives the project another one; see CONTRIBUTING.md."""
    assert all(url.startswith(HOME) for url in PROJECT["project"]["urls"].values())
    assert yaml.safe_load(read("CITATION.cff"))["repository-code"] == HOME
    host = HOME.split("/")[2]
    texts = [*PAGES, *ROOT.glob("*.toml"), *ROOT.glob("*.cff"), *WORKFLOWS, *(ROOT / "camrobust").rglob("*.py")]
    held = {path.name for path in texts if host in path.read_text("utf-8")}
    assert held == {"pyproject.toml", "CITATION.cff", "CONTRIBUTING.md"}
    assert len(re.findall(rf"{re.escape(host)}(?!/camrobust)", read("pyproject.toml"))) == 0
    (command,) = re.findall(r"^sed -i 's#(.*?)#", read("CONTRIBUTING.md"), re.MULTILINE)
    assert command == HOME


def anchors(path):
    """The names of a page's headings in links, as GitHub and package indexes make them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page):
    text = page.read_text("utf-8")
    for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        name, _, anchor = "".join(link).partition("#")
        if name.startswith("https://"):
            continue
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def metadata(dist):
    with zipfile.ZipFile(dist.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(wheel.read(name).decode())


def test_the_description_on_a_package_index_renders_and_all_of_its_links_are_addresses(metadata):
    assert metadata["Version"] == VERSION
    assert metadata["Description-Content-Type"] == "text/markdown"
    html = render(metadata.get_payload())
    assert html is not None
    links = re.findall(r'(?:href|src)="([^#"][^"]*)"', html)
    ours = {link for link in links if link.startswith(HOME)}
    assert {*links} - ours == {"https://arxiv.org/abs/2508.18154"}
    assert f"{HOME}/raw/v{VERSION}/docs/report.png" in ours
    for link in ours:
        assert (ROOT / re.sub(rf"{re.escape(HOME)}/(blob|raw)/v[^/]+/", "", link).partition("#")[0]).is_file(), link


def test_the_wheel_is_built_from_the_source_distribution_and_holds_the_package_only(dist, metadata):
    with zipfile.ZipFile(dist.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        shipped = {path: wheel.read(f"camrobust/configs/{path.name}") for path in (ROOT / "jobs" / "configs").iterdir()}
        assert wheel.read("camrobust/py.typed") == b""
        notes = {name.partition("/")[2] for name in wheel.namelist()} - {name.partition("/")[2] for name in names}
    ours = [path for path in (ROOT / "camrobust").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert names >= {str(path.relative_to(ROOT)) for path in ours}
    assert all(name.startswith("camrobust/") for name in names)
    assert {path.suffix for path in shipped} == {".yaml", ".json"}
    assert all(content == path.read_bytes() for path, content in shipped.items())
    assert "licenses/LICENSE" in notes
    assert metadata["License-Expression"] == "Apache-2.0"
    for name in ("tests/conftest.py", "docs/own-model.md", "jobs/install.sh", "Dockerfile", "Makefile", "CHANGELOG.md"):
        assert (dist.source / name).is_file()
    assert {path.name for path in dist.source.iterdir()} >= {"camrobust", "README.md", "LICENSE", "CITATION.cff"}
    assert dist.sdist.stat().st_size < 5 * 2**20


NODE_24 = {"checkout": 5, "setup-python": 6, "upload-artifact": 6}
"""The first major versions of the actions that run on Node 24; runners have had no older one since September 2026."""


def targets():
    return {
        name for line in re.findall(r"^([a-z][a-z -]*):(?!=)", read("Makefile"), re.MULTILINE) for name in line.split()
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_of_the_makefile_only(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        # A label with a number is taken away some day, as macos-14 was.
        systems = job["strategy"]["matrix"]["system"] if "matrix.system" in job["runs-on"] else [job["runs-on"]]
        assert all(system.endswith("-latest") for system in systems)
        for step in job["steps"]:
            if "run" in step:
                make, target = step["run"].split()
                assert (make, target in targets()) == ("make", True), step
            else:
                name, major = re.fullmatch(r"actions/([a-z-]+)@v(\d+)", step["uses"]).groups()
                assert int(major) >= NODE_24[name], step


def test_the_workflows_build_on_both_systems_and_the_targets_are_all_phony():
    runs = {path.stem: path.read_text("utf-8") for path in WORKFLOWS}
    assert runs.keys() == {"tests", "wheels", "docs"}
    for name in ("tests", "wheels"):
        assert "ubuntu" in runs[name]
        assert "macos" in runs[name]
    listed = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", read("Makefile"), re.MULTILINE)[1].replace("\\", "").split()
    assert {*listed} == targets()


def test_the_hooks_of_pre_commit_are_valid_and_call_what_the_makefile_calls():
    (local,) = load_config(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = " ".join(hook["entry"] for hook in local["hooks"])
    for tool in ("ruff check", "ruff format", "mypy"):
        assert f".venv/bin/{tool}" in entries
        assert f"$(BIN)/{tool}" in read("Makefile")


def test_the_readme_says_what_an_install_needs_and_whose_weights_the_demo_has():
    text = read("README.md")
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert "| Python | 3.11 or newer" in text
    named = [one.rpartition(" :: ")[2] for one in PROJECT["project"]["classifiers"] if "3." in one]
    assert named == ["3.11", "3.12", "3.13"]
    for needed in (
        "(Dockerfile)",
        "(LICENSE)",
        "(CITATION.cff)",
        "(CONTRIBUTING.md)",
        "(SECURITY.md)",
        "efficientnet-lite0",
    ):
        assert needed in text
