"""Addresses: one parser for every store, byte for byte.

An address is `scheme://bucket/key`; all behind the first slash is the key as it is. Nothing is decoded, cut off or
normalised: `#`, `?`, `%`, `+`, spaces, `.` and `..` and every slash belong to the key. What has no scheme is a path.
"""

import re
from dataclasses import dataclass, replace

from camrobust.contract.errors import UserError

SCHEME = r"^[A-Za-z][A-Za-z0-9+.\-]*://"
"""How an address begins; polars reads it, too."""
ODD = r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]"
"""In a key: an empty name, `.` or `..` between two slashes, or a control character. HTTP and most clients take such a
key for another one."""


@dataclass(frozen=True)
class Address:
    """The place of one object, or of all whose keys begin alike.

    Attributes:
        scheme: s3, gs, az, abfs, abfss or file; empty for a path.
        bucket: the bucket; of Azure the container, and the account behind an @; empty for files.
        key: the rest, byte for byte; of a path all of it, of file:// what follows the third slash.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        """As `parse` reads it back."""
        if not self.scheme:
            return self.key
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    def folder(self) -> "Address":
        """The prefix of what lies below: `s3://b/cam` and `s3://b/cam/` mean cam/, never cam2/."""
        return self if not self.key or self.key.endswith("/") else replace(self, key=f"{self.key}/")

    def uri(self) -> str:
        """One spelling of a folder's address: without the last slash, unless it would name another folder then."""
        shorter = replace(self, key=self.key.removesuffix("/"))
        return str(shorter if shorter.folder() == self.folder() else self)

    def split(self) -> tuple["Address", str]:
        """The folder that holds an object, and the object's name in it; the name is empty behind a last slash."""
        folder, slash, name = self.key.rpartition("/")
        return replace(self, key=folder + slash), name

    def odd(self) -> bool:
        """Whether clients other than ours could take the folder for another one."""
        return bool(self.key) and re.search(ODD, self.key.removesuffix("/")) is not None


def parse(uri: str) -> Address:
    """Take an address apart.

    Raises:
        UserError: file:// and not three slashes.
    """
    if re.match(SCHEME, uri) is None:
        return Address("", "", uri)
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "file" and (bucket or not key):
        raise UserError(f"store: '{uri}' must be file:/// and an absolute path, as it is, nothing encoded; correct it")
    return Address(scheme, bucket, key)


def refuse_odd(address: Address, what: str) -> None:
    """Refuse a folder that another client could take for another one.

    Args:
        address: of the folder.
        what: that is wanted there, the beginning of the sentence.

    Raises:
        UserError: its key holds an empty name, `.`, `..` or a control character.
    """
    if address.odd():
        raise UserError(
            f"{what}: '{address}' must hold no empty name, '.' or '..' between slashes and no control character, as "
            "programs that read it would look elsewhere; choose another name"
        )
