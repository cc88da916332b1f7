"""The columns of the tables that compare: tests, differences of two runs, and what characteristics explain."""

from camrobust.contract.columns import columns as _columns

TESTS = _columns(
    ("factor", "string", "what is compared: cam or model (within an image) or dataset (between images)"),
    ("dataset", "string", "where the images come from, null when datasets are compared"),
    ("model", "string", "whose maps, null when models are compared"),
    ("cam", "string", "which CAM, null when CAMs are compared"),
    ("measure", "string", "consistency_adjusted, responsiveness_adjusted or robustness_adjusted of every image"),
    ("test", "string", "friedman, iman_davenport, kruskal_wallis; mean_rank; nemenyi, conover, wilcoxon, cliffs_delta; "
                       "wilcoxon_control: a CAM against a control"),
    ("first", "string", "first of a pair, or the one with this mean rank; null for a test of all at once"),
    ("second", "string", "second of a pair, else null"),
    ("effect_name", "string", "kendall_w, epsilon_squared, mean_rank(_difference), rank_biserial, cliffs_delta"),
    ("effect", "float64", "its value; of a pair, positive where the first is higher or ranks better"),
    ("effect_lower", "float64", "lower end of its 95 % interval, null where there is none"),
    ("effect_upper", "float64", "upper end"),
    ("difference", "float64", "mean of the first minus mean of the second, in the measure's own unit; pairs only"),
    ("difference_lower", "float64", "lower end of its 95 % interval over images"),
    ("difference_upper", "float64", "upper end"),
    ("statistic", "float64", "chi squared, F, H, q, t, the sum of positive ranks, or U"),
    ("df", "float64", "degrees of freedom, of the numerator for F, null where there are none"),
    ("p", "float64", "probability of a statistic at least as extreme if nothing differs"),
    ("p_corrected", "float64", "Holm over all pairs of one comparison, over all comparisons for tests of all at once"),
    ("n_groups", "int64", "how many are compared"),
    ("n_images", "int64", "images with a value for all of them (between datasets: images of both)"),
    ("n_dropped", "int64", "images left out because a value is missing"),
    required="factor measure test effect_name n_groups n_images n_dropped",
)  # fmt: skip

DIFFERENCES = _columns(
    ("dataset", "string", "where the images come from"),
    ("model", "string", "whose maps"),
    ("cam", "string", "which CAM"),
    ("perturbation", "string", "whose pairs alone; null for all that both runs have together"),
    ("measure", "string", "robustness, consistency or responsiveness, _adjusted; with --raw the raw ones, too"),
    ("first", "float64", "first run: mean over images; robustness is the product of two means"),
    ("second", "float64", "second run, likewise"),
    ("difference", "float64", "second minus first"),
    ("difference_lower", "float64", "lower end of its 95 % interval over images"),
    ("difference_upper", "float64", "upper end"),
    ("test", "string", "wilcoxon on the images of both, or cliffs_delta where the runs share less than two"),
    ("effect", "float64", "rank-biserial correlation or Cliff's delta, positive where the second run is higher"),
    ("p", "float64", "probability of an effect at least as large if nothing differs"),
    ("p_corrected", "float64", "Holm over all lines of the measure"),
    ("n_images", "int64", "images that both runs have, without those that are different photos"),
    ("n_first", "int64", "images of the first run, or of its sample"),
    ("n_second", "int64", "images of the second run, or of its sample"),
)

CHARACTERISTICS = _columns(
    ("dataset", "string", "where the images come from, null for all datasets pooled"),
    ("model", "string", "whose maps"),
    ("cam", "string", "which CAM"),
    ("family", "string", "perturbation family, or all"),
    ("measure", "string", "consistency or consistency_adjusted of every image"),
    ("analysis", "string", "spearman, all_properties (rank regression), dataset or dataset_given_segments"),
    ("property", "string", "of the image, or confidence of the model; for datasets: FIRST - SECOND"),
    ("effect", "float64", "rank correlation; of datasets: difference of means; null for all_properties"),
    ("effect_lower", "float64", "lower end of its 95 % interval"),
    ("effect_upper", "float64", "upper end"),
    ("share", "float64", "share of the variance explained (of ranks; of values for datasets), [0, 1]"),
    ("share_lower", "float64", "lower end of its 95 % interval, for all_properties"),
    ("share_upper", "float64", "upper end"),
    ("share_alone", "float64", "how much the share of all properties together drops if this property is left out"),
    ("p", "float64", "probability of an effect at least as large if there is none"),
    ("p_corrected", "float64", "Holm over the properties of one comparison; else p itself"),
    ("n_images", "int64", "images with both"),
    required="model cam family measure analysis n_images",
)
"""How much the characteristics of images explain; see docs/statistics.md."""
