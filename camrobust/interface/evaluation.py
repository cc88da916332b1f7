"""Scores of one model, or of a whole run, and what can be computed from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.heads import chooses_class
from camrobust.contract.paths import is_file
from camrobust.contract.quoting import short
from camrobust.contract.run_record import DescribedRecord
from camrobust.contract.schema import SUMMARIES
from camrobust.contract.units import counted
from camrobust.interface.notebook import notebook
from camrobust.interface.outputs import check_folder
from camrobust.interface.saved import read_saved, write_saved
from camrobust.report.leaderboard import latex, markdown
from camrobust.report.measure import leading_measure, ranked_by
from camrobust.results.shards import open_results
from camrobust.run.report_elsewhere import SUFFIXES, write_page
from camrobust.summary.aggregate import Reduction, SummarySettings, reduce_frame
from camrobust.summary.certified import certified_consistency
from camrobust.summary.map_attacks import MapAttacks
from camrobust.summary.significance import significance_tests
from camrobust.summary.stability import per_image

if TYPE_CHECKING:
    from camrobust.report.page import Report


@dataclass(frozen=True, repr=False)
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
        only: "all", or "correct" to leave out the images that a model gets wrong before they are perturbed.
        heads: by model, how its outputs are read, as in a configuration; softmax where none is named.
        record: run.json, where the scores are those of a run.
        certificates: one row per image, CAM, sigma and radius; columns as `certificates.CERTIFICATES`; None where none
            were asked for.
    """

    scores: pl.DataFrame
    controls: tuple[str, ...]
    average: str = "macro"
    intervals: str = "delta"
    seed: int = 0
    map_attacks: str = "apart"
    same_as: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    only: str = "all"
    heads: Mapping[str, str] = field(default_factory=dict)
    record: DescribedRecord | None = None
    certificates: pl.DataFrame | None = None

    def __repr__(self) -> str:
        """How much was measured, in one line."""
        rows, keys = self.scores, ("perturbation", "strength", "replicate")
        amounts = (
            (rows.select("dataset", "image_id").n_unique(), "image"), (rows["model"].n_unique(), "model"),
            (rows["cam"].n_unique(), "CAM"), (rows.select(keys).n_unique(), "variant"),
        )  # fmt: skip
        many = " × ".join(counted(number if rows.height else 0, thing) for number, thing in amounts)
        return f"Evaluation({many} = {counted(rows.height, 'row')})"

    def summary(
        self, by: str = "by_cam", average: str | None = None, intervals: str | None = None,
        map_attacks: str | None = None, only: str | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Consistency, responsiveness and robustness with intervals; or tests between CAMs; or certified consistency.

        by_cam has the most robust CAM first, as the report has.

        Args:
            by: by_level, by_perturbation, by_cam, by_model, by_dataset, tests, or, with certificates, certificates.
            average: "macro" or "micro"; None for this evaluation's own.
            intervals: "delta" or "bootstrap", both clustered by image; None for this evaluation's own.
            map_attacks: "apart", "own" or "all"; None for this evaluation's own.
            only: "all", or "correct" for the images that a model gets right, which needs labels; None likewise.

        Raises:
            UserError: there is no such table, or no image has a label.
            ValueError: one of the other arguments is something else.
        """
        names = (*SUMMARIES, "tests", *(() if self.certificates is None else ("certificates",)))
        if by not in names:
            raise UserError(f"summary: by must be one of {', '.join(names)}, got '{by}'")
        if by == "certificates" and self.certificates is not None:
            return certified_consistency([self.certificates])
        reduction = self._reduced(average, intervals, map_attacks, only)
        if by == "tests":
            return significance_tests(reduction.profiles, self.controls, self.same_as)
        table = reduction.tables[by]
        return ranked_by(table, leading_measure(table, self.controls)) if by == "by_cam" else table

    def _reduced(
        self, average: str | None = None, intervals: str | None = None, map_attacks: str | None = None,
        only: str | None = None,
    ) -> Reduction:  # fmt: skip
        only = only or self.only
        if only not in ("all", "correct"):
            raise ValueError(f"summary: only must be 'all' or 'correct', got {only!r}")
        if only == "correct" and not self.scores["label"].count():
            raise UserError("summary: only='correct' needs labels, and no image has one; give labels, or leave it out")
        attacks = MapAttacks(same_as=self.same_as, counted=map_attacks or self.map_attacks)
        settings = SummarySettings(
            average or self.average, self.controls, intervals or self.intervals, self.seed, attacks=attacks, only=only,
            classless=frozenset(name for name, head in self.heads.items() if not chooses_class(head)),
        )  # fmt: skip
        return reduce_frame(self.scores.lazy(), settings)

    def _repr_html_(self) -> str:
        """The leaderboard and the curves against severity, in a notebook."""
        tables = self._reduced().tables
        return notebook(tables["by_cam"], tables["by_level"], self.controls, self.same_as)

    def chart(self, kind: str = "curves") -> Any:
        """A figure of the report as an Altair chart: a notebook shows it, `.save("x.svg")` writes it.

        Args:
            kind: curves (against severity), heatmap (CAM × perturbation), ranks (critical differences), models or
                datasets (compared) where there are several, and certified (consistency against the radius) where there
                are certificates.

        Raises:
            UserError: there is no such figure, or no numbers for it.

        Examples:
            >>> import camrobust
            >>> result = camrobust.load_run("runs/mine")
            >>> chart = result.chart("heatmap")  # chart.save("heatmap.svg")
        """
        drawn = {figure.name: figure for figure in self._report().figures}
        if kind not in drawn:
            known = ", ".join(drawn) or "none, as nothing was scored"
            raise UserError(f"chart: there is no figure '{short(kind)}' of these scores; there are {known}")
        return drawn[kind].chart()

    def report(self, path: str | Path) -> Path:
        """Write the report: one page that needs no network, with its figures beside it.

        Args:
            path: a folder, which gets index.html and figures/; or the name of the page, such as results.html.

        Returns:
            The page.

        Raises:
            UserError: it cannot be written, or a file that camrobust did not write would be replaced.

        Examples:
            >>> import camrobust
            >>> result = camrobust.load_run("runs/mine")
            >>> print(result.report("page"))
            page/index.html
        """
        place = Path(path)
        name = place.name if place.suffix.lower() in SUFFIXES else "index.html"
        folder = place.parent if name == place.name else place
        check_folder(str(folder), "report", "path")
        try:
            write_page(folder / name, self._report().files(), "path")
        except OSError as error:
            raise UserError(f"report: cannot write '{short(str(place))}' ({error.strerror}); choose another") from error
        return folder / name

    def _report(self) -> "Report":
        from camrobust.interface.evaluation_report import report_of

        if self.scores.is_empty():
            raise UserError("report: nothing was scored, so there is nothing to draw; give one image or more")
        reduction = self._reduced()
        return report_of(self.scores, reduction, self.record or self._described(), self.certificates)

    def _described(self) -> DescribedRecord:
        from camrobust.interface.evaluation_report import described

        return described(self.scores, self.controls, self.same_as, self.heads, self.settings())

    def settings(self) -> dict[str, Any]:
        """The settings that a summary of the scores uses by default."""
        return {
            "average": self.average, "intervals": self.intervals, "seed": self.seed, "map_attacks": self.map_attacks,
            "only": self.only,
        }  # fmt: skip

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

    def save(self, path: str | Path) -> None:
        """Write the scores and the settings into one parquet file, which `camrobust.load` and any other reader read.

        Certificates are not in it; write them with `result.certificates.write_parquet`.

        Args:
            path: name of the file, such as result.parquet.

        Raises:
            UserError: it cannot be written.

        Examples:
            >>> import camrobust
            >>> camrobust.load_run("runs/mine").save("result.parquet")
            >>> camrobust.load("result.parquet")
            Evaluation(8 images × 1 model × 2 CAMs × 3 variants = 48 rows)
        """
        more: dict[str, Any] = {"heads": dict(self.heads)}
        more |= {"controls": list(self.controls), "same_as": {name: dict(cams) for name, cams in self.same_as.items()}}
        write_saved(path, self.scores, {**more, **self.settings()})

    def stability(self, *, same_class: bool = True) -> pl.DataFrame:
        """Max- and avg-sensitivity, local Lipschitz estimate, continuity and relative stabilities of every image.

        Args:
            same_class: use only variants that kept the predicted class.

        Returns:
            One row per image and CAM, columns as `schema.IMAGE_STABILITY`.
        """
        return per_image(self.scores.lazy(), same_class=same_class).collect()


def load(path: str | Path) -> Evaluation:
    """What `Evaluation.save` has written, or the scores of a run folder.

    Args:
        path: a file, or a folder or address as for `load_run`.

    Raises:
        UserError: there is no such file, or it is not a saved evaluation.

    Examples:
        >>> import camrobust
        >>> result = camrobust.load("runs/mine")  # or a file of `Evaluation.save`
        >>> result.controls
        ('random',)
    """
    if not is_file(path):
        return load_run(path)
    scores, record = read_saved(path)
    return Evaluation(
        scores, tuple(record.controls), record.average, record.intervals, record.seed, record.map_attacks,
        record.same_as, record.only, record.heads,
    )  # fmt: skip


def load_run(uri: str | Path) -> Evaluation:
    """The scores of a run folder, local or in a store; of a run in shards, those of all shards.

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
    run, committed = folder.run(), folder.committed()
    return Evaluation(
        folder.scores(committed),
        tuple(run.controls),
        run.config.metric.average,
        run.config.summary.intervals,
        run.config.seed,
        run.config.summary.map_attacks,
        run.same_as,
        run.config.summary.only,
        run.heads,
        run,
        folder.table("certificates", committed) if run.config.certify else None,
    )
