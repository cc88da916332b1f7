"""Where bytes live: a folder, an S3 prefix, a Google bucket or an Azure container, behind one small interface.

Writes are atomic: a reader sees the whole object or none.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.addresses import Address, parse
from camrobust.io.clouds import SCHEMES, open_cloud
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, Store, check_size, refuse_secret
from camrobust.io.s3 import Bucket

NO_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of reading that say that there is no such file; others are the disk's."""
LOCAL = ("", "file")
"""Schemes of what lies in a folder."""
NO_PHOTOS = ("lost+found",)
"""Folders of the file system's own, which are nobody's to read."""


@dataclass(frozen=True)
class Folder:
    """A local (or mounted) directory.

    Attributes:
        uri: its path.
        links: whether links below it are followed; never inside a run folder, where they could lead to files of others.
    """

    uri: str
    links: bool = True

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, DeniedObjectError, and TooLargeObjectError beyond `most` bytes."""
        path = self._path(key)
        try:
            found = path.stat()
            if not (most is None and self.links) and not S_ISREG(found.st_mode):
                # A pipe or a device would be read without end.
                raise MissingObjectError(f"there is no file {path}, but something else")
            check_size(str(path), found.st_size, most)
            return path.read_bytes()
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
        """Every file below, hidden and unfinished ones left out; sorted by key."""
        root, start = Path(self.uri), self._path(prefix.rpartition("/")[0])
        found = (Entry(path.relative_to(root).as_posix(), size) for path, size in _files(start, links=self.links))
        yield from sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: one.key)

    def delete(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        self._path(key).unlink(missing_ok=True)

    def locate(self, key: str) -> str:
        """Absolute path of a file."""
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        """Where a key lies.

        Raises:
            UserError: links are not followed here, and it lies behind one, or outside.
        """
        path = Path(self.uri) / key
        if not self.links:
            _check_inside(Path(self.uri), PurePosixPath(key))
        return path

    @contextmanager
    def _beside(self, key: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """The content, safe on the disk under a hidden name, and the final path.

        Raises:
            UserError: the folder cannot be written.
            RunFailed: the disk is full, or fails.
        """
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield beside, path
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def _check_inside(root: Path, key: PurePosixPath) -> None:
    if key.is_absolute() or ".." in key.parts:
        raise UserError(f"store: {str(key)!r} lies outside the run folder {root}; this folder is not to be trusted")
    place = root
    for part in key.parts:
        place /= part
        if _is_link(place):
            raise UserError(
                f"store: {place} is a link, and inside a run folder nothing is read, written or deleted through one; "
                "remove it, or choose another output"
            )


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError) as error:
        raise _unreadable("look at", path, error) from error


def _files(start: Path, *, links: bool) -> Iterator[tuple[Path, int]]:
    """Every file below a folder and its size: first what really lies there, then what links lead to, each folder once.

    Args:
        start: the folder.
        links: whether links are followed at all.

    Raises:
        DeniedObjectError: a folder or file cannot be looked at.
        RunFailed: the disk fails.
    """
    seen: set[tuple[int, int]] = set()
    roots = [start]
    for root in roots:
        for folder, below, names in os.walk(root, onerror=_unlisted):
            place = _status(Path(folder), links=True)
            if place is None or (place.st_dev, place.st_ino) in seen:
                below.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            below[:] = sorted(one for one in below if not one.startswith(".") and one not in NO_PHOTOS)
            if links:
                roots += [path for path in (Path(folder, one) for one in below) if path.is_symlink()]
            for path in (Path(folder, name) for name in names if not name.startswith(".")):
                found = _status(path, links=links)
                if found is not None and S_ISREG(found.st_mode):
                    yield path, found.st_size


def _status(path: Path, *, links: bool) -> os.stat_result | None:
    """What there is at a path, None for nothing: what is deleted while it is listed, and links that lead nowhere."""
    try:
        return path.stat(follow_symlinks=links)
    except OSError as error:
        _unlisted(error)
        return None


def _unlisted(error: OSError) -> None:
    """Of a folder that cannot be listed nothing may be left out without a word; only what is not there is not there."""
    told = _unreadable("list", error.filename, error)
    if not isinstance(told, MissingObjectError):
        raise told from error


def _unreadable(verb: str, path: str | Path, error: OSError | ValueError) -> Exception:
    """A path where nothing is or can be, one that is forbidden, and a failing disk."""
    if not isinstance(error, OSError) or error.errno in NO_PATH:
        return MissingObjectError(f"there is no file {path}")
    if isinstance(error, PermissionError):
        return DeniedObjectError(f"store: cannot {verb} {path} ({error.strerror}); check its permissions")
    return RunFailed(f"store: cannot {verb} {path} ({error.strerror}); mend it and run again")


def _unwritable(path: Path, error: OSError) -> UserError:
    """A full or failing disk is the run's trouble, a wrong path the user's mistake."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return RunFailed(f"store: cannot write {path} ({error.strerror}); free some space and run again to resume")
    return UserError(f"store: cannot write {path} ({error.strerror}); choose a writable output")


def open_store(uri: str, access: Access = "credentials") -> Store:
    """The store at a local path, file://, s3://, gs://, az:// or abfs:// address, with a slash at its end or without.

    Args:
        uri: its address, taken byte for byte, see `io.addresses`.
        access: how to read it, where it is not a folder.

    Raises:
        UserError: another scheme, no bucket in the address, or an access that this store does not know.
    """
    refuse_secret(uri)
    address = parse(uri)
    if address.scheme in LOCAL:
        try:
            return Folder(str(_path(address)))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"store: {uri!r} can be no folder ({error}); mend the path") from error
    return _below(address.folder(), uri, access)


def _path(address: Address) -> Path:
    return (Path(f"/{address.key}") if address.scheme else Path(address.key).expanduser()).resolve()


def _below(place: Address, uri: str, access: Access) -> Store:
    """The store of a prefix; the address that was given is for the sentence of an error."""
    if place.scheme not in ("s3", *SCHEMES):
        raise UserError(
            f"store: '{uri}' must be a path, file://, s3://, gs:// or az://, got {place.scheme}://; copy it to one of "
            "these"
        )
    if not place.bucket.partition("@")[0]:
        raise UserError(f"store: '{uri}' names no bucket; write {place.scheme}://bucket/prefix")
    return Bucket(place, access) if place.scheme == "s3" else open_cloud(place, access)


def open_object(uri: str, access: Access = "credentials") -> tuple[Store, str]:
    """The store and the key of a single object; raises MissingObjectError where a path can be none."""
    refuse_secret(uri)
    address = parse(uri)
    if address.scheme in LOCAL:
        try:
            path = _path(address)
        except (OSError, RuntimeError, ValueError) as error:
            raise MissingObjectError(f"there is no file {uri!r} ({error})") from error
        return Folder(str(path.parent)), path.name
    folder, name = address.split()
    return _below(folder, uri, access), name


def read_object(uri: str, access: Access = "credentials", most: int | None = None) -> bytes:
    """The content of one object; raises MissingObjectError, and TooLargeObjectError beyond `most` bytes."""
    store, key = open_object(uri, access)
    return store.read(key, most)
