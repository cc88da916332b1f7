"""Labels from folders and names, against torchvision's ImageFolder and the labels of the data pack."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from torchvision.datasets import ImageFolder

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import wnids
from camrobust.io import class_numbers
from camrobust.io.class_numbers import read_class_numbers
from camrobust.io.manifest import list_dataset
from tests.photos import write_photos


def in_folders(root, *folders, first="x.jpg"):
    """One photo in each folder."""
    write_photos(root / "made", 1)
    (made,) = (root / "made").iterdir()
    for folder in folders:
        (root / "photos" / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(made, root / "photos" / folder / first)
    return str(root / "photos")


def labels_of(listing):
    return dict(listing.images.select("image_id", "label").iter_rows())


@pytest.mark.parametrize(
    "folders",
    [("cat", "dog", "Zebra", "ähre"), ("0", "1", "2", "10"), ("b/x", "b/y", "a/z/w"), (*sorted(wnids())[:3], "n1")],
)
def test_sub_folders_are_numbered_as_image_folder_does(folders, tmp_path):
    address = in_folders(tmp_path, *folders)
    theirs = {str(Path(path).relative_to(address)): label for path, label in ImageFolder(address).samples}
    if folders[-1] == "n1":
        with pytest.raises(UserError) as caught:
            list_dataset("d", address, "folders")
        assert str(caught.value) == (
            "dataset 'd': 3 of 4 names are classes of ImageNet-1k (wnids), but 'n1' is none; exclude it, or give "
            "label_names, a file with the number of each name"
        )
        return
    listing = list_dataset("d", address, "folders")
    assert labels_of(listing) == theirs
    first, last = min(folders).split("/")[0], max(folders).split("/")[0]
    own = ", so that their own numbers do not count" if "10" in folders else ""
    assert listing.remarks == (
        f"dataset 'd': labels are {len(set(theirs.values()))} sub-folders, numbered in sorted order, as ImageFolder "
        f"does{own} ({first} = 0, {last} = {max(theirs.values())})",
    )


def test_an_excluded_sub_folder_stays_a_class(tmp_path):
    address = in_folders(tmp_path, "a", "b", "c")
    assert labels_of(list_dataset("d", address, "folders", exclude=["b/*"])) == {"a/x.jpg": 0, "c/x.jpg": 2}


def test_wnids_have_their_usual_numbers_also_where_few_are_there(tmp_path):
    names = sorted(wnids(), key=wnids().get)[7:1000:331]
    listing = list_dataset("d", in_folders(tmp_path, *names), "folders")
    assert labels_of(listing) == {f"{name}/x.jpg": 7 + 331 * place for place, name in enumerate(names)}
    assert listing.remarks == (
        f"dataset 'd': labels are 3 sub-folders, wnids of ImageNet-1k ({names[0]} = 7, {names[-1]} = 669)",
    )


def test_wnids_are_those_of_the_data_pack_and_of_timm(shared_data, tmp_path):
    known = pl.read_csv(shared_data / "labels.csv")
    assert [wnids()[name] for name in known["wnid"]] == known["class_index"].to_list()
    timm = pytest.importorskip("timm.data")
    assert [wnids()[name] for name in timm.ImageNetInfo().label_names()] == list(range(1000))
    # A table of wnids, of names, and of both.
    known.select(image_id="file", label="wnid").write_csv(tmp_path / "wnids.csv")
    known.select(image_id="file", label="class_name").write_csv(tmp_path / "names.csv")
    known.select(uri="file", label="class_name").write_csv(tmp_path / "manifest.csv")
    photos = shared_data / "images"
    wanted = dict(known.select("file", "class_index").iter_rows())
    assert labels_of(list_dataset("d", str(photos), str(tmp_path / "wnids.csv"))) == wanted
    for images, labels in ((photos, str(tmp_path / "names.csv")), (tmp_path / "manifest.csv", None)):
        assert labels_of(list_dataset("d", str(images), labels, label_names=str(shared_data / "labels.csv"))) == wanted


def test_names_have_the_numbers_of_a_file(tmp_path):
    address = in_folders(tmp_path, "cat", "dog", "3", first="y.jpg")
    (tmp_path / "names.txt").write_text("﻿dog\n\ncat \nbird\nbird\n", "utf-8")
    found = list_dataset("d", address, "folders", label_names=str(tmp_path / "names.txt"))
    assert labels_of(found) == {"3/y.jpg": 3, "cat/y.jpg": 2, "dog/y.jpg": 0}
    (tmp_path / "labels.csv").write_text("file,label\ncat/y.jpg,cat\ndog/y.jpg,1\n3/y.jpg,\n")
    found = list_dataset("d", address, str(tmp_path / "labels.csv"), label_names=str(tmp_path / "names.txt"))
    assert labels_of(found) == {"3/y.jpg": None, "cat/y.jpg": 2, "dog/y.jpg": 1}


def test_of_two_columns_of_numbers_the_first_in_labels_counts(tmp_path, monkeypatch):
    """A set of both would have the order of their hashes, which differs from process to process."""
    (tmp_path / "names.csv").write_text("class_index,class_name,label\n1,cat,3\n2,dog,4\n")
    assert read_class_numbers(str(tmp_path / "names.csv"), "d") == {"cat": 3, "dog": 4}
    monkeypatch.setattr(class_numbers, "LABELS", class_numbers.LABELS[::-1])
    assert read_class_numbers(str(tmp_path / "names.csv"), "d") == {"cat": 1, "dog": 2}


WRONG = {
    "no sub-folders": (
        [],
        "folders",
        None,
        "dataset 'd': labels: folders needs images in sub-folders, one for each class; name a labels file",
    ),
    "a name that the file lacks": (
        ["cat", "dig"],
        "folders",
        ("n.txt", "cat\ndog\n"),
        "dataset 'd': unknown name in label_names 'dig'; did you mean 'dog'? known: cat, dog",
    ),
    "a name twice": (
        ["cat", "crane"],
        "folders",
        ("n.txt", "crane\ncat\ncrane\n"),
        "dataset 'd': 'crane' is the name of several classes; name them by their wnids",
    ),
    "an empty file": (
        ["a"],
        "folders",
        ("n.txt", "\n \n"),
        "label_names of dataset 'd': 'N' is empty; write one name per line, in the order of the logits",
    ),
    "no file": (
        ["a"],
        "folders",
        ("n.txt", None),
        "label_names of dataset 'd': there is no file N; correct label_names",
    ),
    "a table without numbers": (
        ["a"],
        "folders",
        ("n.csv", "class_name,x\na,1\n"),
        "label_names of dataset 'd': N must have a column class_name or wnid, and one label or class_index; "
        "rename or add them",
    ),
    "an odd number": (
        ["a"],
        "folders",
        ("n.csv", "wnid,label\na,1\nb,x\n"),
        "label_names of dataset 'd': N must give each class its number, counted from 0 (row 3)",
    ),
    "names without a file": (
        ["a"],
        "labels.csv",
        None,
        "labels of dataset 'd': labels must be class indices (integers), got 'cat' in row 2 of L; give "
        "label_names, a file with the number of each name",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_in_labels_is_one_sentence(kind, tmp_path):
    folders, labels, names, sentence = WRONG[kind]
    address = in_folders(tmp_path, *folders) if folders else in_folders(tmp_path, ".")
    (tmp_path / "labels.csv").write_text("file,label\na/x.jpg,cat\n")
    given = None
    if names is not None:
        given = str(tmp_path / names[0])
        if names[1] is not None:
            Path(given).write_text(names[1])
    labels = labels if labels == "folders" else str(tmp_path / labels)
    with pytest.raises(UserError) as caught:
        list_dataset("d", address, labels, label_names=given)
    said = str(caught.value).replace(given or "\0", "N").replace(labels, "L" if labels != "folders" else "folders")
    assert said == sentence


def test_a_manifest_is_told_that_it_has_no_sub_folders(tmp_path):
    (tmp_path / "m.csv").write_text("uri\na/x.jpg\n")
    with pytest.raises(
        UserError, match=r"labels: folders is for images in folders, and .*m\.csv is a manifest; give it a"
    ):
        list_dataset("d", str(tmp_path / "m.csv"), "folders")


def test_images_in_no_sub_folder_have_no_label_and_are_told(tmp_path):
    address = in_folders(tmp_path, ".", "a")
    listing = list_dataset("d", address, "folders")
    assert labels_of(listing) == {"a/x.jpg": 0, "x.jpg": None}
    assert listing.remarks[1] == "dataset 'd': 1 of 2 images lie in no sub-folder, such as 'x.jpg'"
