"""A local or mounted folder as a store. Writes are atomic: a reader sees the whole file or none."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.objects import DeniedObjectError, Entry, MissingObjectError, check_size

NO_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Read errors that mean there is no such file; all others are faults of the disk."""
SKIPPED = ("lost+found",)
"""Folders that belong to the file system."""


@dataclass(frozen=True)
class Folder:
    """A local (or mounted) directory.

    Attributes:
        uri: the folder's path.
        links: whether links below it are followed; never in a run folder, where they could lead
            to other people's files.
        hidden: whether a listing also names hidden files, and hidden folders without what is in them.
        depth: how many names one below another a listed key may hold; deeper folders are not looked into.
    """

    uri: str
    links: bool = True
    hidden: bool = False
    depth: int | None = None

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, DeniedObjectError, and TooLargeObjectError beyond `most` bytes."""
        path = self._path(key)
        try:
            status = path.stat()
            if not (most is None and self.links) and not S_ISREG(status.st_mode):
                # A pipe or a device may never end.
                raise MissingObjectError(f"{path} is not a regular file")
            check_size(str(path), status.st_size, most)
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise _unreadable("read", path, error) from error

    def head(self, key: str, count: int) -> bytes:
        """The first bytes; raises MissingObjectError and DeniedObjectError."""
        return self.read_range(key, 0, count)

    def read_range(self, key: str, start: int, count: int) -> bytes:
        """Some bytes; raises MissingObjectError and DeniedObjectError."""
        path = self._path(key)
        try:
            _check_regular(path)
            with path.open("rb") as file:
                file.seek(start)
                return file.read(count)
        except (OSError, ValueError) as error:
            raise _unreadable("read", path, error) from error

    def size_bytes(self, key: str) -> int:
        """Size of a file; raises MissingObjectError and DeniedObjectError."""
        path = self._path(key)
        try:
            return _check_regular(path)
        except (OSError, ValueError) as error:
            raise _unreadable("read", path, error) from error

    def write(self, key: str, content: bytes) -> None:
        """Write beside the final name, flush to the disk, then rename."""
        with self._beside(key, content) as (beside, path):
            beside.replace(path)

    def create(self, key: str, content: bytes) -> bool:
        """Write beside the final name, then link: of two writers one gets True."""
        with self._beside(key, content) as (beside, path):
            try:
                path.hardlink_to(beside)
            except FileExistsError:
                return path.read_bytes() == content
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file below the prefix except hidden and unfinished ones, sorted by key; see `hidden`."""
        root, start = Path(self.uri), self._path(prefix.rpartition("/")[0])
        found = _files(start, links=self.links, hidden=self.hidden, depth=self.depth)
        entries = (Entry(path.relative_to(root).as_posix(), size) for path, size in found)
        yield from sorted((entry for entry in entries if entry.key.startswith(prefix)), key=attrgetter("key"))

    def delete(self, key: str) -> None:
        """Remove a file; a missing file is no error."""
        self._path(key).unlink(missing_ok=True)

    def locate(self, key: str) -> str:
        """The absolute path of a file."""
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        """The path of a key.

        Raises:
            UserError: links are not followed here, and the path leads through a link or out of the folder.
        """
        path = Path(self.uri) / key
        if not self.links:
            _check_inside(Path(self.uri), PurePosixPath(key))
        return path

    @contextmanager
    def _beside(self, key: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """Write the content to disk under a hidden name; gives that path and the final one.

        Raises:
            UserError: the folder cannot be written.
            RunFailed: the disk is full or faulty.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written(path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"), content) as beside:
                yield beside, path
        except OSError as error:
            raise _unwritable(path, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file of the user's; where that fails, what was there before is still there, and nothing else.

    A link is followed. A device, or a file in a folder that may not be written, is written in place.

    Raises:
        OSError: it cannot be written.
    """
    real = path.resolve()
    if real.exists() and not (real.is_file() and os.access(real.parent, os.W_OK)):
        real.write_bytes(content)
        return
    with written(real.with_name(f".camrobust.{secrets.token_hex(8)}.tmp"), content) as beside:
        if real.exists():
            shutil.copymode(real, beside)
        beside.replace(real)


@contextmanager
def written(path: Path, content: bytes) -> Iterator[Path]:
    """A new file that is on the disk as a whole; removed when the block ends, unless it has another name by then."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _check_regular(path: Path) -> int:
    """The size of a regular file; raises MissingObjectError for a pipe or a device, which may never end."""
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise MissingObjectError(f"{path} is not a regular file")
    return status.st_size


def _check_inside(root: Path, key: PurePosixPath) -> None:
    if key.is_absolute() or ".." in key.parts:
        raise UserError(f"store: {str(key)!r} lies outside the run folder {root}; do not trust this folder")
    place = root
    for part in key.parts:
        place /= part
        if _is_link(place):
            raise UserError(
                f"store: {place} is a link, and inside a run folder nothing is read, written or deleted through a "
                "link; remove it, or choose another output"
            )


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError) as error:
        raise _unreadable("look at", path, error) from error


def _files(start: Path, *, links: bool, hidden: bool, depth: int | None) -> Iterator[tuple[Path, int]]:
    """Every file below a folder and its size; each folder is visited once, folders behind links last.

    Args:
        start: the folder.
        links: whether links are followed at all.
        hidden: whether to name hidden files and folders, too, with 0 bytes.
        depth: how many levels are looked into; None for all.

    Raises:
        DeniedObjectError: a folder or file may not be looked at.
        RunFailed: the disk is faulty.
    """
    seen: set[tuple[int, int]] = set()
    roots = [start]
    for root in roots:
        for folder, below, names in os.walk(root, onerror=_unlisted):
            here = _status(Path(folder), links=True)
            if here is None or (here.st_dev, here.st_ino) in seen:
                below.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            if hidden:
                yield from ((Path(folder, name), 0) for name in (*below, *names) if _is_hidden(name))
            deep = depth is not None and len(Path(folder).relative_to(start).parts) >= depth - 1
            below[:] = sorted(name for name in below if not (deep or _is_hidden(name)))
            if links:
                roots += [path for path in (Path(folder, name) for name in below) if path.is_symlink()]
            for path in (Path(folder, name) for name in names if not _is_hidden(name)):
                status = _status(path, links=links)
                if status is not None and S_ISREG(status.st_mode):
                    yield path, status.st_size


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED


def _status(path: Path, *, links: bool) -> os.stat_result | None:
    """The status of a path; None if it was deleted during the listing or is a link that leads nowhere."""
    try:
        return path.stat(follow_symlinks=links)
    except OSError as error:
        _unlisted(error)
        return None


def _unlisted(error: OSError) -> None:
    """Raise unless the path is missing: an unreadable folder must not look empty."""
    explained = _unreadable("list", error.filename, error)
    if not isinstance(explained, MissingObjectError):
        raise explained from error


def _unreadable(verb: str, path: str | Path, error: OSError | ValueError) -> Exception:
    """The error for a path that could not be read: missing, forbidden, or on a faulty disk."""
    if not isinstance(error, OSError) or error.errno in NO_PATH:
        return MissingObjectError(f"there is no file {path}")
    if isinstance(error, PermissionError):
        return DeniedObjectError(f"store: cannot {verb} {path} ({error.strerror}); check its permissions")
    return RunFailed(f"store: cannot {verb} {path} ({error.strerror}); fix the cause and run again")


def _unwritable(path: Path, error: OSError) -> UserError:
    """The error for a path that could not be written: RunFailed for a full or faulty disk, else UserError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return RunFailed(f"store: cannot write {path} ({error.strerror}); free some space and run again to resume")
    return UserError(f"store: cannot write {path} ({error.strerror}); choose a writable output")
