"""A folder as a store: what stands among the images and is none."""

import os

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
