"""Whether the chosen layer is the right place: its map is the one that plain autograd gives at that tensor."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from tests.toys import Pooled, Tokens, seeded


class Output(OrderedDict):
    """What Hugging Face's backbones hand on: a mapping whose entries are attributes, too."""

    def __init__(self, last_hidden_state, pooler_output):
        super().__init__(last_hidden_state=last_hidden_state, pooler_output=pooler_output)
        self.last_hidden_state, self.pooler_output = last_hidden_state, pooler_output


class Backbone(nn.Module):
    """Hands on its map and the mean of it."""

    def __init__(self, form):
        super().__init__()
        self.body, self.form = Pooled().features, form

    def forward(self, images):
        maps = self.body(images)
        return self.form(maps, maps.mean((2, 3)))


class OfBackbone(nn.Module):
    """Reads the pooled map of its backbone, and a share of the largest values of the map itself."""

    def __init__(self, form, share):
        super().__init__()
        self.backbone, self.share = Backbone(form), share
        self.fc, self.aux = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, images):
        out = self.backbone(images)
        maps, pooled = out.values() if isinstance(out, dict) else out
        return self.fc(pooled) + self.share * self.aux(maps.amax((2, 3)))


FORMS = {
    "tuple": lambda maps, pooled: (maps, pooled),
    "list": lambda maps, pooled: [maps, pooled],
    "mapping": lambda maps, pooled: {"maps": maps, "pooled": pooled},
    "output": Output,
}


def images(count=3, size=64, seed=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def by_autograd(module, layer, inputs):
    """The gradient of the highest logit at a layer's output in a plain pass."""
    kept = []
    part = dict(module.named_modules())[layer]
    handle = part.register_forward_hook(lambda _part, _inputs, output: kept.append(output))
    logits = logits_of(module(inputs.clone().requires_grad_()))
    handle.remove()
    return torch.autograd.grad(logits.amax(dim=1).sum(), kept[0])[0]


@pytest.mark.parametrize("share", [0, 0.1])
@pytest.mark.parametrize("form", FORMS)
def test_a_backbone_that_hands_on_more_than_its_map_is_explained_inside(form, share):
    module = seeded(OfBackbone(FORMS[form], share)).eval()
    network = build_network(module, images(2))
    assert network.layer_name == "backbone.body"
    with frozen(module):
        evidence = collect(network, images())
        torch.testing.assert_close(evidence.gradients, by_autograd(module, "backbone.body", images()))


@pytest.mark.parametrize("share", [0, 0.1])
def test_a_named_layer_that_carries_a_part_of_its_gradient_is_refused(share):
    module = seeded(OfBackbone(FORMS["tuple"], share)).eval()
    sentence = (
        "target_layer: 'backbone' hands on more than its map, so a part of the gradient passes the map by; choose "
        "'backbone.body'"
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        build_network(module, images(2), "backbone")


def test_a_head_of_zeros_does_not_hide_what_passes_the_map_by():
    module = seeded(OfBackbone(FORMS["tuple"], 0)).eval()
    nn.init.zeros_(module.fc.weight)
    nn.init.zeros_(module.aux.weight)
    assert build_network(module, images(2)).layer_name == "backbone.body"


class LowRank(nn.Module):
    """A linear layer with an added product that is 0 at first, as LoRA adds it."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base, self.drop = base, nn.Dropout(0.1)
        self.down, self.up = nn.Linear(base.in_features, rank), nn.Linear(rank, base.out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens):
        return self.base(tokens) + self.up(self.down(self.drop(tokens)))


class SplitAttention(nn.Module):
    """Query, key and value by three layers, as in Hugging Face's transformers."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens):
        scores = self.q(tokens) @ self.k(tokens).transpose(-2, -1) / tokens.shape[-1] ** 0.5
        return scores.softmax(-1) @ self.v(tokens)


class SplitBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), SplitAttention(width)

    def forward(self, tokens):
        return (tokens + self.attention(self.norm(tokens)),)


def split_tokens():
    module = Tokens()
    module.blocks = nn.ModuleList(SplitBlock(16) for _ in range(2))
    return seeded(module).eval()


class Same(nn.Module):
    """Returns its input, as a stochastic depth does in evaluation."""

    def forward(self, tokens):
        return tokens


def with_low_rank(module):
    attention = module.blocks[-1].attention
    attention.v = LowRank(attention.v)
    return module


def with_low_rank_head(module):
    module.head = LowRank(module.head)
    return module


def with_nested_low_rank(module):
    attention = module.blocks[-1].attention
    attention.v = nn.Sequential(LowRank(LowRank(attention.v).base), nn.Identity())
    return module


def with_same(module):
    module.blocks[-1].norm = nn.Sequential(module.blocks[-1].norm)
    module.blocks[-1].attention.v = nn.Sequential(module.blocks[-1].attention.v, Same())
    return module


@pytest.mark.parametrize("add", [with_low_rank, with_low_rank_head, with_nested_low_rank, with_same])
def test_adding_nothing_does_not_change_the_place(add):
    plain, changed = split_tokens(), add(split_tokens()).eval()
    wanted, found = build_network(plain, images(2, 32)), build_network(changed, images(2, 32))
    assert wanted.layer_name == found.layer_name == "blocks.1.norm"
    with frozen(plain), frozen(changed):
        wanted, found = collect(wanted, images(size=32)), collect(found, images(size=32))
    torch.testing.assert_close(found.activations, wanted.activations)
    torch.testing.assert_close(found.gradients, wanted.gradients)


def test_a_layer_that_returns_its_input_is_not_the_place():
    assert build_network(seeded(nn.Sequential(Pooled().features, Same(), Head())).eval(), images(2)).layer_name == "0"


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 5)

    def forward(self, maps):
        return self.fc(maps.mean((2, 3)))


def test_a_layer_that_is_written_into_later_is_checked_before_that():
    # The ReLU writes into the convolution's output; gradients before and after it differ.
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 4, 1), nn.ReLU(inplace=True), Head())
    network = build_network(seeded(module).eval(), images(2), "1")
    assert network.layer_name == "1"
