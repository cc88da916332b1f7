"""A column of a result table, and how tables of columns are written down."""

from dataclasses import dataclass

from camrobust.contract import former_names


@dataclass(frozen=True)
class Column:
    """One column of a result table.

    Attributes:
        name: of the column.
        type: as Arrow writes it.
        meaning: one sentence.
        required: the column is never null, and every version wrote it.
    """

    name: str
    type: str
    meaning: str
    required: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Today's name, then the former ones."""
        return (self.name, *(old for old, new in former_names.COLUMNS.items() if new == self.name))


def columns(*rows: tuple[str, str, str], required: str = "") -> tuple[Column, ...]:
    """Columns from their names, types and meanings; `required` names some, separated by blanks."""
    return tuple(Column(*row, required=row[0] in required.split()) for row in rows)
