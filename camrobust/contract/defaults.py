"""What holds where nothing else is asked for, for rooms that do not know each other; needs no library."""

RESIZE, CROP = 256, 224
"""Shorter side of a photo after resizing, and side of the crop from its middle, px."""
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""In which a model's layers may compute, the default first; tf32 differs from fp32, full single precision, on CUDA."""
