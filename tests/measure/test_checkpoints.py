"""Checkpoints as people save them fill the network; of those that do not, one sentence says what was found."""

import re
from argparse import Namespace
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.measure.built import ModelSpec
from camrobust.measure.checkpoints import MOST_DICTS, state_dicts
from camrobust.measure.networks import filled
from camrobust.measure.weights import read_weights
from tests.toys import Pooled, pooled
from tests.weights import saved


def trained():
    return {name: value + 1 for name, value in pooled().state_dict().items()}


def prefixed(prefix, state=None):
    return {f"{prefix}{name}": value for name, value in (state or trained()).items()}


def middle(name):
    first, rest = name.split(".", 1)
    return f"{first}._orig_mod.{rest}"


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
CRITERION = {"criterion.weight": torch.ones(10), "metric.total": torch.tensor(3)}
FORMS = {
    "as it is": trained(),
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "Lightning": {"state_dict": prefixed("model.") | CRITERION, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "Lightning and torch.compile": {"state_dict": prefixed("model._orig_mod.") | CRITERION},
    "a layer compiled": {middle(name): value for name, value in trained().items()},
    "any prefix": prefixed("student.net.") | {"teacher.weight": torch.ones(1)},
    "any name": {"net": trained(), "optimizer": OPTIMIZER},
    "deep": {"checkpoint": {"weights": {"of": trained()}}, "seed": torch.tensor(1)},
    "a tuple": (trained(), OPTIMIZER),
    "numbers beside": trained() | {"epoch": 3, "name": "a"},
    "averages beside": {"state_dict": trained(), "state_dict_ema": {k: v + 1 for k, v in trained().items()}},
    "a teacher beside": prefixed("model.") | {f"teacher.{k}": v + 1 for k, v in trained().items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_as_people_save_them(form):
    built, _ = filled(ModelSpec("m", "tests.toys:pooled", "x.pth"), saved(FORMS[form]))
    assert all(torch.equal(value, built.module.state_dict()[name]) for name, value in trained().items())


class Holding(nn.Module):
    """Its only part is called as the wrappers of torch are."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, Pooled())

    def forward(self, images):
        return getattr(self, self.name)(images)


@pytest.mark.parametrize("name", ["module", "model", "net"])
@pytest.mark.parametrize("prefix", ["NAME.", "", "module.NAME.", "model.NAME."])
def test_a_network_that_holds_another_takes_its_own_state_dict_and_that_of_the_other(name, prefix, monkeypatch):
    monkeypatch.setattr("tests.toys.holding", lambda: Holding(name), raising=False)
    state = prefixed(prefix.replace("NAME", name))
    built, _ = filled(ModelSpec("m", "tests.toys:holding", "x.pth"), saved(state))
    inner = getattr(built.module, name).state_dict()
    assert all(torch.equal(value, inner[key]) for key, value in trained().items())


def test_a_builder_that_wraps_its_network_takes_the_state_dict_of_either(monkeypatch):
    monkeypatch.setattr("tests.toys.wrapped", lambda: nn.DataParallel(Pooled()), raising=False)
    for state in (trained(), prefixed("module."), prefixed("_orig_mod.")):
        built, _ = filled(ModelSpec("m", "tests.toys:wrapped", "x.pth"), saved(state))
        assert torch.equal(built.module.module.fc.bias, trained()["fc.bias"])


def refused(value):
    with pytest.raises(UserError) as error:
        filled(ModelSpec("m", "tests.toys:pooled", "x.pth"), saved(value))
    return str(error.value)


def test_different_weights_that_fit_equally_well_are_refused():
    other = {key: value + 1 for key, value in trained().items()}
    assert refused({"best": trained(), "last": other}) == (
        "model 'm': weights 'x.pth' fit under 'best' and under 'last', and the two differ; save the one to measure "
        "alone"
    )
    assert "fit under 'student' and under 'teacher'" in refused(prefixed("student.") | prefixed("teacher.", other))
    assert "fit under 'module' and as they are" in refused(prefixed("module.") | other)
    same = {"best": trained(), "last": trained()}
    filled(ModelSpec("m", "tests.toys:pooled", "x.pth"), saved(same))


def test_what_does_not_fit_is_named_as_the_file_has_it():
    sentence = (
        "model 'm': weights 'x.pth' do not fit tests.toys:pooled (missing: features.0.weight, features.0.bias, "
        "features.2.weight and 3 more; not in the model: conv1.weight, layer.0.bias); name the architecture they were "
        "trained with"
    )
    assert refused({"net": {"conv1.weight": torch.ones(1), "layer.0.bias": torch.ones(1)}}) == sentence
    almost = prefixed("model.")
    del almost["model.fc.bias"]
    assert "(missing: fc.bias); name the architecture" in refused({"epoch": 1, "net": almost})
    wide = prefixed("model.") | {"model.fc.weight": torch.ones(3, 8), "model.fc.bias": torch.ones(3)}
    assert "(other shape: fc.weight is (3, 8), not (10, 8), fc.bias is (3,), not (10,))" in refused(wide)


@pytest.mark.parametrize("other", [Namespace(lr=1), np.float64(0.9), nn.Linear(2, 2), {1, 2}])
def test_a_file_with_other_objects_is_told_without_advice_to_switch_safety_off(other):
    sentence = refused({"state_dict": trained(), "more": other})
    assert re.search(r"cannot be read \(it names .+, and only tensors by name are taken\); save a state dict", sentence)
    assert "weights_only" not in sentence


def test_what_torch_alone_refuses_is_told_in_our_own_words(monkeypatch):
    def load(*_args, **_kwargs):
        raise UnpicklingError("Weights only load failed. You can set weights_only=False")

    monkeypatch.setattr("torch.load", load)
    with pytest.raises(UserError) as error:
        read_weights(saved(trained()), "x.pth")
    assert str(error.value) == (
        "weights: 'x.pth' cannot be read (it holds more than tensors); save a state dict as .safetensors, or as .pth "
        "with torch.save(model.state_dict(), …)"
    )


def test_a_small_file_with_one_dict_very_often_is_searched_once():
    many = {"a": torch.ones(1)}
    for _ in range(4):
        many = {str(number): many for number in range(90)}
    assert len(state_dicts(many, "x.pth")) == 1
    rows = [[[{"a": torch.ones(1)}]]]
    assert [*state_dicts(rows * 90, "x.pth")] == ["0.0.0"]
    assert len(state_dicts([{"a": torch.ones(1)} for _ in range(1000)], "x.pth")) == MOST_DICTS
