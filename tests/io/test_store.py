"""A local folder as a store: links, pipes, hidden and forbidden files among the images."""

import os
import subprocess
import sys

import pytest

from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import open_store, read_object


def test_an_object_above_the_limit_is_not_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**12)
    (tmp_path / "small").write_bytes(b"12")
    store = open_store(str(tmp_path))
    assert store.read("small", 2) == b"12"
    with pytest.raises(TooLargeObjectError, match=r"huge has more than 1000000 bytes and is not read"):
        read_object(str(tmp_path / "huge"), most=10**6)


def test_pipes_and_folders_are_missing_files_and_never_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    store = open_store(str(tmp_path))
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(MissingObjectError, match=f"^{tmp_path}/{name} is not a regular file$"):
            store.read(name, 10**6)
    for name in ("nothing.jpg", "folder.jpg/nothing", "pipe.jpg/x"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            store.read(name, 10**6)
    with pytest.raises(MissingObjectError, match="there is no file"):
        store.read("folder.jpg")


def check_ranges(store):
    """Any bytes of an object, fewer at its end, and its size."""
    store.write("some", bytes(range(10)))
    assert store.size_bytes("some") == 10
    assert [store.read_range("some", *asked) for asked in ((0, 3), (4, 2), (8, 5), (10, 1), (50, 4), (2, 0))] == [
        b"\0\1\2", b"\4\5", b"\x08\x09", b"", b"", b""
    ]  # fmt: skip
    for look in (store.size_bytes, lambda key: store.read_range(key, 1, 1)):
        with pytest.raises(MissingObjectError):
            look("none")


def test_a_range_of_a_file(tmp_path):
    check_ranges(open_store(str(tmp_path)))
    os.mkfifo(tmp_path / "pipe")
    for look in (lambda store: store.size_bytes("pipe"), lambda store: store.read_range("pipe", 1, 1)):
        with pytest.raises(MissingObjectError, match="is not a regular file"):
            look(open_store(str(tmp_path)))


@pytest.mark.s3
def test_a_range_of_an_object(bucket):
    check_ranges(open_store(f"s3://{bucket}/a"))


def test_an_impossible_path_is_a_missing_file(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    store = open_store(str(tmp_path))
    for name in ("a" * 300, "null\0byte", "loop"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            store.read(name, 10**6)
    for uri in (str(tmp_path / "loop"), str(tmp_path / ("a" * 300)), f"{tmp_path}/null\0byte", "~nobody9/x.jpg"):
        with pytest.raises(MissingObjectError, match="there is no file"):
            read_object(uri, most=10**6)


def test_a_listing_follows_links_and_skips_hidden_files(tmp_path):
    (tmp_path / "far" / "class").mkdir(parents=True)
    (tmp_path / "set" / ".hidden").mkdir(parents=True)
    (tmp_path / "set" / "b").mkdir()
    for path in ("far/class/1.jpg", "set/.hidden/2.jpg", "set/.3.jpg", "set/b/4.jpg"):
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "set" / "a").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "b" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "set" / "pipe.jpg")
    # A link that comes alphabetically before the folder it leads to.
    (tmp_path / "set" / "aa").symlink_to(tmp_path / "set" / "b")
    (tmp_path / "set" / "lost+found").mkdir(mode=0)
    listed = list(open_store(str(tmp_path / "set")).list())
    assert [(entry.key, entry.size_bytes) for entry in listed] == [("a/class/1.jpg", 1), ("b/4.jpg", 1)]


def test_a_listing_survives_files_that_come_and_go(tmp_path):
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_forbidden_folder_is_an_error(tmp_path, mode):
    closed = tmp_path / "set" / "closed"
    closed.mkdir(parents=True)
    (closed / "1.jpg").write_bytes(b"x")
    closed.chmod(mode)
    code = (
        "import os, sys\n"
        "from camrobust.io.store import open_store\n"
        "from camrobust.io.objects import DeniedObjectError\n"
        "os.setuid(65534)\n"
        "try: print(list(open_store(sys.argv[1]).list()))\n"
        "except DeniedObjectError as error: print('denied', error)"
    )
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o111)
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"denied store: cannot list {closed}")


def test_an_unreadable_folder_does_not_look_empty(tmp_path):
    (tmp_path / "kept").write_bytes(b"x")
    code = (
        "import sys; from camrobust.io.store import open_store; from camrobust.contract.errors import RunFailed\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(open('/dev/null'))\n"
        "except OSError: pass\n"
        "try: list(open_store(sys.argv[1]).list())\n"
        "except RunFailed as error: print(error)"
    )
    command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == f"store: cannot list {tmp_path} (Too many open files); fix the cause and run again\n"
