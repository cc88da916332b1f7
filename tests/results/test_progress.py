"""Progress is written, read back and added up; a damaged file is ignored."""

import threading

import pytest

from camrobust.io.store import open_store
from camrobust.results import lease
from camrobust.results.progress import Progress, Stage, in_all, read_progress, write_progress

NOW = Progress(3, 12, 1, 6.0, {"load": Stage(5.0, 2.5, 1), "explain": Stage(3.0, 9.0, 2)})


def test_what_is_written_is_read_and_adds_up(tmp_path):
    store = open_store(str(tmp_path))
    write_progress(store, 2, NOW, "later")
    write_progress(store, 1, Progress(1, 13, 0, 2.0, {"load": Stage(1.0, 0.5, 1)}), "earlier")
    found = read_progress(store)
    assert [updated for _, updated in found] == ["earlier", "later"]
    assert found[1][0] == NOW
    assert in_all(attempt for attempt, _ in found) == {"load": Stage(6.0, 3.0, 2), "explain": Stage(3.0, 9.0, 2)}
    assert (NOW.per_s, NOW.left_s) == (0.5, 18.0)
    assert Progress(0, 12, 0, 6.0, {}).left_s is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"updated": "x", "stages": 3}', b"\xff"])
def test_a_damaged_file_is_left_out(tmp_path, content):
    store = open_store(str(tmp_path))
    write_progress(store, 1, NOW, "now")
    store.write("progress/00000002.json", content)
    assert [found for found, _ in read_progress(store)] == [NOW]


def test_whether_a_driver_is_at_work(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "2")
    assert not lease.is_held(store)
    with lease.held(store, lambda _: []):
        assert lease.is_held(store)
        # As seen from another machine: by the beats.
        monkeypatch.setattr(lease, "_machine", lambda: "another")
        assert lease.is_held(store)
    assert not lease.is_held(store)
    store.write("lease/00000009.json", b'{"holder": "a", "machine": "gone", "beat": 0}')
    assert not lease.is_held(store)
    beat = threading.Timer(
        0.3, lambda: store.write("lease/00000009.json", b'{"holder": "a", "machine": "gone", "beat": 1}')
    )
    beat.start()
    assert lease.is_held(store)
    beat.join()
