"""A small slice of `camrobust bench certificates`, and that each of its three parts can fail."""

import json

import pytest
import torch

from camrobust.bench import certificates
from camrobust.bench.certificates import attack, balls, contradictions, coverage, orders
from camrobust.bench.certificates.contradictions import shared_overlaps
from camrobust.core.certify import overlap
from camrobust.interface.cli import main


def test_what_is_certified_holds_as_often_as_promised():
    rows = coverage.covered(600, seed=3)
    assert {row["bound"] for row in rows} == {"empirical_bernstein", "hoeffding", "clopper_pearson"}
    assert min(row["bounds_hold"] for row in rows) >= 0.95
    assert min(row["order_holds"] for row in rows if row["order_holds"] is not None) >= 0.95
    # The bounds at the image do not hold within the radii, or the simulations would show nothing.
    assert min(row["without_the_shift"] for row in rows) < 0.05


def test_bounds_that_are_too_narrow_are_found(monkeypatch):
    monkeypatch.setattr(coverage, "ALPHA", 0.9)
    monkeypatch.setattr(coverage, "SHARES", (0.0,))
    assert min(row["bounds_hold"] for row in coverage.covered(300)) < 0.95


def test_certificates_of_more_than_holds_are_found(monkeypatch):
    held = {row["map"]: row["order_holds"] for row in coverage.covered(200) if row["bound"] == "hoeffding"}
    monkeypatch.setattr(contradictions, "certified_rbo", lambda shared: (overlap.certified_rbo(shared)[0] - 0.5, None))
    broken = {row["map"]: row["order_holds"] for row in coverage.covered(200) if row["bound"] == "hoeffding"}
    assert held["halves"] == 1
    assert broken["halves"] < 0.5


def test_attacks_break_no_certificate_but_bounds_without_a_shift():
    rows = attack.attacks(48, seed=1, certifying=300, checking=300)
    assert sum(row["tries"] for row in rows) == 48
    assert not any(row[name] for row in rows for name in certificates.CONTRADICTIONS)
    assert sum(row["without_the_shift"] for row in rows) > 5
    assert max(row["used"] for row in rows if row["radius"] == "1 sigma") > 0.3


def test_all_orders_and_that_a_wrong_rule_is_found(monkeypatch):
    rows = orders.against_orders(60, seed=2)
    assert [row["violations"] for row in rows] == [0] * 5
    assert all(row["membership_exact"] == 1 for row in rows)
    monkeypatch.setattr(orders, "certified_overlaps", lambda lower, upper: overlap.certified_overlaps(lower, upper) + 1)
    assert all(row["violations"] for row in orders.against_orders(20))


def test_no_attack_in_a_ball_breaks_its_certificate_and_some_beyond_do():
    rows = balls.in_balls(1, seed=1)
    assert [(row["norm"], row["method"]) for row in rows] == [
        ("linf", "interval"), ("linf", "linear"), ("l2", "interval"), ("l2", "linear")
    ]  # fmt: skip
    assert not any(row["top_broken"] or row["bounds_broken"] for row in rows)
    assert sum(row["tries"] for row in rows) > 100
    assert any(row["broken_beyond"] for row in rows)


@pytest.mark.parametrize(("violations", "code"), [(0, 0), (1, 1)])
def test_the_command_fails_where_a_certificate_does(violations, code, monkeypatch, capsys):
    held = {"promised": 0.95, "bounds_hold": 0.97, "order_holds": None}
    monkeypatch.setattr(certificates, "covered", lambda *_: [held])
    monkeypatch.setattr(
        certificates, "attacks", lambda *_: [dict.fromkeys(certificates.CONTRADICTIONS, 0) | {"tries": 4}]
    )
    monkeypatch.setattr(certificates, "against_orders", lambda *_: [{"violations": violations}])
    monkeypatch.setattr(certificates, "in_balls", lambda *_: [{"top_broken": 0, "bounds_broken": 0}])
    assert main(["bench", "certificates", "--json"]) == code
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_the_ascent_stays_in_the_ball():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64).reshape(8, 8) // 8
    smoothed = attack.Smoothed(
        attack.tiny_network("relu", generator), "gradcam", attack.segment_matrix(labels, 8, 8), generator
    )
    images = torch.rand(3, 1, 8, 8, generator=generator)
    wanted = torch.randn(3, 8, generator=generator)
    moved = attack.ascend(smoothed, images, torch.zeros(3, dtype=torch.int64), wanted, 0.05) - images
    assert moved.flatten(1).norm(dim=1).tolist() == pytest.approx([0.05] * 3, rel=1e-3)


def test_shared_overlaps_are_those_of_sets():
    scores = torch.rand(2, 3, 4, 9, generator=torch.Generator().manual_seed(0))
    first, second = scores.argsort(dim=-1)
    found = shared_overlaps(first, second)
    for one, other, overlaps in zip(*(each.flatten(0, 1).tolist() for each in (first, second, found)), strict=True):
        assert overlaps == [len({*one[:d]} & {*other[:d]}) for d in range(1, 10)]
    assert shared_overlaps(first, first).flatten(0, 1).tolist() == [list(range(1, 10))] * 12
