"""Counts the requests to a store: a relay on loopback that passes every byte on as it is.

It reads the first line and the length of each request, so it costs little beside the store itself. It stands on the way
of every process, so it also counts what workers asked for that were killed later, and what libraries ask for that are
not in Python.
"""

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, unquote, urlsplit

from camrobust.io.s3_client import forget_clients

PIECE_BYTES = 2**18
HEAD_BYTES = 2**16
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
LISTED = "LIST"
ENDS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
"""How a connection ends: its process was killed, or is done with it."""


class Requests:
    """How many requests of each kind have passed.

    Attributes:
        counts: by verb and path; a listing has the verb `LIST` and its prefix in the place of a key.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, line: str) -> None:
        """Count a request by its first line, `VERB PATH HTTP/1.1`."""
        verb, _, rest = line.partition(" ")
        url = urlsplit(rest.rpartition(" ")[0])
        asked = parse_qs(url.query)
        listing = verb == "GET" and "list-type" in asked
        path = f"{url.path}/{asked.get('prefix', [''])[0]}" if listing else unquote(url.path)
        self.counts[LISTED if listing else verb, path] += 1

    def take(self) -> Counter[tuple[str, str]]:
        """What was counted since the last call."""
        taken, self.counts = self.counts, Counter()
        return taken


@contextmanager
def counting(endpoint: str, requests: Requests) -> Iterator[str]:
    """Run a relay before a store, and give its address on loopback.

    Args:
        endpoint: address of the store, http://host:port.
        requests: counts.
    """
    upstream = urlsplit(endpoint)
    store = (upstream.hostname or "", upstream.port or 80)
    loop = asyncio.new_event_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Python 3.11 prints a traceback for a connection that is cancelled.
        with suppress(asyncio.CancelledError):
            await _relay(reader, writer, store, requests)

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0, limit=HEAD_BYTES))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def reached_through(address: str) -> Iterator[None]:
    """While open, this process reaches the store through the relay, too."""
    before = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = address
    forget_clients()
    try:
        yield
    finally:
        os.environ["AWS_ENDPOINT_URL"] = before
        forget_clients()


async def _end(server: asyncio.Server) -> None:
    """Close the listener and every connection."""
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _relay(
    client: asyncio.StreamReader, answers: asyncio.StreamWriter, store: tuple[str, int], requests: Requests
) -> None:
    """Pass on one connection until either side ends it."""
    with suppress(*ENDS):
        back, forth = await asyncio.open_connection(*store)
        pump = asyncio.create_task(_copy(back, answers))
        try:
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                requests.add(head.partition(b"\r\n")[0].decode("latin-1"))
                forth.write(head)
                length = LENGTH.search(head)
                await _copy_some(client, forth, int(length[1]) if length else 0)
        finally:
            forth.close()
            answers.close()
            pump.cancel()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(*ENDS):
        while piece := await source.read(PIECE_BYTES):
            sink.write(piece)
            await sink.drain()
        sink.close()


async def _copy_some(source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int) -> None:
    while left:
        piece = await source.readexactly(min(left, PIECE_BYTES // 4))
        sink.write(piece)
        await sink.drain()
        left -= len(piece)
