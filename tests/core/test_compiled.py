"""The layers up to the target layer as a function of their own, cut out and compiled."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.compiled import compile_prefix
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import frozen
from camrobust.core.explain.target_layer import build_network
from tests.runs import environment
from tests.toys import Branching, Dense, Pooled, Separate, Smooth, seeded

NAMES = ("gradcam", "eigencam", "layercam", "ablationcam")


@pytest.fixture
def uncompiled(monkeypatch):
    """The prefix is cut out and runs eagerly, which takes no compiler."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)


def residual():
    from torchvision.models import resnet18

    return seeded(resnet18(num_classes=5), 3)


def photos(count, side=64, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def both(module, layer=None, side=64, precision="fp32"):
    """Evidence and maps without and with the prefix."""
    images = photos(5, side).contiguous(memory_format=torch.channels_last)
    network = replace(build_network(module.eval(), images[:2], layer), precision=precision)
    with frozen(module):
        pairs = []
        for one in (network, compile_prefix(network, images)):
            evidence = collect(one, images)
            pairs.append((evidence, explain(evidence, [CAMS[name].function for name in NAMES])))
    return pairs


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("build", "layer", "side"),
    [
        (Pooled, None, 64), (Dense, None, 224), (Dense, "body", 224), (Smooth, None, 64), (Separate, None, 64),
        (residual, None, 64), (residual, "layer4.1.conv1", 64),
    ],
)  # fmt: skip
def test_prefix_and_tail_give_the_bits_of_the_whole_model(build, layer, side, precision):
    module = build()
    if build is not residual:
        seeded(module)
    (evidence, maps), (again, maps_again) = both(module, layer, side, precision)
    assert again.network.prefix is not None
    for name in ("activations", "gradients", "logits", "targets", "outputs"):
        assert torch.equal(getattr(evidence, name), getattr(again, name)), name
    assert torch.equal(maps, maps_again)
    assert not again.activations.requires_grad


@pytest.mark.usefixtures("uncompiled")
def test_the_prefix_alone_runs_and_attacks_keep_the_hook():
    module = seeded(Pooled()).eval()
    images = photos(3)
    network = compile_prefix(build_network(module, images), images)
    calls = []
    module.fc.register_forward_hook(lambda *_: calls.append("fc"))
    module.features.register_forward_hook(lambda *_: calls.append("features"))
    module.register_forward_hook(lambda *_: calls.append("model"))
    with frozen(module):
        collect(network, images)
        assert calls == ["features", "fc"]
        calls.clear()
        collect(network, images.requires_grad_(), graph=True)
        assert calls == ["features", "fc", "model"]


def test_a_model_that_cannot_be_cut_is_one_sentence():
    images = photos(2, 224)
    network = build_network(seeded(Branching()).eval(), images)
    sentence = (
        "compile: the model cannot be cut at its target layer 'relu', because its forward branches on values or packs "
        "its outputs; set compile: false"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        compile_prefix(network, images)


def test_a_compiler_that_fails_is_one_sentence(monkeypatch):
    def fails(module, **options):
        def run(images):
            raise RuntimeError("no g++\nand a long text")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    network = build_network(seeded(Pooled()).eval(), photos(2))
    sentence = (
        "compile: the layers up to 'features' cannot be compiled (RuntimeError: no g++); install g++ and the headers "
        "of Python, or set compile: false"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        compile_prefix(network, photos(2))


def test_compiled_code_with_other_numbers_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda images: (module(images)[0] * 1.01,))
    network = build_network(seeded(Pooled()).eval(), photos(2))
    sentence = (
        "compile: the compiled layers up to 'features' differ from the eager ones by 0.01 of the largest activation, "
        "allowed is 0.0001; set compile: false"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        compile_prefix(network, photos(2))


COMPILING = """
import json, torch
from torch._dynamo.utils import counters
from camrobust.core.explain.compiled import compile_prefix
from camrobust.core.explain.evidence import collect
from tests.core.test_compiled import build_network, photos
from tests.toys import Pooled, seeded
images = photos(5)
network = build_network(seeded(Pooled()).eval(), images[:2])
eager, compiled = (collect(one, images) for one in (network, compile_prefix(network, images)))
print(json.dumps({
    "difference": float((compiled.activations - eager.activations).abs().max() / eager.activations.abs().max()),
    "gradients": torch.equal(compiled.gradients, eager.gradients),
    "stored": counters["inductor"]["fxgraph_cache_miss"],
    "found": counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"],
}))
"""


def test_code_is_compiled_once_for_all_processes_of_a_machine(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    told = environment() | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if not os.environ.get("CAMROBUST_ALL"):
        # Otherwise torch first compiles three programs that try out the processor, which takes half of the time.
        told["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
    answers = []
    for _ in range(2):
        command = [sys.executable, "-c", COMPILING]
        done = subprocess.run(command, capture_output=True, text=True, env=told, check=True, timeout=500)
        answers.append(json.loads(done.stdout))
    assert [one["difference"] <= 1e-6 and one["gradients"] for one in answers] == [True, True]
    assert answers[0]["stored"] == 1
    assert answers[0]["found"] == answers[1]["stored"] == 0
    assert answers[1]["found"] >= 1
