"""The hash of a network, the seed of its builder, and what is refused where a worker has another one."""

from functools import cache
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.contract.model_config import ModelConfig
from camrobust.contract.run_record import BuilderRecord
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model
from camrobust.measure.networks import filled, state_sha256
from camrobust.measure.same_network import builder_record, check_builder
from camrobust.run.plan import build
from tests.toys import pooled

UNTRAINED = ModelSpec("m", "torchvision:squeezenet1_0@none")


def hashed(spec, seed=0):
    return filled(spec, seed=seed)[1]


@pytest.mark.parametrize("change", [
    lambda net: net.fc.weight.data.view(-1)[-1:].add_(1e-6),
    lambda net: net.fc.to(torch.float64),
    lambda net: net.register_buffer("kept", torch.zeros(2)),
    lambda net: net.register_buffer("left_out", torch.zeros(2), persistent=False),
    lambda net: setattr(net, "plain", torch.zeros(2)),
    lambda net: setattr(net.fc, "table", np.zeros(2)),
    lambda net: setattr(net.fc, "renamed", net.fc.weight),
])  # fmt: skip
def test_every_tensor_of_a_network_counts(change):
    network = pooled()
    before = state_sha256(network)
    assert state_sha256(pooled()) == before
    change(network)
    assert state_sha256(network) != before


@pytest.mark.parametrize("value", [
    torch.tensor(3), torch.zeros(0, 4), torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.complex64),
    torch.eye(3).to_sparse(), torch.arange(12.0).reshape(3, 4).T, torch.ones(3, dtype=torch.bool),
])  # fmt: skip
def test_tensors_of_all_kinds_have_a_hash(value):
    def network():
        found = nn.Module()
        found.register_buffer("value", value.clone())
        return state_sha256(found)

    assert network() == network()


@pytest.mark.parametrize("value", [
    np.arange(3.0)[::-1], np.arange(3, dtype=">f4"), np.arange(3, dtype=np.longdouble), np.arange(6).reshape(2, 3).T,
    np.array(3), np.zeros((0, 2)), torch.zeros(2, 3, device="meta"),
])  # fmt: skip
def test_arrays_of_all_kinds_have_a_hash(value):
    def network(kept):
        found = nn.Module()
        found.kept = kept
        return state_sha256(found)

    again = value.copy() if isinstance(value, np.ndarray) else value.clone()
    assert network(value) == network(again)
    assert network(value) != network(value[None])
    if isinstance(value, np.ndarray) and value.size:
        again.flat[0] += 1
        assert network(value) != network(again)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_the_weights_of_quantised_layers_count():
    quantization = pytest.importorskip("torch.ao.quantization")

    def network(change):
        linear = nn.Sequential(nn.Linear(4, 3))
        nn.init.constant_(linear[0].weight, 0.5)
        nn.init.constant_(linear[0].bias, change)
        return state_sha256(quantization.quantize_dynamic(linear, dtype=torch.qint8))

    assert network(0) == network(0) != network(1)


def test_a_network_in_other_memory_order_is_the_same():
    network = pooled()
    assert state_sha256(network) == state_sha256(pooled().to(memory_format=torch.channels_last))


def test_random_weights_come_from_the_seed_and_leave_torch_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = hashed(UNTRAINED)
    assert torch.equal(torch.rand(1), expected)
    assert hashed(UNTRAINED) == first
    assert hashed(UNTRAINED, seed=1) != first
    assert load_model(UNTRAINED, image_size=64).state_sha256 == first


def test_a_worker_refuses_a_network_that_the_run_did_not_begin_with():
    name = "tests.toys:drawn_elsewhere"
    began = hashed(ModelSpec("m", name))
    sentence = (
        f"model 'm': {name} does not build the network with which this run began, so it draws numbers of its own or "
        "has other weights; name a file with `weights:`, or seed what the builder draws"
    )
    with pytest.raises(UserError) as refused:
        build(ModelConfig(name="m", builder=name), 64, state=began)
    assert str(refused.value) == sentence
    assert build(ModelConfig(name="m", builder=name), 64).name == "m"


@pytest.mark.parametrize("make", [
    lambda: torch.empty(64), lambda: torch.zeros(1).new_empty(64), lambda: torch.empty_like(torch.zeros(64)),
    lambda: torch.empty(64, dtype=torch.int64), lambda: torch.empty(64, requires_grad=True),
])  # fmt: skip
def test_a_scratch_buffer_is_the_same_in_every_build(make, monkeypatch):
    def scratched():
        network = pooled()
        network.register_buffer("scratch", make(), persistent=False)
        network.scratch_too = make()
        return network

    def again():
        dirty = [torch.full((64,), float(value)) for value in range(50)]
        del dirty
        return hashed(ModelSpec("m", "tests.toys:scratched"))

    monkeypatch.setattr("tests.toys.scratched", scratched, raising=False)
    before = [again() for _ in range(3)]
    monkeypatch.setattr("tests.toys.scratched", lambda: zeroed(scratched()))
    assert {*before} == {again()}


def test_values_given_stay_and_a_fault_of_torch_is_told_at_the_line_of_the_builder(monkeypatch):
    def wrong():
        assert torch.ones(1).new([2.0]).item() == 2
        return torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr("tests.toys.wrong", wrong, raising=False)
    with pytest.raises(UserError, match=r"raised RuntimeError: .* \(test_networks\.py, line \d+\); correct"):
        hashed(ModelSpec("m", "tests.toys:wrong"))


class Positions(nn.Module):
    """Keeps what it computed for the size of its last input."""

    def __init__(self):
        super().__init__()
        self.inner, self.kept = pooled(), torch.zeros(1)

    def forward(self, images):
        self.kept = torch.arange(images.shape[-1])
        return self.inner(images)


def test_a_builder_behind_a_cache_builds_every_model_anew(monkeypatch):
    spec = ModelSpec("m", "tests.toys:memoised")
    monkeypatch.setattr("tests.toys.memoised", cache(lambda: Positions()), raising=False)
    first = load_model(spec, image_size=64)
    second = load_model(spec, image_size=64)
    assert first.state_sha256 == second.state_sha256 == hashed(spec)
    assert first.network.module is not second.network.module


def zeroed(network):
    network.scratch.detach().zero_()
    network.scratch_too.detach().zero_()
    return network


def test_layers_without_a_shape_are_refused():
    with pytest.raises(UserError, match=r"has layers without a shape \(torch\.nn\.Lazy…\); pass an image through"):
        filled(ModelSpec("m", "tests.toys:lazy"))


def test_a_builder_is_recorded_with_its_version_or_its_source(tmp_path, monkeypatch):
    assert builder_record(UNTRAINED) == BuilderRecord(package="torchvision", version=version("torchvision"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("from mine_too import build\n")
    (tmp_path / "mine_too.py").write_text("from tests.toys import pooled as build\n")
    spec = ModelSpec("m", "mine:build")
    filled(spec)
    began = builder_record(spec)
    assert (began.package, began.version, len(began.sha256)) == ("unknown", "unknown", 64)
    check_builder(spec, began)
    (tmp_path / "mine.py").write_text("from tests.toys import pooled as build\n")
    with pytest.raises(UserError, match="the source of mine:build is not as it was when this run began; put it back"):
        check_builder(spec, began)


def test_another_version_of_a_builder_is_refused_but_not_another_build_of_it():
    here = version("torchvision").partition("+")[0]
    check_builder(UNTRAINED, BuilderRecord(package="torchvision", version=f"{here}+cu999"))
    check_builder(UNTRAINED, None)
    with pytest.raises(UserError, match=r"is of torchvision .* here, but the run began with torchvision 0\.1; install"):
        check_builder(UNTRAINED, BuilderRecord(package="torchvision", version="0.1"))
