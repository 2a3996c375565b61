"""Accounts on a local PDS, for the demo data and the tests, by the `atproto` package's HTTP client.

Accounts of the real PDS are `operations/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from json import dumps
from typing import Any

import httpx

from ac_pipeline.errors import PipelineError, ServiceUnreachable
from ac_pipeline.redaction import basic


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What `createAccount` answered, with the password it was given."""

    did: str
    handle: str
    password: str = field(repr=False)
    token: str = field(repr=False)


class PdsAccounts:
    """The account calls of one PDS. Usable from several threads; a context manager that closes its connections. All
    raise PipelineError where the PDS refuses, with its words."""

    def __init__(self, url: str, admin_password: str) -> None:
        from atproto import Request  # noqa: PLC0415  # 0.97 s of CPU, for those who make accounts

        self._url = url
        self._http = Request(timeout=30.0, trust_env=False)
        self._admin = f"Basic {basic('admin', admin_password)}"

    def create(self, handle: str, password: str) -> NewAccount:
        """Make an account. `handle`: the whole PDS handle, e.g. `jeffrey.test`."""
        data = {"handle": handle, "email": f"{handle.replace('.', '-')}@example.test", "password": password}
        made = self.call("com.atproto.server.createAccount", data)
        return NewAccount(made["did"], made["handle"], password, made["accessJwt"])

    def admin(self, method: str, json: Mapping[str, Any]) -> dict[str, Any]:
        """Call a procedure as the administrator, e.g. `com.atproto.admin.updateSubjectStatus`."""
        return self._send(method, dumps(dict(json)), self._admin)

    def call(self, method: str, json: Mapping[str, Any], *, token: str | None = None) -> dict[str, Any]:
        """Call a procedure without login, or as the account whose access token is given."""
        return self._send(method, dumps(dict(json)), token and f"Bearer {token}")

    def upload(self, data: bytes, mime_type: str, *, token: str) -> dict[str, Any]:
        """Upload a blob as an account and return its reference as a record holds it."""
        return dict(self._send("com.atproto.repo.uploadBlob", data, f"Bearer {token}", mime_type)["blob"])

    def take_down(self, did: str) -> None:
        subject = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
        data = {"subject": subject, "takedown": {"applied": True, "ref": "local"}}
        self.admin("com.atproto.admin.updateSubjectStatus", data)

    def deactivate(self, token: str) -> None:
        """Deactivate the account whose token this is, as its owner does."""
        self.call("com.atproto.server.deactivateAccount", {}, token=token)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> PdsAccounts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self, method: str, content: str | bytes, login: str | None, mime_type: str = "application/json"
    ) -> dict[str, Any]:
        from atproto.exceptions import RequestErrorBase  # noqa: PLC0415

        headers = {"Content-Type": mime_type} | ({"Authorization": login} if login else {})
        try:
            answer = self._http.post(f"{self._url}/xrpc/{method}", content=content, headers=headers)
        except (httpx.HTTPError, RequestErrorBase) as error:
            refusal = getattr(error, "response", None)
            if refusal is None or isinstance(error, httpx.HTTPError):
                raise ServiceUnreachable(f"{self._url} did not answer: {error!r}") from error
            raise PipelineError(f"the PDS refused: {error}", status=refusal.status_code) from error
        return dict(answer.content) if answer.content else {}
