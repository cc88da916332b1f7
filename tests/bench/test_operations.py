import json

import pytest
import torch

from camrobust.bench.speed import operations as bench
from camrobust.bench.speed.operations import ORDER, Operations, count_pass, tiny_model
from camrobust.interface.cli import main
from tests.runs import ROOT


@pytest.fixture
def small(monkeypatch):
    """A pass of 16 variants."""
    monkeypatch.setattr(bench, "PASS", 16)


def by_part(rows):
    return {row["part"]: row["operations"] for row in rows}


def test_operations_are_counted_and_named():
    numbers = torch.zeros(3)
    with Operations() as counting:
        (numbers + 1).mul_(2)
    assert counting.total == 2
    assert counting.counted["forward"] == {"add": 1, "mul_": 1}
    assert not counting.moved_bytes


def test_every_operation_of_a_pass_belongs_to_a_part():
    model = tiny_model(side=64)
    batch, settings = bench._images(1, 3, 64), bench.MeasureSettings(bench.CLASSIC, batch=4)
    with Operations() as counting:
        bench.measure(model, batch, settings)
    assert set(counting.counted) == set(ORDER)
    assert all(counting.counted.values())
    assert counting.counted["forward"]["convolution"] == 3
    assert counting.counted["comparison"]["sort"] + counting.counted["comparison"]["argsort"] > 0


def test_the_modules_of_a_forward_pass_are_there():
    assert {module for module in bench.FORWARD if not (ROOT / f"camrobust/core/explain/{module}.py").is_file()} == set()


@pytest.mark.usefixtures("small")
def test_the_count_is_the_same_every_time():
    first = count_pass(tiny_model(side=64), images=2, side=64)
    assert by_part(first) == by_part(count_pass(tiny_model(side=64), images=2, side=64))
    *parts, together = first
    assert together["operations"] == sum(row["operations"] for row in parts) > 0


@pytest.mark.usefixtures("small")
def test_the_count_does_not_grow_with_the_images_of_a_pass():
    model = tiny_model(side=64)
    few, many = (by_part(count_pass(model, images=images, side=64)) for images in (2, 4))
    # Torch counts that it hands out the pixels of each image as an array.
    assert many == few | {"rows": few["rows"] + 2, "together": few["together"] + 2}


def test_the_command_prints_counts_milliseconds_and_bytes(monkeypatch, capsys):
    monkeypatch.setattr(bench, "random_model", lambda _name, device: tiny_model(device))
    monkeypatch.setattr(bench, "PASS", 4)
    monkeypatch.setattr(bench, "IMAGES", 2)
    monkeypatch.setattr(bench, "HOST", {1: 2})
    threads = torch.get_num_threads()
    assert main(["bench", "passes", "--operations", "--repeats", "1", "--json"]) == 0
    assert torch.get_num_threads() == threads
    found = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in found["operations"]] == [*ORDER, "together"]
    (host,) = found["host"]
    assert (host["variants"], host["images"]) == (1, 2)
    assert host["together_ms"] == pytest.approx(host["measure_ms"] + host["tables_ms"], abs=0.002)
    (moved,) = found["bytes"]
    # Two variants of 147 KiB, and segments of 8 bytes per pixel.
    assert moved["host_to_device_kib"] == 2 * 147 + 392
    assert 0 < moved["device_to_host_kib"] < 10
    # The crop, segments of 4 bytes twice, the variants, and some rows.
    assert 0 < moved["object_store_kib"] - (147 + 2 * 196 + 2 * 147) < 10
    bench.show(found)
    text = capsys.readouterr().out
    assert "| part | operations | most common |" in text
    assert f"| 1 | 2 | {host['measure_ms']} |" in text
