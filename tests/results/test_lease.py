import json
import os
import subprocess
import sys
import threading

import pytest

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.store import open_store
from camrobust.results.lease import acquire, held, newest_lease


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "2")
    if request.param == "folder":
        return open_store(str(tmp_path / "run"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/run")


def lease_files(store):
    return [(entry.key, json.loads(store.read(entry.key))) for entry in store.list("lease/")]


def nothing(_):
    return []


def wait_for_beat(store, number, lease):
    """Return after the holder has looked at its lease and written a beat."""
    for _ in range(600):
        if f"beats/{number:08}.json" in {entry.key for entry in store.list("beats/")}:
            return
        lease._thread.join(0.05)
        assert lease._thread.is_alive(), "the holder has lost its lease"
    pytest.fail("the holder never wrote a beat")


def elsewhere(store):
    """The lease as another machine would have written it."""
    key, record = lease_files(store)[-1]
    store.write(key, json.dumps({**record, "machine": "another"}).encode())


def test_create_lets_one_writer_win(store):
    contents = [f"{number}".encode() for number in range(8)]
    won = []
    gate = threading.Barrier(8)

    def write(content):
        gate.wait()
        if store.create("one", content):
            won.append(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [store.read("one")]
    assert store.create("one", won[0])  # a retry of the winner, whose first answer was lost
    assert not store.create("one", b"late")


def test_a_second_driver_is_refused_while_the_first_beats(store):
    with held(store, nothing):
        said = []
        with pytest.raises(UserError, match=r"another driver is measuring in .*; wait until it is done"):
            acquire(store, nothing, said.append)
        assert len(said) == 1
    with held(store, nothing) as second:
        assert second.number == 2
        files = lease_files(store)
        assert [key for key, _ in files] == ["lease/00000001.json", "lease/00000002.json"]
    assert lease_files(store) == files
    assert json.loads(store.read("beats/00000002.json"))["released"]


def test_a_lease_of_another_machine_lapses_without_a_beat(store):
    acquire(store, nothing)
    elsewhere(store)
    with held(store, nothing) as second:
        assert second.number == 2


def test_a_lease_of_a_dead_process_here_is_taken_at_once(store):
    code = (
        "import sys, os; from camrobust.results.lease import acquire; from camrobust.io.store import open_store\n"
        "acquire(open_store(sys.argv[1]), lambda _: []); os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, store.uri], check=False, env={**os.environ})
    assert process.returncode == -9
    said = []
    assert acquire(store, nothing, said.append).number == 2
    assert said == []


def test_a_driver_whose_lease_was_taken_stops(store):
    with held(store, nothing) as first:
        first.check()
        store.create("lease/00000002.json", b"{}")
        first._thread.join()
        with pytest.raises(RunFailed, match=r"another driver has taken it over; run again to resume what is left"):
            first.check()
    assert lease_files(store)[-1] == ("lease/00000002.json", {})


def test_a_lease_that_cannot_be_renewed_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    store = open_store(str(tmp_path / "run"))
    with held(store, nothing) as lease:
        for entry in list(store.list("lease/")):
            store.delete(entry.key)
        (tmp_path / "run" / "lease").rmdir()
        (tmp_path / "run" / "lease").write_text("a file where the folder was")
        lease._thread.join()
        with pytest.raises(RunFailed, match=r"another driver has taken it over|could not be renewed for 1 s"):
            lease.check()


def test_a_renewed_lease_lists_what_counts_and_keeps_others_out(store):
    with held(store, nothing) as lease:
        lease.renew(lambda number: [f"commits/{number}"])
        assert lease.number == 2
        assert newest_lease(store).accepts == ("commits/2",)
        wait_for_beat(store, 2, lease)
        lease.check()
        with pytest.raises(UserError, match="another driver is measuring"):
            acquire(store, nothing)
        store.create("lease/00000003.json", b'{"holder": "other", "accepts": []}')
        with pytest.raises(RunFailed, match="another driver has taken it over"):
            lease.renew(nothing)
    assert "beats/00000003.json" not in {entry.key for entry in store.list("beats/")}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"accepts": 3}', b'{"process": "x"}', b"[" * 100_000])
def test_a_lease_that_camrobust_does_not_write_is_refused(tmp_path, content):
    store = open_store(str(tmp_path / "run"))
    store.write("lease/00000004.json", content)
    with pytest.raises(UserError, match=r"lease/00000004\.json is not what camrobust writes there; choose another"):
        newest_lease(store)


def test_a_lease_of_version_0_1_is_watched_and_taken_over(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    store = open_store(str(tmp_path / "run"))
    old = {"holder": "a", "machine": "another", "process": 1, "started": "1"}
    store.write("lease/00000005.json", json.dumps({**old, "beat": 1}).encode())
    beating = threading.Timer(0.3, lambda: store.write("lease/00000005.json", json.dumps({**old, "beat": 2}).encode()))
    beating.start()
    with pytest.raises(UserError, match="another driver is measuring"):
        acquire(store, nothing)
    beating.join()
    assert (newest_lease(store).number, newest_lease(store).generation) == (5, 0)
    assert acquire(store, nothing).number == 6
    assert newest_lease(store).generation == 6
