import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from camrobust.bench.speed import passes as bench
from camrobust.bench.speed.peers import SHARED
from camrobust.bench.speed.zoo import zoo
from camrobust.interface.cli import main


@pytest.mark.filterwarnings("ignore")
def test_ratios_are_taken_within_one_run(monkeypatch, capsys):
    monkeypatch.setattr(bench, "MODEL", "resnet18")
    monkeypatch.setitem(bench.BATCH, "cpu", 2)
    monkeypatch.setitem(bench.SEGMENT_BATCH, "cpu", 2)
    monkeypatch.setattr(bench, "SEGMENT_SETTINGS", bench.SEGMENT_SETTINGS[-1:])
    assert main(["bench", "peers", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratios"]["plain forward"] == 1
    assert found["ratios"]["ten CAMs, ranks, RBO, rows"] > 0
    libraries = Counter(name.partition(": ")[0] for name in found["ratios"])
    assert (libraries["grad-cam"], libraries["torchcam"], libraries["captum"]) == (14 + 1, 7, 1)
    assert libraries["camrobust"] == len(SHARED) + 1
    assert found["ratios"]["grad-cam: seven CAMs"] > found["ratios"]["camrobust: seven CAMs"]
    assert set(found["ablation"]) == set(bench.ABLATED)
    assert [row["equal_labels"] for row in found["segments"]] == [2]
    assert all(row["times_faster"] > 0 for row in found["segments"])
    bench.show(found)
    text = capsys.readouterr().out
    assert "| ten CAMs |" in text
    assert "| 5, 10, 1 | " in text
    assert " | 2 of 2 |" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: BENCHMARK; see camrobust bench --help"),
        (["--chaos", "3"], "argument BENCHMARK: invalid choice: '3' (choose from "),
        (["chaos"], "the following arguments are required: N; see camrobust bench chaos --help"),
        (["chaos", "0"], "argument N: must be a number above 0, got 0; see camrobust bench chaos --help"),
        (["zoo", "--seed", "1"], "unrecognized arguments: --seed 1; see camrobust --help"),
        (["formats", "--precision", "bf16"], "unrecognized arguments: --precision bf16; see camrobust --help"),
        (["scale", "10", "--device", "cuda"], "unrecognized arguments: --device cuda; see camrobust --help"),
    ],
)
def test_a_benchmark_takes_its_own_options_and_no_others(arguments, sentence, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"camrobust: {sentence}")


def test_every_benchmark_that_a_page_names_is_there():
    from camrobust.interface.commands import BENCHMARKS

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


@pytest.mark.filterwarnings("ignore")
def test_perturbations_are_timed_beside_the_peer(monkeypatch, capsys):
    from camrobust.bench.speed import perturbing
    from camrobust.core.perturb import without_model

    monkeypatch.setitem(perturbing.BATCH, "cpu", 1)
    assert main(["bench", "perturbations", "--peers", "--repeats", "1", "--json"]) == 0
    rows = {row["perturbation"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {*without_model(), "these 19"}
    compared = [row for name, row in rows.items() if "peer_ms" in row and name != "these 19"]
    assert len(compared) == 19
    assert sum(row["ms"] for row in compared) == pytest.approx(rows["these 19"]["ms"], abs=0.2)
    assert rows["zoom_blur"]["times_faster"] > 1
    assert main(["bench", "perturbations", "--device", "cuda"]) == (0 if torch.cuda.is_available() else 2)


def test_orders_of_memory_are_timed_in_every_precision_of_the_device(monkeypatch, capsys):
    from camrobust.bench.speed import formats

    monkeypatch.setattr(formats, "MODEL", "squeezenet1_1")
    monkeypatch.setitem(bench.BATCH, "cpu", 2)
    # What is compiled takes a minute, and a compiler; here it is the module itself.
    monkeypatch.setattr(torch, "compile", lambda module, **_settings: module)
    assert main(["bench", "formats", "--repeats", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    assert all(float(row[way]) > 0 for row in rows for way in row if way != "precision")
    assert main(["bench", "formats", "--device", "cuda"]) == (0 if torch.cuda.is_available() else 2)


def test_the_zoo_says_what_works_and_why_not():
    names = ("torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224", "torchvision:nothing")
    conv, tokens, wrong = zoo(names)
    assert (conv["layer"], conv["verdict"], conv["tail"]) == ("features", "ok", "shortcut")
    assert (tokens["layer"], tokens["layout"], tokens["map"]) == ("blocks.11.norm1", "tokens, 1 in front", "14x14")
    assert tokens["verdict"] == "ok"
    assert "raised ValueError: Unknown model nothing" in wrong["verdict"]
