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
TOWERS: Mapping[str, Any] = {"vision_config": VIT, "text_config": {"hidden_size": 16, "num_hidden_layers": 1}}
"""An image and a text part; a classifier has the first one only."""
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "Beit": {**VIT, "use_mean_pooling": True},
    "Bit": {**BLOCKS, "num_groups": 4},
    "CLIP": TOWERS,
    "ConvNext": {**STAGES, "image_size": SIDE},
    "ConvNextV2": {**STAGES, "image_size": SIDE},
    "Data2VecVision": VIT,
    "DeiT": VIT,
    "Dinov2": VIT,
    "Dinov2WithRegisters": VIT,
    "DonutSwin": WINDOWS,
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": SIDE},
    "FocalNet": {"embed_dim": 12, "depths": [1, 1, 1, 1], "image_size": SIDE},
    "HGNetV2": {"embedding_size": 8, **STAGES, "stem_channels": [3, 4, 8], "stage_in_channels": [8, 8, 16, 24],
                "stage_mid_channels": [8, 8, 8, 8], "stage_out_channels": [8, 16, 24, 32],
                "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1]},
    "Hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [SIDE, SIDE]},
    "IJepa": VIT,
    "Levit": {"hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 1, 2], "depths": [1, 1, 1],
              "key_dim": [8, 8, 8], "image_size": SIDE},
    "MetaClip2": TOWERS,
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
    "Siglip": TOWERS,
    "SwiftFormer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "image_size": SIDE},
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "TextNet": {"hidden_sizes": [8, 8, 8, 8, 8], "stem_out_channels": 8, "conv_layer_kernel_sizes": [[[3, 3]]] * 4,
                "conv_layer_strides": [[2]] * 4},
    "TimmWrapper": {"architecture": "test_resnet", "do_pooling": True},
    "ViT": VIT,
    "ViTMSN": VIT,
}  # fmt: skip
"""Arguments of NAMEConfig for NAMEForImageClassification; TimmWrapper needs timm."""


def build(name: str) -> nn.Module:
    """The classifier of a family; raises ImportError where transformers is not installed."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **TRANSFORMERS[name])
    module: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return module
