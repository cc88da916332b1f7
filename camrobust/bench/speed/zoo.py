"""`camrobust bench zoo`: which architectures can be explained, one of each family of three libraries.

Two things are tried at the discovered layer: that the gradient is the one that plain autograd gives at that tensor, and
that a patch on the input changes the layer where the patch is.

Weights are random. Parameters that are initialised with zeros (heads, layer scales) get small random values, so that
gradients reach every layer, and batch norms take the statistics of noise, so that signals do.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.bench.speed.tiny_transformers import SIDE, TRANSFORMERS, build
from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import Evidence, collect, explain
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import tensor_in
from camrobust.core.explain.network import logits_of
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import Model, load_model

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "densenet169", "efficientnet_b0",
    "efficientnet_b1", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_x_800mf", "regnet_x_1_6gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "resnet18", "resnet34",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vgg16",
    "vit_b_16", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
TIMM = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_lite_tiny", "coatnet_nano_rw_224",
    "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "crossvit_tiny_240", "cs3darknet_m",
    "cspresnet50", "darknet53", "davit_tiny", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "dla34",
    "dm_nfnet_f0", "dpn68", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0",
    "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fastvit_t8", "fbnetc_100", "focalnet_tiny_srf",
    "gcvit_xxtiny", "gernet_s", "ghostnet_100", "ghostnetv2_100", "gmixer_24_224", "gmlp_s16_224",
    "hardcorenas_a", "hgnet_tiny", "hiera_tiny_224", "hrnet_w18_small", "inception_next_tiny", "inception_resnet_v2",
    "inception_v4", "lcnet_050", "legacy_seresnet18", "levit_128s", "maxvit_rmlp_pico_rw_256", "poolformerv2_s12",
    "mixer_s16_224", "mixnet_s", "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050",
    "mvitv2_tiny", "nest_tiny", "nextvit_small", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnetz_b16",
    "repghostnet_050",
    "repvgg_a0", "repvit_m0_9", "res2net50_26w_4s", "resmlp_12_224", "resnest14d", "resnet10t", "rexnet_100",
    "selecsls42b", "sequencer2d_s", "skresnet18", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224",
    "tiny_vit_5m_224",
    "tnt_s_patch16_224", "tresnet_m", "twins_pcpvt_small", "vgg11", "visformer_tiny", "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2", "volo_d1_224", "vovnet39a", "xception41", "xcit_nano_12_p16_224",
)  # fmt: skip
TRIED = ("gradcam-elementwise", "eigencam")
EQUAL = 1e-3
"""Largest difference of the gradient from plain autograd's, as a share of the largest entry."""
SMALL = 128
"""Side of the input of models that take any size, px; the others get their own size."""


def zoo(names: tuple[str, ...] | None = None, say: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """One row per architecture: its discovered layer and layout, and whether its gradient and its maps are sound.

    Args:
        names: builders, None for all that are installed.
        say: receives a line when an architecture is done.
    """
    rows = []
    for name in names or _all():
        row = {"model": name, **_row(name)}
        say(f"{name}: {row['verdict']} ({row['layer']})")
        rows.append(row)
    return rows


def _all() -> tuple[str, ...]:
    builders = [f"torchvision:{name}" for name in TORCHVISION]
    if find_spec("timm"):
        import timm

        builders += [f"timm:{name}" for name in TIMM if timm.is_model(name)]
    if find_spec("transformers"):
        builders += [f"transformers:{name}" for name in TRANSFORMERS]
    return tuple(builders)


def _row(name: str) -> dict[str, Any]:
    try:
        model = _model(name)
        size = _size(name)
        images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        evidence = collect(model.network, model.normalise(images))
        maps = explain(evidence, [CAMS[cam].function for cam in TRIED])
        apart, follows = gradient_error(evidence), patch_effect(model, images)
    except UserError as error:
        empty = dict.fromkeys(("layer", "layout", "map", "tail", "gradient", "patch"), "")
        return {**empty, "verdict": str(error)}
    network, (h, w) = model.network, maps.shape[2:]
    flat = (maps.amax(dim=(2, 3)) == maps.amin(dim=(2, 3))).any()
    wrong = "another gradient" if apart > EQUAL else "ok"
    verdict = "not finite" if not maps.isfinite().all() else "constant" if flat else wrong
    layout = network.layout.order + (f", {network.layout.prefix} in front" if network.layout.prefix else "")
    tail = (
        "closed form"
        if network.head
        else "shortcut"
        if network.first_affine
        else "cut"
        if network.tail
        else "full passes"
    )
    return {"layer": network.layer_name, "layout": layout, "map": f"{h}x{w}", "tail": tail,
            "gradient": f"{apart:.0e}", "patch": f"{follows:.2f}", "verdict": verdict}  # fmt: skip


def gradient_error(evidence: Evidence) -> float:
    """Largest difference from the gradient that autograd gives at the layer's output in a plain pass, as a share."""
    network, outputs = evidence.network, list[Tensor]()

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        tensor = tensor_in(output)
        if tensor is not None:
            # Before a later layer writes into it.
            tensor.register_hook(outputs.append)
        return None

    with torch.enable_grad(), hooked([network.layer], keep):
        logits = logits_of(network.module(evidence.images.clone().requires_grad_()))
        evidence.explained_logit(logits).sum().backward()
    wanted = network.layout.to_map(outputs[0])
    return float((evidence.gradients - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def patch_effect(model: Model, images: Tensor) -> float:
    """Change of the layer under a patch, per position, over that of all positions; mean over the four quarters.

    It is 4 if nothing changes elsewhere, and 1 if all positions change alike.
    """
    network, side = model.network, images.shape[2] // 2
    found = []
    for down in (0, side):
        for right in (0, side):
            patched = images[:1] / 2
            patched[:, :, down : down + side, right : right + side] += 0.5
            pair = model.normalise(torch.cat([images[:1] / 2, patched]))
            plain, moved = collect(network, pair).activations
            change = (moved - plain).square().sum(dim=0)
            h, w = change.shape
            rows, columns = (slice(0, -(-n // 2)) if not place else slice(n // 2, n)
                             for n, place in ((h, down), (w, right)))  # fmt: skip
            found.append(float(change[rows, columns].mean() / change.mean().clamp(min=1e-30)))
    return sum(found) / len(found)


def _model(name: str) -> Model:
    arguments = {"name": name}
    return load_model(ModelSpec(name, f"{__name__}:filled", arguments=arguments), image_size=_size(name))


def filled(name: str) -> nn.Module:
    """A builder: "torchvision:NAME", "timm:NAME" or "transformers:NAME" with random weights, none of them zero."""
    torch.manual_seed(0)
    library, _, model = name.partition(":")
    module: nn.Module
    if library == "transformers":
        module = build(model)
    elif library == "timm":
        import timm

        module = timm.create_model(model, pretrained=False)
    else:
        from torchvision.models import get_model

        keywords = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        module = get_model(model, weights=None, **keywords)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data = torch.randn_like(parameter) * 0.02
    return with_statistics(module, _size(name))


def with_statistics(module: nn.Module, size: int) -> nn.Module:
    """The same module; its batch norms take the means and variances of one pass of noise."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)]
    if norms:
        momenta = [part.momentum for part in norms]
        module.eval()
        for part in norms:
            part.train()
            part.momentum = 1.0
        with torch.no_grad():
            module(torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(2)) * 4 - 2)
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum
    return module.eval()


def _size(name: str) -> int:
    """Side of the input, px."""
    library, _, model = name.partition(":")
    if library == "transformers":
        return SIDE
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(model)
        if settings is None or settings.fixed_input_size:
            return 224 if settings is None else int(settings.input_size[-1])
        return int(max((SMALL, *(settings.min_input_size or ()))))
    return 224 if model.startswith(("vit", "maxvit")) else SMALL
