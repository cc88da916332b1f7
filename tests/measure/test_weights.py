"""Every hostile weights file is one sentence, and takes memory by its own size only."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from camrobust.contract.errors import UserError
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model
from camrobust.measure.weights import read_weights
from tests.runs import ROOT, environment
from tests.toys import pooled
from tests.weights import legacy, pickled, safetensors, saved, state, tensor

SEED = 20261127
MUTATIONS = 300
SLACK_BYTES = 96 * 2**20
TIMES = 4
"""A file's bytes, a copy of them in tensors, and what its list becomes in Python."""

TRIAL = """
import json, resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from camrobust.contract.config import ModelConfig
from camrobust.contract.errors import UserError
from camrobust.run.plan import build
from tests.weights import hostile, mutated

def bytes_of(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
names = hostile(folder)
for name, content in mutated(seed, count):
    (folder / name).write_bytes(content)
    names.append(name)
# What loading takes once, such as a library, is no file's.
build(ModelConfig(name="m", builder="tests.toys:pooled"), 64)
for name in names:
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = bytes_of("VmRSS")
    try:
        build(ModelConfig(name="m", builder="tests.toys:pooled", weights=str(folder / name)), 64)
        said = None
    except UserError as error:
        said = str(error)
    except BaseException as error:
        said = "TRACEBACK " + repr(error)
    size = (folder / name).stat().st_size if (folder / name).is_file() else 0
    print(json.dumps([name, size, bytes_of("VmHWM") - before, said]), flush=True)
"""


@pytest.mark.linux
def test_hostile_files_are_one_sentence_and_take_no_more_than_they_are_long(tmp_path):
    command = [sys.executable, "-c", TRIAL, str(tmp_path), str(SEED), str(MUTATIONS)]
    surroundings = environment(PYTHONWARNINGS="ignore")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=surroundings, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "this must never be printed" not in done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines()]
    made = [one for one in found if not one[0].startswith("mutated")]
    assert len(made) >= 90
    assert len(found) == len(made) + MUTATIONS
    assert [one for one in made if one[3] is None] == []
    assert [one for one in found if one[3] is not None and not one[3].startswith(("weights: ", "model 'm': "))] == []
    assert [one for one in found if one[3] is not None and (len(one[3]) > 800 or "\n" in one[3])] == []
    readable = [one for one in found if one[1] < 2**30]
    assert [one for one in readable if one[2] > TIMES * one[1] + SLACK_BYTES] == []
    # Changed bytes of a tensor are no mistake that anyone could see; there must be files of both sorts.
    assert 0 < sum(one[3] is None for one in found) < MUTATIONS


SENTENCES = {
    "deflated": "its records are compressed, which torch.save does not do",
    "overlapping": "its records overlap",
    "record twice": "its records overlap",
    "TorchScript": "it is a TorchScript archive",
    "evaluates": "it names builtins.eval, and only tensors by name are taken",
    "reserves bytes": "it names builtins.bytearray, and only tensors by name are taken",
    "hash without end": "a tuple of tuples is the key of something",
    "copies": "it lists more than any model has",
    "record shorter": "record 0 is shorter than it says, or missing",
    "tensor beyond": "a tensor of shape (1000000000,) does not fit into its storage",
    "quantised": "it holds quantised tensors; save them dense and in floating point",
    "sparse": "it holds sparse tensors; save them dense and in floating point",
    "empty": "it ends too soon",
}


@pytest.fixture(scope="module")
def files():
    # torch.jit and quantisation are deprecated, and strangers' files still hold what they wrote.
    with pytest.warns((FutureWarning, UserWarning)):
        return pickled()


@pytest.mark.parametrize("name", SENTENCES)
def test_a_refusal_says_why_and_what_to_do(files, name):
    whole = (
        f"weights: 'x.pth' cannot be read ({SENTENCES[name]}); save a state dict as .safetensors, or as .pth with "
        "torch.save(model.state_dict(), …)"
    )
    with pytest.raises(UserError, match=f"^{re.escape(whole)}$"):
        read_weights(files[name], "x.pth")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("header beyond the file", "it ends before its header does"),
        ("header long", "its header has more than 8388608 bytes"),
        ("key twice", "its header names something twice"),
        ("eight bits", "KeyError: 'F8_E8M0'"),
    ],
)
def test_a_header_is_read_before_the_library_reads_it(name, sentence):
    with pytest.raises(UserError, match=re.escape(f"weights: 'x.safetensors' cannot be read ({sentence}); save a")):
        read_weights(safetensors()[name], "x.safetensors")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({1: torch.zeros(2)}, "got Tensor under 1"),
        ({key: {"lr": 0.1} for key in "abcdef"}, "got dict under 'a', dict under 'b', dict under 'c' and 3 more"),
        ({"epoch": 3, "args": {"a": 1}}, "got int under 'epoch', dict under 'args'"),
        ({}, "got an empty dict"),
        ([torch.zeros(2)], "got list"),
        (torch.zeros(2), "got Tensor"),
    ],
)
def test_what_is_no_state_dict_is_named(value, sentence):
    whole = f"weights: 'x.pth' must hold tensors by name, {sentence}; save a state dict"
    with pytest.raises(UserError, match=f"^{re.escape(whole)}$"):
        read_weights(saved(value), "x.pth")


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(spoilt):
    weights = state()
    weights["fc.bias"][3] = spoilt
    whole = "model 'm': weights 'x.pth' hold NaN or infinity in fc.bias; take those of an earlier epoch"
    with pytest.raises(UserError, match=f"^{whole}$"):
        load_model(ModelSpec("m", "tests.toys:pooled", "x.pth"), saved(weights))


def test_whole_numbers_are_no_weights():
    whole = saved({name: value.long() for name, value in state().items()})
    with pytest.raises(UserError, match=r"\(other type: features.0.weight is torch.int64, not torch.float32, "):
        load_model(ModelSpec("m", "tests.toys:pooled", "x.pth"), whole)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_torch_writes_is_still_read(old, dtype):
    weights = {name: value.to(dtype) for name, value in state().items()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "betas": (0.9, (0.99,))}
    parameter = torch.nn.Parameter(torch.zeros(2))
    value = {"state_dict": weights, "epoch": 3, "best": 1.5, "name": "a", "optimizer": optimizer, "more": parameter}
    found = read_weights(saved(value, _use_new_zipfile_serialization=not old), "x.pth")["state_dict"]
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("old", [False, True])
def test_tensors_that_share_a_storage_are_read(old):
    whole = torch.arange(12.0).reshape(3, 4)
    weights = {
        "rows": whole[1:],
        "turned": whole.T,
        "one": whole[2, 3],
        "none": whole[:0],
        "wide": whole[:1].expand(5, 4),
    }
    found = read_weights(saved(weights, _use_new_zipfile_serialization=not old), "x.pth")[""]
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_view_of_a_storage_lies_inside_it():
    def file(offset, size):
        numbers = b"".join(b"J" + number.to_bytes(4, "little") for number in (offset, size))
        view = tensor("FloatStorage", "0", 4, 0, (2,), (1,), b"X\1\0\0\0v" + numbers + b"\x87")
        return legacy(view, ["0"], (4).to_bytes(8, "little") + torch.arange(4.0).numpy().tobytes())

    assert read_weights(file(1, 2), "x.pth")[""]["a"].tolist() == [1.0, 2.0]
    with pytest.raises(UserError, match=r"a tensor of shape \(2,\) does not fit into its storage"):
        read_weights(file(3, 2), "x.pth")


def test_a_published_model_is_far_below_the_limits():
    from torchvision.models import resnet152

    from camrobust.measure import pickle_reader, weights

    sink = io.BytesIO()
    torch.save(resnet152().state_dict(), sink)
    counted = []
    original = pickle_reader.Steps._count

    class Counting(pickle_reader.Steps):
        def _count(self):
            original(self)
            counted.append(None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "Steps", Counting)
        read_weights(sink.getvalue(), "x.pth")
    assert len(counted) < pickle_reader.MOST_STEPS / 10


def test_safetensors_are_read_as_they_are():
    weights = {name: value.contiguous() for name, value in pooled().state_dict().items()}
    found = read_weights(save(weights, {"format": "pt"}), "x.safetensors")[""]
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_path_that_is_no_file_is_told_where_weights_are_named(tmp_path):
    from camrobust.contract.model_config import ModelConfig
    from camrobust.run.plan import fetch_weights

    Path(tmp_path / "zero.pth").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"^model 'm': /dev/zero is not a regular file; correct weights$"):
        fetch_weights(ModelConfig(name="m", builder="a:b", weights=str(tmp_path / "zero.pth")))


def test_what_trainers_save_beside_a_state_dict_is_no_hindrance():
    """Counters of schedulers, tuples as keys, bytes, and tensors that are buffers by their class."""
    network = torch.nn.Linear(2, 2)
    kept = {
        "state_dict": network.state_dict(), "milestones": Counter({30: 1, 60: 1}), "seen": {("a", 1): 2},
        "bytes": b"\x80\x00", "buffer": torch.nn.Buffer(torch.ones(2)),
    }  # fmt: skip
    sink = io.BytesIO()
    torch.save(kept, sink)
    found = read_weights(sink.getvalue(), "last.pth")["state_dict"]
    assert all(found[name].equal(value) for name, value in network.state_dict().items())
