"""Google and Azure on loopback: as a store, in a run, and with wrong keys."""

import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import polars as pl
import pytest
from ray import cloudpickle
from safetensors.torch import save_file

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import RunFailed, UserError
from camrobust.interface.cli import main
from camrobust.io import azure, google
from camrobust.io.manifest import list_dataset
from camrobust.io.objects import DeniedObjectError, MissingObjectError, TooLargeObjectError
from camrobust.io.store import open_store, read_object
from camrobust.io.store_errors import PassingError
from camrobust.results.folder import open_run
from camrobust.run.apart import check_apart
from camrobust.run.stages.commit import Commit
from tests import in_process
from tests.cloud_places import forget_clients, new_place, put, settle
from tests.photos import write_photos
from tests.runs import TINY, config, failures, scores
from tests.toys import pooled

pytestmark = pytest.mark.s3


def test_a_cloud_is_a_store(place, monkeypatch):
    monkeypatch.setattr(google, "PAGE", 2)
    monkeypatch.setattr(azure, "PAGE", 2)
    for key, content in {"a/b/x/one.txt": b"1", "a/b/x/two words.txt": b"22", "a/b/y": b"", "a/bc": b"no",
                         "a/b/x/": b""}.items():  # fmt: skip
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
    store.write("y", b"another")
    assert store.read("y") == b"another"
    store.delete("y")
    store.delete("y")
    for read in (store.read, store.size_bytes, lambda key: store.head(key, 9)):
        with pytest.raises(MissingObjectError, match=f"there is no object {place}/a/b/y"):
            read("y")


def test_of_many_that_create_an_object_one_succeeds(place):
    store = open_store(f"{place}/x")
    for key in ("lease/1", "lease/2"):
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(lambda number: store.create(key, b"%d" % number), range(8)))  # noqa: B023
        assert sum(created) == 1
        assert store.read(key) == b"%d" % created.index(True)
        assert store.create(key, b"%d" % created.index(True))


def test_nothing_sent_to_workers_holds_a_credential(place, cloud):
    """Each worker finds the credentials itself."""
    folder = open_run(f"{place}/run")
    folder.store.write("x", b"")  # now the client of this process holds the credentials
    sent = cloudpickle.dumps([Commit(folder.uri, 1), folder])
    assert place.partition("@")[0].encode() in sent
    assert cloud("az")["AZURE_STORAGE_KEY"].encode() not in sent


def test_a_marker_of_a_folder_is_no_object(azure_store, monkeypatch):
    settle(monkeypatch, azure_store)
    place = new_place("az")
    put(f"{place}/a/x", b"1")
    container = azure.AzureContainer(place.removeprefix("az://"), "", anonymous=False)
    container._blob("a").upload_blob(b"", metadata={"Hdi_IsFolder": "true"})
    assert [entry.key for entry in open_store(place).list()] == ["a/x"]
    forget_clients()


def test_photos_and_results_in_one_place_are_refused_in_every_spelling(monkeypatch):
    settle(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=here"})
    same, other = "abfs://c@here.dfs.core.windows.net/x/photos", "abfs://c@there.dfs.core.windows.net/x/photos"
    for images, apart in ((same, False), (other, True), ("az://c/x", False), ("az://c/xy", True)):
        run = parse_config({"output": "az://c/x", "datasets": [{"name": "d", "images": images}], "cams": ["gradcam"],
                            "models": ["tests.toys:pooled"], "perturbations": ["contrast:1"]})  # fmt: skip
        with nullcontext() if apart else pytest.raises(UserError, match="lie inside one another"):
            check_apart(run)


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


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_from_and_to_clouds_equal_the_run_from_and_to_a_folder(
    cluster, google_store, azure_store, tmp_path, monkeypatch, capsys
):
    settle(monkeypatch, {**google_store, **azure_store})
    gs, az = new_place("gs"), new_place("az")
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
    secret = azure_store["AZURE_STORAGE_KEY"]
    outputs = {f"{gs}/runs/one #1": in_process.through_open_session, f"{az}/runs/one": in_process.without_ray}
    for output, by in outputs.items():
        path = config(
            tmp_path, "", datasets=far, models=[{**builder, "weights": f"{gs}/toy.safetensors"}], output=output,
            max_failure_share=0.5, **TINY,
        )  # fmt: skip
        code, printed, said = in_process.camrobust(capsys, "run", path, "--quiet", by=by)
        assert code == 0, said
        run = open_store(output)
        victim = next(entry.key for entry in run.list("scores/"))
        run.delete(victim)
        assert main(["verify", output]) == 1
        assert in_process.camrobust(capsys, "run", path)[0] == 0
        assert "nothing to do" in in_process.camrobust(capsys, "run", path)[2]
        for command in ("status", "verify", "aggregate", "report"):
            assert in_process.camrobust(capsys, command, output)[0] == 0, command
        (gone,) = failures(output).to_dicts()
        assert (gone["dataset"], gone["image_id"], gone["kind"]) == ("listed", "gone.jpg", "missing")
        assert gone["message"] == f"there is no object {az}/photos/gone.jpg"
        keys = {entry.key for entry in run.list()}
        assert {"run.json", "lease/00000001.json", "done/00000004.json", "report/00000004/index.html"} <= keys
        assert secret not in said + printed
        assert not any(secret.encode() in run.read(key) for key in keys)
    assert in_process.camrobust(capsys, "compare", "--exact", *outputs)[0] == 0

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
    for output in outputs:
        assert scores(output).equals(scores(tmp_path / "here"))


def test_a_wrong_key_and_a_missing_key(azure_store, monkeypatch, tmp_path):
    settle(monkeypatch, azure_store)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "bm90IHRoaXMga2V5")
    with pytest.raises(DeniedObjectError, match="az: no permission for az://photos/x; these credentials need"):
        read_object("az://photos/x")
    forget_clients()
    for no_key in ("a", "not base 64!"):
        monkeypatch.setenv("AZURE_STORAGE_KEY", no_key)
        with pytest.raises(UserError, match=r"az: the credentials are refused for az://photos/x \(no valid key\)"):
            read_object("az://photos/x")
        forget_clients()
    with pytest.raises(DeniedObjectError, match="az: no permission for az://photos/x"):
        read_object("az://photos/x", "anonymous")
    monkeypatch.setenv("AZURE_STORAGE_KEY", azure_store["AZURE_STORAGE_KEY"])
    forget_clients()
    with pytest.raises(UserError, match=r"az: az://c/x is refused \(OutOfRangeInput\); correct the address"):
        read_object("az://c/x")
    settle(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")})
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with pytest.raises(UserError, match="gs: no credentials for gs://b/x; set GOOGLE_APPLICATION_CREDENTIALS, log in"):
        read_object("gs://b/x")
    forget_clients()


def test_error_codes_are_explained():
    bucket, container = google.GoogleBucket("b", anonymous=False), azure.AzureContainer("c", "", anonymous=False)
    for found, kind, sentence in (
        (bucket._refused(404, set(), "gs://b/k"), MissingObjectError, "there is no object gs://b/k"),
        (bucket._refused(401, set(), "gs://b/k"), PassingError, "the credentials are refused for gs://b/k (401)"),
        (bucket._refused(403, {"forbidden"}, "gs://b/k"), DeniedObjectError, "no permission for gs://b/k; these"),
        (bucket._refused(403, {"rateLimitExceeded"}, "gs://b/k"), PassingError, "gs://b/k answered rateLimitExceeded;"),
        (bucket._refused(429, set(), "gs://b/k"), PassingError, "gs://b/k answered 429; the store may be overloaded"),
        (bucket._refused(412, set(), "gs://b/k"), RunFailed, "gs://b/k answered 412, as it would again; check address"),
        (replace(bucket, anonymous=True)._refused(401, set(), "gs://b/k"), DeniedObjectError, "no permission for gs:"),
        (container._refused(403, "AuthenticationFailed", "", "az://c/k"), PassingError, "refused for az://c/k (Auth"),
        (container._refused(403, "AuthorizationPermissionMismatch", "", "az://c/k"), DeniedObjectError, "permission"),
        (
            container._refused(404, "ContainerNotFound", "", "az://c/k"),
            UserError,
            "there is no container 'c' (az://c/k)",
        ),
        (
            container._refused(409, "PublicAccessNotPermitted", "", "az://c/k"),
            DeniedObjectError,
            "no permission for az",
        ),
        (
            container._refused(409, "BlobArchived", "", "az://c/k"),
            RunFailed,
            "answered BlobArchived, as it would again",
        ),
        (
            container._refused(503, "ServerBusy", "", "az://c/k"),
            PassingError,
            "az://c/k answered ServerBusy; the store",
        ),
        (
            container._refused(400, "InvalidResourceName", "", "az://c/k"),
            UserError,
            "is refused (InvalidResourceName);",
        ),
    ):
        assert isinstance(found, kind), found
        assert isinstance(found, PassingError) == (kind is PassingError), found
        assert sentence in str(found)
    expired = container._refused(
        403, "AuthenticationFailed", "Signature not valid in the specified time frame", "az://c"
    )
    assert expired.always
    assert not container._refused(403, "AuthenticationFailed", "The MAC signature is another", "az://c").always


def test_a_key_goes_to_its_own_account_only(azure_store, monkeypatch):
    settle(monkeypatch, azure_store)
    own = azure._settings_for("devstoreaccount1.dfs.core.windows.net")
    assert own["AccountKey"] == azure_store["AZURE_STORAGE_KEY"]
    assert azure._settings_for("") == own
    assert azure._settings_for("another.dfs.core.windows.net") == {}
    for host in ("devstoreaccount1.dfs.core.windows.example", "devstoreaccount1.blob.evilcore.windows.net",
                 "devstoreaccount1.example.dfs.core.windows.net", "a/b.dfs.core.windows.net"):  # fmt: skip
        with pytest.raises(
            UserError, match=f"store: '{host}' is no account of Azure, and credentials are sent nowhere"
        ):
            open_store(f"abfs://c@{host}/x" if "/" not in host else "abfs://c@x") and azure.azure_account(host)


@pytest.mark.parametrize(
    ("host", "string", "endpoint"),
    [
        ("", "AccountName=here", "https://here.blob.core.windows.net"),
        ("", "AccountName=here;EndpointSuffix=core.chinacloudapi.cn", "https://here.blob.core.chinacloudapi.cn"),
        ("", "BlobEndpoint=https://here.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x",
         "https://here.blob.core.windows.net"),
        ("a", "", "https://a.blob.core.windows.net"),
        ("a.dfs.core.usgovcloudapi.net", "", "https://a.blob.core.usgovcloudapi.net"),
        ("a.z12.dfs.storage.azure.net", "AccountName=here", "https://a.z12.blob.storage.azure.net"),
        ("onelake.dfs.fabric.microsoft.com", "", "https://onelake.blob.fabric.microsoft.com"),
        ("a.dfs.stack.example", "EndpointSuffix=stack.example", "https://a.blob.stack.example"),
    ],
)  # fmt: skip
def test_the_endpoint_of_an_account(host, string, endpoint, monkeypatch):
    settle(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": string})
    assert azure._endpoint(host, azure._settings_for(host)) == endpoint


def test_a_token_in_the_address_of_a_request_is_in_no_traceback(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    string = "BlobEndpoint=http://127.0.0.1:9/here;AccountName=here"
    settle(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": string, "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=S3CRET"})
    with pytest.raises(UserError, match="az: cannot reach the store for az://c-c/x") as caught:
        read_object("az://c-c/x")
    assert "S3CRET" not in "".join(traceback.format_exception(caught.value))
    forget_clients()


def test_an_unreachable_store(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
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
        ("abfs://c@a.dfs.core.windows.net/a\\b", "credentials", "b/' must hold no backslash, as Azure takes"),
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
