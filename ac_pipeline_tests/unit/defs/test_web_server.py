"""The guard of Dagster's web server: what a page in the operator's browser may not do, and what the UI still does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from ac_pipeline.defs.web_server import KEPT_SECONDS, Guard, thumbnail, why_refused

HOST = {"host": "127.0.0.1:3000"}
URL = "https://dagster.example"
MUTATION = "query=mutation%20%7B%20reloadWorkspace%20%7B%20__typename%20%7D%20%7D"


def request(
    path: str = "/graphql", method: str = "POST", query: str = "", kind: str = "http", **headers: str
) -> dict[str, Any]:
    given = {**HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "server": ("10.1.2.3", 3000),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


REFUSED = {
    "a name that leads to us": request(host="evil.example:3000"),
    "a page of that name": request("/locations", "GET", host="evil.example"),
    "an address of another machine": request(host="10.9.9.9:3000"),
    "a name in front of ours": request(host="127.0.0.1.evil.example"),
    "ours as a user's name": request(host="127.0.0.1:3000@evil.example"),
    "no host": request(host=""),
    "a form of another page": request(origin="https://evil.example"),
    "a page without an origin": request(origin="null"),
    "another server of this machine": request(origin="http://127.0.0.1:8000"),
    "a page that hides its origin": request(referer="https://evil.example/page"),
    "a picture": request(method="GET", query="query=%7Bversion%7D", sec_fetch_site="cross-site"),
    "a frame": request("/jobs", "GET", sec_fetch_site="cross-site", sec_fetch_dest="iframe"),
    "a link that changes something": request(method="GET", query=MUTATION),
    "a link among others": request(method="GET", query=f"query=%7Bversion%7D&{MUTATION}"),
    "a link under a prefix": request("/prefix/graphql", "GET", MUTATION),
    "a link that cannot be read": request(method="GET", query="query=mutation"),
    "a report of another page": request("/report_asset_materialization/a", origin="https://evil.example"),
    "a socket of another page": request(method="GET", kind="websocket", origin="https://evil.example"),
    "a socket of a name that leads to us": request(method="GET", kind="websocket", host="evil.example"),
}
TAKEN = {
    "the UI": request(
        origin="http://127.0.0.1:3000", referer="http://127.0.0.1:3000/jobs", sec_fetch_site="same-origin"
    ),
    "the UI by another name": request(host="localhost:3000", origin="http://localhost:3000"),
    "the UI by IPv6": request(host="[::1]:3000", origin="http://[::1]:3000"),
    "the UI by the address it listens at": request(host="10.1.2.3:3000", origin="http://10.1.2.3:3000"),
    "the UI behind a proxy": request(host="dagster.example", origin="https://dagster.example"),
    "behind a proxy that renames": request(origin="https://dagster.example"),
    "a program": request(),
    "a program that asks": request(method="GET", query="query=%7Bversion%7D"),
    "a link in an alert": request("/runs/1", "GET", referer="https://chat.example/", sec_fetch_site="cross-site"),
    "a socket of the UI": request(method="GET", kind="websocket", origin="http://127.0.0.1:3000"),
    "a socket of a program": request(method="GET", kind="websocket"),
}


@pytest.mark.parametrize("scope", REFUSED.values(), ids=REFUSED.keys())
def test_what_comes_from_elsewhere_is_refused(scope: dict[str, Any]) -> None:
    """GUARD: a page that is open in the operator's browser drives nothing, whatever it tries."""
    assert why_refused(scope, URL)


@pytest.mark.parametrize("scope", TAKEN.values(), ids=TAKEN.keys())
def test_the_ui_and_programs_are_served(scope: dict[str, Any]) -> None:
    assert why_refused(scope, URL) == ""


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
@pytest.mark.parametrize("foreign", [False, True])
def test_what_is_refused_does_not_reach_the_application(kind: str, foreign: bool) -> None:
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        raise AssertionError

    scope = request(method="GET", kind=kind, **({"host": "evil.example"} if foreign else {}))
    asyncio.run(Guard(app, URL)(scope, receive, send))
    refused = foreign and kind != "lifespan"
    assert reached == ([] if refused else [kind])
    start = {"http": "http.response.start", "websocket": "websocket.close"}
    assert sent[:1] == ([start[kind]] if refused else [])


def picture(side: int, format: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (side, side), "teal").save(stream, format)
    return stream.getvalue()


def get(path: str, at: float = 0.0) -> tuple[int, bytes]:
    """What the guard answers by itself, at that many seconds."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nobody(*_: Any) -> None:
        raise AssertionError("handed on")

    asyncio.run(Guard(nobody, clock=lambda: at)(request(path, "GET"), nobody, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """The blobs of a PDS on this machine, by CID."""
    held: dict[str, bytes] = {}

    class Pds(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cid = parse_qs(urlsplit(self.path).query)["cid"][0]
            self.send_response(200 if cid in held else 404)
            self.end_headers()
            self.wfile.write(held.get(cid, b""))

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Pds) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MONGODB_CONNECTION_STRING", "mongodb://127.0.0.1:1")
        monkeypatch.setenv("MONGODB_NAME", "platform")
        monkeypatch.setenv("PDS_URL", f"http://127.0.0.1:{server.server_address[1]}")
        thumbnail.cache_clear()
        yield held
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_small_pictures_are_made_of_blobs_of_the_pds_and_of_nothing_else(blobs: dict[str, bytes]) -> None:
    """For lists of records; what is no picture, too wide, unknown or named oddly is not found."""
    blobs["a" * 40], blobs["b" * 40] = picture(512), picture(200, "JPEG")
    blobs["c" * 40], blobs["d" * 40] = b"not a picture", picture(4_097)
    for cid, side in (("a" * 40, 96), ("b" * 40, 96)):
        status, body = get(f"/thumbnails/did:plc:ada/{cid}")
        assert status == 200
        assert Image.open(BytesIO(body)).size == (side, side)
    for path in ("c" * 40, "d" * 40, "e" * 40, "../secret", "a" * 19, "x/y"):
        assert get(f"/thumbnails/did:plc:ada/{path}")[0] == 404
    assert get("/thumbnails/ada")[0] == 404


@pytest.mark.slow
def test_a_picture_that_was_erased_is_not_shown_for_longer_than_a_moment(blobs: dict[str, bytes]) -> None:
    """DEL-7: the web server runs for weeks."""
    path = f"/thumbnails/did:plc:ada/{'a' * 40}"
    blobs["a" * 40] = picture(512)
    assert get(path)[0] == 200
    del blobs["a" * 40]
    assert get(path, at=KEPT_SECONDS - 1)[0] == 200
    assert get(path, at=KEPT_SECONDS)[0] == 404
