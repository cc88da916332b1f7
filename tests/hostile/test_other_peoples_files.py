"""Other people's files are never deleted, overwritten, or reached through a link."""

import shutil
from functools import partial

import polars as pl
import pytest
import yaml

from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.io.store import open_store
from camrobust.results.counted import read_committed
from camrobust.results.folder import open_run
from camrobust.results.lease import held
from camrobust.run import summarise, workflow
from tests.commits import write_commit
from tests.documents import run_record
from tests.photos import write_photos
from tests.results.test_commits import contents, unit
from tests.results.test_reduce import write_run

PHOTOS = ("photo-000.jpg", "photo-001.jpg")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def project(request, tmp_path):
    """A user's project: photos and notes in folders whose names a run folder uses, too."""
    write_photos(tmp_path / "made", 2, size=(80, 70))
    uri = (
        str(tmp_path / "project") if request.param == "folder" else f"s3://{request.getfixturevalue('bucket')}/project"
    )
    store = open_store(uri)
    for name in PHOTOS:
        store.write(f"images/{name}", (tmp_path / "made" / name).read_bytes())
    store.write("images/notes.txt", b"mine")
    store.write("maps/thesis.txt", b"mine, too")
    store.write("photos/one.jpg", (tmp_path / "made" / PHOTOS[0]).read_bytes())
    return store


def run(tmp_path, output, images):
    path = tmp_path / "run.yaml"
    data = {"output": output, "datasets": [{"name": "d", "images": images}], "models": ["tests.toys:pooled"],
            "cams": ["gradcam"], "perturbations": ["contrast:1"], "image": {"resize": 64, "crop": 56}}  # fmt: skip
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("output", "images"),
    [
        ("{}", "{}/images"),
        ("{}/", "{}/images/"),
        ("{}", "{}"),
        ("{}/images/runs/one", "{}/images"),
        ("{}/images/", "{}/images"),
    ],
)
def test_output_and_images_inside_one_another_are_refused(project, tmp_path, capsys, output, images):
    before = contents(project)
    output, images = output.format(project.uri), images.format(project.uri)
    for command in ("plan", "run"):
        assert main([command, str(run(tmp_path, output, images))]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"camrobust: output: {output} and the images of dataset 'd' ({images}) lie inside one another; choose an output "  # noqa: E501
            "beside them"
        )
    assert contents(project) == before


def test_links_and_dots_do_not_hide_that_output_contains_images(tmp_path, capsys):
    write_photos(tmp_path / "project" / "images", 2)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "project" / "images")
    (tmp_path / "same").symlink_to(tmp_path / "project")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "project" / "images")
    here = str(tmp_path)
    for output, images in (
        (f"{here}/project", f"{here}/elsewhere"),
        (f"{here}/same", f"{here}/project/images"),
        (f"{here}/project/images/..", f"{here}/project/images"),
        (f"{here}/project/images/../x/..", f"{here}/elsewhere"),
    ):
        assert main(["run", str(run(tmp_path, output, images))]) == 2
        assert "lie inside one another; choose an output beside them" in capsys.readouterr().err
    assert main(["run", str(run(tmp_path, f"{here}/project", f"{here}/set"))]) == 2
    assert f"output: {here}/project contains the photograph {here}/set/linked/photo-00" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "project").rglob("*")) == ["images", *PHOTOS]


def test_a_new_output_with_files_where_a_run_puts_its_own_is_refused(project, tmp_path, capsys):
    photos = str(tmp_path / "made")
    before = contents(project)
    assert main(["run", str(run(tmp_path, project.uri, photos))]) == 2
    assert capsys.readouterr().err == (
        f"listing images and checking models …\ncamrobust: output: {project.uri} holds no run, but images/notes.txt, "
        "images/photo-000.jpg, images/photo-001.jpg and 1 more, where a run puts its own files; choose an empty "
        "folder\n"
    )
    assert contents(project) == before


def test_results_without_run_json_are_not_adopted_by_a_new_run(tmp_path, capsys):
    write_photos(tmp_path / "set", 1)
    store = open_run(str(tmp_path / "out")).store
    write_commit(store, [unit("a")])
    assert main(["run", str(run(tmp_path, str(tmp_path / "out"), str(tmp_path / "set")))]) == 2
    assert "out holds no run, but commits/00000000-" in capsys.readouterr().err
    assert read_committed(store).parts.height == 1


def test_a_run_deletes_only_its_own_files_and_says_so(project):
    """`images/` and `maps/` hold other files, too, and the run still works there."""
    folder = open_run(project.uri)
    photos = pl.DataFrame({"dataset": ["d"], "image_id": ["a"], "uri": ["x"]}).with_columns(
        label=pl.lit(None, pl.Int32)
    )
    folder.begin(run_record(1), photos)
    before = contents(project)
    litter = write_commit(project, [unit("b")])
    project.delete(litter)
    said = []
    with held(folder.store, lambda _: []) as lease:
        measure = partial(measured, folder, lease)
        assert workflow.measure_until_done(folder, lease, measure, said.append) == 1
    assert said == ["deleted 3 files that no commit counts"]
    after = contents(project)
    assert before.items() <= after.items()
    assert read_committed(project).parts["image_id"].to_list() == ["a"]
    assert read_committed(project).uncounted == []


def measured(folder, lease, pending):
    write_commit(folder.store, [unit(image) for image in pending["image_id"]], lease.number)


def test_nothing_in_a_run_folder_is_listed_or_deleted_through_a_link(tmp_path):
    folder = open_run(str(tmp_path / "run"))
    write_commit(folder.store, [unit("a")])
    other = tmp_path / "elsewhere"
    other.mkdir()
    ours = "a" * 24 + ".parquet"
    for name in ("taxes.txt", ours):
        (other / name).write_text("mine")
    (tmp_path / "run" / "scores" / "old").symlink_to(other)
    (tmp_path / "run" / "scores" / "dataset=x").mkdir()
    (tmp_path / "run" / "scores" / "dataset=x" / "model=y").symlink_to(other)
    (tmp_path / "run" / "images" / ours).symlink_to(other / "taxes.txt")
    found = folder.committed()
    assert found.parts.height == 1
    assert found.uncounted == []
    listed = {entry.key for entry in folder.store.list()}
    assert not any("old" in key or "model=y" in key or ours in key for key in listed)
    for act in (folder.store.read, folder.store.delete, folder.store.locate, lambda key: folder.store.write(key, b"x"),
                lambda key: folder.store.create(key, b"x")):  # fmt: skip
        with pytest.raises(UserError, match="is a link, and inside a run folder nothing is read, written or deleted"):
            act("scores/old/taxes.txt")
    assert sorted(path.read_text() for path in other.iterdir()) == ["mine", "mine"]
    with pytest.raises(UserError, match="lies outside the run folder"):
        folder.store.read("../elsewhere/taxes.txt")


def test_an_output_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    folder = open_run(str(tmp_path / "run"))
    write_commit(folder.store, [unit("a")])
    assert read_committed(open_store(str(tmp_path / "disk"))).parts.height == 1


@pytest.mark.parametrize("name", ["summary", "report"])
@pytest.mark.parametrize("depth", ["folder", "file"])
def test_aggregate_and_report_do_not_write_through_a_link(tmp_path, capsys, name, depth):
    write_run(tmp_path / "a")
    assert main(["aggregate", str(tmp_path / "a")]) == 0
    assert main(["report", str(tmp_path / "a")]) == 0
    precious = tmp_path / "precious"
    if depth == "folder":
        shutil.move(tmp_path / "a" / name, precious)
        (tmp_path / "a" / name).symlink_to(precious)
    else:
        victim = tmp_path / "a" / name / {"summary": "by_cam.csv", "report": "index.html"}[name]
        shutil.move(victim, precious)
        victim.symlink_to(precious)
    before = contents(open_store(str(tmp_path / "precious"))) if depth == "folder" else precious.read_bytes()
    capsys.readouterr()
    command = {"summary": "aggregate", "report": "report"}[name]
    assert main([command, str(tmp_path / "a")]) == 2
    assert "is a link, and inside a run folder nothing is read, written or deleted" in capsys.readouterr().err
    after = contents(open_store(str(tmp_path / "precious"))) if depth == "folder" else precious.read_bytes()
    assert after == before


def test_runs_are_combined_into_an_empty_folder_or_over_an_earlier_combination(tmp_path):
    runs = [write_run(tmp_path / name, cams=(cam,)) for name, cam in (("a", "gradcam"), ("b", "random"))]
    output = tmp_path / "both"
    (output / "report").mkdir(parents=True)
    (output / "report" / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"both holds no run, but report/index\.html, where a run puts its own files"):
        summarise.combine(runs, open_run(str(output)))
    assert (output / "report" / "index.html").read_text() == "mine"
    shutil.rmtree(output)
    summarise.combine(runs, open_run(str(output)))
    summarise.combine(runs, open_run(str(output)))
    assert "<html" in (output / "report" / "index.html").read_text()
