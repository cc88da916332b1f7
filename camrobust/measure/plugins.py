"""Methods from a user's own package: a module that the configuration names is imported, and what it registers counts.

Only the configuration's own list (or `--plugins`) leads here. A run folder names plugins too, but whoever reads one
imports nothing.
"""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from importlib.metadata import packages_distributions, version
from math import isinf
from pathlib import Path
from traceback import extract_tb
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.contract.registry import Named, NameTakenError, Registry, from_camrobust, module_of
from camrobust.contract.run_record import UNKNOWN, PluginRecord, SimilarityRecord
from camrobust.contract.schema import SCORES
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.core.similarity import SIMILARITIES
from camrobust.measure.plugin_imports import modules_of, source_of
from camrobust.measure.settings import MeasureSettings

OWN = "camrobust"
KINDS: dict[str, Registry[Any]] = {"cams": CAMS, "perturbations": PERTURBATIONS, "similarities": SIMILARITIES}
Method = tuple[str, str]
"""Kind and name."""


def load_plugins(modules: Sequence[str], sources: Mapping[str, str] | None = None) -> dict[str, PluginRecord]:
    """Import modules, so that the methods that they register can be named.

    Args:
        modules: dotted names, in the order in which they are imported.
        sources: the SHA-256 that the source of each must have; None for any.

    Returns:
        What run.json records of each module.

    Raises:
        UserError: a module is not there, raises, takes a name that is taken, registers nothing, or is not the one that
            `sources` tells of.
    """
    for name in modules:
        _import(name)
    return {name: _recorded(name, None if sources is None else sources.get(name)) for name in modules}


def change_since(began: PluginRecord, now: PluginRecord) -> str | None:
    """The difference between a plugin's code then and now, in a few words; None if it is the same."""
    if began.release != now.release:
        return f"{began.release} then, {now.release} now"
    return "another source file" if began.sha256 != now.sha256 else None


def _import(name: str) -> None:
    before, loaded = _methods(), {*sys.modules}
    try:
        import_module(name)
    except (Exception, SystemExit) as error:
        _forget(_methods() - before, {*sys.modules} - loaded)
        raise UserError(f"plugin '{name}': {_why(name, error)}") from error


def _recorded(name: str, expected: str | None) -> PluginRecord:
    methods = _methods_of(name)
    if not methods:
        raise UserError(
            f"plugin '{name}': registers no CAM, perturbation or similarity; name the module that holds the functions "
            "under @camrobust.cam, @camrobust.perturbation or @camrobust.similarity"
        )
    found = _source_sha256(name, methods)
    if expected is not None and found != expected:
        raise UserError(
            f"plugin '{name}': its source on this worker is not the driver's; install the same version everywhere, or "
            "submit the job with a working directory"
        )
    package, release = distribution(name)
    names = {kind: tuple(sorted(method for its, method in methods if its == kind)) for kind in KINDS}
    return PluginRecord(package=package, version=release, sha256=found, **names)


def _methods() -> frozenset[Method]:
    return frozenset((kind, name) for kind, registry in KINDS.items() for name in registry.names())


def _methods_of(plugin: str) -> frozenset[Method]:
    """The methods registered by a plugin's modules; by its whole package if modules are imported by a call."""
    modules, calls = modules_of(plugin)
    root = plugin.partition(".")[0]
    return frozenset(
        (kind, name)
        for kind, name in _methods()
        if (place := KINDS[kind].place(name)) in modules or (calls and place.partition(".")[0] == root)
    )


def _forget(methods: Iterable[Method], modules: Collection[str]) -> None:
    """Undo what a plugin did that failed half-way, so that it can be imported again once it is corrected."""
    for kind, name in methods:
        place = KINDS[kind].place(name)
        if place in modules:
            sys.modules.pop(place, None)
        KINDS[kind].discard(name)


def _why(name: str, error: BaseException) -> str:
    if isinstance(error, NameTakenError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return (
            f"there is no module '{error.name}'; is its package installed, or in the working directory that the job "
            "was submitted with?"
        )
    # If the file cannot be parsed, the last frame is the importer's, and the message itself names the line.
    last = extract_tb(error.__traceback__)[-1]
    place = "" if "importlib" in last.filename else f", line {last.lineno} of {short(last.filename)}"
    return f"stopped by {type(error).__name__} when it was imported: {first_line(error)}{place}; correct the module"


def _source_sha256(plugin: str, methods: Iterable[Method]) -> str:
    """The hash of a plugin's modules and of those that register its methods, in the order of their names."""
    names = {*modules_of(plugin)[0], *(KINDS[kind].place(name) for kind, name in methods)}
    return sha256(b"".join(source_of(name) for name in sorted(names))).hexdigest()


@cache
def distribution(module: str) -> tuple[str, str]:
    """The installed distribution that an imported module is from, and its version.

    Args:
        module: dotted name. Several distributions may have a top-level package of its name, say `tests`, and none of
            them need hold this module.
    """
    names = [name for name in packages_distributions().get(module.partition(".")[0], ()) if _holds(name, module)]
    return (names[0], version(names[0]) or UNKNOWN) if names else (UNKNOWN, UNKNOWN)


def _holds(name: str, module: str) -> bool:
    """Whether the module's file lies where the distribution is installed, or in the folder that it stands for."""
    installed = metadata.distribution(name)
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return False
    direct = json.loads(installed.read_text("direct_url.json") or "{}")
    places = [Path(str(installed.locate_file("")))]
    if direct.get("dir_info", {}).get("editable"):
        places.append(Path(url2pathname(urlsplit(direct["url"]).path)))
    # A package may be a link into a cache: its path as it was imported counts.
    return any(one.is_relative_to(place) or one.resolve().is_relative_to(place.resolve())
               for place in places for one in [Path(file).absolute()])  # fmt: skip


def default_similarities(modules: Sequence[str]) -> tuple[str, ...]:
    """Names of the similarities that a run measures unless it names some: those of camrobust and of its plugins."""
    own = {name for module in modules for _, name in _methods_of(module)}
    return tuple(one.name for one in SIMILARITIES if one.default and (from_camrobust(one) or one.name in own))


def added_similarities(settings: MeasureSettings) -> list[SimilarityRecord]:
    """The columns of the scores that plugins add, as run.json has them."""
    facts = {one.name: one for one in settings.measures()}
    return [
        SimilarityRecord(
            name=column.name,
            meaning=column.meaning,
            low=_finite(facts[column.name].low),
            high=_finite(facts[column.name].high),
            direction=facts[column.name].direction,
        )
        for column in settings.columns()[len(SCORES) :]
    ]


def _finite(bound: float) -> float | None:
    return None if isinf(bound) else bound


def refuse_unnamed(methods: Iterable[Named], modules: Sequence[str]) -> None:
    """Refuse methods from modules that are not listed in `plugins`, because workers would not import them.

    Raises:
        UserError: naming the first of them.
    """
    named = {KINDS[kind][name] for module in modules for kind, name in _methods_of(module)}
    for entry in methods:
        if not from_camrobust(entry) and entry not in named:
            raise UserError(
                f"config: '{entry.name}' was registered by '{module_of(entry)}', which workers do not import; add its "
                "module to plugins"
            )
