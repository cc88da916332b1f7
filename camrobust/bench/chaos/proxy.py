"""An S3 store that fails on purpose: an HTTP proxy on loopback in front of a real endpoint."""

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from camrobust.bench.chaos.signing import EXPIRED, Keys

FAULTS = ("refuse", "slow", "cut", "deaf")
"""Answer 503 SlowDown; answer late; break the answer off; lose the answer after the store has acted."""
HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection"}
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>on purpose</Message></Error>"
SLOW_S = 1.5
HOLD_S = 300.0


@dataclass
class Faults:
    """How often each fault strikes; may be changed while the proxy runs.

    Attributes:
        shares: probability per request, by name in `FAULTS`.
        dice: decides which requests fail.
        struck: how often each fault has struck.
        requests: number of requests so far.
        hold: pattern of "METHOD PATH"; a matching request reaches the store only after `let_go` is set.
        holding: number of requests that were held.
        let_go: lets the held requests go on.
        keys: the credentials that are taken; None for those of the store.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    dice: random.Random = field(default_factory=random.Random)
    struck: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    hold: str = ""
    holding: int = 0
    let_go: threading.Event = field(default_factory=threading.Event)
    keys: Keys | None = None

    def heal(self) -> None:
        """Let no further request fail."""
        self.shares = {}

    def wait(self, request: str) -> None:
        """Wait if this request is to be held."""
        if self.hold and re.search(self.hold, request):
            self.holding += 1
            self.let_go.wait(HOLD_S)

    def draw(self) -> str:
        """Name of the fault of the next request, empty for none."""
        self.requests += 1
        left = self.dice.random()
        for name, share in self.shares.items():
            if left < share:
                self.struck[name] += 1
                return name
            left -= share
        return ""


@dataclass
class Link:
    """The way from one node to the store.

    Attributes:
        cut: whether nothing passes now.
        dropped: number of connections and requests that found it cut.
    """

    cut: bool = False
    dropped: int = 0

    def drops(self) -> bool:
        """Whether what arrives now is dropped; it is counted then."""
        self.dropped += self.cut
        return self.cut


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    faults = Faults()
    link = Link()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def relay(self) -> None:
        """Pass one request on, or fail."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.link.drops():
            self.close_connection = True
            return
        self.faults.wait(f"{self.command} {self.path}")
        fault = self.faults.draw()
        if fault == "refuse":
            self._refuse(503, SLOW_DOWN)
            return
        if self.faults.keys is not None and not self.faults.keys.takes(self.headers.get("Authorization", "")):
            self._refuse(403, EXPIRED)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        status, headers, body = self._ask(content)
        if fault == "deaf":
            self.close_connection = True
            return
        length = len(body)
        if fault == "cut":
            self.close_connection = True
            body = body[: length // 2]
        self._answer(status, headers, body, length)

    def _refuse(self, status: int, body: bytes) -> None:
        self.close_connection = True
        body = b"" if self.command == "HEAD" else body
        self._answer(status, [("Content-Type", "application/xml")] if body else [], body, len(body))

    def _ask(self, content: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            # The client has signed the host, so it must stay as it is.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if self.faults.keys is not None:
                headers = self.faults.keys.signed(self.command, self.path, headers)
            for name, value in headers.items():
                if name not in HOP | {"expect"}:
                    connection.putheader(name, value)
            connection.endheaders(content or None)
            answer = connection.getresponse()
            found = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        # The answer to HEAD gives the length of the object, which it does not send.
        known = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", known if known and self.command == "HEAD" else str(length))
        self.end_headers()
        self.wfile.write(body)


for _verb in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(_Handler, f"do_{_verb}", _Handler.relay)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    link = Link()

    def verify_request(self, *_: object) -> bool:
        """Whether a connection is taken."""
        return not self.link.drops()

    def handle_error(self, *_: object) -> None:
        """Say nothing: lost clients and stores are expected here."""


@contextmanager
def failing_store(endpoint: str, faults: Faults, link: Link | None = None) -> Iterator[str]:
    """Run a proxy that fails, and give its address on loopback.

    Args:
        endpoint: address of the real store, http://host:port.
        faults: what strikes, and how often it has.
        link: of the node that has this address; None for a link that is never cut.
    """
    link = link or Link()
    bound = {"upstream": urlsplit(endpoint).netloc, "faults": faults, "link": link}
    with serving(type("_Bound", (_Handler,), bound), link) as address:
        yield address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], link: Link | None = None) -> Iterator[str]:
    """The address of a server on loopback, which is ended with the block.

    Args:
        handler: answers the requests.
        link: while it is cut, no connection is taken; None for a link that is never cut.
    """
    server = _Server(("127.0.0.1", 0), handler)
    server.link = link or server.link
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
