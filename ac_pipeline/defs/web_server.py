"""Dagster's web server behind a guard, and small pictures for lists of records below `/thumbnails/`. `python -m
ac_pipeline.defs.web_server` takes the arguments of `dagster-webserver`; with `dev` before them, those of `dagster dev`,
whose web server it becomes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from PIL import Image
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ac_pipeline.bounds import Limit, within
from ac_pipeline.defs.assets.catalog import THUMBNAILS
from ac_pipeline.defs.home import WEB_SERVER
from ac_pipeline.errors import PipelineError
from ac_pipeline.settings import load_settings

_OURS: Final = {"dagster_webserver": WEB_SERVER, "dagster._daemon": "ac_pipeline.defs.daemon"}
"""What `dagster dev` starts, and we instead."""
THUMBNAIL_SIDE: Final = 96
KEPT_SECONDS: Final = 60  # For so long a picture is kept here, and as long again in a browser: it may be erased (DEL-7)
_PICTURE: Final = re.compile(r"(did:[a-z]+:[A-Za-z0-9.:%_-]{1,200})/([a-z2-7]{20,100})")
_PICTURE_SECONDS, _PICTURE_MEGABYTES, _PICTURE_SIDE = 10.0, 2, 4_096
"""What a picture may take to come, hold, and be wide: ours have 512 pixels and 100,000 bytes."""
LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """An ASGI application that refuses foreign requests with 403 and hands on all others to Dagster's. `url`: where
    people reach the UI besides the loopback names (AC_DAGSTER_URL), or empty.

    Dagster's UI has no login, and its web server does what any request asks: a link, a picture or a form on a foreign
    page can launch runs, and a name that leads to 127.0.0.1 (DNS rebinding) reads everything. Refused is what does not
    come from the UI itself or from a program. Who can reach the port is not kept out: that takes a proxy with a login.
    """

    def __init__(self, app: ASGIApp, url: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._url = url
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = why_refused(scope, self._url) if scope["type"] in {"http", "websocket"} else ""
        answer: ASGIApp = self._app
        if reason and scope["type"] == "websocket":
            answer = WebSocketClose(1008, reason)
        elif reason:
            answer = PlainTextResponse(f"{reason}\n", 403)
        elif scope["type"] == "http" and scope["path"].startswith(THUMBNAILS):
            answer = await _thumbnail(scope["path"].removeprefix(THUMBNAILS), int(self._clock() // KEPT_SECONDS))
        await answer(scope, receive, send)


async def _thumbnail(name: str, period: int) -> Response:
    named = _PICTURE.fullmatch(name)
    try:
        picture = await asyncio.to_thread(thumbnail, *named.groups(), period) if named is not None else None
    except (PipelineError, httpx.HTTPError, OSError, ValueError):  # the PDS is away, or it is no picture
        picture = None
    if picture is None:
        return PlainTextResponse("There is no such picture.\n", 404)
    return Response(picture, headers={"cache-control": f"private, max-age={KEPT_SECONDS}"}, media_type="image/png")


@lru_cache(maxsize=512)
def thumbnail(did: str, cid: str, period: int) -> bytes:
    """A picture of the PDS as a PNG of at most 96 x 96 pixels, kept for a `period` alone. Raises PipelineError,
    httpx.HTTPError, OSError, ValueError: it cannot be read, or is none."""
    settings = load_settings()
    with httpx.Client(transport=settings.proxies.transport(httpx.Limits()), trust_env=False) as http:
        asked = {"did": did, "cid": cid}
        with http.stream("GET", f"{settings.pds_url}/xrpc/com.atproto.sync.getBlob", params=asked) as answer:
            answer.raise_for_status()
            limit = Limit("AC_BLOB", _PICTURE_SECONDS, _PICTURE_MEGABYTES)
            with within(limit):
                data = b"".join(limit.watch(answer.iter_bytes()))
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
        if max(picture.size) > _PICTURE_SIDE:
            raise ValueError(f"a picture of {picture.size}")
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        small = BytesIO()
        picture.convert("RGBA").save(small, "PNG")
    return small.getvalue()


def why_refused(scope: Scope, url: str = "") -> str:
    """Why a request is refused; empty when it is not. `scope`: of ASGI, of a request or a websocket. `url`: as for
    `Guard`."""
    headers = Headers(scope=scope)
    host, method = headers.get("host", ""), scope.get("method", "GET")
    address = (scope.get("server") or ("",))[0]  # an IP address, so that no name can be made to lead to it
    if _name(f"//{host}") not in {*LOCAL, address, _name(url)} - {""}:
        return "This host is not known: set AC_DAGSTER_URL to the address under which the UI is reached."
    ours = {host.lower(), urlsplit(url).netloc.lower()} - {""}
    foreign = "origin" in headers and urlsplit(headers["origin"]).netloc.lower() not in ours
    graphql = scope["path"].endswith("/graphql")
    framed = headers.get("sec-fetch-dest") in {"iframe", "frame", "embed", "object"}
    if graphql or framed or method not in {"GET", "HEAD"}:  # a link from elsewhere to a page of the UI is no harm
        referer = headers.get("referer", "")
        foreign = foreign or (referer != "" and urlsplit(referer).netloc.lower() not in ours)
        foreign = foreign or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
    if foreign:
        return "This request comes from another page."
    if graphql and method == "GET" and scope["type"] == "http" and _changes(scope.get("query_string", b"")):
        return "A GET changes nothing: send this with POST."
    return ""


def _changes(query: bytes) -> bool:
    """True if one of the GraphQL documents in a query string holds anything but queries, or cannot be read."""
    try:
        found = [parse(text) for text in parse_qs(query.decode("latin-1")).get("query", ())]
    except GraphQLError:
        return True
    nodes = [node for document in found for node in document.definitions]
    return any(
        isinstance(each, OperationDefinitionNode) and each.operation is not OperationType.QUERY for each in nodes
    )


def _name(address: str) -> str:
    """The host an address names, in lower case; empty when it names none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def main() -> None:
    """Run `dagster-webserver`, or `dagster dev`, with our arguments, the web server behind the guard.

    Neither has a place of its own for it (1.13.27): the one is given other commands to start, the other another
    application to serve.
    """
    if sys.argv[1:2] == ["dev"]:
        dev: Any = import_module("dagster._cli.dev")
        start = dev.open_ipc_subprocess

        def start_guarded(parts: Sequence[str], **options: Any) -> Any:
            return start([_OURS.get(part, part) for part in parts], **options)

        dev.open_ipc_subprocess = start_guarded
        command: Any = import_module("dagster._cli")
    else:
        command = import_module("dagster_webserver.cli")
        create = command.create_app_from_workspace_process_context

        def create_guarded(*given: Any, **options: Any) -> Any:
            app = create(*given, **options)
            app.add_middleware(Guard, url=os.environ.get("AC_DAGSTER_URL", ""))
            return app

        command.create_app_from_workspace_process_context = create_guarded
    command.main()


if __name__ == "__main__":
    main()
