import json
import os
import subprocess
import sys
import threading

import pytest

from camrobust.errors import RunFailed, UserError
from camrobust.io.lease import acquire, held
from camrobust.io.store import open_store


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "2")
    if request.param == "folder":
        return open_store(str(tmp_path / "run"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/run")


def lease_files(store):
    return [(entry.key, json.loads(store.read(entry.key))) for entry in store.list("lease/")]


def elsewhere(store):
    """The lease as another machine would have written it."""
    (key, found) = lease_files(store)[-1]
    store.write(key, json.dumps({**found, "machine": "another"}).encode())


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
    with held(store):
        said = []
        with pytest.raises(UserError, match=r"another driver is measuring in .*; wait until it is done"):
            acquire(store, said.append)
        assert len(said) == 1
    with held(store) as second:
        assert second.number == 2
        assert [key for key, _ in lease_files(store)] == ["lease/00000002.json"]
    assert lease_files(store) == [("lease/00000002.json", {"released": True})]


def test_a_lease_of_another_machine_lapses_without_a_beat(store):
    acquire(store)
    elsewhere(store)
    with held(store) as second:
        assert second.number == 2


def test_a_lease_of_a_dead_process_here_is_taken_at_once(store):
    code = (
        "import sys, os; from camrobust.io.lease import acquire; from camrobust.io.store import open_store\n"
        "acquire(open_store(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, store.uri], check=False, env={**os.environ})
    assert process.returncode == -9
    said = []
    assert acquire(store, said.append).number == 2
    assert said == []


def test_a_driver_whose_lease_was_taken_stops(store):
    with held(store) as first:
        first.check()
        store.create("lease/00000002.json", b"{}")
        first._thread.join()
        with pytest.raises(RunFailed, match=r"another driver has taken it over; run again to resume what is left"):
            first.check()
    assert lease_files(store)[-1] == ("lease/00000002.json", {})


def test_a_lease_that_cannot_be_renewed_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    store = open_store(str(tmp_path / "run"))
    with held(store) as lease:
        for entry in list(store.list("lease/")):
            store.delete(entry.key)
        (tmp_path / "run" / "lease").rmdir()
        (tmp_path / "run" / "lease").write_text("a file where the folder was")
        lease._thread.join()
        with pytest.raises(RunFailed, match=r"another driver has taken it over|could not be renewed for 1 s"):
            lease.check()
