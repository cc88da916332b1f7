"""Does a CAM lie above the control? Every distinct CAM against the floor, as a family of its own.

Comparisons with a control ask another question than comparisons of all pairs, so Holm's correction goes over them alone
(Demšar 2006, JMLR 7, section 3.2.2).
"""

from collections.abc import Collection, Sequence

import numpy as np

from camrobust.summary.influence import Side, factors_of, paired_difference
from camrobust.summary.line_tables import Line
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import wilcoxon

TEST = "wilcoxon_control"
FEWEST = 2
"""Images that an estimate and a test need."""


def against_the_floor(profile: Profile, measure: str, cams: Sequence[str], controls: Collection[str]) -> list[Line]:
    """One line per distinct CAM and control of a model: `difference`, and Wilcoxon's test of the images' differences.

    The difference is that of the two values on the leaderboard, over the images of the profile. Another CAM's missing
    values leave out no image here.

    Args:
        profile: of a dataset and a model.
        measure: name of a measure.
        cams: the distinct CAMs, controls among them.
        controls: CAMs that are a floor.
    """
    floors = [cam for cam in cams if cam in controls]
    whole = slice(None)
    sides = {cam: Side(profile, cam, whole, factors_of(measure)) for cam in cams}
    lines: list[Line] = []
    for cam in cams:
        for floor in floors if cam not in controls else ():
            if min(sides[cam].images(measure), sides[floor].images(measure)) < FEWEST:
                continue
            difference, lower, upper = paired_difference(sides[cam], sides[floor], measure)
            d = sides[cam].values[measure] - sides[floor].values[measure]
            known = d[~np.isnan(d)]
            line: Line = {
                "factor": "cam", "dataset": profile.dataset, "model": profile.model, "measure": measure, "test": TEST,
                "first": cam, "second": floor, "effect_name": "rank_biserial", "difference": difference,
                "difference_lower": lower, "difference_upper": upper, "n_groups": 2, "n_images": len(known),
                "n_dropped": len(d) - len(known),
            }  # fmt: skip
            if len(known) >= FEWEST:
                test = wilcoxon(known)
                line |= {"effect": test.effect, "effect_lower": test.lower, "effect_upper": test.upper,
                         "statistic": test.statistic, "p": test.p}  # fmt: skip
            lines.append(line)
    return lines
