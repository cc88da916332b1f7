import json
import os
import re
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from camrobust.bench.speed import certifying, formats, perturbing
from camrobust.bench.speed import passes as bench
from camrobust.bench.speed.available import perturbations_here
from camrobust.bench.speed.peers import SEVEN, SHARED
from camrobust.bench.speed.tiny_transformers import TRANSFORMERS
from camrobust.bench.speed.zoo import zoo
from camrobust.core.explain.cams import CLASSIC
from camrobust.core.explain.evidence import collect
from camrobust.core.perturb import without_model
from camrobust.interface.cli import main
from camrobust.interface.commands import BENCHMARKS
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model


@pytest.fixture
def ticking(monkeypatch):
    """A clock that advances by a second whenever it is read, so that every piece of work takes one."""
    clock = SimpleNamespace(perf_counter=map(float, count()).__next__)
    for module in (bench, perturbing):
        monkeypatch.setattr(module, "time", clock)


def test_a_ratio_is_the_median_over_turns():
    seconds = {bench.PLAIN: [1.0, 2.0, 4.0], "other": [2.0, 6.0, 8.0]}
    assert bench._ratios(seconds) == {bench.PLAIN: 1, "other": 2}


@pytest.mark.usefixtures("ticking")
@pytest.mark.filterwarnings("ignore")
def test_every_peer_is_timed_beside_ours(monkeypatch, capsys):
    monkeypatch.setattr(bench, "MODEL", "resnet18")
    monkeypatch.setattr(bench, "ABLATED", ("squeezenet1_1",))
    if not os.environ.get("CAMROBUST_ALL"):
        monkeypatch.setattr(bench, "random_model", lambda *_, **__: load_model(ModelSpec("toy", "tests.toys:pooled")))
    monkeypatch.setitem(bench.BATCH, "cpu", 2)
    monkeypatch.setitem(bench.SEGMENT_BATCH, "cpu", 2)
    monkeypatch.setattr(bench, "SEGMENT_PEER", 1)
    monkeypatch.setattr(bench, "SEGMENT_SETTINGS", bench.SEGMENT_SETTINGS[-1:])
    assert main(["bench", "peers", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    libraries = Counter(name.partition(": ")[0] for name in found["ratios"])
    assert (libraries["grad-cam"], libraries["torchcam"], libraries["captum"]) == (14 + 1, 7, 1)
    assert libraries["camrobust"] == len(SHARED) + 1
    # Ours are one pass, the peer's one each.
    assert found["ratios"].pop("grad-cam: seven CAMs") == len(SEVEN)
    assert set(found["ratios"].values()) == {1}
    assert found["plain_forward_ms_per_image"] == 500
    assert found["ablation"] == {"squeezenet1_1": {"plain forward": 1, "gradcam": 1, "ablationcam": 1}}
    assert found["cams"]["ten CAMs"] == list(CLASSIC)
    assert found["perturbation_ms_per_image"] == dict.fromkeys(without_model(), 1000)
    (row,) = found["segments"]
    assert (row["equal_labels"], row["compared"]) == (1, 1)
    assert (row["ms_per_image"], row["scikit_image_ms_per_image"], row["times_faster"]) == (500, 1000, 2)
    bench.show(found)
    text = capsys.readouterr().out
    assert "| ten CAMs | 1.00 |" in text
    assert "| squeezenet1_1 | 1.00 | 1.00 |" in text
    assert "| 5, 10, 1 | 500.0 | 1000 | 2.0 | 1 of 1 |" in text


@pytest.mark.parametrize("benchmark", ["passes", "peers", "perturbations", "formats"])
def test_a_device_that_is_missing_is_a_mistake(benchmark, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", benchmark, "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "camrobust: bench: this machine has no CUDA device; use --device cpu\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give one of the commands passes, "),
        (["--chaos", "3"], "unknown command '3'; known: certificate-cost, "),
        (["chaos"], "missing: N (number of runs); see camrobust bench chaos --help"),
        (["chaos", "0"], "N: must be a number above 0, got 0; see camrobust bench chaos --help"),
        (["zoo", "--seed", "1"], "unknown option '--seed'; see camrobust bench zoo --help"),
        (["formats", "--precision", "bf16"], "unknown option '--precision'; see camrobust bench formats --help"),
        (["scale", "10", "--device", "cuda"], "unknown option '--device'; see camrobust bench scale --help"),
    ],
)
def test_a_benchmark_takes_its_own_options_and_no_others(arguments, sentence, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"camrobust: {sentence}")


def test_every_benchmark_that_a_page_names_is_there():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", root / "Makefile", *(root / "docs").glob("*.md"), *root.glob("camrobust/**/*.py")]
    named = {name for page in pages for name in re.findall(r"camrobust bench ([^B\s`]+)", page.read_text())}
    assert named >= {"peers", "chaos", "rows"}
    assert named <= BENCHMARKS.keys()


def test_candidates_take_turns():
    order = []
    seconds = bench.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 9, "cpu")
    turns = ["".join(order[start : start + 2]) for start in range(0, 20, 2)]
    assert set(turns) == {"ab", "ba"}
    assert {name: len(times) for name, times in seconds.items()} == {"a": 9, "b": 9}


@pytest.mark.usefixtures("ticking")
@pytest.mark.filterwarnings("ignore")
def test_perturbations_are_timed_beside_the_peer(monkeypatch, capsys):
    monkeypatch.setitem(perturbing.BATCH, "cpu", 2)
    monkeypatch.setattr(perturbing, "PEER_IMAGES", 1)
    assert main(["bench", "perturbations", "--peers", "--repeats", "1", "--json"]) == 0
    rows = {row["perturbation"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {*without_model(), "these 19"}
    both = rows.pop("these 19")
    assert (both["ms"], both["peer_ms"], both["times_faster"]) == (19 * 500, 19 * 1000, 2)
    compared = [row for row in rows.values() if "peer_ms" in row]
    assert len(compared) == 19
    assert {(row["ms"], row["share"], row["peer_ms"], row["times_faster"]) for row in compared} == {
        (500, "5%", 1000, 2)
    }
    assert {row["ms"] for row in rows.values()} == {500}


@pytest.mark.usefixtures("ticking")
def test_memory_formats_are_timed_in_every_precision_of_the_device(monkeypatch, capsys):
    monkeypatch.setattr(formats, "MODEL", "squeezenet1_1")
    monkeypatch.setitem(bench.BATCH, "cpu", 2)
    # Compiling takes a minute and needs a compiler; here the module itself is returned.
    monkeypatch.setattr(torch, "compile", lambda module, **_settings: module)
    assert main(["bench", "formats", "--repeats", "1", "--json"]) == 0
    ways = dict.fromkeys(("channels first", "channels last", "channels last, compiled"), "1000.00")
    assert json.loads(capsys.readouterr().out) == [{"precision": name, **ways} for name in ("fp32", "bf16")]


def test_the_zoo_says_what_works_and_why_not():
    names = ("torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224", "torchvision:nothing")
    conv, tokens, wrong = zoo(names)
    assert (conv["layer"], conv["verdict"], conv["tail"]) == ("features", "ok", "shortcut")
    assert (tokens["layer"], tokens["layout"], tokens["map"]) == ("blocks.11.norm1", "tokens, 1 in front", "14x14")
    assert tokens["verdict"] == "ok"
    assert float(conv["gradient"]) < 1e-5 > float(tokens["gradient"])
    # A patch covers a quarter of the positions; all change where all other positions stay as they are.
    assert 1 < float(conv["patch"]) < 4.01 > float(tokens["patch"]) > 2
    assert "raised ValueError: Unknown model nothing" in wrong["verdict"]


def test_the_zoo_tells_a_gradient_that_is_not_the_layers(monkeypatch):
    monkeypatch.setattr("camrobust.bench.speed.zoo.collect", lambda *given: doubled(collect(*given)))
    (row,) = zoo(("torchvision:squeezenet1_1",))
    assert row["verdict"] == "another gradient"


def doubled(evidence):
    evidence.gradients = evidence.gradients * 2
    return evidence


QUICK = ("CLIP", "DonutSwin", "IJepa", "MetaClip2", "ResNet", "Siglip", "Swin", "TextNet", "ViT")


@pytest.mark.parametrize("name", TRANSFORMERS if os.environ.get("CAMROBUST_ALL") else QUICK)
def test_tiny_classifiers_of_transformers_are_explained_as_autograd_does(name):
    pytest.importorskip("transformers")
    (row,) = zoo((f"transformers:{name}",))
    assert row["verdict"] == "ok"
    assert float(row["gradient"]) < 1e-5


def test_every_family_of_transformers_that_builds_from_a_configuration_is_in_the_zoo():
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    named = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    families = {one if isinstance(one, str) else one[0] for one in named}
    families = {one.removesuffix("ForImageClassification") for one in families}
    # Cvt and PP-LCNet fail in their own forward, Dinat needs a package, and these take something else than pixels.
    others = {
        "Cvt",
        "PPLCNet",
        "Dinat",
        "ImageGPT",
        "PerceiverForImageClassificationLearned",
        "ShieldGemma2",
        "Siglip2",
    }
    assert families - {*TRANSFORMERS} <= others


def test_perturbations_whose_photographs_are_missing_are_left_out(monkeypatch):
    monkeypatch.setattr("camrobust.core.perturb.frost.find_spec", lambda _: None)
    assert set(without_model()) - set(perturbations_here()) == {"frost"}


def test_certificates_are_timed_against_as_many_plain_passes(monkeypatch, capsys):
    monkeypatch.setattr(certifying, "random_model", lambda *_: load_model(ModelSpec("toy", "tests.toys:pooled")))
    monkeypatch.setattr(certifying, "LARGEST_PASS", 2)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=map(float, count()).__next__))
    arguments = ["bench", "certificate-cost", "--repeats", "1", "--samples", "3", "--json"]
    assert main(arguments) == 0
    one, three = json.loads(capsys.readouterr().out)
    # Three samples are two passes, and the pilot is one more.
    assert (one["sigmas"], one["copies"], three["sigmas"], three["copies"]) == (1, 6, 3, 18)
    assert one["ratio to plain forwards"] == three["ratio to plain forwards"] == 1
