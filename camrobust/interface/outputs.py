"""Whether an output can be written, asked before anything is computed for it."""

import os
import re
from contextlib import suppress
from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.io.addresses import SCHEME


def is_remote(address: str) -> bool:
    """Whether an address is one of a store, not the path of a file or folder."""
    return re.match(SCHEME, address) is not None and not address.startswith("file://")


def check_file(output: str, command: str, option: str = "--output") -> None:
    """Refuse a file that cannot be written.

    Args:
        output: path of the file.
        command: first word of the message.
        option: which the user may set otherwise.

    Raises:
        UserError: it is a folder, its folder is missing or is none, or one of them may not be written.
    """
    path, remedy = Path(output), f"choose another {option}"
    try:
        _check_possible(path)
        if path.is_dir():
            raise UserError(f"{command}: '{short(output)}' is a folder; name a file with {option}")
        folder = path.parent
        if not folder.exists():
            raise UserError(f"{command}: there is no folder '{short(str(folder))}'; make it, or {remedy}")
        if not folder.is_dir():
            raise UserError(f"{command}: '{short(str(folder))}' is a file, not a folder; {remedy}")
        place = path if path.exists() else folder
        if not os.access(place, os.W_OK):
            raise UserError(f"{command}: '{short(str(place))}' may not be written; {remedy}")
    except (OSError, ValueError) as error:
        raise UserError(f"{command}: '{short(output)}' cannot be a file; {remedy}") from error


def _check_possible(path: Path) -> None:
    """Raise ValueError or OSError for a path that no file can have, or at which one may not look."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()


def check_folder(output: str, where: str = "output", option: str = "--output", remedy: str = "") -> None:
    """Refuse a local folder in which nothing can be written; it need not exist, and is not made.

    Args:
        output: path or address; addresses of stores are not looked at.
        where: first word of the message.
        option: which the user may set otherwise.
        remedy: last words of the message; default: to choose another option.

    Raises:
        UserError: it, or what would hold it, is a file or may not be written.
    """
    if is_remote(output):
        return
    path, remedy = Path(output.removeprefix("file://")).absolute(), remedy or f"choose another {option}"
    try:
        _check_possible(path)
        holder = next(place for place in (path, *path.parents) if place.exists() or place.is_symlink())
        if not holder.is_dir():
            raise UserError(f"{where}: '{short(str(holder))}' is a file, not a folder; {remedy}")
        if not os.access(holder, os.W_OK | os.X_OK):
            raise UserError(f"{where}: nothing may be written in '{short(str(holder))}'; {remedy}")
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: '{short(output)}' cannot be a folder; {remedy}") from error
