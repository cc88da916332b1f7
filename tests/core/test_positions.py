"""A layer's positions are those of the picture: a patch moved over the input moves the map."""

import re

import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.layout import Layout
from camrobust.core.explain.network import frozen
from camrobust.core.explain.target_layer import build_network
from tests.toys import Pooled, Tokens, seeded

ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(3))


class Shuffled(nn.Module):
    """Puts the tokens behind the prefix in another order."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens):
        return torch.cat((tokens[:, : self.prefix], tokens[:, self.prefix :][:, ORDER]), dim=1)


class Unrolled(Tokens):
    """Its first block works on tokens in another order, as Hiera's first stages do."""

    def __init__(self, prefix=0):
        super().__init__(prefix)
        self.shuffle = Shuffled(prefix)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.prefix.expand(len(images), -1, -1), tokens), dim=1) + self.place
        for block in self.blocks:
            tokens = block(self.shuffle(tokens))[0]
            tokens = self.back(tokens)
        return self.head(self.norm(tokens).mean(dim=1))

    def back(self, tokens):
        prefix = self.prefix.shape[1]
        return torch.cat((tokens[:, :prefix], tokens[:, prefix:][:, ORDER.argsort()]), dim=1)


class Known(Unrolled):
    """Tells its feature maps in the order of the picture, as timm's models do."""

    def forward_intermediates(self, images, intermediates_only=False):
        assert intermediates_only
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.prefix.expand(len(images), -1, -1), tokens), dim=1) + self.place
        maps = []
        for block in self.blocks:
            tokens = self.back(block(self.shuffle(tokens))[0])
            maps.append(tokens[:, self.prefix.shape[1] :].transpose(1, 2).reshape(len(images), -1, 4, 4))
        return maps


class Turned(Pooled):
    """Works on the picture with rows and columns exchanged."""

    def forward(self, images):
        return super().forward(images.transpose(2, 3))


def images(count=2, size=32, seed=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_in_another_order_are_refused_where_no_one_tells_the_order(prefix):
    sentence = (
        "target_layer: the positions of 'blocks.1' are not in the order of the picture's, so its maps would be "
        "scrambled; choose another layer"
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        build_network(seeded(Unrolled(prefix)).eval(), images(), "blocks.1")


def test_rows_and_columns_exchanged_are_refused():
    with pytest.raises(UserError, match="'features' are not in the order of the picture's"):
        build_network(seeded(Turned()).eval(), images(size=64), "features")


class Blended(nn.Module):
    """Every position is a mean over the whole picture, with weights that differ a little."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 8, 8)
        self.blend = Blend()
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        return self.fc(self.blend(self.body(images)).mean((2, 3)))


class Blend(nn.Module):
    def forward(self, maps):
        weights = 1 + torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) / 2
        return (maps.flatten(2) @ weights).reshape(maps.shape)


def test_positions_that_all_see_the_whole_picture_tell_nothing():
    module = seeded(Blended()).eval()
    assert build_network(module, images()).layer_name == "blend"
    assert build_network(module, images(), "blend").layout == Layout()


def test_a_layer_in_another_order_is_not_discovered():
    assert build_network(seeded(Unrolled()).eval(), images()).layer_name == "norm"


@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_are_reordered_as_the_models_own_feature_maps(prefix):
    module = seeded(Known(prefix)).eval()
    network = build_network(module, images(), "blocks.1")
    assert network.layout.places == tuple(ORDER.argsort().tolist())
    with frozen(module):
        evidence = collect(network, images(3))
        wanted = module.forward_intermediates(images(3), intermediates_only=True)[1]
        torch.testing.assert_close(evidence.activations, wanted)
        back = network.layout.from_map(evidence.activations, evidence.outputs)
        torch.testing.assert_close(back, evidence.outputs)
        rows = torch.arange(3)
        torch.testing.assert_close(evidence.logits_of_activations(evidence.activations, rows), evidence.logits)


def test_hieras_first_stages_are_in_the_order_of_the_picture():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model(
        "hiera_tiny_224", img_size=64, embed_dim=8, num_heads=1, stages=(1, 1, 2, 1), mask_unit_size=(8, 8)
    ).eval()
    sample = images(size=64)
    for layer, side in (("blocks.0", 16), ("blocks.1", 8), ("blocks.2", 4)):
        network = build_network(module, sample, layer)
        assert network.layout.grid == (side, side)
        moved = sample[:1].clone()
        moved[:, :, 32:, :32] += 1
        with frozen(module):
            before, after = (explain(collect(network, one), [CAMS["eigencam"].function]) for one in (sample[:1], moved))
            change = collect(network, moved).activations - collect(network, sample[:1]).activations
        strength = change[0].square().sum(dim=0)
        inside = strength[side // 2 :, : side // 2]
        assert inside.sum() > 0.9 * strength.sum()
        assert not torch.equal(before, after)


@pytest.mark.parametrize("places", [(), tuple(ORDER.tolist())])
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_layout_is_undone_by_its_opposite(places, prefix):
    layout = Layout("tokens", prefix, (4, 4), places)
    values = torch.rand(2, prefix + 16, 5)
    maps = layout.to_map(values)
    assert torch.equal(layout.from_map(maps, values), values)
    token = places[6] if places else 6
    assert torch.equal(maps[:, :, 1, 2], values[:, prefix + token])
