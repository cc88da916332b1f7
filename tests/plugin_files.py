"""Modules of a user's own, written where they can be imported, and registries as they were afterwards."""

import sys
from contextlib import contextmanager
from textwrap import dedent

from camrobust.measure import plugins

METHODS = '''
import camrobust

@camrobust.cam("negated", needs="activations", source="tests", year=2026)
def negated(evidence):
    """The sum of the channels, upside down."""
    return -evidence.activations.sum(dim=1)

@camrobust.similarity(
    "largest_gap", takes="positions", low=0, high=float("inf"), same=0, unit="of the map", source="tests"
)
def largest_gap(clean, noisy):
    """Largest change of a position.

    Of any map.
    """
    return (clean - noisy).abs().amax(dim=-1)
'''
DIMMED = '''
from typing import Annotated

import camrobust
from camrobust.contract.parameters import Parameter

@camrobust.perturbation(severities=(0.9, 0.8, 0.7, 0.6, 0.5), family="light", source="tests")
def dimmed(images, factor: Annotated[float, Parameter(0, 1, "share")]):
    """Every level times a factor."""
    return images * factor
'''


@contextmanager
def registries():
    """While open, what is registered and imported counts; then all is as before."""
    entries = {kind: dict(registry._entries) for kind, registry in plugins.KINDS.items()}
    modules = {*sys.modules}
    plugins.distribution.cache_clear()
    try:
        yield
    finally:
        for kind, registry in plugins.KINDS.items():
            registry._entries = entries[kind]
        plugins.distribution.cache_clear()
        for name in {*sys.modules} - modules:
            # Compiled modules cannot be imported twice: what is installed stays.
            file = getattr(sys.modules[name], "__file__", None)
            if not name.startswith("camrobust.") and not (file or sys.prefix).startswith((sys.prefix, sys.base_prefix)):
                sys.modules.pop(name)


def write_module(folder, name, text):
    """A module by its dotted name, with packages on the way."""
    *parents, last = name.split(".")
    folder.mkdir(parents=True, exist_ok=True)
    for parent in parents:
        folder /= parent
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{last}.py").write_text(dedent(text))
    return folder / f"{last}.py"
