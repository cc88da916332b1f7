import re
from importlib.util import module_from_spec, spec_from_file_location

import polars as pl

from tests.photos import write_photos
from tests.runs import ROOT


def generator():
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_in_step_with_the_registries():
    generate = generator()
    assert (ROOT / "docs" / "catalogue.md").read_text("utf-8") == generate.catalogue_page()
    assert (ROOT / "docs" / "results.md").read_text("utf-8") == generate.results_page()


def test_what_the_readme_links_to_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert link.startswith("https://") or (page.parent / link).is_file(), f"{page.name}: {link}"


def test_the_readmes_configuration_is_valid():
    import yaml

    from camrobust.config import parse_config
    from camrobust.core.cams import CAMS
    from camrobust.core.perturb import variants

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    config = parse_config(yaml.safe_load(text))
    assert all(name in CAMS for name in config.cams)
    try:
        variants(config.perturbations)
    except Exception as error:
        raise AssertionError(f"README: {error}") from error


def test_the_page_about_an_own_model_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "own-model.md").read_text("utf-8"), re.DOTALL)[1]
    write_photos(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "own-model.md", "exec"), {})
    assert "robustness_adjusted" in capsys.readouterr().out
    page = (tmp_path / "result.html").read_text()
    assert page.count("<tr>") == 1 + 4
    assert "<svg" in page
    assert pl.read_parquet(tmp_path / "scores.parquet").height == 3 * 11 * 4
