"""Addresses: one parser for every store, byte for byte.

An address is `scheme://bucket/key`, and everything after that slash is the key. Nothing is decoded, cut off or
normalised: `#`, `?`, `%`, `+`, spaces, `.`, `..` and every slash belong to the key. An address without a scheme is a
path.
"""

import re
from dataclasses import dataclass, replace

from camrobust.contract.errors import UserError

SCHEME = r"^[A-Za-z][A-Za-z0-9+.\-]*://"
"""How an address begins; polars uses this pattern, too."""
ODD = r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]"
"""An empty name, `.` or `..` between two slashes, or a control character. HTTP and most clients change such a key."""


@dataclass(frozen=True)
class Address:
    """The place of one object, or of all objects under a prefix.

    Attributes:
        scheme: s3, gs, az, abfs, abfss or file; empty for a path.
        bucket: the bucket; for Azure the container, perhaps with @ and the account; empty for files.
        key: the rest, byte for byte; the whole of a path, or what follows the third slash of file://.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        """The address as `parse` reads it."""
        if not self.scheme:
            return self.key
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    def folder(self) -> "Address":
        """The prefix of a folder: `s3://b/cam` and `s3://b/cam/` both mean cam/, never cam2/."""
        return self if not self.key or self.key.endswith("/") else replace(self, key=f"{self.key}/")

    def uri(self) -> str:
        """The one spelling of a folder's address: without the last slash, unless that would name another folder."""
        shorter = replace(self, key=self.key.removesuffix("/"))
        return str(shorter if shorter.folder() == self.folder() else self)

    def split(self) -> tuple["Address", str]:
        """An object's folder and its name in it; the name is empty after a final slash."""
        folder, slash, name = self.key.rpartition("/")
        return replace(self, key=folder + slash), name

    def odd(self) -> bool:
        """Whether other clients could read the key as another one."""
        return bool(self.key) and re.search(ODD, self.key.removesuffix("/")) is not None


def parse(uri: str) -> Address:
    """Split an address into its parts.

    Raises:
        UserError: a file:// address without three slashes.
    """
    if re.match(SCHEME, uri) is None:
        return Address("", "", uri)
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "file" and (bucket or not key):
        raise UserError(f"store: '{uri}' must be file:/// and an absolute path without any encoding; correct it")
    return Address(scheme, bucket, key)


def refuse_odd(address: Address, what: str) -> None:
    """Refuse a folder whose key other clients could change.

    Args:
        address: address of the folder.
        what: what the folder is for; begins the sentence.

    Raises:
        UserError: its key holds an empty name, `.`, `..` or a control character.
    """
    if address.odd():
        raise UserError(
            f"{what}: '{address}' must hold no empty name, '.' or '..' between slashes and no control character, as "
            "programs that read it would look elsewhere; choose another name"
        )
