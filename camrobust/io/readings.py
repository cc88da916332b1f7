"""Reads the pictures that lie in files with many, those near each other in one ranged request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from camrobust.io.image_errors import ImageError
from camrobust.io.objects import Access
from camrobust.io.places import CHANGED, MOST_BYTES, Place, Span, parse_place, pictures
from camrobust.io.store import open_object

GAP_BYTES = 256 * 2**10
"""Bytes between two pictures that are read along, as another request would take longer."""
READING_BYTES = 16 * 2**20
"""Most bytes that are read together, unless a single picture has more."""


@dataclass(frozen=True)
class Reading:
    """Some pictures of one file that are read together.

    Attributes:
        uri: address of the file.
        numbers: which pictures they are, as the caller counts them.
        places: where they lie.
        spans: the bytes to be read, ascending and apart.
    """

    uri: str
    numbers: tuple[int, ...]
    places: tuple[Place, ...]
    spans: tuple[Span, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes that are read."""
        return sum(span.length for span in self.spans)

    def read(self, access: Access) -> list[bytes]:
        """The bytes of each span, one request for each; raises MissingObjectError and DeniedObjectError."""
        store, key = open_object(self.uri, access)
        return [store.read_range(key, *span) for span in self.spans]

    def pictures(self, contents: Sequence[bytes]) -> Iterator[bytes | ImageError]:
        """The pictures, in the order of `numbers`, or why there is none.

        Args:
            contents: what `read` gave.
        """

        def part(wanted: Span) -> bytes:
            for span, content in zip(self.spans, contents, strict=True):
                if span.start <= wanted.start and wanted.end <= span.end:
                    found = content[wanted.start - span.start : wanted.end - span.start]
                    if len(found) == wanted.length:
                        return found
            raise ImageError(CHANGED, "truncated")

        return pictures(self.places, part)


def readings(wanted: Mapping[int, tuple[str, Place]]) -> list[Reading]:
    """How to read some pictures with few requests.

    Args:
        wanted: address and place of each picture, by its number.
    """
    ordered = sorted(wanted, key=lambda number: (wanted[number][0], wanted[number][1].spans[-1], number))
    found: list[Reading] = []
    for number in ordered:
        uri, place = wanted[number]
        last = found[-1] if found else None
        if last is not None and last.uri == uri:
            spans = _merged((*last.spans, *place.spans))
            if sum(span.length for span in spans) <= READING_BYTES:
                found[-1] = Reading(uri, (*last.numbers, number), (*last.places, place), spans)
                continue
        found.append(Reading(uri, (number,), (place,), _merged(place.spans)))
    return found


def too_large(uri: str) -> ImageError:
    """What is said of a picture that takes more than `places.MOST_BYTES` of a file."""
    return ImageError(f"it takes more than {MOST_BYTES} bytes of {uri}, and is not read", "too_large")


def read_picture(uri: str, place: str, access: Access = "credentials") -> bytes:
    """One picture in a file with many.

    Raises:
        ImageError: it cannot be read from there.
        MissingObjectError: there is no such file.
    """
    (reading,) = readings({0: (uri, parse_place(place))})
    if reading.size_bytes > MOST_BYTES:
        raise too_large(uri)
    (found,) = reading.pictures(reading.read(access))
    if isinstance(found, ImageError):
        raise found
    return found


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans, with what lies between neighbours."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end + GAP_BYTES:
            begin = merged[-1].start
            merged[-1] = Span(begin, max(merged[-1].end, span.end) - begin)
        else:
            merged.append(span)
    return tuple(merged)
