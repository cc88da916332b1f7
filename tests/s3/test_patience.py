"""A store that fails for minutes, and credentials that expire, in the middle of a run; minutes are seconds here."""

import os
import random
import re
import subprocess
import sys
import time

import pytest

from camrobust.bench.chaos.proxy import Faults, _Handler, failing_store, serving
from camrobust.contract.errors import RunFailed, UserError
from camrobust.io import s3
from camrobust.io.objects import MissingObjectError
from camrobust.io.retries import patient
from camrobust.io.s3_client import forget_clients
from camrobust.io.store import open_store
from tests import in_process
from tests.conftest import _moto
from tests.failing_stores import down, end_patience, outlive_outages
from tests.photos import write_photos
from tests.runs import ROOT, config, environment

pytestmark = pytest.mark.s3
DOWN_S = 3.0


@pytest.fixture
def faults(object_store, bucket, monkeypatch):
    """The faults of a proxy before the store. One attempt outside a run, 30 s of patience in it."""
    found = Faults(dice=random.Random(1))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
    with failing_store(object_store["AWS_ENDPOINT_URL"], found) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        forget_clients()
        yield found
    forget_clients()


def test_in_a_run_a_call_is_tried_by_time_and_the_user_hears_of_it(faults, bucket):
    store, lines, looks = open_store(f"s3://{bucket}/x"), [], []
    store.write("a", b"content")
    with down(faults, DOWN_S), patient(lambda _, line: lines.append(line), lambda: looks.append(1)):
        assert store.read("a") == b"content"
        assert store.create("b", b"new")
        assert [entry.key for entry in store.list()] == ["a", "b"]
    assert faults.struck["refuse"] > 2
    assert lines
    assert all(re.fullmatch(rf"store: s3://{bucket} answered SlowDown, for \d s now; it is tried again", line)
               for line in lines), lines  # fmt: skip
    assert looks


def test_outside_a_run_a_call_is_tried_by_number(faults, bucket):
    faults.shares = {"refuse": 1}
    with pytest.raises(RunFailed, match="answered SlowDown; the store may be overloaded, run again to resume"):
        open_store(f"s3://{bucket}/x").read("a")
    assert faults.struck["refuse"] == 1


def test_patience_ends_with_one_sentence(faults, bucket, monkeypatch):
    end_patience(faults, f"s3://{bucket}/x", monkeypatch, "SlowDown")


def test_what_does_not_pass_is_told_at_once_even_in_a_run(faults, bucket, monkeypatch):
    with patient():
        with pytest.raises(MissingObjectError):
            open_store(f"s3://{bucket}/x").read("missing")
        assert faults.requests == 1
        with pytest.raises(UserError, match="there is no bucket 'no-such-bucket-here'"):
            open_store("s3://no-such-bucket-here/x").read("a")
        assert faults.requests == 2


def test_a_new_worker_waits_for_its_credentials(faults, bucket, monkeypatch, tmp_path):
    keys = {name: os.environ[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
    for name in keys:
        monkeypatch.delenv(name.upper())
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    attempts = []

    def forget():
        attempts.append(1)
        if len(attempts) == 3:
            lines = [f"{name} = {value}" for name, value in keys.items()]
            (tmp_path / "credentials").write_text("\n".join(["[default]", *lines]))
        forget_clients()

    monkeypatch.setattr(s3, "forget_clients", forget)
    forget_clients()
    with pytest.raises(UserError, match="s3: no credentials for"):
        list(open_store(f"s3://{bucket}/x").list())
    assert len(attempts) < 2
    with patient():
        assert list(open_store(f"s3://{bucket}/x").list()) == []
    assert len(attempts) == 3


def test_an_endpoint_that_does_not_exist_is_told_while_a_run_is_planned(bucket, monkeypatch):
    for address in ("http://127.0.0.1:9", "http://no-such-machine.invalid"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        forget_clients()
        with pytest.raises(UserError, match=r"s3: cannot reach the endpoint for .*; check AWS_ENDPOINT_URL") as caught:
            open_store(f"s3://{bucket}/x").read("a")
        assert caught.value.exit_code == 2
    forget_clients()


def test_a_lease_outlives_a_store_that_fails_for_longer_than_its_term(faults, bucket, object_store, monkeypatch):
    def directly():
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_store["AWS_ENDPOINT_URL"])
        forget_clients()

    outlive_outages(faults, f"s3://{bucket}/run", DOWN_S, monkeypatch, directly)


TIMED = """
import sys, time
from camrobust.io.retries import insist
from camrobust.io.store_errors import overloaded
from camrobust.run.ledger import Watch

end = time.monotonic() + float(sys.argv[1])

def call():
    if time.monotonic() < end:
        raise overloaded("s3://bucket/x", "SlowDown")
    return "read"

print(Watch("load", object(), 1.0)._timed(lambda places: [insist(call, "s3://bucket")], [0]))
"""


def test_waiting_for_the_store_is_no_hanging_image():
    found = subprocess.run([sys.executable, "-c", TIMED, "3"], capture_output=True, text=True, check=False, cwd=ROOT,
                           env=environment(CAMROBUST_STORE_PATIENCE_S="30"))  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "['read']\n"), found.stderr


def test_a_run_goes_on_after_the_store_was_down(faults, bucket, tmp_path):
    write_photos(tmp_path / "set", 3)
    path = config(tmp_path, tmp_path / "set", models=["tests.toys:pooled"], output=f"s3://{bucket}/run")
    said, outages = [], []

    def say(line):
        said.append(line)
        if line.startswith("images × models"):
            # The next step takes the lease.
            outages.append(down(faults, DOWN_S))
            outages[0].__enter__()

    outcome = in_process.run(path, say=say)
    outages[0].__exit__(None, None, None)
    assert outcome.exit_code == 0
    assert faults.struck["refuse"] > 1
    assert [line for line in said if "answered SlowDown, for " in line]


class Expiring(_Handler):
    """Refuses the old key from the first file of results on; then the new one is there to be read."""

    expired = False
    code = ""

    def relay(self):
        bound = type(self)
        bound.expired |= self.command == "PUT" and "/scores/" in self.path
        if bound.expired and "Credential=OLDKEY/" in self.headers["Authorization"]:
            bound.renew()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code></Error>".encode()
            self.close_connection = True
            self._answer(403, [("Content-Type", "application/xml")], body, len(body))
            return
        super().relay()


for _verb in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(Expiring, f"do_{_verb}", lambda self: self.relay())


@pytest.fixture(scope="module")
def any_key():
    """A mock of S3 that accepts every key."""
    found, stop = _moto()
    yield found["AWS_ENDPOINT_URL"]
    stop()


@pytest.mark.parametrize(("source", "code"), [("file", "ExpiredToken"), ("process", "InvalidAccessKeyId")])
def test_credentials_that_expire_in_a_run_are_read_again(any_key, source, code, tmp_path, monkeypatch):
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    held_in = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(held_in if source == "file" else tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
    if source == "process":
        (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {held_in}\n")

    def give(key):
        file = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n"
        process = f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "s"}}'
        held_in.write_text(file if source == "file" else process)

    give("OLDKEY")
    bound = type("_Bound", (Expiring,), {"upstream": any_key.removeprefix("http://"), "faults": Faults(),
                                         "code": code, "renew": staticmethod(lambda: give("NEWKEY"))})  # fmt: skip
    try:
        with serving(bound) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            forget_clients()
            name = f"bucket-{time.time_ns()}"
            client = boto3.client("s3", region_name="us-east-1")
            client.create_bucket(Bucket=name)
            client.close()
            write_photos(tmp_path / "set", 2)
            path = config(tmp_path, tmp_path / "set", models=["tests.toys:pooled"], output=f"s3://{name}/run")
            assert in_process.run(path).exit_code == 0
            assert bound.expired
    finally:
        forget_clients()
