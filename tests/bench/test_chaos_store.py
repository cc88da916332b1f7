"""A store behind a proxy of the chaos bench: links that are cut, keys that expire."""

import http.client
import json
import threading
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from camrobust.bench.chaos import harness, jobs, store_faults
from camrobust.bench.chaos.proxy import Faults, Link, failing_store
from camrobust.bench.chaos.signing import EXPIRED, UNSIGNED, Keys
from camrobust.io.retries import patient
from camrobust.io.s3_client import forget_clients, polars_options
from camrobust.io.store import open_store


@pytest.fixture
def upstream():
    """The address of a server on loopback that answers every request with its verb and path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps([self.command, self.path, len(content), dict(self.headers)]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    Handler.do_GET = Handler.do_PUT = Handler.answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(address, path="/bucket/key", **headers):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_link_that_is_cut_drops_its_own_node_and_no_other(upstream):
    found, link = Faults(), Link()
    with failing_store(upstream, found) as others, failing_store(upstream, found, link) as its_own:
        assert ask(its_own)[0] == 200
        link.cut = True
        with pytest.raises(ConnectionError):
            ask(its_own)
        assert ask(others)[0] == 200
        link.cut = False
        assert ask(its_own)[0] == 200
    assert link.dropped == 1


def test_expired_credentials_are_refused_until_the_file_is_read_again(upstream, tmp_path):
    keys = Keys("store-id", "store-secret", tmp_path / "credentials")
    keys.renew()

    def named():
        text = (tmp_path / "credentials").read_text()
        return {"Authorization": f"AWS4-HMAC-SHA256 Credential={text.split()[3]}/20260101/r/s3/aws4_request, x"}

    old = named()
    with failing_store(upstream, Faults(keys=keys)) as address:
        status, body = ask(address, **old)
        # What reaches the store is signed with the store's own key.
        assert (status, "Credential=store-id/" in body.decode()) == (200, True)
        keys.renew()
        assert ask(address, **old) == (403, EXPIRED)
        assert ask(address, **named())[0] == 200
    assert keys.refused == 1
    assert (tmp_path / "credentials").stat().st_mode & 0o077 == 0
    assert "store-secret" not in repr(keys)


@pytest.fixture
def bench(upstream, tmp_path, monkeypatch):
    """A bench with that server as its store, but no cluster; this process has the environment of a driver or worker."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", upstream)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "store-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "store-secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setattr(harness, "own_bucket", lambda _: nullcontext("bucket"))
    monkeypatch.setattr(harness, "nodes", lambda *_, **__: nullcontext())
    monkeypatch.setattr(harness, "_can_mount", lambda _: False)
    with ExitStack() as stack:
        found = harness._Bench(tmp_path, stack, 40)
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        yield found
    forget_clients()


@pytest.mark.parametrize("measuring", [False, True])
def test_keys_that_expire_under_a_client_are_read_again_from_the_file(bench, measuring):
    assert "keys" in bench._able(jobs.NARROW, remote=True)
    store = open_store("s3://bucket/x")
    with patient() if measuring else nullcontext():
        store.read("a")
        old = polars_options("s3://bucket/x")
        injection = store_faults.expire(SimpleNamespace(faults=bench.faults))
        assert not injection.struck()
        assert b"Credential=store-id/" in store.read("a")
    assert injection.struck()
    # Once for the old client; the new one has the new key.
    assert bench.faults.keys.refused == 1
    new = polars_options("s3://bucket/x")
    assert old["aws_access_key_id"] != new["aws_access_key_id"] == bench.faults.keys.valid


def test_keys_do_not_expire_in_trials_if_the_users_own_are_temporary(upstream, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "store-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "store-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert harness._Bench._keys(SimpleNamespace(folder=tmp_path, environment={})) is None


def test_the_signature_is_that_of_botocore(tmp_path):
    class Unsigned(S3SigV4Auth):
        def payload(self, _request):
            return UNSIGNED

    path = "/bucket?list-type=2&prefix=a%2Fb&delimiter="
    request = AWSRequest("GET", f"http://127.0.0.1:9000{path}")
    Unsigned(Credentials("id", "secret"), "s3", "us-east-1").add_auth(request)
    moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = Keys("id", "secret", tmp_path / "c").signed("GET", path, {"host": "127.0.0.1:9000"}, moment)
    assert ours["authorization"] == request.headers["Authorization"]


@pytest.mark.s3
def test_a_store_takes_what_the_proxy_signs(object_store, bucket, tmp_path, monkeypatch):
    """Names with spaces, listings with queries, conditional puts, large bodies, a new key."""
    keys = Keys(object_store["AWS_ACCESS_KEY_ID"], object_store["AWS_SECRET_ACCESS_KEY"], tmp_path / "credentials")
    keys.renew()
    with failing_store(object_store["AWS_ENDPOINT_URL"], Faults(keys=keys)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys.file))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        forget_clients()
        store, content = open_store(f"s3://{bucket}/model=a b+c"), bytes(2**20)
        assert store.create("one (1).bin", content)
        assert not store.create("one (1).bin", b"other")
        assert store.read("one (1).bin") == content
        assert [entry.key for entry in store.list("one")] == ["one (1).bin"]
        keys.renew()
        forget_clients()
        store.delete("one (1).bin")
        assert not list(store.list())
    forget_clients()
