"""Reading of weights files, which may come from strangers: they are checked before they are loaded, and run no code.

`torch.load(weights_only=True)` runs no code either, but it believes what a file announces: records that unpack to a
thousand times their size, storages larger than their record, a number of bytes to reserve, tuples whose hash takes for
ever. So `measure.pickle_reader` first reads the file's list of its tensors without building them. Only a file whose
tensors all lie inside it is loaded, and then takes about as much memory as it is long.
"""

import json
from io import BytesIO
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.measure.checkpoints import StateDict, state_dicts
from camrobust.measure.pickle_reader import Reader, RefusedError, Steps

MOST_BYTES = 8 * 2**30
"""Largest weights file; the largest classifiers of torchvision and timm take about 4 GiB."""
MOST_HEADER_BYTES = 8 * 2**20
"""Largest .safetensors header: names and shapes of some ten thousand tensors."""
MAGIC = 0x1950A86A20F9469CFC6C
"""First value in files that torch wrote before version 1.6, which introduced zip archives."""
REMEDY = "save a state dict as .safetensors, or as .pth with torch.save(model.state_dict(), …)"


def read_weights(content: bytes, name: str) -> dict[str, StateDict]:
    """The state dicts of a weights file by the keys under which it holds them; never runs code from it.

    Args:
        content: of a .safetensors file, or of a .pth/.pt file as torch.save wrote it.
        name: the file's name, for messages and for its suffix.

    Raises:
        UserError: it cannot be read, or holds no tensors by name.
    """
    try:
        loaded = _safetensors(content) if name.endswith(".safetensors") else _pickled(content)
    except RefusedError as error:
        raise UserError(f"weights: '{short(name)}' cannot be read ({error}); {REMEDY}") from None
    except UnpicklingError as error:  # torch's own sentence advises to switch its checks off
        raise UserError(f"weights: '{short(name)}' cannot be read (it holds more than tensors); {REMEDY}") from error
    except EOFError as error:
        raise UserError(f"weights: '{short(name)}' cannot be read (it ends too soon); {REMEDY}") from error
    except Exception as error:  # the libraries may raise anything at unexpected bytes
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"weights: '{short(name)}' cannot be read ({reason}); {REMEDY}") from error
    return state_dicts(loaded, short(name))


def _safetensors(content: bytes) -> Any:
    """Check the header first: the library reads it whatever its size. It checks the rest itself."""
    from safetensors.torch import load

    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise RefusedError("it ends before its header does")
    if length > MOST_HEADER_BYTES:
        raise RefusedError(f"its header has more than {MOST_HEADER_BYTES} bytes")
    json.loads(content[8 : 8 + length], object_pairs_hook=_once)
    return load(content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) < len(pairs):
        raise RefusedError("its header names something twice")
    return header


def _pickled(content: bytes) -> Any:
    if content[:4] == b"PK\x03\x04":
        _check_archive(content)
    else:
        _check_legacy(content)
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


def _check_archive(content: bytes) -> None:
    """Check the archive's list: torch does not compress records, so together they are no larger than the file."""
    with ZipFile(BytesIO(content)) as archive:
        entries = archive.infolist()
        places = {entry.filename for entry in entries}
        folder = entries[0].filename.partition("/")[0] if entries else ""
        if f"{folder}/constants.pkl" in places:
            raise RefusedError("it is a TorchScript archive")
        if any(entry.compress_type != ZIP_STORED for entry in entries):
            raise RefusedError("its records are compressed, which torch.save does not do")
        if sum(entry.file_size for entry in entries) > len(content) or len(places) < len(entries):
            raise RefusedError("its records overlap")
        pickled = f"{folder}/data.pkl"
        if pickled not in places:
            raise RefusedError("torch.save did not write it: it has no data.pkl")
        sizes = {entry.filename: entry.file_size for entry in entries}
        reader = Reader(Steps(BytesIO(archive.read(pickled))))
        reader.load()
    for key, size in reader.storages.items():
        if sizes.get(f"{folder}/data/{key}", -1) < size:
            raise RefusedError(f"record {short(key)} is shorter than it says, or missing")


def _check_legacy(content: bytes) -> None:
    """Check the five pickles of a file from before torch 1.6; the storages follow them, each with its size."""
    file = BytesIO(content)
    steps = Steps(file)
    if Reader(steps).load() != MAGIC:
        raise RefusedError("it does not begin as a file of torch.save does")
    Reader(steps).load()
    Reader(steps).load()
    reader = Reader(steps)
    reader.load()
    Reader(steps).load()
    if sum(size + 8 for size in reader.storages.values()) > len(content) - file.tell():
        raise RefusedError("it ends before its tensors do")
