"""A file in a store that is read by ranges, as an open file that parsers of archives and tables take."""

import io
from dataclasses import dataclass, field

from camrobust.io.local_folder import Folder
from camrobust.io.objects import Store

NEAR_BYTES, FAR_BYTES = 2**16, 2**23
"""Least bytes of one read, in a folder and from a store, where a request costs as much as some MiB."""
MOST_READ = 256 * 2**20
"""Most bytes that a parser may ask for at once; the file says how many, and may come from anyone."""


class OddRangeError(ValueError):
    """A parser was told to read more than such a file ever needs."""


class OddArchiveError(ValueError):
    """An archive that is not read; the message follows its address and gives the remedy."""


@dataclass(eq=False)
class Ranged(io.RawIOBase):
    """Some bytes of an object at a time.

    Attributes:
        store: where it lies.
        key: its key.
        size_bytes: its size.
    """

    store: Store
    key: str
    size_bytes: int
    _place: int = 0
    _start: int = 0
    _held: bytes = field(default=b"", repr=False)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins."""
        self._place = max(0, offset + (0, self._place, self.size_bytes)[whence])
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer at the end.

        Raises:
            OddRangeError: these would be more than any parser needs.
        """
        left = max(0, self.size_bytes - self._place)
        count = left if size is None or size < 0 else min(size, left)
        if count > MOST_READ:
            raise OddRangeError(f"it asks for {count:,} bytes at once")
        content = self.at(self._place, count)
        self._place += len(content)
        return content

    def at(self, start: int, count: int) -> bytes:
        """Some bytes, wherever the next read begins."""
        begin = start - self._start
        if not 0 <= begin <= begin + count <= len(self._held):
            least = NEAR_BYTES if isinstance(self.store, Folder) else FAR_BYTES
            self._start = 0 if self.size_bytes <= least else start
            wanted = max(least, start + count - self._start)
            self._held = self.store.read_range(self.key, self._start, min(wanted, self.size_bytes - self._start))
            begin = start - self._start
        return self._held[begin : begin + count]
