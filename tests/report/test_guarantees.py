"""Certificates on the page: what the sentences say, what the figure draws, and what the pictures show."""

from io import BytesIO

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.errors import UserError
from camrobust.contract.schema import MAPS
from camrobust.report.guarantees import (
    NO_CLASS,
    NOTHING,
    certain_maps,
    certified_curves,
    guarantee_sentences,
    seen_sentence,
)
from camrobust.report.pictures import membership
from camrobust.results.arrow import make_table
from camrobust.summary.certified import certified_consistency


def table(guaranteed=0.4, **more):
    rows = [
        {
            "dataset": "d", "model": "m", "image_id": str(image), "cam": cam, "sigma": 0.25, "radius_share": share,
            "radius": share * 0.25, "item": "rank", "n": 1000, "alpha": 0.01, "class_radius": 0.02 * image,
            "abstained": image == 0, "certified_rbo_adjusted": guaranteed if cam == "gradcam" else -0.2,
            "flat_share": 0.0, "undecided": 0.5, **more,
        }
        for image in range(4) for cam in ("gradcam", "random") for share in (0.0, 0.1, 0.2)
    ]  # fmt: skip
    return certified_consistency([pl.DataFrame(make_table(CERTIFICATES, rows))])


def test_two_sentences_say_what_is_certain_for_whom_and_what_counts_as_nothing():
    first, second = guarantee_sentences(table(), ["random"])
    assert first == (
        "This is not about the map of one photo but about the ranks of segments, averaged over noise of deviation "
        "sigma: for each image, CAM and sigma, with probability 0.99 at least, the order of these averages over 1,000 "
        "samples agrees (adjusted RBO) with that of the true averages at every image within that l2 radius, whoever or "
        "whatever found it, at least as well as the value that counts here."
    )
    # At radius 0.025 the classes of images 2 and 3 are certain.
    assert second == (
        "The highest guarantee is 0.200 (a random map: 0.000), for gradcam of m at radius 0.025 and sigma 0.25; of 4 "
        "images tried, 2 count as 0 there because their class is not certain, and 0 means that nothing is guaranteed, "
        "not that the map changes."
    )


def test_one_image_counts_and_does_not_count_as_one():
    one = table().filter(pl.col("radius") > 0).with_columns(n_images=3, n_certified=2)
    assert "of 3 images tried, 1 counts as 0 there because its class is not certain" in guarantee_sentences(one, [])[1]


def test_a_guarantee_is_rounded_down_and_says_of_which_items_and_which_dataset_it_is():
    both = pl.concat([table(0.3998), table(0.1).with_columns(dataset=pl.lit("e"))])
    first, second = guarantee_sentences(both.with_columns(item=pl.lit("top")), ["random"])
    assert "but about whether segments are in the top, averaged over noise" in first
    assert second.startswith("The highest guarantee is 0.199 (a random map: 0.000), for gradcam of m on d at radius")


def test_where_nothing_is_certain_that_is_what_is_said():
    assert guarantee_sentences(table(-0.1), ["random"])[1] == NOTHING
    assert guarantee_sentences(table().with_columns(certified_consistency=0.0, n_certified=0), [])[1] == NO_CLASS
    at_images = table().filter(pl.col("radius") == 0)
    assert "for gradcam of m at radius 0 and sigma 0.25; of 4" in guarantee_sentences(at_images, ["random"])[1]
    only_floor = table().filter(pl.col("cam") == "random")
    assert guarantee_sentences(only_floor, ["random"])[1] == NOTHING


def test_the_figure_has_every_radius_and_can_be_drawn():
    figure = certified_curves(table(), ["gradcam", "random"], ["random"])
    assert figure.numbers.height == 2 * 3
    assert set(figure.numbers.select("alpha", "samples", "item").rows()) == {(0.01, 1000, "rank")}
    drawn = dict(figure.files())["certified.svg"].decode()
    what = "Certified consistency (adjusted for chance) against the radius; alpha = 0.01"
    counting, unit = "counting all images (0 if the class is not certain)<", "l2 radius (pixels from 0 to 1)"
    names = (">gradcam<", ">random<", "sigma 0.25")
    for part in (what, "n = 4 images", counting, "(0 = nothing guaranteed)", unit, *names):
        assert part in drawn
    names = [name for name, content in figure.files() if content]
    assert names == ["certified.svg", "certified.png", "certified.pdf", "certified.csv"]
    assert certified_curves(table().clear(), ["gradcam"], []) is None


def test_what_was_seen_at_the_same_distance_stands_above_what_is_certain():
    tried = table(agreement_random=0.9, agreement_attacked=0.7)
    figure = certified_curves(tried, ["gradcam", "random"], ["random"])
    drawn = [dict(one) for one in figure.specification["params"] if one["name"] == "pick_seen"]
    assert drawn[0]["value"] == "agreement_attacked"
    assert drawn[0]["bind"]["options"] == ["agreement_attacked", "agreement_random"]
    lines = dict(figure.files())["certified.svg"].decode().count('stroke-width="1" ')
    assert figure.numbers["agreement_attacked"].to_list() == [0.7] * 6
    assert figure.numbers["agreement_attacked_only"].null_count() == 0
    plain_figure = certified_curves(table(), ["gradcam", "random"], ["random"])
    assert dict(plain_figure.files())["certified.svg"].decode().count('stroke-width="1" ') < lines
    assert "pick_seen" not in str(plain_figure.specification)
    assert "agreement_attacked" not in plain_figure.numbers.columns
    assert "certain); thin lines: seen at an attacked image<" in dict(figure.files())["certified.svg"].decode()
    assert seen_sentence(tried).startswith("Thin lines: what was seen at an attacked image or at random images at the")
    assert seen_sentence(table()) == seen_sentence(None) == ""


def png(shades):
    sink = BytesIO()
    Image.fromarray(np.array(shades, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def jpeg(side):
    sink = BytesIO()
    Image.fromarray(np.full((side, side, 3), (200, 80, 40), np.uint8)).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def test_certain_segments_are_in_colour_excluded_ones_dark_and_others_grey():
    photo = np.full((2, 3, 3), (200, 80, 40), np.uint8)
    drawn = np.asarray(membership(photo, np.array([[255, 0, 128]] * 2, np.uint8)))
    assert drawn[0, 0].tolist() == [200, 80, 40]
    assert len(set(drawn[0, 1].tolist())) == len(set(drawn[0, 2].tolist())) == 1
    assert drawn[0, 1, 0] < 50 < drawn[0, 2, 0]


def test_a_mask_of_another_size_is_one_sentence():
    maps = pl.DataFrame(
        make_table(MAPS, [{"dataset": "d", "image_id": "a", "model": "m", "perturbation": "clean", "photo": jpeg(8)}])
    )
    row = {"dataset": "d", "image_id": "a", "model": "m", "cam": "gradcam", "sigma": 0.1, "radius": 0.01,
           "class_radius": 0.02, "certainly_in": 0.25, "certainly_out": 0.5, "undecided": 0.25}  # fmt: skip
    rows = [row | {"membership": png(np.zeros((8, 8)))}, row | {"radius": 0.05, "membership": png(np.zeros((8, 8)))}]
    (shown,) = certain_maps(pl.DataFrame(make_table(CERTIFICATES, rows)), maps, "m", "gradcam")
    ((title, picture, told),) = shown.cells
    assert (title, told) == ("sigma 0.1, radius 0.01", "in 25 %, out 50 %, undecided 25 %; class certain")
    assert picture.startswith("data:image/jpeg")
    wrong = pl.DataFrame(make_table(CERTIFICATES, [row | {"membership": png(np.zeros((4, 4)))}]))
    with pytest.raises(UserError, match="a mask in certificates/ is not of its photo's size"):
        certain_maps(wrong, maps, "m", "gradcam")
