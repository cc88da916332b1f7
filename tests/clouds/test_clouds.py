"""Google and Azure on loopback: as a store, in a run, behind a failing proxy, and with wrong keys."""

import random
import time

import polars as pl
import pytest
from pyarrow.fs import FileSystem
from safetensors.torch import save_file

from camrobust.bench.chaos.proxy import FAULTS, Faults, failing_store
from camrobust.contract.errors import RunFailed, UserError
from camrobust.interface.cli import main
from camrobust.io import cloud_calls, cloud_clients
from camrobust.io.cloud_clients import forget_clients
from camrobust.io.manifest import list_dataset
from camrobust.io.objects import DeniedObjectError, MissingObjectError, TooLargeObjectError
from camrobust.io.retries import patient
from camrobust.io.store import open_store, read_object
from tests import in_process
from tests.photos import write_photos
from tests.runs import TINY, config, failures, scores
from tests.toys import pooled

pytestmark = pytest.mark.s3


def client(uri) -> FileSystem:
    return open_store(uri)._filesystem


def put(uri, content):
    place = uri.partition("://")[2]
    bucket, _, key = place.partition("/")
    with client(uri).open_output_stream(f"{bucket.partition('@')[0]}/{key}") as stream:
        stream.write(content)


def settle(monkeypatch, variables):
    """Set the environment of one cloud and clear that of others."""
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_SAS_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_clients()


@pytest.fixture(params=["gs", "az", "abfs"])
def place(request, monkeypatch):
    """The address of a new bucket or container."""
    store = request.getfixturevalue("google_store" if request.param == "gs" else "azure_store")
    settle(monkeypatch, store)
    name = f"bucket-{time.time_ns()}"
    host = "@devstoreaccount1.dfs.core.windows.net" if request.param == "abfs" else ""
    uri = f"{request.param}://{name}{host}"
    client(uri).create_dir(name)
    yield uri
    forget_clients()


def test_a_cloud_is_a_store_to_read_from(place):
    for key, content in {"a/b/x/one.txt": b"1", "a/b/x/two words.txt": b"22", "a/b/y": b"", "a/bc": b"no"}.items():
        put(f"{place}/{key}", content)
    store = open_store(f"{place}/a/b/")
    assert store.uri == f"{place}/a/b"
    assert [(entry.key, entry.size_bytes) for entry in store.list()] == [
        ("x/one.txt", 1), ("x/two words.txt", 2), ("y", 0)
    ]  # fmt: skip
    assert [entry.key for entry in store.list("x/o")] == ["x/one.txt"]
    assert [entry.key for entry in open_store(place).list("a/b")] == ["a/b/x/one.txt", "a/b/x/two words.txt",
                                                                      "a/b/y", "a/bc"]  # fmt: skip
    assert list(open_store(f"{place}/nothing").list()) == []
    assert (store.read("x/two words.txt"), store.read("y")) == (b"22", b"")
    assert read_object(f"{place}/a/b/x/one.txt") == b"1"
    assert store.locate("y") == f"{place}/a/b/y"
    assert store.read("x/two words.txt", 2) == b"22"
    assert (store.head("x/two words.txt", 1), store.head("x/one.txt", 9), store.head("y", 9)) == (b"2", b"1", b"")
    assert (store.size_bytes("x/two words.txt"), store.read_range("x/two words.txt", 1, 9)) == (2, b"2")
    assert (store.read_range("x/one.txt", 1, 3), store.size_bytes("y")) == (b"", 0)
    with pytest.raises(TooLargeObjectError, match=r"words\.txt has more than 1 bytes"):
        store.read("x/two words.txt", 1)
    for read in (store.read, store.size_bytes, lambda key: store.head(key, 9)):
        with pytest.raises(MissingObjectError, match=f"there is no object {place}/a/b/z"):
            read("z")


def test_hidden_objects_are_left_out_and_photos_are_told_by_content(place, tmp_path):
    write_photos(tmp_path, 1)
    photo = (tmp_path / "photo-000.jpg").read_bytes()
    for key in ("a.jpg", "b/3f2a9c", ".c.jpg", ".ipynb_checkpoints/a.jpg", "b/._a.jpg", "lost+found/x.jpg"):
        put(f"{place}/set/{key}", photo)
    put(f"{place}/set/README", b"Python")
    listing = list_dataset("d", f"{place}/set")
    assert listing.images["image_id"].to_list() == ["a.jpg", "b/3f2a9c"]
    assert listing.left_out == {"without extension": 1, "hidden": 4}
    for address, names in ((f"{place}/set/*", ["a.jpg"]), (f"{place}/set/b/3f2a9c", ["3f2a9c"])):
        assert list_dataset("d", address).images["image_id"].to_list() == names


def test_a_missing_bucket(place):
    scheme, _, name = place.partition("://")
    gone = open_store(f"{scheme}://no-{name}/x")
    kind = "bucket" if scheme == "gs" else "container"
    sentence = f"{scheme}: there is no {kind} 'no-{name.partition('@')[0]}' (.*); create it or correct the address"
    with pytest.raises(UserError, match=sentence):
        list(gone.list())
    with pytest.raises(UserError, match=sentence):
        gone.read("y")


def test_a_cloud_takes_no_objects_and_no_runs(place, tmp_path, capsys):
    sentence = (
        f"output: '{place}/runs/x' must be a folder or s3://bucket/prefix, as gs:// and az:// can only be read; write "
        "to a folder or S3 and copy the run afterwards"
    )
    store = open_store(f"{place}/runs/x")
    for refused in (lambda: store.write("a", b""), lambda: store.create("a", b""), lambda: store.delete("a")):
        with pytest.raises(UserError) as caught:
            refused()
        assert str(caught.value) == sentence
    write_photos(tmp_path / "set", 1)
    path = config(tmp_path, tmp_path / "set", output=f"{place}/runs/x")
    for arguments in (["run", str(path), "--quiet"], ["plan", str(path)], ["verify", f"{place}/runs/x"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"camrobust: {sentence}"


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_from_clouds_equals_the_run_from_a_folder(
    cluster, google_store, azure_store, tmp_path, monkeypatch, capsys
):
    settle(monkeypatch, {**google_store, **azure_store})
    name = f"bucket-{time.time_ns()}"
    gs, az = f"gs://{name}", f"az://{name}"
    for uri in (gs, az):
        client(uri).create_dir(name)
    write_photos(tmp_path / "set", 4)
    photos = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    save_file(pooled().state_dict(), tmp_path / "toy.safetensors")
    for key, content in photos.items():
        put(f"{gs}/photos/{key}", content)
        put(f"{az}/photos/{key}", content)
    put(f"{gs}/toy.safetensors", (tmp_path / "toy.safetensors").read_bytes())
    put(f"{az}/labels.csv", b"image_id,label\nphoto-000.jpg,3\n")
    listed = ["photos/photo-001.jpg", f"{gs}/photos/photo-002.jpg", "photos/gone.jpg"]
    pl.DataFrame({"uri": listed, "image_id": ["photo-001.jpg", "photo-002.jpg", "gone.jpg"]}).write_csv(
        tmp_path / "manifest.csv"
    )
    put(f"{az}/manifest.csv", (tmp_path / "manifest.csv").read_bytes())
    local = str(tmp_path / "set")
    far = [
        {"name": "gs", "images": f"{gs}/photos", "labels": f"{az}/labels.csv"},
        {"name": "az", "images": f"{az}/photos"},
        {"name": "listed", "images": f"{az}/manifest.csv"},
    ]
    builder = {"name": "toy", "builder": "tests.toys:pooled"}
    from_clouds = config(
        tmp_path, "", datasets=far, models=[{**builder, "weights": f"{gs}/toy.safetensors"}], max_failure_share=0.5,
        **TINY,
    )  # fmt: skip
    code, printed, said = in_process.camrobust(
        capsys, "run", from_clouds, "--quiet", by=in_process.through_open_session
    )
    assert code == 0, said
    assert main(["verify", str(tmp_path / "out")]) == 0
    (gone,) = failures(tmp_path / "out").to_dicts()
    assert (gone["dataset"], gone["image_id"], gone["kind"]) == ("listed", "gone.jpg", "missing")
    assert gone["message"] == f"there is no object {az}/photos/gone.jpg"
    secret = azure_store["AZURE_STORAGE_KEY"]
    assert secret not in said + printed
    assert not any(secret.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())

    kept = {"name": "listed", "images": str(tmp_path / "kept.csv")}
    pl.DataFrame({"uri": [f"{local}/photo-001.jpg", f"{local}/photo-002.jpg"],
                  "image_id": ["photo-001.jpg", "photo-002.jpg"]}).write_csv(tmp_path / "kept.csv")  # fmt: skip
    (tmp_path / "labels.csv").write_bytes(b"image_id,label\nphoto-000.jpg,3\n")
    near = [{"name": "gs", "images": local, "labels": str(tmp_path / "labels.csv")}, {"name": "az", "images": local}]
    here = config(
        tmp_path, "", datasets=[*near, kept], output=str(tmp_path / "here"),
        models=[{**builder, "weights": str(tmp_path / "toy.safetensors")}], **TINY,
    )  # fmt: skip
    assert in_process.run(here).exit_code == 0
    assert scores(tmp_path / "out").equals(scores(tmp_path / "here"))


@pytest.fixture
def faults(place, google_store, azure_store, monkeypatch):
    """The faults of a proxy between the clients and the store; none at first."""
    found = Faults(dice=random.Random(1))
    real = google_store["STORAGE_EMULATOR_HOST"] if place.startswith("gs") else azure_endpoint(azure_store)
    with failing_store(real, found) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        connection = azure_store["AZURE_STORAGE_CONNECTION_STRING"].replace(azure_endpoint(azure_store), address)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        forget_clients()
        yield found
    forget_clients()


def azure_endpoint(store):
    return store["AZURE_STORAGE_CONNECTION_STRING"].partition("BlobEndpoint=")[2].rpartition("/")[0]


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived(faults, place, fault, monkeypatch):
    monkeypatch.setattr("camrobust.bench.chaos.proxy.SLOW_S", 0.1)
    content = bytes(range(256)) * 256
    put(f"{place}/x/one", content)
    store = open_store(f"{place}/x")
    faults.shares = {fault: 0.4}
    for _ in range(4):
        assert store.read("one") == content
        assert [entry.key for entry in store.list()] == ["one"]
    assert faults.struck[fault] >= 2


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_store_that_keeps_failing_gives_one_sentence_and_exit_code_1(faults, place, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(cloud_clients, "BACKOFF_S", 1)
    put(f"{place}/x", b"content")
    forget_clients()
    faults.shares = {"refuse": 1}
    sentence = rf"{place}/x answered (UNAVAILABLE|503); the store may be overloaded, run again to resume"
    with pytest.raises(RunFailed, match=sentence) as caught:
        read_object(f"{place}/x")
    assert caught.value.exit_code == 1
    assert faults.struck["refuse"] >= 1


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_silent_store_is_given_up(faults, place, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(cloud_calls, "OBJECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr("camrobust.bench.chaos.proxy.SLOW_S", 1)
    faults.shares = {"slow": 1}
    with pytest.raises(RunFailed, match=r"/x did not answer in full within 0.2 s; run again to resume"):
        read_object(f"{place}/x")


def test_a_wrong_key_and_a_missing_key(azure_store, monkeypatch, tmp_path):
    settle(monkeypatch, azure_store)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "bm90IHRoaXMga2V5")
    with pytest.raises(DeniedObjectError, match="az: no permission for az://photos/x; these credentials need"):
        read_object("az://photos/x")
    forget_clients()
    with pytest.raises(DeniedObjectError, match="az: no permission for az://photos/x"):
        read_object("az://photos/x", "anonymous")
    with pytest.raises(UserError, match=r"az: az://c/x is refused \(OutOfRangeInput\); correct the address"):
        read_object("az://c/x")
    settle(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")})
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with pytest.raises(UserError, match="gs: no credentials for gs://b/x; set GOOGLE_APPLICATION_CREDENTIALS, log in"):
        read_object("gs://b/x")
    forget_clients()


def test_a_new_worker_waits_for_its_credentials(monkeypatch, tmp_path):
    class ThirdTimeError(Exception):
        """Ends the wait, which would last for minutes."""

    attempts = []

    def forget():
        attempts.append(1)
        forget_clients()
        if len(attempts) == 3:
            raise ThirdTimeError

    settle(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")})
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(cloud_calls, "forget_clients", forget)
    forget_clients()
    with pytest.raises(ThirdTimeError), patient():
        read_object("gs://nobody-has-asked-before/x")
    forget_clients()


def test_a_key_goes_to_its_own_account_only(azure_store, monkeypatch):
    settle(monkeypatch, azure_store)
    assert cloud_clients._connection()["AccountKey"] == azure_store["AZURE_STORAGE_KEY"]
    own = cloud_clients.azure("devstoreaccount1.dfs.core.windows.net", anonymous=False)
    other = cloud_clients.azure("another.dfs.core.windows.net", anonymous=False)
    assert own == cloud_clients.azure("", anonymous=False)
    assert other != own
    forget_clients()


def test_an_unreachable_store(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(cloud_clients, "BACKOFF_S", 1)
    settle(monkeypatch, {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"})
    with pytest.raises(UserError, match="gs: cannot reach the store for gs://b/x; check the address and the network"):
        read_object("gs://b/x")
    forget_clients()


@pytest.mark.parametrize(
    ("uri", "access", "sentence"),
    [
        ("gs:///x", "credentials", "store: 'gs:///x' names no bucket; write gs://bucket/prefix"),
        ("az://c/x", "credentials", "store: an az:// address names no account; set AZURE_STORAGE_ACCOUNT, or write abfs://"),
        ("abfs://c:S@a.dfs.core.windows.net/x", "credentials", "the abfs:// address must not hold a secret"),
        ("az://c/x?sv=1&sig=S", "credentials", "the az:// address must not hold a secret"),
        ("gs://b/x", "requester_pays", "access: requester_pays is for s3:// only, got gs://b/x; use credentials or"),
    ],
)  # fmt: skip
def test_mistakes_in_addresses(uri, access, sentence, monkeypatch):
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as caught:
        open_store(uri, access)
    assert sentence in str(caught.value)
    assert "S@" not in str(caught.value)
    assert "sig=S" not in str(caught.value)
