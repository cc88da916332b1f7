"""Photos inside tars, zips and parquet: where they lie, what is said, and what is refused."""

import bz2
import gzip
import io
import random
import tarfile
import zipfile

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from camrobust.contract.errors import UserError
from camrobust.io import manifest, picture_tables
from camrobust.io.braces import expanded
from camrobust.io.image_errors import ImageError
from camrobust.io.manifest import list_dataset, list_images
from camrobust.io.parquet_excerpt import values_of
from camrobust.io.picture_tables import Columns
from camrobust.io.places import parse_place, pictures
from camrobust.io.readings import read_picture, readings
from camrobust.io.store import open_store
from tests.packs import in_shards, samples, table_of, tar_of, zip_of


def jpeg(seed, side=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


PHOTOS = {f"{'ab'[number // 5]}/{number:03}.jpg": jpeg(number) for number in range(10)}
LABELS = {name: number % 4 for number, name in enumerate(PHOTOS)}


def contents(listed):
    return {name: read_picture(uri, place) for name, uri, place in listed.select("image_id", "uri", "place").rows()}


def columns_of(images, columns):
    return list_dataset("d", images, columns=columns).images


def refused(images, **options):
    with pytest.raises(UserError) as caught:
        list_dataset("d", str(images), **options)
    return str(caught.value)


def write(folder, form, shards, photos=PHOTOS):
    """The photos in so many files of a form; gives the pattern that names them."""
    folder.mkdir()
    for number, some in enumerate(in_shards(photos, shards)):
        path = folder / f"set-{number:02}.{form.partition(' ')[0]}"
        if form == "tar plain":
            tar_of(path, some.items())
        elif form == "tar gnu":
            tar_of(path, samples(some, LABELS), tarfile.GNU_FORMAT)
        elif form == "tar":
            tar_of(path, samples(some, LABELS))
        elif form == "zip stored":
            zip_of(path, samples(some, LABELS), zipfile.ZIP_STORED)
        elif form == "zip":
            zip_of(path, samples(some, LABELS))
        else:
            table_of(path, some, LABELS, row_group_size=3)


FORMS = ("tar", "tar plain", "tar gnu", "zip", "zip stored", "parquet")


@pytest.mark.parametrize("form", FORMS)
def test_photos_ids_and_labels_do_not_depend_on_the_number_of_files(form, tmp_path):
    right = sorted((name, None if "plain" in form else LABELS[name]) for name in PHOTOS)
    for shards in (1, 4):
        folder = tmp_path / str(shards)
        write(folder, form, shards)
        listing = list_dataset("d", str(folder))
        assert sorted(listing.images.select("image_id", "label").rows()) == right
        assert contents(listing.images) == PHOTOS
        assert (listing.left_out, listing.remarks) == ({}, ())
        suffix = form.partition(" ")[0]
        for given in (f"*.{suffix}", f"set-{{00..{shards - 1:02}}}.{suffix}", "set-00." + suffix):
            again = list_dataset("d", f"{folder}/{given}").images
            assert (
                again.rows()
                == listing.images.filter(
                    pl.col("uri").str.contains(given[-9:], literal=True) if given.startswith("set-00") else True
                ).rows()
            ), given


def test_neighbours_are_read_together(tmp_path):
    tar_of(tmp_path / "x.tar", samples(PHOTOS, LABELS))
    (tmp_path / "y.tar").write_bytes((tmp_path / "x.tar").read_bytes())
    listed = list_images("d", str(tmp_path / "x.tar"))
    wanted = {number: (uri, parse_place(place)) for number, (uri, place) in enumerate(listed["uri", "place"].rows())}
    (reading,) = readings(wanted)
    assert len(reading.spans) == 1
    assert list(reading.pictures(reading.read("credentials"))) == list(PHOTOS.values())
    other = str(tmp_path / "y.tar")
    assert len(readings(wanted | {10: (other, wanted[0][1])})) == 2
    # What lies far apart takes a request each, and what is large is read alone.
    far = {0: ("u", parse_place("tar 0+100 00000000")), 1: ("u", parse_place(f"tar {2**20}+100 00000000"))}
    assert [len(one.spans) for one in readings(far)] == [2]
    ends = {0: "tar 0+16777000 00000000", 1: "tar 16777512+100 00000000"}
    large = {number: ("u", parse_place(place)) for number, place in ends.items()}
    assert [one.numbers for one in readings(large)] == [(0,), (1,)]


@pytest.mark.parametrize("number", range(12))
def test_pages_of_large_row_groups_are_read_alone(number, tmp_path, monkeypatch):
    """Against pyarrow's own reading of the whole file."""
    dice = random.Random(number)
    monkeypatch.setattr(picture_tables, "WHOLE_BYTES", 1)
    monkeypatch.setattr(picture_tables, "RUN_BYTES", dice.choice([1, 9000]))
    cells = [None if dice.random() < 0.1 else dice.randbytes(dice.randint(1, 2000)) for _ in range(80)]
    cells[7] = cells[60]
    named = {"jpg": pa.array(cells, dice.choice([pa.binary(), pa.large_binary()])), "fine": pa.array(range(80))}
    options = {
        "compression": dice.choice(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
        "row_group_size": dice.choice([9, 80]),
        "use_dictionary": dice.random() < 0.7, "data_page_version": dice.choice(["1.0", "2.0"]),
        "data_page_size": 2000, "dictionary_pagesize_limit": 6000, "write_batch_size": 4,
    }  # fmt: skip
    pq.write_table(pa.table(named), tmp_path / "x.parquet", **options)
    listed = columns_of(str(tmp_path / "x.parquet"), Columns("jpg", "fine"))
    assert listed["image_id"].to_list() == [f"{row:09}" for row in range(80)]
    assert listed["label"].to_list() == list(range(80))
    places = [parse_place(place) for place in listed["place"]]
    assert [str(place) for place in places] == listed["place"].to_list()
    content = (tmp_path / "x.parquet").read_bytes()
    read = list(pictures(places, lambda span: content[span.start : span.end]))
    assert [None if isinstance(one, ImageError) else one for one in read] == cells
    assert {one.kind for one in read if isinstance(one, ImageError)} <= {"missing"}
    assert pq.read_table(tmp_path / "x.parquet")["jpg"].to_pylist() == cells


def test_rows_are_numbered_where_paths_do_not_tell_them_apart(tmp_path):
    table_of(tmp_path / "a.parquet", PHOTOS, LABELS)
    table_of(tmp_path / "b.parquet", PHOTOS, LABELS)
    listing = list_dataset("d", str(tmp_path), exclude=["00000000[1-9]"])
    assert listing.images["image_id"].to_list() == ["000000000", *(f"{row:09}" for row in range(10, 20))]
    assert listing.left_out == {"excluded": 9}
    assert listing.remarks == (
        "dataset 'd': the paths beside the pictures are not all there or not all different, so rows are numbered",
    )


def test_a_parquet_manifest_stays_a_manifest(tmp_path):
    pl.DataFrame({"uri": ["a.jpg"], "image": [{"bytes": b"x", "path": "y"}]}).write_parquet(tmp_path / "m.parquet")
    assert list_images("d", str(tmp_path / "m.parquet")).select("image_id", "place").rows() == [("a.jpg", None)]
    listed = columns_of(str(tmp_path / "m.parquet"), Columns("image"))
    assert contents(listed) == {"y": b"x"}


def test_columns_that_do_not_hold_pictures_are_told(tmp_path):
    path = tmp_path / "x.parquet"
    two = {"img": [{"bytes": b"x", "path": "y"}], "mask": [{"bytes": b"x", "path": "y"}], "n": [1], "raw": [b"x"]}
    pl.DataFrame(two).write_parquet(path)
    assert refused(path) == f"images: {path} has several columns of pictures (img, mask); name one as image_column"
    assert refused(path, columns=Columns("x")) == (
        f"images: {path} has no column 'x' to be the image_column, only img, mask, n, raw"
    )
    assert refused(path, columns=Columns("n")) == (
        f"images: the column 'n' of {path} must hold the bytes of pictures, or a structure of bytes and path, got int64"
    )
    assert refused(path, columns=Columns("img", "z")) == f"images: {path} has no column 'z' to be the label_column"
    assert contents(columns_of(str(path), Columns("raw"))) == {"000000000": b"x"}
    pl.DataFrame({"n": [1], "raw": [b"x"]}).write_parquet(path)
    assert refused(path) == f"manifest: {path} has no column 'uri', only n, raw; rename or add it"
    feature = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "a.jpg"}], feature)}), path)
    assert refused(path) == (
        f"images: the column 'image.bytes' of {path} holds no picture, perhaps only paths; write the pictures into it, "
        "or give a manifest with a column uri"
    )
    (tmp_path / "m.csv").write_text("uri\na.jpg\n")
    assert refused(tmp_path / "m.csv", columns=Columns("jpg")) == (
        "dataset 'd': image_column and label_column are for parquet with pictures inside; leave them out"
    )


def header(name, kind, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def test_only_files_of_an_archive_count_and_the_rest_is_said(tmp_path):
    photo = jpeg(0)
    members = [
        header("d", tarfile.DIRTYPE), ("./d/1.jpg", photo), ("../../etc/2.jpg", photo), ("/root/3.JPEG", photo),
        ("noext", photo), ("text", b"hello"), (".hidden/4.jpg", photo), ("__MACOSX/._1.jpg", b"x"), ("x.txt", b"y"),
        header("5.jpg", tarfile.SYMTYPE, link="/etc/passwd"), header("6.jpg", tarfile.LNKTYPE, link="noext"),
        header("7.jpg", tarfile.FIFOTYPE), ("labels.json", b"[1]"), ("e" * 120 + "/8.jpg", photo),
    ]  # fmt: skip
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        tar_of(tmp_path / "x.tar", members, kind)
        listing = list_dataset("d", str(tmp_path / "x.tar"))
        right = ["d/1.jpg", "../../etc/2.jpg", "/root/3.JPEG", "noext", "e" * 120 + "/8.jpg"]
        assert listing.images["image_id"].to_list() == right
        assert listing.left_out == {
            "without extension": 1, "hidden": 2, ".txt": 1, ".json": 1, "links in archives": 2, "devices in archives": 1
        }  # fmt: skip
        assert set(contents(listing.images).values()) == {photo}
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_sample_with_two_photos_is_said(tmp_path):
    tar_of(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.seg.png", jpeg(1)), ("a.cls", b" 3\n"), ("b.v1.jpg", jpeg(2))])
    listing = list_dataset("d", str(tmp_path / "x.tar"))
    assert listing.images.select("image_id", "label").rows() == [("a.jpg", 3), ("a.seg.png", 3), ("b.v1.jpg", None)]
    assert listing.remarks == (
        f"dataset 'd': a sample of {tmp_path}/x.tar holds more than one photo ('a.jpg' and 'a.seg.png'), and each "
        "counts as an image; exclude those that are none",
    )


def test_one_id_in_two_files_is_refused(tmp_path):
    for name in ("a.tar", "b.tar"):
        tar_of(tmp_path / name, [("1.jpg", jpeg(0))])
    end = "rename one, exclude it, or make a dataset of each file"
    assert refused(tmp_path) == (f"dataset 'd': image_id '1.jpg' is in {tmp_path}/a.tar and in {tmp_path}/b.tar; {end}")
    tar_of(tmp_path / "c.tar", [("1.jpg", jpeg(0)), ("1.jpg", jpeg(1))])
    assert refused(tmp_path / "c.tar") == f"dataset 'd': image_id '1.jpg' is twice in {tmp_path}/c.tar; {end}"


def test_ranges_in_braces(tmp_path):
    assert expanded("x-{8..10}.tar") == ["x-8.tar", "x-9.tar", "x-10.tar"]
    assert expanded("{a,b}{02..00}") == ["a02", "a01", "a00", "b02", "b01", "b00"]
    assert expanded("{x}{}{0..}") == ["{x}{}{0..}"]
    write(tmp_path / "s", "tar", 4)
    listed = list_images("d", f"{tmp_path}/{{s,t}}/set-{{01..02}}*.tar")
    assert listed["image_id"].to_list() == [*PHOTOS][3:9]
    assert refused(f"{tmp_path}/s/set-{{00..05}}.tar") == (
        f"images: there is no {tmp_path}/s/set-04.tar and 1 more, which {tmp_path}/s/set-{{00..05}}.tar stands for; "
        "correct the range"
    )
    assert refused(f"{tmp_path}/s/{{0..999999}}.tar").endswith(
        "stands for more than 100,000 names; give a folder or a pattern"
    )


def damaged(content, kind):
    place = content.index(b"ustar") - 257
    second = place + 512 * (2 + len(jpeg(0)) // 512)
    return {
        "cut": content[: second + 700], "cut in a header": content[: second + 200],
        "header": content[:second] + b"\xff" * 512 + content[second + 512 :], "two": content + content,
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["cut", "cut in a header", "header", "two"])
def test_a_damaged_tar_does_not_look_shorter(kind, tmp_path):
    tar_of(tmp_path / "x.tar", [(f"{number}.jpg", jpeg(0)) for number in range(3)])
    (tmp_path / "x.tar").write_bytes(damaged((tmp_path / "x.tar").read_bytes(), kind))
    said = refused(tmp_path / "x.tar")
    assert said.startswith(f"images: {tmp_path}/x.tar is ")
    assert said.endswith(("get an undamaged copy", "or another archive follows there; pack its files again"))


def test_what_is_no_archive_is_named(tmp_path):
    tar_of(tmp_path / "x.tar", [("1.jpg", jpeg(0))])
    plain = (tmp_path / "x.tar").read_bytes()
    remedy = "so that single photos cannot be read from it; unpack it to a .tar, which is hardly larger, as photos are "
    for name, content, words in (
        ("a.tar.gz", gzip.compress(plain), f"is compressed with gzip, {remedy}compressed already"),
        ("a.tgz", gzip.compress(plain), f"is compressed with gzip, {remedy}compressed already"),
        ("a.tar", bz2.compress(plain), f"is compressed with bz2, {remedy}compressed already"),
        ("b.tar", b"Rar!\x1a\x07", "is a rar archive; pack the photos as tar or zip instead"),
        ("c.zip", b"hello", "is not a tar or zip archive; correct the path, or give a folder or a table"),
        ("d.tar", b"", "is not a tar or zip archive; correct the path, or give a folder or a table"),
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name) == f"images: {tmp_path}/{name} {words}"
        (tmp_path / name).unlink()
    (tmp_path / "x.bin").write_bytes(plain)
    assert list_images("d", str(tmp_path / "x.bin"))["image_id"].to_list() == ["1.jpg"]
    tar_of(tmp_path / "outer.tar", [("n01.tar", plain)])
    assert refused(tmp_path / "outer.tar") == (
        f"dataset 'd': there are no images in {tmp_path}/outer.tar (1 file left out: 1 .tar); they must be photos such "
        "as .jpg, .png, .tif or .webp"
    )


def test_zips_that_are_not_read_are_told(tmp_path):
    zip_of(tmp_path / "x.zip", [("1.jpg", jpeg(0))], zipfile.ZIP_LZMA)
    assert refused(tmp_path / "x.zip") == (
        f"images: {tmp_path}/x.zip holds '1.jpg' packed with method 14; make a zip that is stored or deflated"
    )
    zip_of(tmp_path / "x.zip", [("1.jpg", jpeg(0))])
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    assert refused(tmp_path / "x.zip") == (
        f"images: {tmp_path}/x.zip holds '1.jpg' encrypted; make a zip without a password"
    )
    (tmp_path / "x.zip").write_bytes(content[:-30])
    assert refused(tmp_path / "x.zip").startswith(f"images: {tmp_path}/x.zip is not a readable archive (")


def test_a_bomb_in_a_zip_is_one_failure(tmp_path):
    """The size that is stated bounds what is unpacked, and a false one is found."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", bytes(2**24))
    content = (tmp_path / "x.zip").read_bytes().replace((2**24).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    (tmp_path / "x.zip").write_bytes(content)
    (row,) = list_images("d", str(tmp_path / "x.zip")).select("uri", "place").rows()
    with pytest.raises(ImageError, match=r"the file that holds it has changed since it was listed, or is damaged"):
        read_picture(*row)


def test_headers_cannot_ask_for_much_memory(tmp_path):
    info = header("pax", tarfile.XHDTYPE, 2**22)
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2**22 + 2**20))
    assert refused(tmp_path / "x.tar") == (
        f"images: {tmp_path}/x.tar is not a readable archive (it asks for 4,194,304 bytes at once); get an undamaged "
        "copy"
    )


@pytest.mark.parametrize("size", [-1, -511, -512, -100_000])
def test_a_member_of_a_negative_size_is_refused(size, tmp_path):
    photo = jpeg(0)
    tar_of(tmp_path / "x.tar", [("1.jpg", photo), ("2.jpg", b""), ("3.jpg", photo)])
    content = bytearray((tmp_path / "x.tar").read_bytes())
    place = content.index(b"2.jpg")
    content[place + 124 : place + 136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
    content[place + 148 : place + 156] = b" " * 8
    content[place + 148 : place + 156] = b"%06o\0 " % sum(content[place : place + 512])
    (tmp_path / "x.tar").write_bytes(content)
    assert refused(tmp_path / "x.tar") == (
        f"images: {tmp_path}/x.tar is not a readable archive (a member has a negative size); get an undamaged copy"
    )


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_long_names_of_long_names_are_a_sentence(kind, tmp_path):
    (tmp_path / "x.tar").write_bytes(header("x", kind).tobuf() * 5000 + bytes(1024))
    assert refused(tmp_path / "x.tar").startswith(f"images: {tmp_path}/x.tar is not a readable archive (maximum rec")


def test_an_empty_shard_is_no_error(tmp_path):
    for form in ("tar", "zip", "parquet"):
        write(tmp_path / form, form, 2)
        right = list_dataset("d", str(tmp_path / form)).images
        empty = tmp_path / form / f"set-99.{form}"
        {"tar": tar_of, "zip": zip_of}[form](empty, []) if form != "parquet" else table_of(empty, {}, {})
        assert list_dataset("d", str(tmp_path / form)).images.equals(right), form
        assert " no image" in refused(empty)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_photos_packed_again_in_another_order_are_not_taken_for_each_other(suffix, tmp_path):
    """All of one size, as bitmaps are, so that every photo lies where another one lay."""
    photos = [(f"{number}.bmp", b"BM" + bytes([number]) * 998) for number in range(3)]
    pack = {"tar": tar_of, "zip": zip_of}[suffix]
    pack(tmp_path / f"x.{suffix}", photos)
    listed = list_images("d", str(tmp_path / f"x.{suffix}"))
    assert contents(listed) == dict(photos)
    pack(tmp_path / f"x.{suffix}", [photos[0], photos[2], photos[1]])
    assert read_picture(*listed["uri", "place"].row(0)) == photos[0][1]
    for number in (1, 2):
        with pytest.raises(ImageError, match="has changed since it was listed"):
            read_picture(*listed["uri", "place"].row(number))


def test_a_few_bytes_of_table_cannot_stand_for_any_number_of_rows(tmp_path):
    column = pa.DictionaryArray.from_arrays(pa.nulls(2_000_000, pa.int8()).fill_null(0), pa.array([b"x"]))
    pq.write_table(pa.table({"jpg": column}), tmp_path / "x.parquet", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 10_000
    with pytest.raises(
        UserError, match=r"x\.parquet would unpack to more than 25\d MiB, too much for a table of its size"
    ):
        columns_of(str(tmp_path / "x.parquet"), Columns("jpg"))


def test_blank_names_of_rows_are_no_image_ids(tmp_path):
    pictures = [{"bytes": jpeg(0), "path": ""}, {"bytes": jpeg(1), "path": "b.jpg"}]
    pl.DataFrame({"image": pictures}).write_parquet(tmp_path / "x.parquet")
    listing = list_dataset("d", str(tmp_path / "x.parquet"))
    assert listing.images["image_id"].to_list() == ["000000000", "000000001"]
    pl.DataFrame({"image": pictures, "image_id": [" ", "b"]}).write_parquet(tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").endswith("has rows without image_id; fill it, or leave the column out")


def test_pictures_of_a_column_of_categories_are_read(tmp_path):
    named = {"jpg": pa.array([jpeg(0), jpeg(1), jpeg(0)]).dictionary_encode()}
    pq.write_table(pa.table(named), tmp_path / "x.parquet")
    listed = columns_of(str(tmp_path / "x.parquet"), Columns("jpg"))
    assert list(contents(listed).values()) == [jpeg(0), jpeg(1), jpeg(0)]


def test_a_small_table_cannot_fill_the_memory(tmp_path, monkeypatch):
    """A million rows of one picture are a few bytes of parquet; no more is unpacked at a time than is allowed."""
    picture = bytes(2**20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array([picture]))
    pq.write_table(pa.table({"jpg": column}), tmp_path / "x.parquet", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 2**21
    monkeypatch.setattr("camrobust.io.parquet_excerpt.MOST_UNPACKED", 2**22)
    listed = columns_of(str(tmp_path / "x.parquet"), Columns("jpg"))
    largest, real = [], pq.ParquetFile.iter_batches

    def watched(*arguments, **keywords):
        for batch in real(*arguments, **keywords):
            largest.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert read_picture(*listed.select("uri", "place").row(999)) == picture
    assert 2**20 <= max(largest) < 2**23
    monkeypatch.setattr("camrobust.io.parquet_excerpt.MOST_UNPACKED", 2**19)
    with pytest.raises(ImageError, match=r"the pages that hold it would unpack to more than 0 MiB"):
        read_picture(*listed.select("uri", "place").row(999))


def test_damaged_pages_are_unpacked_once_for_all_their_rows(tmp_path, monkeypatch):
    pq.write_table(pa.table({"jpg": [b"x" * 99, b"y" * 99, b"z" * 99]}), tmp_path / "x.parquet")
    listed = columns_of(str(tmp_path / "x.parquet"), Columns("jpg"))
    tries = []
    monkeypatch.setattr("camrobust.io.places.values_of", lambda *given: tries.append(given) or values_of(*given))
    read = list(pictures([parse_place(place) for place in listed["place"]], lambda span: bytes(span.length)))
    assert [(one.kind, one.message) for one in read] == [
        ("truncated", "the pages of the parquet file that hold it are damaged or have changed")
    ] * 3
    assert len(tries) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_changed_since_it_was_listed_is_a_failure(form, tmp_path):
    write(tmp_path / "s", form, 1)
    listed = list_images("d", str(tmp_path / "s"))
    (path,) = (tmp_path / "s").iterdir()
    content = path.read_bytes()
    for changed in (content[:200], b"\0" * len(content), content[::-1], b"x" + content):
        path.write_bytes(changed)
        for uri, place in listed.select("uri", "place").rows():
            with pytest.raises(ImageError, match=r"changed|other rows") as caught:
                read_picture(uri, place)
            assert caught.value.kind == "truncated"


@pytest.mark.parametrize("form", ["tar", "zip", "parquet"])
def test_a_shard_that_is_gone_when_it_is_indexed_is_told(form, tmp_path, monkeypatch):
    write(tmp_path / "s", form, 2)
    gone = tmp_path / "s" / f"set-01.{form}"
    real = manifest.find

    def find(*arguments, **keywords):
        found = real(*arguments, **keywords)
        gone.unlink()
        return found

    monkeypatch.setattr(manifest, "find", find)
    end = "any more, which was there a moment ago; list the images again"
    assert refused(tmp_path / "s") == f"images: there is no file {gone} {end}"


def test_labels_of_samples_are_numbers(tmp_path):
    tar_of(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.cls", b"7"), ("b.jpg", jpeg(1)), ("b.cls", b"cat")])
    got = f"'cat' in the label of 'b.jpg' of {tmp_path}/x.tar; "
    assert refused(tmp_path / "x.tar").startswith(f"images: labels must be class indices (integers), got {got}")
    (tmp_path / "l.csv").write_text("image_id,label\na.jpg,1\nb.jpg,2\n")
    tar_of(
        tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.cls", b"7"), ("b.jpg", jpeg(1)), ("b.json", b'{"label": true}')]
    )
    assert list_images("d", str(tmp_path / "x.tar"))["label"].to_list() == [7, None]
    assert list_images("d", str(tmp_path / "x.tar"), str(tmp_path / "l.csv"))["label"].to_list() == [1, 2]


@pytest.mark.s3
def test_a_bucket_of_shards_is_listed_like_a_folder(bucket, tmp_path):
    for form in ("tar", "zip", "parquet"):
        write(tmp_path / form, form, 2)
        store = open_store(f"s3://{bucket}/{form}")
        for path in (tmp_path / form).iterdir():
            store.write(path.name, path.read_bytes())
        near = list_dataset("d", str(tmp_path / form)).images
        for given in ("", f"/set-{{00..01}}.{form}", f"/*.{form}"):
            far = list_dataset("d", f"s3://{bucket}/{form}{given}").images
            assert far.drop("uri").rows() == near.drop("uri").rows()
        alone = list_dataset("d", f"s3://{bucket}/{form}/set-00.{form}").images
        assert contents(alone) == dict([*PHOTOS.items()][:5])
    assert (
        refused(f"s3://{bucket}/none.tar") == f"manifest: there is no object s3://{bucket}/none.tar; correct the path"
    )


def test_imagenet_s_validation_tar_with_its_ground_truth(tmp_path):
    """The numbers of the development kit are those of its meta.mat, not places among the sorted wnids."""
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)]
    tar_of(tmp_path / "val.tar", [(name, jpeg(0)) for name in (names[2], names[0], names[3], names[1])])
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(b"490\n361\n1\n490\n")
    said = refused(tmp_path / "val.tar", labels=str(truth))
    assert said == (
        "labels of dataset 'd': ILSVRC2012_validation_ground_truth.txt lies alone; put the development kit's meta.mat "
        "beside it, which says what its numbers mean"
    )
    rows = [(490, "n01440764"), (361, "n01484850"), (1, "n01443537"), (1001, "n00001740")]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object)]
    savemat(tmp_path / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    listed = list_images("d", str(tmp_path / "val.tar"), str(truth))
    assert dict(listed["image_id", "label"].rows()) == dict(zip(names, [0, 2, 1, 0], strict=True))
    assert read_picture(*listed["uri", "place"].row(0)) == jpeg(0)
    # With the second one, scipy's reader ends the process that calls it.
    crashing = bytearray((tmp_path / "meta.mat").read_bytes())
    crashing[552], crashing[624] = 182, 211
    for damaged_file in (b"x", bytes(crashing)):
        (tmp_path / "meta.mat").write_bytes(damaged_file)
        assert "meta.mat is not that of the development kit; put" in refused(tmp_path / "val.tar", labels=str(truth))
    (tmp_path / "numbers.txt").write_bytes(b"\xef\xbb\xbf5\r\n6\r\n7\r\n8\r\n\r\n")
    plain = list_images("d", str(tmp_path / "val.tar"), str(tmp_path / "numbers.txt"))
    assert dict(plain["image_id", "label"].rows()) == dict(zip(names, [5, 6, 7, 8], strict=True))
    (tmp_path / "numbers.txt").write_text("5\n6\n7\n")
    assert refused(tmp_path / "val.tar", labels=str(tmp_path / "numbers.txt")) == (
        f"labels of dataset 'd': {tmp_path}/numbers.txt holds 3 numbers for 4 images; it must have one for each, in "
        "the order of their image ids"
    )


def test_folders_in_an_archive_may_be_classes(tmp_path):
    tar_of(tmp_path / "x.tar", [("./cat/1.jpg", jpeg(0)), ("./dog/1.jpg", jpeg(1)), ("./ape/1.jpg", jpeg(2))])
    listed = list_images("d", str(tmp_path / "x.tar"), "folders")
    assert listed["image_id", "label"].rows() == [("cat/1.jpg", 1), ("dog/1.jpg", 2), ("ape/1.jpg", 0)]
    # As in a folder, an excluded class stays one, so that the others keep their numbers.
    fewer = list_dataset("d", str(tmp_path / "x.tar"), "folders", exclude=["cat/*"]).images
    assert fewer["image_id", "label"].rows() == [("dog/1.jpg", 2), ("ape/1.jpg", 0)]
