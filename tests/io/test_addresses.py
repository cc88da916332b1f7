"""Addresses are taken byte for byte: whatever stands in a key, it is read back as it was written."""

import re

import pytest

from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.io.addresses import parse
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import open_object, open_store, read_object
from camrobust.results.folder import fresh_folder, open_run
from tests.photos import write_photos
from tests.runs import config

KEYS = (
    "a/b", "cam#2/z.jpg", "cam?2/z.jpg", "a%20b", "a%2Fb", "a b ", "a+b", "ü", "u\u0308", "sub//c.jpg", "/lead",
    "//lead", "a/./b", "a/../b", "tail/", "tail//", "star*[1]{a}", "a:b@c;d=e&f", "back\\slash", "q://x", "new\nline",
    ".", "..",
)  # fmt: skip


@pytest.mark.parametrize("place", ["s3://b", "gs://b", "abfs://c@account.dfs.core.windows.net", "file://"])
@pytest.mark.parametrize("key", KEYS)
def test_an_address_is_bucket_and_key_byte_for_byte(place, key):
    address = parse(f"{place}/{key}")
    assert (f"{address.scheme}://{address.bucket}", address.key) == (place, key)
    assert str(address) == f"{place}/{key}"
    folder, name = address.split()
    assert folder.key + name == key
    assert folder.folder() == folder


@pytest.mark.parametrize(
    ("uri", "prefix", "spelled"),
    [
        ("s3://b", "", "s3://b"),
        ("s3://b/", "", "s3://b"),
        ("s3://b//", "/", "s3://b//"),
        ("s3://b/cam", "cam/", "s3://b/cam"),
        ("s3://b/cam/", "cam/", "s3://b/cam"),
        ("s3://b/cam//", "cam//", "s3://b/cam//"),
        ("s3://b//cam", "/cam/", "s3://b//cam"),
        ("s3://b/cam#2", "cam#2/", "s3://b/cam#2"),
        ("s3://b/a?v=1/", "a?v=1/", "s3://b/a?v=1"),
    ],
)
def test_a_folder_has_one_prefix_and_one_spelling_that_names_it_again(uri, prefix, spelled):
    store = open_store(uri)
    assert store.place.key == prefix
    assert store.uri == spelled
    assert open_store(store.uri) == store
    assert store.locate("x") == f"s3://b/{prefix}x"
    assert open_object(store.locate("x")) == (store, "x")


def test_what_has_no_scheme_is_a_path_whatever_stands_in_it():
    assert [parse(path).scheme for path in ("a://b", "/a://b", "x/a://b", "s3:/b", "1a://b")] == ["a", "", "", "", ""]


def test_a_file_url_is_three_slashes_and_a_path_as_it_is(tmp_path):
    for name in ("a%20b", "a b", "c#1?x", "c"):
        (tmp_path / name).write_text(name)
    for name in ("a%20b", "a b", "c#1?x"):
        assert read_object(f"file://{tmp_path}/{name}").decode() == name
    (tmp_path / "a%20b").unlink()
    with pytest.raises(MissingObjectError, match="there is no file"):
        read_object(f"file://{tmp_path}/a%20b")
    assert open_store(f"file://{tmp_path}/") == open_store(f"file://{tmp_path}") == open_store(str(tmp_path))
    for uri in ("file://photos/x", "file://localhost/photos", "file://"):
        sentence = f"store: '{uri}' must be file:/// and an absolute path without any encoding; correct it"
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            open_store(uri)


@pytest.mark.parametrize(
    "uri",
    ["s3://b/runs//x", "s3://b//runs", "s3://b/runs/x//", "s3://b/./x", "s3://b/a/../x", "s3://b/..", "s3://b/a\nb"],
)
def test_an_output_that_other_programs_would_look_for_elsewhere_is_refused(uri):
    sentence = (
        f"output: '{uri.removesuffix('/') + '/'}' must hold no empty name, '.' or '..' between slashes and no control "
        "character, as programs that read it would look elsewhere; choose another name"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        open_run(uri)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_such_an_output_is_refused_before_anything_is_spent(command, tmp_path, capsys):
    write_photos(tmp_path / "set", 1)
    path = config(tmp_path, tmp_path / "set", output="s3://b/runs//x")
    assert main([command, str(path)]) == 2
    sentence = "camrobust: output: 's3://b/runs//x/' must hold no empty name, '.' or '..' between slashes"
    assert capsys.readouterr().err.splitlines()[-1].startswith(sentence)


def test_a_fresh_folder_lies_beside_its_own_spelling(tmp_path):
    for number, wanted in ((1, "run"), (2, "run-2"), (3, "run-3")):
        folder = fresh_folder(f"{tmp_path}/run" + "/" * number)
        assert folder.uri == str(tmp_path / wanted)
        folder.write_json("run.json", {})
