"""Reads and writes the JSON documents of a run folder."""

from camrobust.contract.errors import UserError
from camrobust.contract.record import MAX_BYTES, R, Record, content_of, parse_record, problem
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError

FOREIGN = "is not what camrobust writes there; choose another output, or --fresh"


def read_record(store: Store, key: str, form: type[R], complaint: str = FOREIGN) -> R | None:
    """A document of a run folder; None if there is none.

    Args:
        store: store of the run folder.
        key: key of the document.
        form: record class of the document.
        complaint: what the error message says about a document that is not of this form.

    Raises:
        UserError: the document is not of this form, is too large, or was written by a later version.
    """
    try:
        where = store.locate(key)
        return parse_record(store.read(key, MAX_BYTES), form, where)
    except MissingObjectError:
        return None
    except TooLargeObjectError:
        raise UserError(f"run: {where} {complaint} (too large)") from None
    except ValueError as error:
        raise UserError(f"run: {where} {complaint} ({problem(error)})") from None


def write_record(store: Store, key: str, record: Record) -> bool:
    """Create a document; returns False if a different document has this key."""
    return store.create(key, content_of(record))
