"""Which shard of a run measures an image, and what a shard is called.

A run may be split into N shards, each with a driver and a folder of its own. A hash of its name puts an image on one of
them, so no shard needs to know anything of the others.
"""

import re
from hashlib import sha256
from typing import Self

from pydantic import Field, model_validator

from camrobust.contract.record import Part

MOST_SHARDS = 1000
SHARDS = "shards.json"
"""In the output of a sharded run: what all its shards have in common."""
_FOLDER = re.compile(r"shard-[0-9]{1,4}-of-[0-9]{1,4}/")
_GIVEN = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


def shard_of(dataset: str, image_id: str, shards: int) -> int:
    """The number of the shard that measures an image, 1 to `shards`.

    It is 1 + h mod N. h is the first eight bytes, most significant first, of the SHA-256 of the dataset's name, a zero
    byte and the image's id, both in UTF-8.

    Examples:
        >>> [shard_of("made up", f"photo-00{number}.jpg", 3) for number in range(8)]
        [1, 2, 1, 2, 1, 1, 2, 3]
    """
    digest = sha256(f"{dataset}\0{image_id}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % shards


class ShardRecord(Part):
    """One shard of a run."""

    number: int = Field(ge=1, le=MOST_SHARDS, description="which of the run's shards this is, from 1")
    of: int = Field(ge=1, le=MOST_SHARDS, description="how many shards the run has")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.number > self.of:
            raise ValueError(f"number must be at most {self.of}, got {self.number}")
        return self

    def __str__(self) -> str:
        """As it is given on the command line."""
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        """Its folder in the output of the run."""
        return f"shard-{self.number}-of-{self.of}"

    def holds(self, dataset: str, image_id: str) -> bool:
        """Whether this shard measures an image."""
        return shard_of(dataset, image_id, self.of) == self.number


def parse_shard(text: str) -> ShardRecord:
    """A shard as the user gives it, I/N.

    Raises:
        ValueError: it is not of this form.
    """
    match = _GIVEN.fullmatch(text)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of <= MOST_SHARDS:
        raise ValueError(f"must be I/N with I from 1 to N and N at most {MOST_SHARDS:,}, for example 2/3, got {text!r}")
    return ShardRecord(number=number, of=of)


def shards_of(shards: int) -> list[ShardRecord]:
    """All shards of a run."""
    return [ShardRecord(number=number, of=shards) for number in range(1, shards + 1)]


def within_shard(key: str) -> str:
    """The key in the shard's own folder of a key in the output of the run; other keys as they are."""
    match = _FOLDER.match(key)
    return key[match.end() :] if match else key
