"""Archives and tables of pictures that are cut off, or made to be read beyond what they hold."""

import tarfile
from dataclasses import dataclass, field
from random import Random
from zipfile import ZipFile, ZipInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from camrobust.contract.errors import UserError
from camrobust.io import ranges, readings
from camrobust.io.archives import photos_in_archive
from camrobust.io.image_errors import ImageError
from camrobust.io.manifest import list_dataset, list_images
from camrobust.io.places import parse_place
from camrobust.io.ranges import Ranged
from camrobust.io.readings import read_picture
from tests.packs import tar_of, zip_of

PHOTOS = [(f"{number}.jpg", b"\xff\xd8" + Random(number).randbytes(700)) for number in range(3)]
FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.list_(pa.string()))])


@dataclass
class Bucket:
    """A store that keeps what was asked of it; as S3 does, it sends the whole object for a range without bytes."""

    content: bytes
    asked: list = field(default_factory=list)

    def locate(self, key):
        return f"s3://b/{key}"

    def read_range(self, key, start, count):
        self.asked.append((start, count))
        return self.content[start : start + count] if count > 0 else self.content


def refused(path):
    with pytest.raises(UserError) as caught:
        list_dataset("d", str(path))
    return str(caught.value)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_an_archive_that_is_cut_anywhere_never_looks_whole(form, tmp_path):
    """At every block, a sentence or a remark; and no byte is asked for that is not there."""
    {"tar": tar_of, "zip": zip_of}[form](tmp_path / "x", PHOTOS)
    whole, said = (tmp_path / "x").read_bytes(), set()
    for end in range(512, len(whole), 512):
        store = Bucket(whole[:end])
        try:
            found = photos_in_archive(store, f"x.{form}", end, [".jpg"])
        except UserError as error:
            said.add(str(error)[: len("images: s3://b/x.tar is ")])
        else:
            said.update(found.remarks)
            assert found.names == [name for name, _ in PHOTOS][: len(found.names)]
            assert found.remarks or len(found.names) == len(PHOTOS)
        assert all(0 <= start < start + count <= end for start, count in store.asked)
    unfinished = "s3://b/x.tar lacks the zeros that end a tar; if it was cut off, the photos behind the cut are missing"
    assert said == {f"images: s3://b/x.{form} is "} | ({unfinished} if form == "tar" else set())


def test_behind_the_end_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(ranges, "FAR_BYTES", 64)
    store = Bucket(bytes(1000))
    file = Ranged(store, "x", 1000)
    for start, count in ((1000, 0), (1000, 10), (2000, 0), (2**80, 1), (10, 0)):
        file.seek(start)
        assert file.read(count) == file.at(start, count) == b""
    assert store.asked == []
    assert len(file.at(990, 100)) == 10
    assert store.asked == [(990, 10)]


def test_a_column_beside_the_pictures_has_one_value_in_each_row(tmp_path):
    """Else what it unpacks to would not be counted before it is read."""
    path, raw = tmp_path / "x.parquet", pa.array([b"x", b"y"])
    pq.write_table(pa.table({"image": pa.array([{"bytes": b"x", "path": ["a", "b"]}], FEATURE)}), path)
    assert refused(path) == f"manifest: {path} has no column 'uri', only image; rename or add it"
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    )
    pictures = pa.array([{"bytes": b"x", "path": "a"}, {"bytes": b"y", "path": "b"}])
    pq.write_table(pa.table({"image": pictures, "label": tensor}), path)
    assert refused(path).startswith(
        f"images: {path} is not a readable parquet file (the column 'label' must hold one value in each row, not exten"
    )
    pq.write_table(pa.table({"uri": ["a.jpg", "b.jpg"], "label": tensor}), path)
    assert "the column 'label' must hold one value in each row, not extension" in refused(path)
    pq.write_table(pa.Table.from_arrays([pictures, raw, raw], ["image", "label", "label"]), path)
    assert refused(path) == f"images: {path} has the column 'label' twice; keep one"


def test_a_list_of_images_names_places_that_can_be_read(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match="a place in a file that this version does not read"):
        parse_place("parquet 4+10 LZO 0 0 of 1")
    tar_of(tmp_path / "x.tar", PHOTOS)
    (row, *_) = list_images("d", str(tmp_path / "x.tar"))["uri", "place"].rows()
    assert read_picture(*row) == PHOTOS[0][1]
    monkeypatch.setattr(readings, "MOST_BYTES", 1000)
    with pytest.raises(ImageError, match=rf"it takes more than 1000 bytes of {row[0]}, and is not read"):
        read_picture(*row)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_member_without_a_name_is_a_sentence(form, tmp_path):
    if form == "tar":
        tar_of(tmp_path / "x.tar", [("", b"x"), *PHOTOS])
    else:
        with ZipFile(tmp_path / "x.zip", "w") as archive, archive.open(ZipInfo(""), "w") as member:
            member.write(b"x")
    assert refused(tmp_path / f"x.{form}") == (
        f"images: {tmp_path}/x.{form} holds a file without a name; pack its files again"
    )


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_long_number_in_a_header_takes_no_long_time(kind, tmp_path):
    """Python's tarfile of this version would need minutes for a megabyte of digits."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 2**20
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"7" * 2**20 + bytes(1024))
    assert refused(tmp_path / "x.tar") == (
        f"images: {tmp_path}/x.tar is not a readable archive (a header holds a number of 200 digits or more); get an "
        "undamaged copy"
    )
