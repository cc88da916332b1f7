"""run.yaml in a run folder: the configuration with which it began, ready to be run again from any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from camrobust.contract.imagenet import IMAGENET
from camrobust.contract.paths import folder_and_revision, is_file, is_folder
from camrobust.contract.plain_yaml import CONTROL
from camrobust.contract.run_record import RunRecord
from camrobust.contract.secrecy import masked
from camrobust.io.class_numbers import FOLDERS
from camrobust.io.objects import Store

NAME = "run.yaml"
HEAD = "# The configuration of this run. Measure it again: camrobust run run.yaml --output FOLDER\n"
PATHS = {
    "datasets": {"images": None, "labels": FOLDERS, "label_names": None},
    "models": {"weights": None, "classes": IMAGENET, "classes_kept": None},
}
"""Settings that may be paths on this machine or patterns of them, and the word of each that is none."""
LONGEST_BUILDER = 200
"""Characters of a builder; one with a longer path stays as it is."""


def save_configuration(store: Store, record: RunRecord) -> None:
    """Write run.yaml, unless the folder has one already: it may be the user's own, from which the run was started."""
    plain = dict(record.config.plain)
    for key, words in PATHS.items():
        plain[key] = [_absolute(entry, words) for entry in plain.get(key, ())]
    text = yaml.safe_dump(masked(plain), sort_keys=False, allow_unicode=True)
    store.create(NAME, f"{HEAD}{text}".encode())


def saved_configuration(store: Store) -> str | None:
    """The path of run.yaml in a run folder on this machine; None if there is none that camrobust wrote."""
    address = store.locate(NAME)
    if "://" in address or not is_file(address):
        return None
    with Path(address).open(encoding="utf-8", errors="replace") as file:
        return str(Path(address).absolute()) if file.readline(len(HEAD)) == HEAD else None


def _absolute(entry: Mapping[str, Any], words: Mapping[str, str | None]) -> dict[str, Any]:
    """An entry whose relative paths hold from everywhere; ~ does already."""
    changed = {
        name: _from_everywhere(value)
        for name, word in words.items()
        if isinstance(value := entry.get(name), str) and value != word and "://" not in value and value[:1] != "~"
    }
    if "builder" in entry:
        changed["builder"] = _with_own_folder(entry["builder"])
    return {**entry, **changed}


def _from_everywhere(path: str) -> str:
    """The absolute path; the same path where a configuration cannot hold that, as the current folder has odd bytes."""
    found = str(Path(path).absolute())
    return path if CONTROL.search(found) else found


def _with_own_folder(builder: str) -> str:
    """The builder hf:FOLDER[@REVISION] with the folder's absolute path; any other builder as it is."""
    kind, _, rest = builder.partition(":")
    if kind != "hf":
        return builder
    name, revision = folder_and_revision(rest)
    found = f"hf:{_from_everywhere(name)}{revision}"
    return found if is_folder(name) and len(found) <= LONGEST_BUILDER else builder
