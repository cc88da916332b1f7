"""Every result column with its name, type and meaning; no other module names a column.

Types are written as in Arrow ("string", "int8", "float32", "bool", "binary"); `camrobust.results.arrow` makes Arrow
schemas of them. How a file encodes and compresses a column is not said here.
"""

from dataclasses import replace

from camrobust.contract.certificates import CERTIFIED
from camrobust.contract.columns import Column
from camrobust.contract.columns import columns as _columns
from camrobust.contract.comparison_schema import CHARACTERISTICS, TESTS

CLEAN = "clean"
"""Name of the unperturbed variant; it has no score row."""

MANIFEST = _columns(
    ("dataset", "string", "name of the dataset in the config"),
    ("image_id", "string", "path below the dataset's folder or prefix, or the manifest's image_id or uri"),
    ("uri", "string", "where the bytes are: a local path, s3://bucket/key, gs://bucket/key or az://container/key"),
    ("label", "int32", "true class index, null where unknown"),
    ("place", "string", "where in a file that holds many images this one lies, see docs/running.md; else null"),
    required="dataset image_id uri",
)

KEYS = _columns(
    ("dataset", "string", "partition: name of the dataset"),
    ("model", "string", "partition: name of the model"),
    ("image_id", "string", "the image, unique within its dataset"),
    ("cam", "string", "name of the CAM method"),
    ("perturbation", "string", "name of the perturbation"),
    ("severity", "int8", "1 to 5, null when the strength was given by parameter"),
    ("strength", "string", "the strength in physical terms, for example sigma=0.08"),
    ("replicate", "int16", "number of the repetition with another random draw, from 0"),
    required="dataset model image_id cam perturbation strength replicate",
)

SIMILARITIES = _columns(
    ("rbo", "float32", "extrapolated rank-biased overlap of the two segment rankings, [0, 1], 1 = same ranking"),
    ("rbo_adjusted", "float32", "(rbo - E) / (1 - E), E = what chance gives: 1 = same ranking, 0 = chance"),
    ("pearson", "float32", "linear correlation of the two low-resolution maps, [-1, 1]"),
    ("spearman", "float32", "rank correlation of the two low-resolution maps, [-1, 1]"),
    ("kendall", "float32", "rank correlation tau-b of the segments' scores, [-1, 1]"),
    ("cosine", "float32", "cosine of the angle between the two raw maps, [-1, 1]"),
    ("l1", "float32", "half the summed absolute difference of the two maps, each min-max scaled to sum 1; 0 = same"),
    ("js", "float32", "Jensen-Shannon distance, base 2, of the two maps scaled in the same way; 0 = same, 1 = apart"),
    ("topk_iou", "float32", "overlap of the strongest 20 % of positions, intersection over union, [0, 1]"),
    ("com_shift", "float32", "shift of the map's centre of mass, share of the image's diagonal; 0 = none"),
    ("ssim", "float32", "structural similarity of the maps at the image's size, [-1, 1]; only where asked for"),
    ("procrustes", "float32", "Procrustes disparity of the maps, [0, 1], 0 = same; only where asked for"),
    ("sensitivity", "float32", "norm of the map's change over the clean map's norm; 0 = stable"),
    ("lipschitz", "float32", "change of the map, its largest magnitude 1, per change of the pixels; 0 = stable"),
    ("continuity", "float32", "summed change of the map, largest magnitude 1, per change of the pixels; 0 = stable"),
    ("ris", "float32", "relative change of the map per relative change of the pixels; 0 = stable"),
    ("ros", "float32", "relative change of the map per change of the logits; 0 = stable"),
    ("rrs", "float32", "relative change of the map per relative change of the target layer; 0 = stable"),
)

STABILITY = ("sensitivity", "lipschitz", "continuity", "ris", "ros", "rrs")
"""Similarities whose maximum and mean over an image's variants are robustness metrics of the literature."""

SCORES = (
    *KEYS,
    *_columns(
        ("predicted_clean", "int32", "class predicted for the clean image, or label explained on it; null for values"),
        ("predicted_perturbed", "int32", "class predicted for the perturbed image; of labels that of predicted_clean"),
        ("confidence_clean", "float32", "probability of predicted_clean on the clean image; null for values"),
        ("entropy_clean", "float32", "entropy of the classes, or of that label, on the clean image, nats"),
        ("confidence_perturbed", "float32", "probability of predicted_perturbed on the perturbed image"),
        ("value_clean", "float32", "value that a model with head: value gives the clean image, else null"),
        ("value_perturbed", "float32", "value that it gives the perturbed image"),
        ("label", "int32", "true class, null where unknown"),
        ("kept_class", "bool", "the decision is that on the clean image: same class, label as before, or close value"),
        ("n_segments", "int32", "number m of segments that were ranked"),
        ("status", "string", "ok, flat_map (no ranking to compare), ambiguous or not_finite; see STATUS"),
        ("attacked_cam", "string", "CAM whose map is attacked, else null; rows of another CAM show how that transfers"),
        required="kept_class status",
    ),
    *SIMILARITIES,
)

STATUS = {
    "ok": "both maps carry a ranking and were compared",
    "flat_map": "a map is constant (or the image is one segment), so there is no ranking to compare; scores are null",
    "ambiguous": "the method says that the sign of a map is arbitrary, or that the map may be swapped; scores are null",
    "not_finite": "a map holds NaN or infinity; scores are null",
}

IMAGES = _columns(
    ("dataset", "string", "name of the dataset"),
    ("image_id", "string", "the image, unique within its dataset"),
    ("label", "int32", "true class, null where unknown"),
    ("width", "int32", "width of the decoded photo before resizing, px"),
    ("height", "int32", "height of the decoded photo before resizing, px"),
    ("n_segments", "int32", "number m of segments of the crop"),
    ("brightness", "float32", "mean luminance of the crop (mean of its channels if not RGB), [0, 1]"),
    ("contrast", "float32", "standard deviation of the crop's luminance, [0, 0.5]"),
    ("colourfulness", "float32", "Hasler and Suesstrunk 2003 on the [0, 255] scale, 0 = grey; null if not RGB"),
    ("edge_density", "float32", "share of pixels whose Sobel gradient of luminance exceeds 0.1"),
    ("high_frequency", "float32", "share of the luminance's spectral energy above a quarter of the sampling rate"),
    required="dataset image_id",
)

FAILURES = _columns(
    ("dataset", "string", "name of the dataset"),
    ("image_id", "string", "the image, unique within its dataset"),
    ("model", "string", "the model that could not score it; null: no model could"),
    ("stage", "string", "load, perturb or explain"),
    ("kind", "string", "missing, denied, empty, not_an_image, unsupported, unknown_scale, truncated, too_large, error, "
                       "quarantined"),
    ("message", "string", "what went wrong, one sentence"),
    required="dataset image_id stage kind",
)  # fmt: skip

MAPS = _columns(
    ("dataset", "string", "name of the dataset"),
    ("image_id", "string", "the image, unique within its dataset"),
    ("model", "string", "name of the model"),
    ("perturbation", "string", "name of the perturbation, or clean"),
    ("severity", "int8", "1 to 5, null when given by parameter or clean"),
    ("strength", "string", "the strength in physical terms, empty for clean"),
    ("replicate", "int16", "number of the repetition, from 0"),
    ("predicted", "int32", "class predicted for this variant, or label explained on it; null for values"),
    ("confidence", "float32", "probability of that class or label; null for values"),
    ("value", "float32", "value that a model with head: value gives this variant, else null"),
    ("photo", "binary", "JPEG of this variant"),
    ("outlines", "binary", "PNG mask of the segment borders, on the clean row of the first model only, else null"),
    ("cams", "string", "names of the CAMs in maps, joined by a comma"),
    ("height", "int16", "h of every map"),
    ("width", "int16", "w of every map"),
    ("maps", "binary", "float16 little-endian, (K, h, w) in the order of cams, each scaled to [0, 1]"),
    required="dataset image_id model perturbation strength replicate photo cams height width maps",
)

COMMITS = _columns(
    ("dataset", "string", "name of the dataset"),
    ("image_id", "string", "the image that this commit holds"),
    ("part", "int16", "number of the group of variants that this commit holds"),
    ("rows", "int32", "score rows of that part, all models"),
    ("failures", "int32", "failure rows of that part"),
    required="dataset image_id part rows failures",
)

IMAGE_STABILITY = _columns(
    ("n_pairs", "int64", "the image's variants with a map to compare"),
    *(
        (f"{kind}_{name}", "float32", f"{word} {name} over the image's variants; null where none has one")
        for name in STABILITY
        for kind, word in (("max", "largest"), ("mean", "mean"))
    ),
)
"""Columns that `camrobust.summary.stability.per_image` gives; no file of a run has them."""

ADJUSTED = (
    "consistency 1 = same ranking, 0 = chance; responsiveness 0 = same ranking, 1 = as chance moves it; RM can exceed 1"
)
"""How to read the adjusted measures, in one line."""

SUMMARY_MEASURES = _columns(
    ("consistency", "float64", "mean rbo over pairs that kept their class"),
    ("responsiveness", "float64", "mean 1 - rbo over pairs whose class flipped"),
    ("robustness", "float64", "RM = consistency x responsiveness; null where either of them is null"),
    ("consistency_adjusted", "float64", "the same from rbo_adjusted: 1 = same ranking, 0 = chance"),
    ("responsiveness_adjusted", "float64", "mean 1 - rbo_adjusted over flipped pairs; 1 = chance, can exceed 1"),
    ("robustness_adjusted", "float64", "consistency_adjusted x responsiveness_adjusted; can exceed 1"),
)

SUMMARY_SPREAD = _columns(
    ("consistency_median", "float64", "median over images of each image's mean rbo, to 0.0005"),
    ("consistency_sd", "float64", "standard deviation over images of each image's mean rbo"),
    ("responsiveness_median", "float64", "median over images of each image's mean 1 - rbo, to 0.0005"),
    ("responsiveness_sd", "float64", "standard deviation over images of each image's mean 1 - rbo"),
    ("consistency_adjusted_median", "float64", "the same from rbo_adjusted, to 0.0005 above -1"),
    ("consistency_adjusted_sd", "float64", "the same from rbo_adjusted"),
    ("responsiveness_adjusted_median", "float64", "the same from rbo_adjusted, to 0.0005 below 2"),
    ("responsiveness_adjusted_sd", "float64", "the same from rbo_adjusted"),
)

SUMMARY_COUNTS = _columns(
    ("n_images", "int64", "images in the group"),
    ("n_pairs", "int64", "(clean, perturbed) pairs in the group, per CAM and model"),
    ("n_same", "int64", "scored pairs that kept their class"),
    ("n_flipped", "int64", "scored pairs whose class flipped"),
    ("flip_rate", "float64", "share of pairs whose class flipped, flat maps included"),
    ("flat_share", "float64", "share of pairs without a ranking to compare"),
    ("not_finite_share", "float64", "share of pairs with NaN or infinity in a map"),
    ("ambiguous_share", "float64", "share of pairs with a map whose sign the method calls arbitrary"),
    ("n_left_out", "int64", "pairs that `summary.only` leaves out of all numbers but accuracy and n_labelled"),
    required="n_images n_pairs n_same n_flipped",
)

SUMMARY_ACCURACY = _columns(
    (
        "accuracy_clean",
        "float64",
        "share of labelled pairs whose clean image's class is the label; null for other heads",
    ),
    ("accuracy_perturbed", "float64", "share of labelled pairs whose perturbed image's class is the label"),
)
"""The accuracy of the classes, whatever the map; pairs that `summary.only` leaves out count here."""
SUMMARY_LABELLED = _columns(("n_labelled", "int64", "pairs whose image has a label that can be predicted"))

_ATTACKS = {"attacked": "attacks on this CAM's own map", "transferred": "attacks on another CAM's map"}
SUMMARY_ATTACKS = _columns(
    *(
        (f"{kind}_consistency_adjusted{end}", "float64", f"consistency_adjusted under {attacks}, {what}")
        for kind, attacks in _ATTACKS.items()
        for end, what in (("", "else null"), ("_lower", "lower end of its interval"), ("_upper", "upper end"))
    ),
    *((f"n_{kind}", "int64", f"pairs under {attacks}") for kind, attacks in _ATTACKS.items()),
)
"""More columns of by_cam; pairs under attacks on maps enter its measures only where `summary.map_attacks` says so."""

SUMMARIES: dict[str, tuple[str, ...]] = {
    "by_level": ("dataset", "model", "cam", "perturbation", "severity", "strength"),
    "by_perturbation": ("dataset", "model", "cam", "perturbation"),
    "by_cam": ("dataset", "model", "cam"),
    "by_model": ("dataset", "model"),
    "by_dataset": ("dataset",),
}
"""The summary tables and the columns they group by; each measure also has `_lower` and `_upper`."""

SCORE_FILE = tuple(one for one in SCORES if one.name not in ("dataset", "model"))
"""Columns of a score file; its folders name the dataset and the model."""

_SUMMARY_KEYS = {
    one.name: replace(one, required=one.name != "severity") for one in KEYS if one.name in SUMMARIES["by_level"]
}


OTHER_SUMMARIES = {"tests": TESTS, "characteristics": CHARACTERISTICS, "certificates": CERTIFIED}
"""The other tables in `summary/`; certificates only where the run has any."""


def summary_columns(name: str) -> tuple[Column, ...]:
    """All columns of a table in `summary/`, in order; its name is one of `SUMMARIES` or `OTHER_SUMMARIES`."""
    if name in OTHER_SUMMARIES:
        return OTHER_SUMMARIES[name]
    measures, accuracy = (
        [replace(one, name=f"{one.name}{end}") for one in columns for end in ("", "_lower", "_upper")]
        for columns in (SUMMARY_MEASURES, SUMMARY_ACCURACY)
    )
    counts = (*SUMMARY_COUNTS, *accuracy, *SUMMARY_LABELLED)
    columns = (*(_SUMMARY_KEYS[key] for key in SUMMARIES[name]), *measures, *SUMMARY_SPREAD, *counts)
    more = {"by_cam": SUMMARY_ATTACKS, "by_level": [one for one in SCORES if one.name == "attacked_cam"]}
    return (*columns, *more.get(name, ()))
