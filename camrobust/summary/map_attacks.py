"""Attacks on maps in the summaries: whose map was attacked, and which pairs therefore count.

An attack climbs the map of one CAM. For that CAM it is close to the worst case; the rows of all other CAMs only show
how well it transfers. So an average over both would compare an attacked CAM with spared ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.former_names import ATTACKED
from camrobust.contract.schema import SUMMARIES, SUMMARY_ATTACKS
from camrobust.summary.estimates import estimate_table
from camrobust.summary.moments import Groups
from camrobust.summary.pairs import Cell
from camrobust.summary.treatments import first_of

NO_ATTACK, OWN, TRANSFER = 0, 1, 2
"""What a pair is: without an attack on maps, with one on its CAM's own map, or with one on another CAM's map."""
COUNTED = {"apart": (NO_ATTACK,), "own": (NO_ATTACK, OWN), "all": (NO_ATTACK, OWN, TRANSFER)}
"""Which pairs enter consistency, responsiveness and RM, by the setting `summary.map_attacks`."""
KEYS = ("perturbation", "strength")
MEASURE = "consistency_adjusted"


@dataclass(frozen=True)
class MapAttacks:
    """The attacks on maps of some rows.

    Attributes:
        cams: (perturbation, strength) to the CAM that is attacked.
        same_as: by model, CAMs to the CAM before them that gives the same maps; an attack on one is one on both.
        counted: a key of `COUNTED`.
    """

    cams: Mapping[tuple[str, str], str] = field(default_factory=dict)
    same_as: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    counted: str = "apart"

    def __post_init__(self) -> None:
        if self.counted not in COUNTED:
            raise ValueError(f"summarise: map_attacks must be one of {', '.join(COUNTED)}, got '{self.counted}'")

    def with_those_of(self, scores: pl.LazyFrame) -> "MapAttacks":
        """The same with the attacks that the rows themselves name; rows of earlier versions by the perturbation."""
        names = scores.collect_schema().names()
        if not {*KEYS} <= {*names}:
            return self
        column = pl.col("attacked_cam") if "attacked_cam" in names else pl.lit(None, pl.String)
        former = pl.col("perturbation").replace_strict(ATTACKED, default=None, return_dtype=pl.String)
        attacked = column.cast(pl.String).fill_null(former).alias("cam")
        rows = scores.select(*KEYS, attacked).drop_nulls().unique().collect()
        own = {(str(name), str(strength)): str(cam) for name, strength, cam in rows.iter_rows()}
        return MapAttacks({**own, **self.cams}, self.same_as, self.counted)

    def roles(self, model: str, cells: Sequence[Cell]) -> NDArray[np.int8]:
        """What the pairs of each cell are."""
        same = self.same_as.get(model, {})

        def role(cell: Cell) -> int:
            attacked = self.cams.get((cell[1], cell[3]))
            if attacked is None:
                return NO_ATTACK
            return OWN if _same(same, cell[0], attacked) else TRANSFER

        return np.array([role(cell) for cell in cells] if self.cams else [NO_ATTACK] * len(cells), np.int8)

    def enters(self, roles: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Whether the pairs of each cell enter the measures."""
        return np.isin(roles, COUNTED[self.counted])

    def named(self, by_level: pl.DataFrame) -> pl.DataFrame:
        """The table by_level with the CAM that each line's perturbation attacks."""
        rows = [(*key, cam) for key, cam in self.cams.items()]
        schema = dict.fromkeys((*KEYS, "attacked_cam"), pl.String)
        return by_level.join(
            pl.DataFrame(rows, schema=schema, orient="row"), on=KEYS, how="left", maintain_order="left"
        )


def without_transfers(by_level: pl.DataFrame, same_as: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
    """The table by_level without its lines about attacks on another CAM's map; `same_as` as in `MapAttacks`."""
    keys = ("model", "cam", "attacked_cam")
    named = by_level.select(keys).drop_nulls().unique()
    transfers = [row for row in named.rows() if not _same(same_as.get(row[0], {}), row[1], row[2])]
    table = pl.DataFrame(transfers, schema=dict.fromkeys(keys, pl.String), orient="row")
    return by_level.join(table, on=keys, how="anti", maintain_order="left")


def _same(same_as: Mapping[str, str], first: str, second: str) -> bool:
    """Whether two CAMs give the same maps."""
    return first_of(first, same_as) == first_of(second, same_as)


def with_attacks(by_cam: pl.DataFrame, own: Groups, transfer: Groups, level: float) -> pl.DataFrame:
    """The table by_cam with the columns `schema.SUMMARY_ATTACKS`.

    Args:
        by_cam: the table.
        own: moments of the pairs under attacks on a CAM's own map, by the keys of by_cam.
        transfer: of those under attacks on another CAM's map.
        level: confidence of the intervals, (0, 1).
    """
    keys = SUMMARIES["by_cam"]
    for kind, groups in (("attacked", own), ("transferred", transfer)):
        names = {f"{MEASURE}{end}": f"{kind}_{MEASURE}{end}" for end in ("", "_lower", "_upper")}
        names["n_pairs"] = f"n_{kind}"
        table = estimate_table(groups, keys, level).select(*keys, *names).rename(names)
        by_cam = by_cam.join(table, on=keys, how="left", maintain_order="left")
    counts = [column.name for column in SUMMARY_ATTACKS if column.type == "int64"]
    columns = [name for name in by_cam.columns if name not in counts]
    return by_cam.with_columns(pl.col(counts).fill_null(0)).select(*columns, *counts)
