import numpy as np
import polars as pl

from camrobust.report.headline import headline
from camrobust.summary.floor import TEST
from tests.documents import run_record

LEVELS = pl.DataFrame(
    schema={"dataset": pl.String, "model": pl.String, "cam": pl.String, "consistency_adjusted": pl.Float64}
)
CAMS = ("a", "b", "c", "e", "random")
RUN = run_record(models=("m", "n"), cams=CAMS)


def line(cam, value, low=None, high=None, model="m", measure="robustness_adjusted"):
    empty = {
        f"{name}_adjusted{end}": None for name in ("robustness", "consistency") for end in ("", "_lower", "_upper")
    }
    numbers = {measure: value, f"{measure}_lower": low, f"{measure}_upper": high}
    return {"dataset": "d", "model": model, "cam": cam, "n_pairs": 10, "flip_rate": 0.3, **empty, **numbers}


def sentences(*lines, run=RUN, tests=None):
    return headline(run, pl.DataFrame(lines, infer_schema_length=None), LEVELS, tests)


def floors(*rows, n_images=40):
    """The table of tests with comparisons (cam, difference, low, high, p, p after Holm) with the control."""
    return pl.DataFrame(
        [
            {"factor": "cam", "dataset": "d", "model": "m", "measure": "robustness_adjusted", "test": TEST,
             "first": cam, "second": "random", "effect": np.sign(difference), "difference": difference,
             "difference_lower": low, "difference_upper": high, "p": p, "p_corrected": corrected, "n_images": n_images}
            for cam, difference, low, high, p, corrected in rows
        ],
        infer_schema_length=None,
    )  # fmt: skip


FIRST = (
    "The highest adjusted RM is that of a on m (d): 0.50 (95 % interval 0.40 to 0.60); "
    "the control random has 0.10 (95 % interval -0.10 to 0.20)."
)


def test_the_first_is_set_against_its_control_by_their_paired_difference():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.2, 0.1, 0.3), line("random", 0.1, -0.1, 0.2)]
    tests = floors(("a", 0.4, 0.3, 0.5, 0.001, 0.002), ("b", 0.1, -0.1, 0.3, 0.3, 0.3))
    first, second, _ = sentences(*rows, tests=tests)
    assert first == FIRST
    assert second == (
        "Image by image it exceeds random by 0.40 (95 % interval 0.30 to 0.50): more than chance (p = 0.002 after Holm "
        "over 2 comparisons)."
    )


def test_a_difference_that_may_be_chance_is_said_to_be_one_though_the_intervals_lie_apart():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.3, 0.2, 0.4), line("random", 0.1, -0.1, 0.2)]
    tests = floors(("a", 0.4, -0.1, 0.9, 0.2, 0.2), ("b", 0.2, -0.1, 0.5, 0.1, 0.2))
    assert sentences(*rows, tests=tests)[:2] == [
        FIRST,
        "Image by image it exceeds random by 0.40 (95 % interval -0.10 to 0.90), which may be chance (p = 0.200 after "
        "Holm): no CAM is shown to exceed the control.",
    ]
    tests = floors(("a", 0.4, -0.1, 0.9, 0.2, 0.2), ("b", 0.2, 0.1, 0.3, 0.001, 0.002))
    assert sentences(*rows, tests=tests)[2] == "b on m (d) does exceed its control."


def test_where_no_p_can_reach_the_level_the_verdict_says_so():
    """Eight images: Wilcoxon's smallest p is 2/2^8 = 0.0078, and seven comparisons make 0.055 of it."""
    rows = [line("a", 0.5, 0.4, 0.6), line("random", 0.1, -0.1, 0.2)]
    tests = floors(*((cam, 0.4, 0.3, 0.5, 0.0078125, 0.0546875) for cam in "abcefgh"), n_images=8)
    assert sentences(*rows, tests=tests)[1] == (
        "Image by image it exceeds random by 0.40 (95 % interval 0.30 to 0.50); with 8 images the smallest possible p "
        "is 0.0078, and Holm's correction over 7 comparisons makes that 0.055: no test can reach 5 %, however much the "
        "maps differ."
    )
    six = floors(*((cam, 0.4, 0.3, 0.5, 0.0078125, 0.046875) for cam in "abcefg"), n_images=8)
    assert sentences(*rows, tests=six)[1].endswith("more than chance (p = 0.047 after Holm over 6 comparisons).")


def test_without_comparisons_nothing_is_claimed():
    assert sentences(line("a", 0.5, -0.1, 0.8), run=run_record())[0] == (
        "The highest adjusted RM is that of a on m (d): 0.50 (95 % interval -0.10 to 0.80). This is not shown to be "
        "more than chance."
    )
    first, flips = sentences(line("a", 0.5), line("random", 0.4))
    assert first == (
        "The highest adjusted RM is that of a on m (d): 0.50 (too few images for an interval); the control random has "
        "0.40 (too few images for an interval)."
    )
    assert flips.startswith("30 % ")


def test_the_control_is_that_of_the_same_model():
    first, *_ = sentences(line("a", 0.5, 0.4, 0.6), line("random", 0.4, 0.3, 0.5), line("a", 0.3, 0.2, 0.4, "n"),
                          line("random", 0.1, 0.0, 0.2, "n"))  # fmt: skip
    assert first.endswith("; the control random has 0.40 (95 % interval 0.30 to 0.50).")


def test_without_flips_verdict_and_overlaps_speak_of_consistency():
    rows = [line("a", 0.5, 0.4, 0.6, measure="consistency_adjusted"),
            line("b", 0.5, 0.4, 0.6, measure="consistency_adjusted")]  # fmt: skip
    first, flips = sentences(*rows)
    assert first == (
        "No prediction flipped, so responsiveness and RM cannot be measured. "
        "The highest adjusted consistency is that of a on m (d): 0.50 (95 % interval 0.40 to 0.60)."
    )
    assert "the first row's interval overlaps with that of 1 of 1 other row" in flips


def test_labels_and_values_are_decisions_and_no_classes():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.5, 0.4, 0.6)]
    for head, words in (("binary", "their predicted class"), ("multilabel", "the decision"),
                        ("value:tolerance=1.0,explained=0", "the decision")):  # fmt: skip
        text = sentences(*rows, run=run_record(models=["m"], heads={"m": head}))[1]
        assert text.startswith(f"30 % of the perturbed images changed {words}; the first row's interval overlaps")


def test_who_is_left_out_of_the_overlaps_is_said():
    rows = [line("a", 0.5, 0.4, 0.6), line("b", 0.5, 0.4, 0.6), line("c", 0.3, 0.2, 0.45), line("e", 0.2, 0.1, 0.3)]
    text = "30 % of the perturbed images changed their predicted class; "
    text += "the first row's interval overlaps with that of {} rows"
    assert sentences(*rows, run=run_record())[1] == text.format("2 of 3 other") + "."
    rows.append(line("random", 0.2, 0.1, 0.5))
    assert sentences(*rows)[1] == text.format("2 of 3 other") + " (controls left out)."
    twins = run_record(cams=CAMS, same_as={"m": {"b": "a"}})
    assert sentences(*rows, run=twins)[1] == (
        text.format("1 of 2 other") + " (controls left out, methods with the same maps counted once)."
    )
