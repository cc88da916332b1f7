"""Names of the files in a run folder. They say under which lease a file was written, and whether it can be ours at all.

Nothing in a run folder is deleted unless its whole name has one of these forms.
"""

import re
import secrets
from urllib.parse import quote

RESULTS = ("commits/", "scores/", "images/", "failures/", "maps/")
"""Folders of the commits and of the data files that they count; listed in this order, a commit's files are all seen."""
OTHERS = ("lease/", "beats/", "done/", "progress/", "manifest/", "summary/", "report/")
"""Folders that a run fills beside its results."""

_PARTITION = r"scores/dataset=[^/=]+/model=[^/=]+"
_DATA = rf"(?:{_PARTITION}|images|failures|maps)"
_NUMBERED = re.compile(
    rf"(?:{_DATA}/([0-9]{{8}})-[0-9a-f]{{24}}-[0-9a-f]{{16}}|commits/([0-9]{{8}})-(?:[0-9a-f]{{24}}|kept-[0-9a-f]{{16}}))\.parquet"
)
_UNNUMBERED = re.compile(rf"(?:{_DATA}|commits)/[0-9a-f]{{24}}\.parquet")
"""Version 0.1 wrote no numbers."""
_BEGUN = re.compile(r"(?:(?:lease|beats)/[0-9]{8}\.json|manifest/[0-9a-f]{24}\.parquet)")
MANIFEST = "manifest.parquet"
"""Where version 0.1 put it."""
_MANIFEST = re.compile(r"manifest/[0-9a-f]{24}\.parquet")
_LEASE = re.compile(r"lease/([0-9]{8})\.json")


def nonce() -> str:
    """Sixteen hexadecimal digits that no other execution has."""
    return secrets.token_hex(8)


def data_name(number: int, units: str, execution: str) -> str:
    """Name of the data files that one execution writes.

    Args:
        number: of the lease under which it works.
        units: hash of what it commits.
        execution: its nonce.
    """
    return f"{number:08}-{units}-{execution}.parquet"


def scores_folder(dataset: str, model: str) -> str:
    """Folder of the score files of a dataset and a model."""
    return f"scores/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"


def commit_key(number: int, units: str) -> str:
    """Key of the commit of some units under a lease; it counts while that lease is the newest, or where listed."""
    return f"commits/{number:08}-{units}.parquet"


def kept_key(number: int, execution: str) -> str:
    """Key of a commit made ready for a lease to come; it counts only where a lease lists it."""
    return f"commits/{number:08}-kept-{execution}.parquet"


def counts_by_number(key: str, number: int) -> bool:
    """Whether a commit counts by its number alone while that lease is the newest."""
    return "-kept-" not in key and number_of(key) == number


def number_of(key: str) -> int | None:
    """Number of the lease under which a data file or a commit was written.

    Returns:
        0 for files of version 0.1, None for a name that no run gives.
    """
    found = _NUMBERED.fullmatch(key)
    if found:
        return int(found[1] or found[2])
    return 0 if _UNNUMBERED.fullmatch(key) else None


def lease_key(number: int) -> str:
    """Key of a lease."""
    return f"lease/{number:08}.json"


def lease_number(key: str) -> int:
    """Number of a lease, 0 for the name of something else."""
    found = _LEASE.fullmatch(key)
    return int(found[1]) if found else 0


def numbered(folder: str, number: int) -> str:
    """Folder of what is made from the results that count under a lease; version 0.1 wrote no number."""
    return f"{folder}/{number:08}/" if number else f"{folder}/"


def is_begun(key: str) -> bool:
    """Whether a run that died before its first result may have left this file."""
    return _BEGUN.fullmatch(key) is not None


def is_manifest(key: str) -> bool:
    """Whether a run gives its manifest this name."""
    return key == MANIFEST or _MANIFEST.fullmatch(key) is not None
