"""What is said of tables and what is not, and the blanks around their cells."""

import pytest

from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_dataset

SIGNED = "https://h/a.jpg?sig=SECRETSECRET"
WITH_SECRETS = (
    f"uri,label\n{SIGNED},1,2\n",
    f"{SIGNED},1\n",
    f'uri,label\n{SIGNED},"1\n',
    f"uri,label\n{SIGNED},x\n",
    f'uri,label,x\n{SIGNED},1,"{SIGNED}" y\n',
    f"url\n{SIGNED}\n",
    f"uri,label\na.jpg,{SIGNED}\n",
    "uri,token,label\na.jpg,SECRETSECRET,1,2\n",
    'uri,label,token\na.jpg,1,"SECRETSECRET\nb.jpg,2,x\n',
    "s3://b/a.jpg?versionId=SECRETSECRET,1\n",
    '{"uri": "a", "token": "SECRETSECRET"',
)


@pytest.mark.parametrize("content", WITH_SECRETS)
def test_an_error_quotes_no_secret(content, tmp_path):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(UserError) as caught:
        list_dataset("d", str(tmp_path / "m.csv"))
    assert "SECRET" not in str(caught.value)


def test_a_remark_quotes_no_secret(tmp_path):
    (tmp_path / "m.csv").write_text("uri\na.jpg\n")
    (tmp_path / "l.csv").write_text(f"image_id,label\n{SIGNED},1\na.jpg,2\n")
    said = list_dataset("d", str(tmp_path / "m.csv"), str(tmp_path / "l.csv")).remarks
    assert said == (f"dataset 'd': 1 entries of {tmp_path}/l.csv name no image, such as 'https://h/a.jpg?(hidden)'",)


def test_blanks_belong_to_a_name_where_there_is_such_a_file(tmp_path):
    for name in (" a.jpg", "a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "l.csv").write_text('image_id,label\n" a.jpg",5\n b.jpg , 6 \n')
    listed = list_dataset("d", str(tmp_path), str(tmp_path / "l.csv"), exclude=["*.csv"]).images
    assert listed.select("image_id", "label").rows() == [(" a.jpg", 5), ("a.jpg", None), ("b.jpg", 6)]
    (tmp_path / "m.csv").write_text('uri,label\n" a.jpg",1\na.jpg,2\n b.jpg ,3\n "c.jpg" ,4\n')
    listed = list_dataset("d", str(tmp_path / "m.csv")).images
    assert listed["image_id"].to_list() == [" a.jpg", "a.jpg", "b.jpg", "c.jpg"]
    assert listed["uri"].to_list() == [f"{tmp_path}/{name}" for name in (" a.jpg", "a.jpg", "b.jpg", "c.jpg")]
    (tmp_path / "m.csv").write_text('uri,image_id\na.jpg," x"\nb.jpg,x\nc.jpg, y\n')
    assert list_dataset("d", str(tmp_path / "m.csv")).images["image_id"].to_list() == [" x", "x", "y"]


def test_blanks_around_an_address_of_a_bucket_are_told(tmp_path):
    (tmp_path / "m.csv").write_text("uri\n s3://b/a.jpg\n")
    listing = list_dataset("d", str(tmp_path / "m.csv"))
    assert listing.images["uri"].to_list() == ["s3://b/a.jpg"]
    assert listing.remarks == (
        "dataset 'd': 1 addresses have blanks around them, which are left out, such as 's3://b/a.jpg'",
    )


def test_labels_that_another_table_gives_are_not_missing(tmp_path):
    (tmp_path / "m.csv").write_text("uri,label\na.jpg,\nb.jpg,\n")
    (tmp_path / "l.csv").write_text("image_id,label\na.jpg,1\nb.jpg,2\n")
    listing = list_dataset("d", str(tmp_path / "m.csv"), str(tmp_path / "l.csv"))
    assert (listing.images["label"].to_list(), listing.remarks) == ([1, 2], ())


def test_a_manifest_needs_no_home_folder(tmp_path, monkeypatch):
    def home():
        raise RuntimeError

    monkeypatch.setattr("camrobust.io.manifest_rows.Path.home", home)
    (tmp_path / "m.csv").write_text("uri\na.jpg\n")
    assert list_dataset("d", str(tmp_path / "m.csv")).images.height == 1
    (tmp_path / "m.csv").write_text("uri\n~/a.jpg\n")
    with pytest.raises(UserError, match=r"^manifest: there is no home folder, so that ~/ means nothing; write whole"):
        list_dataset("d", str(tmp_path / "m.csv"))


def test_one_file_twice_is_found_behind_another_one(tmp_path):
    (tmp_path / "1.csv").write_text("uri,image_id\n/x/a.jpg,i1\n/x/./a.jpg,i2\n")
    (tmp_path / "2.csv").write_text("uri\n/y/b.jpg\n/y/./b.jpg\n")
    with pytest.raises(UserError, match=r"^dataset 'd': '/y/b.jpg' and '/y/./b.jpg' are one file; keep one$"):
        list_dataset("d", f"{tmp_path}/*.csv")
