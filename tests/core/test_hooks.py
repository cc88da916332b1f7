import pytest
import torch
from torch import nn

from camrobust.core.explain.hooks import hooked, replaced_output


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_functions_are_called_around_every_forward_and_removed():
    module = nn.Sequential(nn.Identity(), nn.ReLU())
    calls = []
    with hooked(module, lambda part, *_: calls.append(("after", part)), lambda part, _: calls.append(("before", part))):
        module(torch.zeros(1))
    assert calls == [(when, part) for part in module for when in ("before", "after")]
    assert hooks(module) == 0


def test_an_output_is_replaced_and_its_calls_are_counted():
    module = nn.Sequential(nn.Identity(), nn.ReLU())
    with replaced_output(module[0], lambda output: output + 1) as calls:
        assert float(module(torch.zeros(()))) == 1
        module(torch.zeros(()))
    assert len(calls) == 2
    assert float(module(torch.zeros(()))) == 0


def test_hooks_are_removed_after_an_error():
    module = nn.Sequential(nn.ReLU())
    with pytest.raises(ZeroDivisionError), hooked(module, lambda *_: 1 / 0):
        module(torch.zeros(1))
    assert hooks(module) == 0
    with pytest.raises(AttributeError), hooked([*module, "no module"], lambda *_: None):
        pass
    assert hooks(module) == 0
