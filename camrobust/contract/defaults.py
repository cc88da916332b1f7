"""Default values that several rooms share; imports no library."""

RESIZE, CROP = 256, 224
"""Shorter side of a photo after resizing, and side of its centre crop, px."""
RGB = 3
"""Channels of a photo. Its pixels have 256 levels (uint8); images of any other number of channels have 65,536 levels,
float32 multiples of 1/65535."""
MOST_CHANNELS = 256
METRIC = 2
"""Version of what is computed from maps; runs of two versions are not pooled. Since version 2, scores are summed in
float64, and tied if they differ by rounding only (`core.ties`)."""
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""Number formats in which a model's layers may compute, the default first. tf32 differs from fp32 on CUDA only."""
PACKAGES = ("camrobust", "torch", "torchvision", "timm", "ray", "polars", "pyarrow", "numpy", "scikit-image", "pillow",
            "imagecorruptions-imaug")  # fmt: skip
"""Packages on which numbers depend, so that their versions are recorded."""
REPLACEMENT_S = 300.0
"""Seconds from the loss of a spot machine until another one works, for `camrobust plan`; assumed, not measured."""
