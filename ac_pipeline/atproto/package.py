"""The calls that are rarely made, by models and namespaces of the `atproto` package, over our own transport.

The package knows names, fields and types of every call. How a request is sent, repeated, paced and bounded, and what a
refusal means, stays `transport.py`'s: its connections, its time-outs, its errors. Importing the package takes 0.97 s of
CPU and 71 MB, so this module is imported where such a call is made, and by no run that only syncs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from atproto_client.client.raw import ClientRaw
from atproto_client.exceptions import ModelError
from atproto_client.request import RequestBase, Response

from ac_pipeline.atproto.transport import Method, Read, Request, Transport
from ac_pipeline.atproto.xrpc_errors import content_of


def ask(transport: Transport, request: Request, question: Callable[[Any], Read]) -> Read:
    """What a question to the package's `com.atproto` namespace comes to, asked again where `Transport.send` would, and
    with its errors. `request`: what holds for each call of the question; method, name, query and body are the
    package's. `question`: makes one call and reads its answer, a model of the package. A `ValueError` says that it is
    not what was asked for. A call that is answered with nothing returns True if it was."""
    carrier = _Carrier(transport, request)
    com = ClientRaw(transport.place, carrier).com.atproto

    def once() -> Read:
        try:
            return question(com)
        except ModelError:  # its words hold the answer
            raise transport.malformed(carrier.sent, "its fields are not those of this call") from None
        except ValueError as error:
            raise transport.malformed(carrier.sent, str(error)) from None

    return transport.repeat(request, once)


class _Carrier(RequestBase):  # type: ignore[misc]  # the package has no types
    """What the package sends with, in place of an HTTP client of its own."""

    def __init__(self, transport: Transport, request: Request) -> None:
        super().__init__()
        self._transport = transport
        self.sent = request

    def get(self, url: str, params: Mapping[str, Any] | None = None, **_: object) -> Response:
        return self._send("GET", url, params, None)

    def post(
        self, url: str, params: Mapping[str, Any] | None = None, content: str | None = None, **_: object
    ) -> Response:
        return self._send("POST", url, params, content)

    def _send(self, method: Method, url: str, params: Mapping[str, Any] | None, content: str | None) -> Response:
        body = None if content is None else content.encode()
        self.sent = replace(self.sent, nsid=url.rpartition("/")[2], method=method, params=dict(params or {}), body=body)
        return self._transport.once(self.sent, _answer)


def _answer(body: bytes) -> Response:
    content = content_of(body) if body.strip() else {}
    return Response(success=not content, status_code=200, content=content, headers={})
