"""Columns of certificates and of their summary; docs/certificates.md explains them."""

from camrobust.contract.columns import columns

CERTIFICATE_KEYS = ("dataset", "model", "image_id", "cam", "sigma", "radius_share")
"""The columns that name a certificate."""

CERTIFICATES = columns(
    ("dataset", "string", "name of the dataset"),
    ("model", "string", "name of the model"),
    ("image_id", "string", "the image, unique within its dataset"),
    ("cam", "string", "name of the CAM method"),
    ("sigma", "float64", "standard deviation of the noise under which ranks are averaged, share of the pixel range"),
    ("radius_share", "float64", "radius as a share of sigma"),
    ("radius", "float64", "l2 distance from the image, pixels in [0, 1], within which all of this holds"),
    ("item", "string", "what is averaged over the noise: rank, or top (whether a segment is in the top)"),
    ("n", "int32", "noisy samples"),
    ("alpha", "float64", "largest probability that anything in this image's rows of the CAM and sigma is wrong"),
    ("predicted", "int32", "class, or label, whose map is certified: the pilot's most frequent; null for values"),
    ("class_radius", "float64", "l2 distance within which the smoothed decision is certain; null: it abstains"),
    ("abstained", "bool", "whether the smoothed decision is not certain even at the image itself"),
    ("n_segments", "int32", "number m of segments that were ranked"),
    ("flat_share", "float32", "share of samples whose map carries no ranking; they count against the certificate"),
    ("certified_overlap", "float32", "least share of the samples' top that is in the smoothed top; null: flat, or all"),
    ("certified_rbo", "float32", "least rank-biased overlap of the order of the samples and the smoothed order"),
    ("certified_rbo_adjusted", "float32", "the same adjusted for chance: 0 or less guarantees nothing beyond chance"),
    ("agreement_random", "float32", "seen, not certain: least agreement of the samples' order with that of samples "
                                    "drawn again at images in random directions at the radius; null: not tried"),
    ("agreement_attacked", "float32", "the same at an image within the radius that was attacked; null: not tried"),
    ("certainly_in", "float32", "share of segments that are certain to be in the smoothed top"),
    ("certainly_out", "float32", "share of segments that are certain to be outside of it"),
    ("undecided", "float32", "share of segments that may be either"),
    ("membership", "binary", "PNG mask, white in, black out, grey undecided; images of the gallery only, else null"),
    required="dataset model image_id cam sigma radius_share radius item n alpha abstained",
)  # fmt: skip
"""Columns of `certificates/`: one row per image, model, CAM, sigma and radius."""

CERTIFIED = columns(
    ("dataset", "string", "where the images come from"),
    ("model", "string", "whose maps"),
    ("cam", "string", "which CAM"),
    ("sigma", "float64", "standard deviation of the noise, share of the pixel range"),
    ("radius_share", "float64", "radius as a share of sigma"),
    ("radius", "float64", "l2 distance from the image, pixels in [0, 1]"),
    ("certified_consistency", "float64", "mean certified adjusted RBO over all images tried; below 0 counts as 0, and "
                                             "so does an image whose class is not certified at the radius"),
    ("certified_consistency_lower", "float64", "lower end of its 95 % interval over images"),
    ("certified_consistency_upper", "float64", "upper end"),
    ("certified_only", "float64", "the same mean over images whose class is certified; null where there is none"),
    ("certified_only_lower", "float64", "lower end of its 95 % interval"),
    ("certified_only_upper", "float64", "upper end"),
    ("agreement_random", "float64", "seen, not certain: mean of the rows' agreement_random over all images tried; "
                                    "below 0 counts as 0"),
    ("agreement_attacked", "float64", "the same of agreement_attacked"),
    ("agreement_random_only", "float64", "mean of agreement_random over images whose class is certified"),
    ("agreement_attacked_only", "float64", "the same of agreement_attacked"),
    ("class_certified_share", "float64", "share of images whose class is certified at the radius"),
    ("abstained_share", "float64", "share of images whose class is not certified even at the image itself"),
    ("flat_share", "float64", "mean share of samples whose map carries no ranking"),
    ("undecided", "float64", "mean share of segments that may be in or out of the top"),
    ("n_images", "int64", "images tried"),
    ("n_certified", "int64", "those of them whose class is certified at the radius"),
    ("samples", "int64", "noisy samples of each image"),
    ("alpha", "float64", "largest expected share of images with a wrong certificate, for one CAM and sigma"),
    ("item", "string", "what is averaged over the noise: rank or top"),
    required="dataset model cam sigma radius_share radius n_images",
)  # fmt: skip
"""Columns of summary/certificates."""
