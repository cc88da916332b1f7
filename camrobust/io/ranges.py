"""A file in a store that is read by ranges, as an open file that parsers of archives and tables take."""

import io
from dataclasses import dataclass, field

from camrobust.io.local_folder import Folder
from camrobust.io.objects import Store

NEAR_BYTES, FAR_BYTES = 2**16, 2**23
"""Least bytes of one read, in a folder and from a store, where a request costs as much as some MiB."""
HELD_BYTES = 2**24
"""Bytes that are kept of what was read before."""
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
        least_bytes: of one read, for files that are hardly read in order; None for the usual.
    """

    store: Store
    key: str
    size_bytes: int
    least_bytes: int | None = None
    _place: int = 0
    _held: list[tuple[int, bytes]] = field(default_factory=list, repr=False)

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
        """Some bytes, wherever the next read begins; none behind the end, for which a store would send the whole."""
        if start >= self.size_bytes or count <= 0:
            return b""
        for begin, content in reversed(self._held):
            if begin <= start and start + count <= begin + len(content):
                return content[start - begin : start - begin + count]
        far = NEAR_BYTES if isinstance(self.store, Folder) else FAR_BYTES
        if self.size_bytes <= far:
            # A small file is read whole.
            begin, wanted = 0, self.size_bytes
        else:
            begin, wanted = start, min(max(min(far, self.least_bytes or far), count), self.size_bytes - start)
        content = self.store.read_range(self.key, begin, wanted)
        self._held.append((begin, content))
        while len(self._held) > 1 and sum(len(one) for _, one in self._held) > HELD_BYTES:
            self._held.pop(0)
        return content[start - begin : start - begin + count]
