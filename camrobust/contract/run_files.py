"""Names of the files in a run folder. A name tells under which lease a file was written, and whether a run wrote it.

A file in a run folder is deleted only if its whole name has one of these forms.
"""

import re
import secrets
from urllib.parse import quote, unquote

from camrobust.contract.sharding import within_shard

RESULTS = ("commits/", "scores/", "certificates/", "images/", "failures/", "maps/")
"""Folders of the commits and of the data files that they name. Listed in this order, every file of a commit is seen."""
OTHERS = ("lease/", "beats/", "done/", "progress/", "manifest/", "summary/", "report/")
"""The other folders that a run writes."""

_PARTITION = r"scores/dataset=[^/=]+/model=[^/=]+"
_DATA = rf"(?:{_PARTITION}|certificates|images|failures|maps)"
_NUMBERED = re.compile(
    rf"(?:{_DATA}/([0-9]{{8}})-[0-9a-f]{{24}}-[0-9a-f]{{16}}|commits/([0-9]{{8}})-(?:[0-9a-f]{{24}}|kept-[0-9a-f]{{16}}))\.parquet"
)
_UNNUMBERED = re.compile(rf"(?:{_DATA}|commits)/[0-9a-f]{{24}}\.parquet")
"""Names of version 0.1, without a number."""
_BEGUN = re.compile(r"(?:(?:lease|beats)/[0-9]{8}\.json|manifest/[0-9a-f]{24}\.parquet)")
MANIFEST = "manifest.parquet"
"""The manifest of version 0.1."""
_MANIFEST = re.compile(r"manifest/[0-9a-f]{24}\.parquet")
_LEASE = re.compile(r"lease/([0-9]{8})\.json")


def nonce() -> str:
    """Sixteen random hexadecimal digits, different for every execution of a task."""
    return secrets.token_hex(8)


def data_name(number: int, parts: str, execution: str) -> str:
    """The name of the data files that one execution of a task writes.

    Args:
        number: number of the lease under which it works.
        parts: hash of the parts that it commits.
        execution: its nonce.
    """
    return f"{number:08}-{parts}-{execution}.parquet"


def scores_folder(dataset: str, model: str) -> str:
    """The folder of the score files of a dataset and a model."""
    return f"scores/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"


def commit_key(number: int, parts: str) -> str:
    """The key of a commit under a lease. It counts while that lease is the newest, or if the newest lease lists it."""
    return f"commits/{number:08}-{parts}.parquet"


def kept_key(number: int, execution: str) -> str:
    """The key of a commit prepared for the next lease. It counts only if a lease lists it."""
    return f"commits/{number:08}-kept-{execution}.parquet"


def counts_by_number(key: str, number: int) -> bool:
    """Whether a commit counts without being listed while this lease is the newest."""
    return "-kept-" not in key and number_of(key) == number


def number_of(key: str) -> int | None:
    """The number of the lease under which a data file or a commit was written.

    Returns:
        0 for files of version 0.1, None for a name that no run writes.
    """
    match = _NUMBERED.fullmatch(key)
    if match:
        return int(match[1] or match[2])
    return 0 if _UNNUMBERED.fullmatch(key) else None


def table_of(key: str) -> str:
    """The table that a data file belongs to: scores, certificates, images, failures or maps."""
    return within_shard(key).partition("/")[0]


def lease_key(number: int) -> str:
    """The key of a lease."""
    return f"lease/{number:08}.json"


def lease_number(key: str) -> int:
    """The number of a lease; 0 if the key is not that of a lease."""
    match = _LEASE.fullmatch(key)
    return int(match[1]) if match else 0


def numbered(folder: str, number: int) -> str:
    """The folder of a summary or report of a lease; version 0.1 wrote no number."""
    return f"{folder}/{number:08}/" if number else f"{folder}/"


def is_begun(key: str) -> bool:
    """Whether a run that died before its first result may have written this file."""
    return _BEGUN.fullmatch(key) is not None


def is_manifest(key: str) -> bool:
    """Whether this is the name of a run's manifest."""
    return key == MANIFEST or _MANIFEST.fullmatch(key) is not None


def partition_of(address: str) -> tuple[str, str]:
    """Dataset and model of a score file, from the two folders that hold it; folders above are ignored.

    Args:
        address: key or address, …scores/dataset=DATASET/model=MODEL/NAME, both names percent-encoded.
    """
    dataset, model = (unquote(one.partition("=")[2]) for one in address.split("/")[-3:-1])
    return dataset, model
