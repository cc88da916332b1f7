"""Scores of one model, or of a whole run, and what can be computed from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.schema import SUMMARIES
from camrobust.interface.notebook import notebook
from camrobust.report.leaderboard import latex, markdown
from camrobust.results.shards import open_results
from camrobust.summary.aggregate import Reduction, SummarySettings, reduce_frame
from camrobust.summary.map_attacks import MapAttacks
from camrobust.summary.significance import significance_tests
from camrobust.summary.stability import per_image


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the settings that a summary of them uses by default.

    Attributes:
        scores: one row per image, CAM and variant; columns as `schema.SCORES`, then one for each
            similarity of a package of your own.
        controls: names of the CAMs that serve as a floor.
        average: "macro" (per image first) or "micro" (over all pairs).
        intervals: "delta" or "bootstrap".
        seed: seed of the bootstrap.
        map_attacks: which pairs under attacks on maps enter the measures: "apart" (none), "own" or "all".
        same_as: by model, CAMs to the CAM before them that gives the same maps.
    """

    scores: pl.DataFrame
    controls: tuple[str, ...]
    average: str = "macro"
    intervals: str = "delta"
    seed: int = 0
    map_attacks: str = "apart"
    same_as: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def summary(
        self, by: str = "by_cam", average: str | None = None, intervals: str | None = None,
        map_attacks: str | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Consistency, responsiveness and robustness with intervals; or tests of the differences between CAMs.

        Args:
            by: by_level, by_perturbation, by_cam, by_model, by_dataset or tests.
            average: "macro" or "micro"; None for this evaluation's own.
            intervals: "delta" or "bootstrap", both clustered by image; None for this evaluation's own.
            map_attacks: "apart", "own" or "all"; None for this evaluation's own.

        Raises:
            UserError: there is no such table.
            ValueError: one of the other arguments is something else.
        """
        if by not in (*SUMMARIES, "tests"):
            raise UserError(f"summary: by must be one of {', '.join((*SUMMARIES, 'tests'))}, got '{by}'")
        reduction = self._reduced(average, intervals, map_attacks)
        if by == "tests":
            return significance_tests(reduction.profiles, self.controls, self.same_as)
        return reduction.tables[by]

    def _reduced(
        self, average: str | None = None, intervals: str | None = None, map_attacks: str | None = None
    ) -> Reduction:
        attacks = MapAttacks(same_as=self.same_as, counted=map_attacks or self.map_attacks)
        settings = SummarySettings(
            average or self.average, self.controls, intervals or self.intervals, self.seed, attacks=attacks
        )
        return reduce_frame(self.scores.lazy(), settings)

    def _repr_html_(self) -> str:
        """The leaderboard and the curves against severity, in a notebook."""
        tables = self._reduced().tables
        return notebook(tables["by_cam"], tables["by_level"], self.controls, self.same_as)

    def to_latex(self) -> str:
        r"""The leaderboard as a LaTeX table for the package booktabs, methods with the same maps in one line.

        Examples:
            >>> import camrobust
            >>> result = camrobust.load_run("runs/mine")
            >>> print(result.to_latex().splitlines()[1])
            \begin{tabular}{rlrrrrr}
        """
        return latex(self.summary(), self.controls, self.same_as)

    def to_markdown(self) -> str:
        """The same table in Markdown."""
        return markdown(self.summary(), self.controls, self.same_as)

    def stability(self, *, same_class: bool = True) -> pl.DataFrame:
        """Max- and avg-sensitivity, local Lipschitz estimate, continuity and relative stabilities of every image.

        Args:
            same_class: use only variants that kept the predicted class.

        Returns:
            One row per image and CAM, columns as `schema.IMAGE_STABILITY`.
        """
        return per_image(self.scores.lazy(), same_class=same_class).collect()


def load_run(uri: str | Path) -> Evaluation:
    """The scores of a run folder, local or on S3; of a run in shards, those of all shards.

    Args:
        uri: output folder of the run.

    Raises:
        UserError: there is no run in that folder, or a shard is missing.

    Examples:
        >>> import camrobust
        >>> result = camrobust.load_run("runs/mine")  # the output of `camrobust run`
        >>> result.summary("by_dataset").columns[:3]
        ['dataset', 'consistency', 'consistency_lower']
    """
    folder = open_results(str(uri))
    run = folder.run()
    return Evaluation(
        folder.scores(folder.committed()),
        tuple(run.controls),
        run.config.metric.average,
        run.config.summary.intervals,
        run.config.seed,
        run.config.summary.map_attacks,
        run.same_as,
    )
