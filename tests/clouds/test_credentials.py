"""Credentials of Google and Azure that stop to be valid in the middle of a run are read again from where they are."""

import base64
import datetime
import ipaddress
import json
import os
import shutil
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from camrobust.bench.chaos.proxy import Faults, _Handler, serving
from camrobust.contract.errors import UserError
from camrobust.io import google
from camrobust.io.retries import patient
from camrobust.io.store import open_store, read_object
from tests import in_process
from tests.cloud_places import forget_clients, new_place, settle
from tests.conftest import _serve, free_port
from tests.photos import write_photos
from tests.runs import SMALL, config

pytestmark = pytest.mark.s3
UPLOADS = 5


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class Tokens(_Handler):
    """Gives a token to whoever signs for an account; after some uploads that of the old account is refused."""

    uploads = 0
    refused = 0

    def relay(self):
        bound = type(self)
        if self.path == "/token":
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            claims = json.loads(base64.urlsafe_b64decode(asked["assertion"][0].split(".")[1] + "=="))
            account = claims["iss"].partition("@")[0]
            self.answer(200, {"access_token": f"token-of-{account}", "expires_in": 3600, "token_type": "Bearer"})
            return
        bound.uploads += self.path.startswith("/upload/")
        token = self.headers.get("Authorization", "")
        if token == "Bearer token-of-new" or (token == "Bearer token-of-old" and bound.uploads <= UPLOADS):
            super().relay()
            return
        bound.refused += 1
        bound.renew()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(401, {"error": {"code": 401, "message": "Invalid Credentials"}})

    def answer(self, status, what):
        body = json.dumps(what).encode()
        self._answer(status, [("Content-Type", "application/json")], body, len(body))


for _verb in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(Tokens, f"do_{_verb}", lambda self: self.relay())


def test_a_key_file_of_google_is_read_again(google_store, tmp_path, monkeypatch):
    key_file, key = tmp_path / "key.json", pem(rsa.generate_private_key(65537, 2048))
    bound = type("_Bound", (Tokens,), {"upstream": google_store["STORAGE_EMULATOR_HOST"].removeprefix("http://"),
                                       "faults": Faults(), "renew": staticmethod(lambda: give("new"))})  # fmt: skip
    with serving(bound) as address:

        def give(account):
            key_file.write_text(json.dumps({
                "type": "service_account", "project_id": "test", "private_key_id": account, "private_key": key,
                "client_email": f"{account}@test.invalid", "client_id": "1", "token_uri": f"{address}/token",
            }))  # fmt: skip

        give("old")
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
        settle(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file), "API_ENDPOINT_OVERRIDE": address})
        place = new_place("gs")
        write_photos(tmp_path / "set", 2)
        path = config(tmp_path, tmp_path / "set", output=f"{place}/run", **SMALL | {"cams": ["gradcam"]})
        assert in_process.run(path).exit_code == 0
        assert bound.refused >= 1
        contents = [read_object(f"{place}/run/{entry.key}") for entry in open_store(f"{place}/run").list()]
        assert contents
        assert not any(b"token-of-" in content or b"PRIVATE KEY" in content for content in contents)
        bound.refused, bound.renew = 0, staticmethod(lambda: give("lost"))
        give("lost")
        forget_clients()
        with pytest.raises(UserError, match=rf"^gs: the credentials are refused for {place}/x \(401\); renew or"):
            read_object(f"{place}/x")
    forget_clients()


def test_a_new_worker_waits_for_its_credentials(google_store, monkeypatch, tmp_path):
    attempts, found = [], google._client

    def forget():
        attempts.append(1)
        if len(attempts) == 3:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_store["STORAGE_EMULATOR_HOST"])
        found.cache_clear()

    settle(monkeypatch, google_store)
    place = new_place("gs")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setattr(google, "forget_google_clients", forget)
    found.cache_clear()
    with pytest.raises(UserError, match=f"^gs: no credentials for {place}; set GOOGLE_APPLICATION_CREDENTIALS, log in"):
        list(open_store(place).list())
    assert len(attempts) < 2
    with patient():
        assert list(open_store(place).list()) == []
    assert len(attempts) == 3


def certificate(folder):
    """Files of a key and a certificate of 127.0.0.1 signed with it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "key.pem").write_text(pem(key))
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def token(seconds):
    """A token of a machine's identity that is valid for so long; Azurite does not check who signed it."""
    import jwt

    now = int(time.time())
    claims = {"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
              "iat": now - 60, "nbf": now - 60, "exp": now + seconds, "oid": "x", "sub": "x"}  # fmt: skip
    return jwt.encode(claims, "x" * 32, algorithm="HS256")


class Identity(BaseHTTPRequestHandler):
    """The endpoint of a machine's identity: its first token is not valid any more, though it says so."""

    given = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        type(self).given += 1
        expires = int(time.time()) + 86400
        access = token(3600 if self.given > 1 else -30)
        body = json.dumps({"access_token": access, "expires_on": str(expires), "token_type": "Bearer",
                           "resource": "https://storage.azure.com"}).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.skipif(not os.environ.get("CAMROBUST_ALL"), reason="starts a second Azurite, with TLS")
def test_a_token_of_a_machine_of_azure_is_asked_for_again(azure_store, tmp_path, monkeypatch):
    certificate(tmp_path)
    here = Path(__file__).parents[2] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    port = free_port()
    command = [shutil.which("azurite-blob") or str(here), "--blobPort", str(port), "--inMemoryPersistence", "--silent",
               "--disableTelemetry", "--skipApiVersionCheck", "--oauth", "basic",
               "--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]  # fmt: skip
    stop = _serve(command, port, tmp_path)
    string = f"AccountName=devstoreaccount1;BlobEndpoint=https://127.0.0.1:{port}/devstoreaccount1"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    try:
        settle(monkeypatch, {**azure_store, "AZURE_STORAGE_CONNECTION_STRING": string})
        place = new_place("az")
        open_store(place).write("x", b"content")
        monkeypatch.delenv("AZURE_STORAGE_KEY")
        bound = type("_Bound", (Identity,), {})
        with serving(bound) as address:
            settle(monkeypatch, {"IDENTITY_ENDPOINT": address, "IDENTITY_HEADER": "x"})
            with patient():
                assert open_store(place).read("x") == b"content"
            assert bound.given == 2
    finally:
        stop()
        forget_clients()
