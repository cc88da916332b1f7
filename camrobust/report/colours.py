"""One look per CAM, the same on every page, in every figure and notebook, whatever other CAMs a run has.

The colours and the floor's grey are at least 10 ΔE2000 apart, also with simulated deuteranopia and protanopia
(tests/report/test_colours.py), and have a contrast of about 3 to a white and to a dark page. Beyond eight CAMs a colour
comes again with another dash and another marker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import altair as alt

PALETTE = ("#5a87ff", "#ff6900", "#3ca5b4", "#a53c4b", "#a59678", "#692dff", "#785a87", "#d21e00")
FLOOR = "#787878"
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (8, 3), (4, 3), (8, 3, 2, 3), (2, 2), (12, 4))
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
FLOOR_DASH, FLOOR_MARKER = (1, 3), "triangle-right"
KNOWN = (
    "gradcam", "gradcam++", "ablationcam", "eigencam", "layercam", "xgradcam", "hirescam", "eigengradcam",
    "scorecam", "fullgrad", "cam", "smoothgradcam++", "gradcam-elementwise", "opti-cam", "recipro-cam", "lift-cam",
    "shapleycam", "attention-rollout", "agcam", "legrad", "fem", "kpca-cam", "refinecam", "finercam",
    "cf-cam", "is-cam", "ss-cam", "winsor-cam", "seg-eigencam", "diffgradcam", "eigencam-salient", "kpca-cam-salient",
    "eigengradcam-salient", "cf-cam-softmax",
)  # fmt: skip
"""CAMs in the order in which they get their looks; those that are compared most have colours of their own."""
OWN = 40
"""First of the eight looks that CAMs of packages of your own get by a hash of their name."""


@dataclass(frozen=True)
class Look:
    """How the lines and points of a CAM are drawn: colour, dashes (px drawn, px left out, …), marker."""

    colour: str
    dash: tuple[int, ...]
    marker: str


def look(cam: str, controls: Sequence[str] = ()) -> Look:
    """The look of a CAM.

    >>> look("gradcam").colour, look("scorecam") == look("gradcam")
    ('#5a87ff', False)
    """
    if cam in controls or cam == "random":
        return Look(FLOOR, FLOOR_DASH, FLOOR_MARKER)
    place = KNOWN.index(cam) if cam in KNOWN else OWN + crc32(cam.encode()) % len(PALETTE)
    turn, colour = divmod(place, len(PALETTE))
    return Look(PALETTE[colour], DASHES[turn], MARKERS[turn])


def in_colour(cams: Sequence[str], controls: Sequence[str] = (), **options: Any) -> alt.Color:
    """The encoding of CAMs by colour."""
    return alt.Color("cam:N", title="CAM", scale=_scale(cams, [look(cam, controls).colour for cam in cams]), **options)


def in_dashes(cams: Sequence[str], controls: Sequence[str] = ()) -> alt.StrokeDash:
    """The encoding of CAMs by dashes; it has no legend, which would draw them around the markers."""
    # Legends of scales with the same names would be one, so these have a name more.
    dashes = [list(look(cam, controls).dash) for cam in cams]
    return alt.StrokeDash("cam:N", title="CAM", scale=_scale([*cams, ""], [*dashes, [1, 0]]), legend=None)


def in_markers(cams: Sequence[str], controls: Sequence[str] = (), **options: Any) -> alt.Shape:
    """The encoding of CAMs by the shape of their points."""
    shapes = [look(cam, controls).marker for cam in cams]
    return alt.Shape("cam:N", title="CAM", scale=_scale(cams, shapes), **options)


def _scale(cams: Sequence[str], values: Sequence[Any]) -> alt.Scale:
    return alt.Scale(domain=list(cams), range=list(values))
