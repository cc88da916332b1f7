from io import BytesIO

import numpy as np
import polars as pl
import pytest
from PIL import Image
from skimage import data

from camrobust.contract.schema import IMAGES
from camrobust.io.image_characteristics import characteristics
from camrobust.summary.same_photo import ROUNDING, SIZES, other_photos
from tests.synthetic import frame

PHOTO = {"width": 640, "height": 480, "brightness": 0.4, "contrast": 0.2, "colourfulness": 30.0, "edge_density": 0.1,
         "high_frequency": 0.02}  # fmt: skip


def photos(*rows):
    return frame(IMAGES, [
        {"dataset": "d", "image_id": f"image-{place}", "label": None, "n_segments": 30, **PHOTO, **row}
        for place, row in enumerate(rows)
    ])  # fmt: skip


def others(first, second):
    return other_photos(first, second)["other"].to_list()


@pytest.mark.parametrize("name", [*SIZES, *ROUNDING])
def test_one_value_is_enough(name):
    changed = {name: PHOTO[name] + 1 if name in SIZES else PHOTO[name] * 1.01}
    assert others(photos({}, {}), photos({}, changed)) == [False, True]


def test_rounding_is_no_difference():
    rounded = {name: float(np.nextafter(np.float32(PHOTO[name]), np.float32(1e9))) for name in ROUNDING}
    flat = dict.fromkeys(ROUNDING, 0.0)
    assert others(photos({}, flat), photos(rounded, dict.fromkeys(ROUNDING, 1e-9))) == [False, False]


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_what_is_unknown_tells_nothing(unknown):
    assert others(photos({"contrast": unknown}), photos({})) == [False]
    assert others(photos({}), photos({"contrast": unknown, "brightness": 0.5})) == [True]


def test_only_images_of_both_are_looked_at_and_datasets_are_apart():
    first = photos({}, {}, {})
    second = pl.concat([photos({}, {"width": 1}), photos({"width": 1}).with_columns(dataset=pl.lit("e"))])
    assert other_photos(first, second).rows() == [("d", "image-0", False), ("d", "image-1", True)]
    assert other_photos(first, second.clear()).is_empty()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_a_photo_saved_again_is_another_and_one_decoded_otherwise_is_not(name):
    photo = Image.fromarray(getattr(data, name)()).resize((224, 224))
    pixels = np.asarray(photo).astype(int)
    generator = np.random.default_rng(0)
    step = generator.choice([-1, 0, 1], pixels.shape, p=[0.05, 0.9, 0.05])
    sink = BytesIO()
    photo.save(sink, "JPEG", quality=98)
    kept, decoded, saved = (
        characteristics(np.asarray(one).transpose(2, 0, 1).astype(np.uint8))
        for one in (pixels, np.clip(pixels + step, 0, 255), Image.open(sink))
    )
    assert others(photos(kept, kept), photos(decoded, saved)) == [False, True]
