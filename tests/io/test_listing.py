"""What an address of images holds: photos in folders, on stores and under patterns, one photo, parts of a table."""

import bz2
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from PIL.ExifTags import Base

from camrobust.contract.errors import UserError
from camrobust.io import image_formats
from camrobust.io.decoding_memory import fit_into_budget
from camrobust.io.image_errors import ImageError
from camrobust.io.image_formats import open_picture
from camrobust.io.image_listing import in_words
from camrobust.io.images import decode
from camrobust.io.manifest import list_dataset, list_images
from camrobust.io.store import open_store


def photo(folder, name, kind="JPEG"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path, kind)


TAKEN = {
    ".jpg": "JPEG", ".JPEG": "JPEG", ".png": "PNG", ".tga": "TGA", ".qoi": "QOI", ".jp2": "JPEG2000", ".pcx": "PCX",
    ".dds": "DDS", ".mpo": "JPEG", ".pnm": "PPM", ".webp": "WEBP", ".rgb": "SGI", ".dib": "DIB", ".tif": "TIFF",
}  # fmt: skip
BY_CONTENT = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "QOI", "PCX", "SGI", "DDS")


@pytest.mark.parametrize("number", range(40))
def test_a_folder_gives_its_photos_and_says_what_is_left_out(number, tmp_path):
    dice = random.Random(1000 + number)
    taken, left = [], {}

    def leave(name, kind, content=b"Python, P6 and BMP are words"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        left[kind] = left.get(kind, 0) + 1

    for place in range(dice.randint(1, 6)):
        suffix = dice.choice(list(TAKEN))
        taken.append(dice.choice(["", "sub/", "a b/c/"]) + f"{place}{suffix}")
        photo(tmp_path, taken[-1], TAKEN[suffix])
    for place in range(dice.randint(0, 3)):
        taken.append(f"sub/{place:02x}f2")
        photo(tmp_path, taken[-1], dice.choice(BY_CONTENT))
    for place in range(dice.randint(0, 3)):
        leave(f"sub/README{place}", "without extension")
        leave(f"{place}.PSD", ".psd")
        leave(f"sub/@eaDir/{place}.jpg", "excluded")
    for name in dice.sample(
        [".DS_Store", "sub/._a.jpg", ".ipynb_checkpoints/a.jpg", "lost+found/x.jpg"], dice.randint(0, 4)
    ):
        leave(name, "hidden")
    if dice.random() < 0.5:
        leave("labels.csv", ".csv")
        leave("part.parquet", ".parquet")
    pattern = dice.choice(["@eaDir", "**/@eaDir/**", "sub/@eaDir/*.jpg", "@ea[A-D]ir/", "sub/*eaDir"])
    whole = dice.random() < 0.5
    listing = list_dataset("d", str(tmp_path) if whole else f"{tmp_path}/**/*", exclude=[pattern])
    assert listing.images["image_id"].to_list() == sorted(taken)
    assert listing.images["uri"].to_list() == [f"{tmp_path}/{name}" for name in sorted(taken)]
    assert listing.left_out == left
    unused = [f"dataset 'd': exclude '{pattern}' matches no image"]
    assert list(listing.remarks) == ([] if "excluded" in left else unused)


def test_what_is_left_out_is_one_sentence():
    assert in_words({}) == ""
    assert in_words({"hidden": 1, ".txt": 1}) == "2 files left out: 1 .txt, 1 hidden"
    assert in_words({".heic": 2, "without extension": 1}) == (
        "3 files left out: 2 .heic, 1 without extension; pip install 'camrobust[heif]' reads .heic and .heif"
    )
    many = {f".{place}": 1 for place in range(12)}
    assert in_words(many) == "12 files left out: 1 .0, 1 .1, 1 .10, 1 .11, 1 .2, 1 .3, 1 .4, 1 .5, 4 others"


def names(images, **options):
    return list_images("d", str(images), **options)["image_id"].to_list()


def refused(images):
    with pytest.raises(UserError) as caught:
        list_images("d", str(images))
    return str(caught.value)


def test_one_photo_is_a_data_set(tmp_path):
    photo(tmp_path, "a.jpg")
    (tmp_path / "3f2a9c").write_bytes((tmp_path / "a.jpg").read_bytes())
    for name in ("a.jpg", "3f2a9c"):
        listed = list_images("d", str(tmp_path / name))
        assert listed.select("image_id", "uri").rows() == [(name, str(tmp_path / name))]


def test_a_pattern_gives_the_image_ids_of_the_folder(tmp_path):
    for name in ("set/a/1.jpg", "set/a/2.png", "set/b/3.jpg", "set[1]/4.jpg", "set1/5.jpg"):
        photo(tmp_path, name, "PNG" if name.endswith("png") else "JPEG")
    assert names(tmp_path / "set/*/*.jpg") == ["a/1.jpg", "b/3.jpg"]
    assert names(tmp_path / "set/**/[!3]*") == ["a/1.jpg", "a/2.png"]
    assert names(tmp_path / "set/?/[2-9].*") == ["a/2.png", "b/3.jpg"]
    assert names(tmp_path / "s*t/b/3.jpg") == ["set/b/3.jpg"]
    # A folder of that very name is no pattern.
    assert names(tmp_path / "set[1]") == ["4.jpg"]
    assert refused(tmp_path / "set/*.gif") == (
        f"dataset 'd': there are no images in {tmp_path}/set/*.gif; they must be photos such as .jpg, .png, .tif or "
        ".webp"
    )


def test_what_is_not_there_and_what_is_there_are_told_apart(tmp_path):
    assert refused(tmp_path / "x") == (
        f"dataset 'd': there is no file or folder {tmp_path}/x; give a folder, a prefix, an image or a table"
    )
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert refused(tmp_path / "link") == f"dataset 'd': {tmp_path}/link is a link that leads nowhere; correct it"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.psd").write_bytes(b"8BPS")
    assert refused(tmp_path / "x") == (
        f"dataset 'd': there are no images in {tmp_path}/x (1 file left out: 1 .psd); they must be photos such as "
        ".jpg, .png, .tif or .webp"
    )
    said = refused(tmp_path / "x/a.psd")
    assert said == f"manifest: {tmp_path}/x/a.psd has no column 'uri', only 8BPS; rename or add it"


def test_parts_of_a_table_are_one_manifest(tmp_path):
    for place, part in enumerate(("part-0.parquet", "sub/part-1.parquet", "_old/part-2.parquet")):
        path = tmp_path / "lists" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame({"uri": [f"p/{place}.jpg"], "label": [str(place)]})
        table.with_columns(pl.col("label").cast(pl.Categorical)).write_parquet(path)
    (tmp_path / "lists" / "_SUCCESS").write_bytes(b"")
    right = [("p/0.jpg", f"{tmp_path}/lists/p/0.jpg", 0), ("p/1.jpg", f"{tmp_path}/lists/p/1.jpg", 1)]
    for given in ("lists", "lists/", "lists/[!_]*/part-?.parquet", "lists/*.parquet", "lists/**/part-[01].parquet"):
        listing = list_dataset("d", str(tmp_path / given) + "/" * given.endswith("/"))
        wanted = {"lists/*.parquet": right[:1], "lists/[!_]*/part-?.parquet": right[1:]}.get(given, right)
        assert listing.images.select("image_id", "uri", "label").rows() == wanted, given
        assert listing.left_out == ({".parquet": 1} if given in ("lists", "lists/") else {}), given
    # What Spark names as a file is a folder; paths start beside it, as they do with a file.
    (tmp_path / "lists").rename(tmp_path / "lists.parquet")
    assert list_images("d", str(tmp_path / "lists.parquet"))["uri"][0] == f"{tmp_path}/p/0.jpg"
    (tmp_path / "lists.parquet" / "_delta_log").mkdir()
    (tmp_path / "lists.parquet" / "_delta_log" / "0.json").write_bytes(b"{}")
    assert refused(tmp_path / "lists.parquet") == (
        f"images: {tmp_path}/lists.parquet is a Delta table, whose files may be outdated; export it as parquet"
    )


def test_tables_without_labels_are_named_a_few_at_a_time(tmp_path):
    for place in range(6):
        (tmp_path / f"{place}.csv").write_text(f"uri,label\n{place}.jpg,\n")
    assert list_dataset("d", f"{tmp_path}/*.csv").remarks == (
        *(f"dataset 'd': {tmp_path}/{place}.csv has no label in row 2" for place in range(3)),
        f"dataset 'd': 3 more tables of {tmp_path} have rows without a label",
    )


def test_a_label_in_the_name_of_a_folder_is_a_column(tmp_path):
    rows = [("/p/a.jpg", "4", 4), ("/p/b.jpg", "5", 5), ("/p/c.jpg", "__HIVE_DEFAULT_PARTITION__", None)]
    for uri, folder, _ in rows:
        (tmp_path / "m" / f"label={folder}").mkdir(parents=True)
        pl.DataFrame({"uri": [uri]}).write_parquet(tmp_path / "m" / f"label={folder}" / "0.parquet")
    listed = list_images("d", str(tmp_path / "m"))
    assert listed.select("uri", "label").rows() == [(uri, label) for uri, _, label in rows]
    (tmp_path / "m" / "label=5").rename(tmp_path / "m" / "label=cat")
    assert "got 'cat' in the folder of " in refused(tmp_path / "m")


def test_exclude_holds_for_manifests_too(tmp_path):
    (tmp_path / "m.csv").write_text("uri\na/1.jpg\na/b/2.jpg\nc.gif\n")
    listing = list_dataset("d", str(tmp_path / "m.csv"), exclude=["b", "*.gif", "nothing"])
    assert listing.images["image_id"].to_list() == ["a/1.jpg"]
    assert listing.left_out == {"excluded": 2}
    assert listing.remarks == ("dataset 'd': exclude 'nothing' matches no image",)
    with pytest.raises(UserError, match=r"^pattern: '\[z-a\]' means nothing \(bad character range z-a\); see docs"):
        list_dataset("d", str(tmp_path / "m.csv"), exclude=["[z-a]"])


def test_labels_and_images_that_do_not_meet_are_said(tmp_path):
    photo(tmp_path / "set", "1.jpg")
    photo(tmp_path / "set", "2.jpg")
    (tmp_path / "l.tsv").write_bytes("\ufefffile\tlabel\n1.jpg\t 3\n\n3.jpg\t4\n".encode("utf-16-le"))
    listing = list_dataset("d", str(tmp_path / "set"), str(tmp_path / "l.tsv"))
    assert listing.images["label"].to_list() == [3, None]
    assert listing.remarks == (
        f"dataset 'd': 1 entries of {tmp_path}/l.tsv name no image, such as '3.jpg'",
        f"dataset 'd': 1 of 2 images have no label in {tmp_path}/l.tsv, such as '2.jpg'",
    )


def test_one_file_with_two_image_ids_is_said(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "m.csv").write_text("uri,image_id\nphotos/a.jpg,1\nlink/a.jpg,2\ns3://b/a.jpg,3\ns3://b/./a.jpg,4\n")
    listing = list_dataset("d", str(tmp_path / "m.csv"))
    assert listing.images.height == 4
    assert listing.remarks == (
        f"dataset 'd': 1 file is named by more than one row, such as '{tmp_path}/photos/a.jpg' (rows 2, 3); each row "
        "counts as an image of its own",
    )


def test_a_small_archive_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("camrobust.io.table_bytes.FLOOR_BYTES", 2**20)
    (tmp_path / "bomb.csv.bz2").write_bytes(bz2.compress(b"uri\n" + b"\n" * 2**22))
    said = (
        f"manifest: {tmp_path}/bomb.csv.bz2 would unpack to more than 1 MiB, too much for a table of its size; split it"
    )
    assert refused(tmp_path / "bomb.csv.bz2") == said


@pytest.mark.s3
def test_a_bucket_is_listed_like_a_folder(bucket, tmp_path):
    store = open_store(f"s3://{bucket}/set")
    for name in ("a.jpg", "b/3f2a9c", ".c.jpg", ".ipynb_checkpoints/a.jpg", "b/._a.jpg", "lost+found/x.jpg"):
        photo(tmp_path, name)
    for name, content in {"README": b"text", "empty": b"", "d.psd": b"8BPS", "@eaDir/a.jpg": b"x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    near = list_dataset("d", str(tmp_path), exclude=["@eaDir"])
    far = list_dataset("d", f"s3://{bucket}/set", exclude=["@eaDir"])
    assert near.images["image_id"].to_list() == far.images["image_id"].to_list() == ["a.jpg", "b/3f2a9c"]
    assert near.left_out == far.left_out == {"without extension": 2, ".psd": 1, "hidden": 4, "excluded": 1}
    assert names(f"s3://{bucket}/set/b/*") == ["3f2a9c"]
    assert names(f"s3://{bucket}/set/b/3f2a9c") == ["3f2a9c"]
    assert names(f"s3://{bucket}/set/a.jpg") == ["a.jpg"]
    assert "there are no images in s3://" in refused(f"s3://{bucket}/set/z.jpg")
    assert refused(f"s3://{bucket}/m.csv") == f"manifest: there is no object s3://{bucket}/m.csv; correct the path"
    assert (store.head("README", 3), store.head("README", 30), store.head("empty", 3)) == (b"tex", b"text", b"")


def test_a_phone_s_heic_is_read_with_the_extra(tmp_path):
    """Its own rotation is applied once, and its memory is limited before it is decoded."""
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    upright = np.zeros((40, 80, 3), np.uint8)
    upright[:, :40] = 200
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    # The plugin writes the orientation twice, as phones do: as the rotation of the file and, of no effect, in its EXIF.
    turned = Image.fromarray(upright).rotate(90, expand=True)
    turned.info["exif"] = exif.tobytes()
    turned.save(tmp_path / "phone.HEIC", "HEIF", quality=90)
    assert names(tmp_path) == ["phone.HEIC"]
    content = (tmp_path / "phone.HEIC").read_bytes()
    (tmp_path / "phone.HEIC").rename(tmp_path / "IMG_0001")
    assert names(tmp_path) == ["IMG_0001"]
    found = decode(content, 40, 40)
    assert (found.width, found.height) == (80, 40)
    assert np.abs(found.pixels.mean(0).astype(int) - upright[:, 20:60].mean(2)).mean() < 3
    huge = open_picture(content)
    huge._size = (8000, 8000)
    with pytest.raises(ImageError, match=r"8000 x 8000 px as HEIF \(RGB\) would take \d+ MiB to decode"):
        fit_into_budget(huge, len(content), 224, ours=True)


def test_a_heic_without_the_extra_is_told(tmp_path, monkeypatch):
    known = tuple(name for name in image_formats.known_formats() if name != "HEIF")
    monkeypatch.setattr(image_formats, "known_formats", lambda: known)
    image_formats.suffixes.cache_clear()
    try:
        (tmp_path / "a.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(20))
        sentence = "pip install 'camrobust[heif]' reads .heic and .heif"
        assert refused(tmp_path / "a.heic") == f"images: {tmp_path}/a.heic is read only with an extra; {sentence}"
        assert f"1 file left out: 1 .heic; {sentence}" in refused(tmp_path)
        with pytest.raises(ImageError, match=r"HEIF is read only with an extra: pip install"):
            open_picture((tmp_path / "a.heic").read_bytes())
    finally:
        image_formats.suffixes.cache_clear()


def test_odd_extensions_are_one_kind(tmp_path):
    photo(tmp_path, "a.jpg")
    for name in ("b.\x1b[31mred", "c.\n2 errors", "d.20231105", "e.bak", *(f"f.k{n}" for n in range(60))):
        (tmp_path / name).write_bytes(b"")
    left_out = list_dataset("d", str(tmp_path)).left_out
    assert len(left_out) == 50
    assert left_out["with odd extensions"] == 3 + 12
    assert in_words({".\x1b[31mred": 1}) == "1 file left out: 1 .\\x1b[31mred"


def test_a_file_that_may_not_be_read_is_no_file_left_out(tmp_path, monkeypatch):
    photo(tmp_path, "a.jpg")
    photo(tmp_path, "3f2a9c")
    real = Path.open

    def opened(path, *arguments):
        if path.name == "3f2a9c":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments)

    monkeypatch.setattr(Path, "open", opened)
    assert refused(tmp_path) == f"store: cannot read {tmp_path}/3f2a9c (Permission denied); check its permissions"
