"""Image classifiers of Hugging Face's transformers from tiny configurations: random weights, nothing is fetched."""

from collections.abc import Mapping
from typing import Any

from torch import nn

SIDE = 64
CLASSES = 7
VIT: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16,
    "image_size": SIDE,
}  # fmt: skip
STAGES: Mapping[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HEADS: Mapping[str, Any] = {**STAGES, "num_attention_heads": [1, 2, 2, 2]}
BLOCKS: Mapping[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
WINDOWS: Mapping[str, Any] = {
    "embed_dim": 12, "depths": [1, 1, 2], "num_heads": [2, 2, 2], "window_size": 4, "patch_size": 4, "image_size": SIDE,
}  # fmt: skip
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "Beit": {**VIT, "use_mean_pooling": True},
    "Bit": {**BLOCKS, "num_groups": 4},
    "ConvNext": {**STAGES, "image_size": SIDE},
    "ConvNextV2": {**STAGES, "image_size": SIDE},
    "Data2VecVision": VIT,
    "DeiT": VIT,
    "Dinov2": VIT,
    "Dinov2WithRegisters": VIT,
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": SIDE},
    "FocalNet": {"embed_dim": 12, "depths": [1, 1, 1, 1], "image_size": SIDE},
    "Hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [SIDE, SIDE]},
    "IJepa": VIT,
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "MobileViT": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
                  "num_attention_heads": 2, "image_size": SIDE},
    "MobileViTV2": {"width_multiplier": 0.25, "image_size": SIDE},
    "PoolFormer": STAGES,
    "Pvt": {**HEADS, "image_size": SIDE},
    "PvtV2": {**HEADS, "image_size": SIDE},
    "RegNet": {"embedding_size": 8, **STAGES, "groups_width": 8},
    "ResNet": BLOCKS,
    "Segformer": HEADS,
    "SwiftFormer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "image_size": SIDE},
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "ViT": VIT,
    "ViTMSN": VIT,
}  # fmt: skip
"""Arguments of NAMEConfig for NAMEForImageClassification."""


def build(name: str) -> nn.Module:
    """The classifier of a family; raises ImportError where transformers is not installed."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **TRANSFORMERS[name])
    module: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return module
