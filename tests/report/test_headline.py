import polars as pl
import pytest

from camrobust.report.headline import headline
from tests.documents import run_record

LEVELS = pl.DataFrame(
    schema={"dataset": pl.String, "model": pl.String, "cam": pl.String, "consistency_adjusted": pl.Float64}
)
RUN = run_record(controls=["random"])


def line(cam, value, low=None, high=None, model="m", measure="robustness_adjusted"):
    empty = {
        f"{name}_adjusted{end}": None for name in ("robustness", "consistency") for end in ("", "_lower", "_upper")
    }
    numbers = {measure: value, f"{measure}_lower": low, f"{measure}_upper": high}
    return {"dataset": "d", "model": model, "cam": cam, "n_pairs": 10, "flip_rate": 0.3, **empty, **numbers}


def sentences(*lines, run=RUN):
    return headline(run, pl.DataFrame(lines, infer_schema_length=None), LEVELS)


def test_the_first_is_named_beside_its_control():
    first, _ = sentences(line("a", 0.5, 0.4, 0.6), line("random", 0.1, -0.1, 0.2))
    assert first == (
        "The highest adjusted robustness is that of a on m (d): 0.50 (95 % interval 0.40 to 0.60); "
        "the control random has 0.10 (95 % interval -0.10 to 0.20)."
    )


@pytest.mark.parametrize(
    ("low", "control"),
    [(0.4, 0.5), (0.4, 0.7), (0.4, 0.41), (0.0, 0.1), (-0.2, 0.1)],
    ids=["level", "below", "in the interval", "to 0", "across 0"],
)
def test_what_is_not_more_than_chance_is_said_first(low, control):
    rows = [line("a", 0.5, low, 0.8), line("b", 0.2, -0.1, 0.3), line("random", control, 0.1, 0.9)]
    first, *_ = sentences(*sorted(rows, key=lambda row: -row["robustness_adjusted"]))
    assert first == (
        "No CAM is shown to be more robust than chance: the highest adjusted robustness, that of a on m (d), is "
        f"0.50 (95 % interval {low:.2f} to 0.80); the control random has {control:.2f} (95 % interval 0.10 to 0.90)."
    )


def test_without_an_interval_nothing_is_shown():
    assert sentences(line("a", 0.5, -0.1, 0.8), run=run_record())[0] == (
        "No CAM is shown to be more robust than chance: the highest adjusted robustness, that of a on m (d), is "
        "0.50 (95 % interval -0.10 to 0.80)."
    )
    assert sentences(line("a", 0.5), line("random", 0.4))[0] == (
        "No CAM is shown to be more robust than chance: the highest adjusted robustness, that of a on m (d), is "
        "0.50 (too few images for an interval); the control random has 0.40 (too few images for an interval)."
    )
    assert sentences(line("a", -0.1), run=run_record())[0].startswith("No CAM is shown to be more robust than chance")


def test_the_control_is_that_of_the_same_model():
    first, *_ = sentences(line("random", 0.6, 0.5, 0.7), line("a", 0.5, 0.4, 0.6), line("a", 0.3, 0.2, 0.4, "n"),
                          line("random", 0.1, 0.0, 0.2, "n"))  # fmt: skip
    assert first == (
        "a on m (d) has the highest adjusted robustness, but the interval does not rule out chance: "
        "0.50 (95 % interval 0.40 to 0.60); the control random has 0.60 (95 % interval 0.50 to 0.70)."
    )


def test_without_flips_consistency_is_set_against_its_control():
    rows = [line("a", 0.5, 0.4, 0.6, measure="consistency_adjusted")]
    unmeasured = "No prediction flipped, so responsiveness and robustness cannot be measured. "
    assert sentences(*rows)[0] == (
        f"{unmeasured}The highest adjusted consistency is that of a on m (d): 0.50 (95 % interval 0.40 to 0.60)."
    )
    rows.append(line("random", 0.9, 0.8, 1.0, measure="consistency_adjusted"))
    assert sentences(*rows)[0].startswith(f"{unmeasured}No CAM is shown to be more consistent than chance: ")


def test_labels_and_values_are_decisions_and_no_classes():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.5, 0.4, 0.6)]
    for head, words in (("binary", "their predicted class"), ("multilabel", "the decision"),
                        ("value:tolerance=1.0,explained=0", "the decision")):  # fmt: skip
        text = sentences(*rows, run=run_record(models=["m"], heads={"m": head}))[1]
        assert text.startswith(f"30% of the perturbed images changed {words}; the intervals of 1 ")


def test_who_is_left_out_of_the_overlaps_is_said():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.5, 0.4, 0.6), line("c", 0.3, 0.2, 0.45), line("e", 0.2, 0.1, 0.3)]
    text = "30% of the perturbed images changed their predicted class; "
    text += "the intervals of {} rows overlap with that of the first"
    assert sentences(*rows, run=run_record())[1] == text.format("2 of the other 3") + "."
    rows.append(line("random", 0.2, 0.1, 0.5))
    assert sentences(*rows)[1] == text.format("2 of the other 3") + " (controls left out)."
    twins = run_record(controls=["random"], same_as={"m": {"b": "a"}})
    assert sentences(*rows, run=twins)[1] == (
        text.format("1 of the other 2") + " (controls left out, methods with the same maps counted once)."
    )
