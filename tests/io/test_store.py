"""A folder as a store: what stands among the images and is none."""

import os
import subprocess
import sys

import pytest

from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import open_store, read_object


def test_an_object_is_left_unread_that_is_larger_than_it_may_be(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**12)
    (tmp_path / "small").write_bytes(b"12")
    store = open_store(str(tmp_path))
    assert store.read("small", 2) == b"12"
    with pytest.raises(TooLargeObjectError, match=r"huge has more than 1000000 bytes, and is left unread"):
        read_object(str(tmp_path / "huge"), most=10**6)


def test_what_is_no_file_is_missing_instead_of_read_without_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    store = open_store(str(tmp_path))
    for name in ("pipe.jpg", "folder.jpg", "nothing.jpg", "folder.jpg/nothing", "pipe.jpg/x"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            store.read(name, 10**6)
    with pytest.raises(MissingObjectError, match="there is no file"):
        store.read("folder.jpg")


def test_a_path_that_can_be_none_is_a_missing_file(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    store = open_store(str(tmp_path))
    for name in ("a" * 300, "null\0byte", "loop"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            store.read(name, 10**6)
    for uri in (str(tmp_path / "loop"), str(tmp_path / ("a" * 300)), f"{tmp_path}/null\0byte", "~nobody9/x.jpg"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            read_object(uri, most=10**6)


def test_a_folder_is_listed_through_links_and_without_what_is_hidden(tmp_path):
    (tmp_path / "far" / "class").mkdir(parents=True)
    (tmp_path / "set" / ".hidden").mkdir(parents=True)
    (tmp_path / "set" / "b").mkdir()
    for path in ("far/class/1.jpg", "set/.hidden/2.jpg", "set/.3.jpg", "set/b/4.jpg"):
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "set" / "a").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "b" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "set" / "pipe.jpg")
    listed = list(open_store(str(tmp_path / "set")).list())
    assert [(entry.key, entry.size_bytes) for entry in listed] == [("a/class/1.jpg", 1), ("b/4.jpg", 1)]


def test_files_that_come_and_go_while_a_folder_is_listed_end_nothing(tmp_path):
    (tmp_path / "kept").write_bytes(b"x")
    code = "import sys, pathlib\np = pathlib.Path(sys.argv[1], 'brief')\nwhile True: p.write_bytes(b'x'); p.unlink()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        store = open_store(str(tmp_path))
        found = {entry.key for _ in range(3000) for entry in store.list()}
    finally:
        other.kill()
        other.wait()
    assert "kept" in found <= {"kept", "brief"}
