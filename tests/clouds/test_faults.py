"""Google and Azure behind a proxy that refuses, delays, cuts off and loses answers."""

import re
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from camrobust.bench.chaos import proxy
from camrobust.bench.chaos.proxy import FAULTS
from camrobust.contract.errors import RunFailed, UserError
from camrobust.io import clouds, retries
from camrobust.io.objects import MissingObjectError
from camrobust.io.retries import patient
from camrobust.io.store import open_store, read_object
from camrobust.results.lease import held
from tests.cloud_places import put, scheme_of, settle
from tests.failing_stores import down, end_patience, outlive_outages, read_shards_through

pytestmark = [pytest.mark.s3, pytest.mark.parametrize("place", ["gs", "az"], indirect=True)]
TURNS = 5
DOWN_S = 2.5


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts, which are shorter here: they end by a clock that runs twenty times faster."""
    found = []

    def sleep(pause_s):
        found.append(pause_s)
        time.sleep(pause_s / 20)

    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 20 * time.monotonic()))
    # Azure's library tries twice itself to read an answer that breaks off.
    monkeypatch.setattr("azure.storage.blob._download.time", SimpleNamespace(sleep=lambda _: None))
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived(faults, place, fault, pauses, monkeypatch):
    monkeypatch.setattr("camrobust.bench.chaos.proxy.SLOW_S", 0.05)
    content = bytes(range(256)) * 1024
    store = open_store(f"{place}/x")
    faults.shares = {fault: 0.3}
    for number in range(TURNS):
        store.write(f"{number}", content)
        assert store.create(f"new/{number}", content)
        assert not store.create(f"new/{number}", b"another")
        assert store.read(f"{number}") == content
        assert store.head(f"{number}", 9) == content[:9]
        store.delete(f"{number}")
    assert [entry.key for entry in store.list()] == [f"new/{number}" for number in range(TURNS)]
    assert faults.struck[fault] >= 3
    assert pauses if fault != "slow" else not pauses


def test_an_object_is_ours_though_the_answer_was_lost(faults, place, pauses, monkeypatch):
    store = open_store(f"{place}/x")
    store.write("theirs", b"theirs")
    for key, is_ours in (("mine", True), ("theirs", False)):
        struck = iter(["deaf"])
        monkeypatch.setattr(faults, "draw", lambda struck=struck: next(struck, ""))
        assert store.create(key, b"mine") is is_ours
        assert next(struck, None) is None
    assert store.read("theirs") == b"theirs"


def test_an_answer_with_a_changed_byte_is_asked_for_again(faults, place, pauses, monkeypatch):
    if not place.startswith("gs"):
        pytest.skip("Azure's answers have no checksum, unless it is asked for 4 MiB at most")
    put(f"{place}/x", b"content")
    real, asked = proxy._Handler._ask, []

    def changed(self, content):
        status, headers, body = real(self, content)
        if not urlsplit(self.path).path.endswith("/x"):
            # Google's library also asks for the bucket, in a thread of its own.
            return status, headers, body
        asked.append(self.path)
        return status, headers, body[:-1] + b"!" if len(asked) == 1 else body

    monkeypatch.setattr(proxy._Handler, "_ask", changed)
    assert read_object(f"{place}/x") == b"content"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("refuse", "answered (503|SlowDown); the store may be overloaded, run again to resume"),
        ("cut", "did not answer in full"),
        ("deaf", "did not answer in full"),
    ],
)
def test_a_lasting_fault_gives_one_sentence_and_exit_code_1(faults, place, fault, sentence, pauses, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    put(f"{place}/x", b"content")
    faults.shares = {fault: 1}
    with pytest.raises(RunFailed, match=f"{place}/x {sentence}") as caught:
        read_object(f"{place}/x")
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_a_silent_store_is_given_up(faults, place, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(clouds, "OBJECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr("camrobust.bench.chaos.proxy.SLOW_S", 1)
    faults.shares = {"slow": 1}
    with pytest.raises(RunFailed, match=r"/x did not answer in full within 0.2 s; run again to resume"):
        read_object(f"{place}/x")


def test_in_a_run_a_call_is_tried_by_time_and_the_user_hears_of_it(faults, place, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    store, lines = open_store(f"{place}/x"), []
    store.write("a", b"content")
    with held(store, lambda _: []) as lease:
        with down(faults, DOWN_S), patient(lambda _, line: lines.append(line)):
            assert store.read("a") == b"content"
            assert store.create("b", b"new")
        assert faults.struck["refuse"] > 2
        lease.look()
    assert lines
    assert all(re.fullmatch(rf"store: {place} answered (503|SlowDown), for \d s now; it is tried again", line)
               for line in lines), lines  # fmt: skip


def test_patience_ends_with_one_sentence(faults, place, monkeypatch):
    end_patience(faults, f"{place}/x", monkeypatch, "(503|SlowDown)")


def test_a_lease_outlives_a_store_that_fails_for_longer_than_its_term(faults, place, cloud, monkeypatch):
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
    outlive_outages(faults, f"{place}/run", DOWN_S, monkeypatch, lambda: settle(monkeypatch, cloud(scheme_of(place))))


def test_what_does_not_pass_is_told_at_once_even_in_a_run(place, pauses):
    with patient():
        with pytest.raises(MissingObjectError):
            open_store(f"{place}/x").read("missing")
        with pytest.raises(UserError, match=r"there is no (bucket|container) 'no-such-bucket-here'"):
            open_store(f"{place.partition('://')[0]}://no-such-bucket-here/x").write("a", b"")
    assert not pauses


def test_an_endpoint_that_does_not_exist_is_told_while_a_run_is_planned(place, cloud, monkeypatch):
    scheme = place.partition("://")[0]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for address in ("http://127.0.0.1:9", "http://no-such-machine.invalid"):
        settle(monkeypatch, {
            "STORAGE_EMULATOR_HOST": address, "AZURE_STORAGE_KEY": cloud("az")["AZURE_STORAGE_KEY"],
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=devstoreaccount1;BlobEndpoint={address}/devstoreaccount1",
        })  # fmt: skip
        with pytest.raises(UserError, match=f"^{scheme}: cannot reach the store for {scheme}://b-b/x; check") as caught:
            read_object(f"{scheme}://b-b/x")
        assert caught.value.exit_code == 2


def test_shards_are_listed_and_read_through_faults(faults, place, pauses, tmp_path, monkeypatch):
    read_shards_through(faults, f"{place}/set", tmp_path, monkeypatch)
