"""What tests of every kind of store behind `bench.chaos.proxy` share."""

import threading
import time
from contextlib import contextmanager

import pytest

from camrobust.contract.errors import RunFailed
from camrobust.io.manifest import list_images
from camrobust.io.readings import read_picture
from camrobust.io.retries import patient
from camrobust.io.s3_client import forget_clients
from camrobust.io.store import open_store
from camrobust.results.lease import held
from tests.packs import write_pack

FORMS = ("tar", "zip", "parquet")


@contextmanager
def down(faults, seconds):
    """The store refuses everything from now on, and answers again after some seconds."""
    faults.shares = {"refuse": 1}
    back = threading.Timer(seconds, lambda: setattr(faults, "shares", {}))
    back.start()
    yield
    back.join()


def read_shards_through(faults, address, folder, monkeypatch):
    """List and read photos in every form while one answer in three fails; then let all be cut off."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "8")
    forget_clients()
    photos = {f"{number}.jpg": bytes([number]) * 50_000 for number in range(4)}
    labels = {name: number for number, name in enumerate(photos)}
    for form in FORMS:
        write_pack(folder / f"x.{form}", photos, labels)
        open_store(address).write(f"x.{form}", (folder / f"x.{form}").read_bytes())
        for _ in range(2):
            faults.shares = {"refuse": 0.2, "cut": 0.2}
            listed = list_images("d", f"{address}/x.{form}")
            assert listed["label"].to_list() == [0, 1, 2, 3]
            assert [read_picture(*row) for row in listed["uri", "place"].rows()] == list(photos.values())
        faults.shares = {}
    assert min(faults.struck["cut"], faults.struck["refuse"]) >= 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_clients()
    faults.shares = {"cut": 1}
    for form in FORMS:
        with pytest.raises(RunFailed, match="did not answer in full"):
            list_images("d", f"{address}/x.{form}")


def end_patience(faults, address, monkeypatch, answered):
    """A call is tried for two seconds, then the run ends with one sentence."""
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "2")
    store = open_store(address)
    store.write("a", b"content")
    faults.shares = {"refuse": 1}
    with (
        pytest.raises(RunFailed, match=f"answered {answered}; the store may be overloaded, run again to resume"),
        patient(),
    ):
        store.read("a")
    assert faults.struck["refuse"] > 1


def outlive_outages(faults, address, seconds, monkeypatch, directly):
    """A lease of one second outlives an outage, but not another driver that took it over in a second one.

    `directly` makes clients reach the store without the proxy.
    """
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    store = open_store(address)
    with held(store, lambda _: []) as lease:
        with down(faults, seconds):
            pass
        assert faults.struck["refuse"] > 3
        lease.look()
        beats = lease._beats
        for _ in range(200):
            if lease._beats > beats:
                break
            time.sleep(0.05)
        assert lease._beats > beats
        lease.check()
        with down(faults, seconds):
            directly()
            open_store(address).create("lease/00000002.json", b'{"holder": "other", "accepts": []}')
        lease._thread.join()
        with pytest.raises(RunFailed, match="another driver has taken it over"):
            lease.check()
