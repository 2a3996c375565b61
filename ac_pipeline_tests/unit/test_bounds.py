"""How long, how slow and how large an answer may be, on real connections (ANSWER-2)."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.transport import open_http
from ac_pipeline.bounds import Limit, Limits
from ac_pipeline.errors import OutcomeUnknown, ServerFailed
from ac_pipeline.media.base import SourceObject
from ac_pipeline.objects import ObjectStorage, storage_client
from ac_pipeline_tests.unit.atproto.client.scripted_pds import ALICE, CREATE, DATA, DID, Server, make, session

pytestmark = pytest.mark.slow

Feed = Callable[[socket.socket], object]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def serving(feed: Feed) -> Iterator[str]:
    """A server that reads what it is sent for a moment, then does what `feed` does; the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if b"createSession" in connection.recv(1 << 16):
                body = session("1").content
                connection.sendall(HEAD + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            else:
                feed(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def drip(piece: bytes, seconds: float, head: bytes = b"") -> Feed:
    def feed(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(seconds)

    return feed


def packed_bomb(connection: socket.socket) -> None:
    body = gzip.compress(bytes(32 << 20), 1)
    connection.sendall(HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


OPEN = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = drip(b"1\r\nx\r\n", 0.05, OPEN)
ENDLESS = drip(b"10000\r\n" + bytes(1 << 16) + b"\r\n", 0.0, OPEN)
FEEDS: dict[str, tuple[Feed, str]] = {
    "a body that drips": (SLOW, "LEAST_BYTES_PER_SECOND"),
    "a body that drips for long": (drip(b"1000\r\n" + bytes(4096) + b"\r\n", 0.05, OPEN), "_SECONDS"),
    "a head that drips": (drip(b"X-A: b\r\n", 0.05, b"HTTP/1.1 200 OK\r\n"), "_SECONDS"),
    "heads without end": (drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "_SECONDS"),
    "silence": (drip(b"", 0.05), "_SECONDS"),
    "a body without end": (ENDLESS, "_MEGABYTES"),
    "a packed body": (packed_bomb, "_MEGABYTES"),
}
CALLS: dict[str, tuple[str, Callable[[PdsClient], object]]] = {
    "getRepo": ("AC_REPOSITORY", lambda pds: pds.read_repository(DID)),
    "getLatestCommit": ("AC_ANSWER", lambda pds: pds.latest_commit(DID)),
    "getBlob": ("AC_BLOB", lambda pds: pds.get_blob(DID, blob_cid(DATA))),
    "applyWrites": ("AC_ANSWER", lambda pds: pds.apply_writes(ALICE, [CREATE], swap_commit=None)),
}


def limits(grace: float, seconds: float = 0.25) -> Limits:
    names = ("answer", "repository", "blob", "media")
    return Limits(**{name: Limit(f"AC_{name.upper()}", seconds, 1, 500, grace) for name in names})


@pytest.mark.parametrize(
    ("call", "feed"),
    [
        *((call, feed) for call in ("getRepo", "applyWrites") for feed in FEEDS),
        ("getLatestCommit", "a packed body"),
        ("getBlob", "a body without end"),
    ],
)
def test_no_answer_of_a_pds_goes_beyond_its_limits(call: str, feed: str) -> None:
    """ANSWER-2: a failed server, named with the limit and its setting, and not asked again at once."""
    kind, ask = CALLS[call]
    answer, setting = FEEDS[feed]
    named = f"AC_{setting}" if setting.startswith("LEAST") else kind + setting
    server = Server()
    with serving(answer) as url, open_http(timeout=5.0) as http:
        seconds = 0.25 if setting == "_SECONDS" else 60.0
        pds = make(server, http, url, limits=limits(0.1 if setting.startswith("LEAST") else 30.0, seconds))
        with pytest.raises(OutcomeUnknown if call == "applyWrites" else ServerFailed, match=named):
            ask(pds)
    assert server.slept == []


@pytest.mark.parametrize("feed", [name for name in FEEDS if name != "a packed body"])
def test_no_answer_of_object_storage_goes_beyond_its_limits(feed: str, tmp_path: Path) -> None:
    """ANSWER-2: what is stored packed is never unpacked, and so no bomb."""
    answer, setting = FEEDS[feed]
    seconds = 0.25 if setting == "_SECONDS" else 60.0
    limit = limits(0.1 if setting.startswith("LEAST") else 30.0, seconds).media
    with serving(answer) as url, storage_client(timeout=5.0) as http:
        storage = ObjectStorage(http, f"{url}/{{bucket}}", limit=limit)
        with pytest.raises(ServerFailed, match=setting):
            storage.fetch([SourceObject("user-aesthetic-computer", "a.png", "png")], tmp_path / "file", 1 << 30)


def test_a_receiver_that_takes_an_upload_in_drips_is_given_up() -> None:
    """ANSWER-2: sending is bounded as well."""
    server = Server()

    def feed(connection: socket.socket) -> None:
        while connection.recv(64):
            time.sleep(0.05)

    data = bytes(32 << 20)
    with serving(feed) as url, open_http(timeout=5.0) as http:
        pds = make(server, http, url, limits=limits(30.0))
        pds._blob_limit = len(data)
        with pytest.raises(ServerFailed, match="AC_BLOB_SECONDS"):
            pds.upload_blob(ALICE, data, "image/png")
