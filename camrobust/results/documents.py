"""The JSON documents of a run folder, read and written."""

from camrobust.contract.errors import UserError
from camrobust.contract.record import MAX_BYTES, R, Record, content_of, parse_record, problem
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError

FOREIGN = "is not what camrobust writes there; choose another output, or --fresh"


def read_record(store: Store, key: str, form: type[R], told: str = FOREIGN) -> R | None:
    """A document of a run folder; None where there is none.

    Args:
        store: of the run folder.
        key: of the document.
        form: that it must have.
        told: what the sentence says of it where it has not.

    Raises:
        UserError: it does not have the form that it must have, is too large, or was written by a later version.
    """
    where = store.locate(key)
    try:
        return parse_record(store.read(key, MAX_BYTES), form, where)
    except MissingObjectError:
        return None
    except TooLargeObjectError:
        raise UserError(f"run: {where} {told} (too large)") from None
    except ValueError as error:
        raise UserError(f"run: {where} {told} ({problem(error)})") from None


def write_record(store: Store, key: str, record: Record) -> bool:
    """Create a document, unless another one is there; says whether it is there now."""
    return store.create(key, content_of(record))
