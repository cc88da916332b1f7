"""What a shell runs so that the TAB key completes commands, options, files and the names of the registries."""

import argparse
from collections.abc import Iterator

import shtab

from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS

PATHS = {"config", "image", "images", "weights", "output", "classes"}
FOLDERS = {"run", "runs", "first", "second"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell; `eval "$(camrobust completion bash)"` loads it.

    Args:
        parser: of the whole command line.
        shell: bash, zsh or tcsh.
    """
    names = {"cam": CAMS.names(), "perturb": PERTURBATIONS.names()}
    preamble = [f'_camrobust_{what}() {{ compgen -W "{" ".join(known)}" -- "$1"; }}' for what, known in names.items()]
    for action in _actions(parser):
        if action.dest in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in names:
            words = " ".join(names[action.dest])
            action.complete = {"bash": f"_camrobust_{action.dest}", "zsh": f"({words})", "tcsh": f"p/*/({words})/"}  # type: ignore[attr-defined]
    written: str = shtab.complete(parser, shell, preamble={"bash": "\n".join(preamble), "zsh": "", "tcsh": ""})  # type: ignore[arg-type]
    return written


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look at a parser
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action
