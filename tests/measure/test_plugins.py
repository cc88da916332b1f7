"""Methods from a module of the user's own: what is found, how it is told apart, and every mistake in one sentence."""

import json
import sys
from hashlib import sha256
from importlib import import_module, reload

import pytest
import torch
from torch import nn

import camrobust
from camrobust.contract.errors import UserError
from camrobust.contract.registry import NameTakenError
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.core.similarity import SIMILARITIES
from camrobust.interface.cli import main
from camrobust.interface.listing import catalogue
from camrobust.measure.plugins import default_similarities, load_plugins, refuse_unnamed
from tests.plugin_files import DIMMED, METHODS, registries, write_module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with registries():
        yield tmp_path


def loaded(modules):
    return [*load_plugins(modules).values()]


def installed(folder, name="own-methods", version="1.2"):
    """What pip would write beside the package `own`."""
    facts = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "top_level.txt").write_text("own\n")


def test_what_a_module_registers_is_known_by_name_with_its_package_and_source(folder):
    path = write_module(folder, "own.cams", METHODS)
    installed(folder)
    (plugin,) = loaded(["own.cams"])
    assert (plugin.package, plugin.version) == ("own-methods", "1.2")
    assert plugin.sha256 == sha256(path.read_bytes()).hexdigest()
    assert (plugin.cams, plugin.perturbations, plugin.similarities) == (("negated",), (), ("largest_gap",))
    assert SIMILARITIES["largest_gap"].column.meaning == "Largest change of a position."
    assert load_plugins(["own.cams"], {"own.cams": plugin.sha256}) == {"own.cams": plugin}


def test_a_module_that_is_not_installed_has_no_version(folder):
    write_module(folder, "own", DIMMED)
    (plugin,) = loaded(["own"])
    assert (plugin.package, plugin.version, plugin.perturbations) == ("unknown", "unknown", ("dimmed",))


def test_a_package_elsewhere_with_a_module_of_the_same_name_is_not_its_package(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    installed(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.syspath_prepend(folder)
    write_module(folder, "own", DIMMED)
    (plugin,) = loaded(["own"])
    assert (plugin.package, plugin.version) == ("unknown", "unknown")


@pytest.mark.parametrize("separator", ["", " "])
def test_a_package_that_is_installed_for_editing_is_known_by_its_folder(
    folder, tmp_path_factory, monkeypatch, separator
):
    source = tmp_path_factory.mktemp("source")
    monkeypatch.syspath_prepend(source)
    write_module(source, "own", DIMMED)
    installed(folder)
    facts = json.dumps(
        {"url": source.as_uri(), "dir_info": {"editable": True}}, separators=(f",{separator}", f":{separator}")
    )
    (folder / "own_methods-1.2.dist-info" / "direct_url.json").write_text(facts)
    (plugin,) = loaded(["own"])
    assert (plugin.package, plugin.version) == ("own-methods", "1.2")


def test_a_package_that_is_a_link_into_a_cache_is_known(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    write_module(cache, "own.cams", METHODS)
    (folder / "own").symlink_to(cache / "own")
    installed(folder)
    (plugin,) = loaded(["own.cams"])
    assert (plugin.package, plugin.version) == ("own-methods", "1.2")


def test_methods_may_lie_in_modules_that_the_named_one_imports(folder):
    paths = [write_module(folder, "own._cams", METHODS), write_module(folder, "own._dimmed", DIMMED),
             write_module(folder, "own.methods", "import own._dimmed, own._cams")]  # fmt: skip
    (plugin,) = loaded(["own.methods"])
    assert (plugin.cams, plugin.perturbations) == (("negated",), ("dimmed",))
    assert plugin.sha256 == sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def test_a_module_that_was_imported_before_is_the_same_plugin(folder):
    write_module(folder, "own._cams", METHODS)
    write_module(folder, "own.methods", "import own._cams")
    import_module("own.methods")
    (plugin,) = loaded(["own.methods"])
    assert plugin.cams == ("negated",)
    assert loaded(["own.methods"]) == [plugin]


BEFORE = ["own", "own.other", "own.extra", "own.cams", "own._gap", "own.late, own.typed"]
OWN = {
    "own": "import own.other",
    "own.other": METHODS,
    "own.extra": METHODS.replace("negated", "upright").replace("largest_gap", "widest_gap"),
    "own.late": DIMMED.replace("dimmed", "dimmed_late"),
    "own.typed": DIMMED.replace("dimmed", "dimmed_typed"),
    "own._gap": "SIZE = 1",
    "own.cams": DIMMED
    + """
from typing import TYPE_CHECKING
from ._gap import SIZE
if TYPE_CHECKING:
    import own.typed
def call():
    import own.late
""",
}


def write_own(folder):
    for name in ("own.other", "own.extra", "own.late", "own.typed", "own._gap", "own.cams"):
        write_module(folder, name, OWN[name])
    (folder / "own" / "__init__.py").write_text(OWN["own"])


@pytest.mark.parametrize("before", ["", *BEFORE])
def test_what_was_imported_before_changes_neither_methods_nor_source(folder, before):
    write_own(folder)
    for module in filter(None, before.split(", ")):
        import_module(module)
    (plugin,) = loaded(["own.cams"])
    assert (plugin.cams, plugin.perturbations, plugin.similarities) == (("negated",), ("dimmed",), ("largest_gap",))
    files = [folder / "own" / f"{name}.py" for name in ("__init__", "_gap", "cams", "other")]
    assert plugin.sha256 == sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert loaded(["own.extra", "own.cams"])[1] == loaded(["own.cams"])[0] == plugin


def test_a_changed_module_that_holds_no_method_is_another_source(folder):
    write_own(folder)
    (first,) = loaded(["own.cams"])
    (folder / "own" / "_gap.py").write_text("SIZE = 2")
    (second,) = loaded(["own.cams"])
    assert first.sha256 != second.sha256
    assert first.model_copy(update={"sha256": ""}) == second.model_copy(update={"sha256": ""})


def test_modules_that_a_call_imports_count(folder):
    write_module(folder, "own.parts.cams", METHODS)
    write_module(folder, "own.parts.dimmed", DIMMED)
    write_module(folder, "own.methods", """
        from importlib import import_module
        from pkgutil import iter_modules
        import own.parts
        for module in iter_modules(own.parts.__path__):
            import_module(f"own.parts.{module.name}")
    """)  # fmt: skip
    (plugin,) = loaded(["own.methods"])
    assert (plugin.cams, plugin.perturbations) == (("negated",), ("dimmed",))


def test_a_call_that_runs_later_does_not_count(folder):
    write_own(folder)
    lazy = "def __getattr__(name):\n    from importlib import import_module\n    return import_module(f'own.{name}')"
    (folder / "own" / "__init__.py").write_text(f"{OWN['own']}\n{lazy}")
    import_module("own.extra")
    assert loaded(["own.cams"])[0].cams == ("negated",)


def test_a_method_belongs_to_the_module_that_registers_it(folder):
    write_module(folder, "own.methods", """
        import camrobust
        from torch.nn.functional import pairwise_distance
        camrobust.similarity("distance", takes="positions", low=0, high=float("inf"), same=0, unit="", source="")(
            pairwise_distance)
    """)  # fmt: skip
    import_module("own.methods")
    assert loaded(["own.methods"])[0].similarities == ("distance",)


def test_a_module_that_is_loaded_again_replaces_its_own_methods(folder):
    write_module(folder, "own", METHODS)
    module = import_module("own")
    first = CAMS["negated"].function
    reload(module)
    assert CAMS["negated"].function is not first


WRONG = [
    (
        "own.missing",
        "plugin 'own.missing': there is no module 'own.missing'; is its package installed, or in the working directory "
        "that the job was submitted with?",
    ),
    (
        "nowhere.cams",
        "plugin 'nowhere.cams': there is no module 'nowhere'; is its package installed, or in the working directory "
        "that the job was submitted with?",
    ),
    (
        "own.raising",
        "plugin 'own.raising': stopped by ZeroDivisionError when it was imported: division by zero, line 3 of "
        "FOLDER/own/raising.py; correct the module",
    ),
    (
        "own.unfinished",
        "plugin 'own.unfinished': stopped by SyntaxError when it was imported: '(' was never closed (unfinished.py, "
        "line 1); correct the module",
    ),
    (
        "own.importing",
        "plugin 'own.importing': stopped by ModuleNotFoundError when it was imported: No module named 'nowhere', line "
        "1 of FOLDER/own/importing.py; correct the module",
    ),
    (
        "own.leaving",
        "plugin 'own.leaving': stopped by SystemExit when it was imported: SystemExit, line 1 of "
        "FOLDER/own/leaving.py; correct the module",
    ),
    (
        "own.taking",
        "plugin 'own.taking': CAM 'gradcam' is registered already by camrobust.core.explain.cams.gradient; give the "
        "new one another name",
    ),
    (
        "own.nothing",
        "plugin 'own.nothing': registers no CAM, perturbation or similarity; name the module that holds the functions "
        "under @camrobust.cam, @camrobust.perturbation or @camrobust.similarity",
    ),
]


@pytest.mark.parametrize(("name", "sentence"), WRONG)
def test_a_plugin_that_cannot_be_used_is_one_sentence(folder, capsys, name, sentence):
    texts = {
        "raising": "import camrobust\n\n1 / 0", "importing": "import nowhere",
        "leaving": "raise SystemExit", "unfinished": "f(", "nothing": "",
        "taking": METHODS.replace('"negated"', '"gradcam"'),
    }  # fmt: skip
    for module, text in texts.items():
        write_module(folder, f"own.{module}", text)
    assert main(["list", "cams", "--plugins", name]) == 2
    assert capsys.readouterr().err == f"camrobust: {sentence}\n".replace("FOLDER", str(folder))


@pytest.mark.parametrize("name", ["preset", "compose", "replicates"])
def test_a_perturbation_is_not_called_as_a_word_of_the_configuration(folder, name):
    write_module(folder, "own", DIMMED.replace("def dimmed", f"def {name}"))
    with pytest.raises(UserError) as error:
        load_plugins(["own"])
    assert name not in PERTURBATIONS
    assert str(error.value).startswith(
        "plugin 'own': stopped by ValueError when it was imported: perturbation: the name must be none of preset, "
        f"compose, replicates, got '{name}'; choose another name, line "
    )


def test_two_plugins_cannot_have_one_name(folder):
    write_module(folder, "own", METHODS)
    write_module(folder, "other", METHODS)
    with pytest.raises(UserError) as error:
        load_plugins(["own", "other"])
    assert str(error.value) == (
        "plugin 'other': CAM 'negated' is registered already by own; give the new one another name"
    )
    assert loaded(["own"])[0].cams == ("negated",)


def test_a_plugin_that_fails_leaves_nothing_behind_and_can_be_corrected(folder):
    path = write_module(folder, "own", f"{METHODS}\n1 / 0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_plugins(["own"])
    assert "negated" not in CAMS
    assert "largest_gap" not in SIMILARITIES
    path.write_text(METHODS + "\n# corrected")
    assert loaded(["own"])[0].cams == ("negated",)


def test_a_worker_with_another_source_refuses(folder):
    write_module(folder, "own", METHODS)
    with pytest.raises(UserError) as error:
        load_plugins(["own"], {"own": "0" * 64})
    assert str(error.value) == (
        "plugin 'own': its source on this worker is not the driver's; install the same version everywhere, or submit "
        "the job with a working directory"
    )


def test_only_named_plugins_are_measured_by_default(folder):
    write_module(folder, "own", METHODS)
    write_module(folder, "other", METHODS.replace("negated", "upright").replace("largest_gap", "widest_gap"))
    load_plugins(["own", "other"])
    assert {*default_similarities(["own"])} - {*default_similarities([])} == {"largest_gap"}


def test_methods_that_no_named_plugin_registered_are_refused(folder):
    write_module(folder, "own", METHODS)
    import_module("own")
    refuse_unnamed([*CAMS, *PERTURBATIONS, *SIMILARITIES], ["own"])
    with pytest.raises(UserError) as error:
        refuse_unnamed([CAMS["gradcam"], CAMS["negated"]], [])
    assert str(error.value) == (
        "config: 'negated' was registered by 'own', which workers do not import; add its module to plugins"
    )


def test_the_list_names_packages(folder):
    write_module(folder, "own.methods", METHODS + DIMMED)
    write_module(folder, "alone", METHODS.replace("negated", "upright").replace("largest_gap", "widest_gap"))
    installed(folder)
    for kind, name in (("cams", "negated"), ("perturbations", "dimmed"), ("similarities", "largest_gap")):
        packages = {row["name"]: row["package"] for row in catalogue(kind, ["own.methods", "alone"])}
        assert packages.pop(name) == "own-methods 1.2"
        assert {*packages.values()} <= {"camrobust", "alone (not installed)"}
    assert "package" not in catalogue("cams")[0]


def test_a_list_without_methods_of_plugins_imports_none(folder, capsys):
    write_module(folder, "own.methods", METHODS)
    assert main(["list", "segments", "--plugins", "own.methods"]) == 2
    assert capsys.readouterr().err == (
        "camrobust: list: plugins register cams, perturbations, similarities, no segments; leave --plugins out\n"
    )
    assert "own.methods" not in sys.modules


@pytest.mark.parametrize(
    ("name", "what"),
    [("label", "a column"), ("segments", "a former column"), ("rbo", "ours"), ("a-b", "no column"), ("_a", "hidden")],
)
def test_a_similarity_is_called_as_no_other_column(name, what):
    with pytest.raises(ValueError, match=rf"^similarity: the name becomes a column .* got '{name}'; choose another"):
        camrobust.similarity(name, takes="positions", low=0, high=1, same=1, unit="", source="")


@pytest.mark.parametrize("name", ["a b", "a,b", "", "+a", "a:b", "x" * 101])
def test_names_hold_no_separators(name):
    with pytest.raises(ValueError, match=r"^registry: the name of a CAM must be letters, digits and"):
        camrobust.cam(name, needs="activations", source="", year=2026)(lambda evidence: evidence.activations[:, 0])
    assert name not in CAMS


def test_our_own_methods_are_not_replaced_even_by_themselves():
    with pytest.raises(NameTakenError):
        camrobust.cam("gradcam", needs="gradients", source="", year=2026)(CAMS["gradcam"].function)


def test_methods_work_in_this_process_once_their_module_is_imported(folder):
    write_module(folder, "own.methods", METHODS + DIMMED)
    import_module("own.methods")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    result = camrobust.evaluate(
        model, torch.rand(2, 3, 32, 32), cams=["negated", "gradcam"], perturbations=["dimmed:1,5"]
    )
    assert result.scores.height == 2 * 2 * 2
    assert result.scores.columns[-1] == "largest_gap"
    assert (result.scores.filter(status="ok")["largest_gap"] > 0).all()
    assert set(result.summary()["cam"]) == {"negated", "gradcam"}
    without = camrobust.evaluate(
        model, torch.rand(1, 3, 32, 32), cams=["negated"], perturbations=["dimmed:5"], similarities=["cosine"]
    )
    assert "largest_gap" not in without.scores.columns


def test_decorators_are_imported_when_they_are_asked_for():
    assert {"cam", "perturbation", "similarity"} <= {*camrobust.__all__}
    assert camrobust.cam is sys.modules["camrobust.core.explain.cams"].cam
