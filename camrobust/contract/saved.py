"""What a saved evaluation holds beside its score rows: the settings with which they are summed up."""

from typing import Literal

from pydantic import Field, model_validator

from camrobust.contract.columns import Column
from camrobust.contract.record import Name, Record
from camrobust.contract.schema import SCORES

KEY = b"camrobust evaluation"
"""Under which the record stands in the metadata of the parquet file."""


class SavedRecord(Record):
    """The settings of an `interface.evaluation.Evaluation`."""

    controls: list[Name] = Field([], max_length=1000, description="CAMs that are a floor")
    average: Literal["macro", "micro"] = "macro"
    intervals: Literal["delta", "bootstrap"] = "delta"
    seed: int = Field(0, ge=0, lt=2**63)
    map_attacks: Literal["apart", "own", "all"] = "apart"
    same_as: dict[Name, dict[Name, Name]] = Field({}, max_length=1000)
    only: Literal["all", "correct"] = "all"
    heads: dict[Name, Name] = Field({}, max_length=1000, description="how every model's outputs are read")
    more_columns: list[Name] = Field([], max_length=1000, description="similarities of packages of one's own")

    @model_validator(mode="after")
    def _different(self) -> "SavedRecord":
        known = {name for column in SCORES for name in column.names}
        if len({*self.more_columns, *known}) < len(self.more_columns) + len(known):
            raise ValueError("more_columns must have names of their own")
        return self

    def columns(self) -> tuple[Column, ...]:
        """The columns of the score rows."""
        return (*SCORES, *(Column(name, "float32", "") for name in self.more_columns))
