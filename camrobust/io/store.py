"""Opens what an address names: a local folder, an S3 prefix, a Google bucket or an Azure container."""

from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.secrecy import refuse_address
from camrobust.io.addresses import Address, parse
from camrobust.io.clouds import SCHEMES, open_cloud
from camrobust.io.local_folder import Folder
from camrobust.io.objects import Access, MissingObjectError, Store
from camrobust.io.s3 import Bucket

LOCAL = ("", "file")
"""Schemes of local paths."""


def open_store(uri: str, access: Access = "credentials") -> Store:
    """The store at a local path, file://, s3://, gs://, az:// or abfs:// address, with or without a final slash.

    Args:
        uri: the address, taken byte for byte (`io.addresses`).
        access: how a bucket is read; a folder ignores it.

    Raises:
        UserError: the scheme is unknown, the address names no bucket, or this store does not offer the access.
    """
    refuse_address(uri)
    address = parse(uri)
    if address.scheme in LOCAL:
        try:
            return Folder(str(_path(address)))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"store: {uri!r} cannot be a folder ({error}); correct the path") from error
    return _remote(address.folder(), uri, access)


def open_object(uri: str, access: Access = "credentials") -> tuple[Store, str]:
    """The store and the key of a single object; raises MissingObjectError if no file can have that path."""
    refuse_address(uri)
    address = parse(uri)
    if address.scheme in LOCAL:
        try:
            path = _path(address)
        except (OSError, RuntimeError, ValueError) as error:
            raise MissingObjectError(f"there is no file {uri!r} ({error})") from error
        return Folder(str(path.parent)), path.name
    folder, name = address.split()
    return _remote(folder, uri, access), name


def read_object(uri: str, access: Access = "credentials", most: int | None = None) -> bytes:
    """The content of one object; raises MissingObjectError, and TooLargeObjectError beyond `most` bytes."""
    store, key = open_object(uri, access)
    return store.read(key, most)


def _path(address: Address) -> Path:
    return (Path(f"/{address.key}") if address.scheme else Path(address.key).expanduser()).resolve()


def _remote(place: Address, uri: str, access: Access) -> Store:
    """The store of a prefix; errors quote the address as it was given."""
    if place.scheme not in ("s3", *SCHEMES):
        raise UserError(
            f"store: '{uri}' must be a path, file://, s3://, gs:// or az://, got {place.scheme}://; copy it to one of "
            "these"
        )
    if not place.bucket.partition("@")[0]:
        raise UserError(f"store: '{uri}' names no bucket; write {place.scheme}://bucket/prefix")
    return Bucket(place, access) if place.scheme == "s3" else open_cloud(place, access)
