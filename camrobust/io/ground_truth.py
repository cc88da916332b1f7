"""Labels without names: a text file with one whole number per line, in the order of the image ids.

ImageNet's development kit has one for the validation images. Its numbers are those of the kit, not the usual ones, so
the kit's table of classes, `meta.mat`, must lie beside it.
"""

import json
import re
import subprocess
import sys

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import wnids
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import open_object, read_object

IMAGENET = "ILSVRC2012_validation_ground_truth.txt"
CLASSES = "meta.mat"
MOST_BYTES = 64 * 2**20
READER = """
import json, sys
from contextlib import suppress
from io import BytesIO
with suppress(ImportError, OSError, ValueError):
    from resource import RLIMIT_AS, setrlimit
    setrlimit(RLIMIT_AS, (2**33, 2**33))
from scipy.io import loadmat
table = loadmat(BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
print(json.dumps({str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in table}))
"""
"""Prints the wnids by the kit's numbers; in a process of its own, as a damaged file makes scipy's reader crash."""
READER_S = 120
_NUMBERS = re.compile(rb"(?:\xef\xbb\xbf)?(?:[0-9]{1,9}\r?\n)*[0-9]{1,9}\s*")


def labels_in_order(address: str, image_ids: pl.Series, what: str) -> pl.Series | None:
    """The label of each image (int32) from a text file of numbers; None if it is another file.

    Args:
        address: of the file.
        image_ids: of all images, in any order.
        what: begins the sentence of an error.

    Raises:
        UserError: it has more or fewer numbers than there are images, or is ImageNet's without `meta.mat`.
    """
    if not address.lower().endswith(".txt"):
        return None
    try:
        content = read_object(address, most=MOST_BYTES)
    except MissingObjectError:
        return None
    if _NUMBERS.fullmatch(content) is None:
        return None
    numbers = pl.Series("label", [int(line) for line in content.decode("utf-8-sig").split()], pl.Int32)
    if len(numbers) != len(image_ids):
        raise UserError(
            f"{what}: {address} holds {len(numbers):,} numbers for {len(image_ids):,} images; it must have one for "
            "each, in the order of their image ids"
        )
    if address.rpartition("/")[2] == IMAGENET:
        numbers = _usual(numbers, address, what)
    ordered = pl.DataFrame({"place": image_ids.arg_sort(), "label": numbers}).sort("place")
    return ordered["label"]


def _usual(numbers: pl.Series, address: str, what: str) -> pl.Series:
    """ImageNet's labels from the numbers of its development kit."""
    store, key = open_object(address)
    remedy = f"put the development kit's {CLASSES} beside it, which says what its numbers mean"
    try:
        content = store.read(CLASSES, MOST_BYTES)
        read = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", READER], input=content, capture_output=True,
                              check=True, timeout=READER_S)  # fmt: skip
        meant = {int(number): wnid for number, wnid in json.loads(read.stdout).items()}
    except MissingObjectError as error:
        raise UserError(f"{what}: {key} lies alone; {remedy}") from error
    except (subprocess.SubprocessError, ValueError) as error:
        raise UserError(f"{what}: {store.locate(CLASSES)} is not that of the development kit; {remedy}") from error
    usual = wnids()
    unknown = next((one for one in numbers if meant.get(one) not in usual), None)
    if unknown is not None:
        raise UserError(f"{what}: {store.locate(CLASSES)} names no class of ImageNet for {unknown}; {remedy}")
    return pl.Series("label", [usual[meant[one]] for one in numbers], pl.Int32)
