"""The right object under the right name on Google and Azure; names that their clients change are refused."""

import base64
import hashlib
import hmac
import os
import re
from email.utils import formatdate
from urllib.parse import quote
from urllib.request import Request, urlopen

import polars as pl
import pytest

from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_images
from camrobust.io.store import open_store, read_object

pytestmark = pytest.mark.s3
NAMES = (
    "a%20b.png", "a b.png", "a+b.png", "a%2Bb.png", "a#1.png", "a?1.png", "a.png", "ü.png", "u\u0308.png",
    "lr=0.1/e.png", "b[1]*.png", "a:b@c;d&e.png",
)  # fmt: skip


def put(uri, content):
    """Write an object by plain HTTP, as pyarrow's clients refuse some keys."""
    scheme, _, place = uri.partition("://")
    bucket, _, key = place.partition("/")
    if scheme == "gs":
        server = os.environ["STORAGE_EMULATOR_HOST"]
        address = f"{server}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
        request = Request(address, content, {"Content-Type": "application/octet-stream"}, method="POST")
    else:
        variable = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        server, _, account = variable.partition("BlobEndpoint=")[2].rpartition("/")
        path = f"/{account}/{bucket.partition('@')[0]}/{quote(key)}"
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = ["PUT", "", "", str(len(content)), "", "application/octet-stream", *[""] * 6]
        lines += [f"{name}:{value}" for name, value in headers.items()] + [f"/{account}{path}"]
        secret = base64.b64decode(os.environ["AZURE_STORAGE_KEY"])
        signature = hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).digest()
        headers |= {
            "Content-Type": "application/octet-stream",
            "Authorization": f"SharedKey {account}:{base64.b64encode(signature).decode()}",
        }
        request = Request(f"{server}{path}", content, headers, method="PUT")
    with urlopen(request) as answer:
        answer.read()


@pytest.mark.parametrize("slash", ["", "/"])
def test_photos_with_odd_names_are_listed_and_not_mixed_up(place, slash):
    for name in NAMES:
        put(f"{place}/cam#2?v=1/{name}", name.encode())
        for other in ("cam", "cam#2", "cam#2?v=12"):
            put(f"{place}/{other}/{name}", b"another")
    listed = list_images("x", f"{place}/cam#2?v=1{slash}")
    assert dict(listed.select("image_id", "uri").iter_rows()) == {name: f"{place}/cam#2?v=1/{name}" for name in NAMES}
    assert [read_object(uri).decode() for uri in listed["uri"]] == listed["image_id"].to_list()


def refused(uri):
    return re.escape(
        f"{uri.partition('://')[0]}: '{uri}' must hold no empty name, '.' or '..' between slashes and no control "
        "character, as this cloud's client would look elsewhere; rename it, or copy it to a folder or s3://"
    )


@pytest.mark.parametrize("key", ["set/sub//c.png", "set/./c.png"])
def test_photos_with_names_that_the_client_changes_are_refused(place, key):
    put(f"{place}/set/sub/c.png", b"another")
    put(f"{place}/{key}", b"1")
    with pytest.raises(UserError, match=f"^{refused(f'{place}/{key}')}$"):
        list_images("x", f"{place}/set")


@pytest.mark.parametrize("key", ["sub//c.png", "/c.png", "a/./c.png", "a/../c.png", "a\nb/c.png"])
def test_addresses_that_the_client_changes_are_refused(place, key, tmp_path):
    folder = f"{place}/{key.removesuffix('c.png')}"
    with pytest.raises(UserError, match=f"^{refused(folder)}$"):
        read_object(f"{place}/{key}")
    with pytest.raises(UserError, match=f"^{refused(folder)}$"):
        open_store(folder.removesuffix("/") if key == "a/./c.png" else folder)
    pl.DataFrame({"uri": [f"{place}/fine.png", f"{place}/{key}"]}).write_csv(tmp_path / "set.csv")
    sentence = (
        f"manifest: '{place}/{key}' must name an object, and on gs:// and az:// hold no empty name, '.' or '..' between"
        " slashes and no control character; correct or rename it"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        list_images("x", str(tmp_path / "set.csv"))
