"""Accounts on a local PDS: making them, and the administrator's calls on them, by the `atproto` package.

For the demo data and the tests. Accounts of the real PDS are `operations/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json import dumps
from types import TracebackType
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
    """The account calls of one PDS. Usable from several threads; a context manager that closes its connections.

    Args:
        url: Address of the PDS.
        admin_password: Of `com.atproto.admin.*`.
    """

    def __init__(self, url: str, admin_password: str) -> None:
        from atproto import Client, Request  # noqa: PLC0415  # 0.97 s of CPU, for those who make accounts

        self._url = url
        self._request = Request(timeout=30.0, trust_env=False)
        self._client = Client(url, request=self._request)
        self._com = self._client.com.atproto
        self._admin = {"Authorization": f"Basic {basic('admin', admin_password)}"}

    def create(self, handle: str, password: str) -> NewAccount:
        """Make an account (`com.atproto.server.createAccount`).

        Args:
            handle: Whole PDS handle, e.g. `jeffrey.test`.

        Raises:
            PipelineError: The PDS refused; with its words.
        """
        email = f"{handle.replace('.', '-')}@example.test"
        data = {"handle": handle, "email": email, "password": password}
        made = self._send(self._com.server.create_account, data)
        return NewAccount(did=made.did, handle=made.handle, password=password, token=made.access_jwt)

    def admin(self, method: str, json: Mapping[str, Any]) -> dict[str, Any]:
        """Call a procedure as the administrator, e.g. `com.atproto.admin.updateSubjectStatus`."""
        return self._call(method, json, self._admin)

    def call(self, method: str, json: Mapping[str, Any], *, token: str | None = None) -> dict[str, Any]:
        """Call a procedure without login, or as the account whose access token is given."""
        return self._call(method, json, _bearer(token) if token else {})

    def upload(self, data: bytes, mime_type: str, *, token: str) -> dict[str, Any]:
        """Upload a blob as an account and return its reference as a record holds it."""
        headers = {"Content-Type": mime_type, **_bearer(token)}
        address = f"{self._url}/xrpc/com.atproto.repo.uploadBlob"  # the package's own call makes httpx warn of bytes
        return dict(self._send(self._request.post, address, content=data, headers=headers).content["blob"])

    def take_down(self, did: str) -> None:
        """Take an account down, as moderation does."""
        subject = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
        data = {"subject": subject, "takedown": {"applied": True, "ref": "local"}}
        self._send(self._com.admin.update_subject_status, data, headers=self._admin)

    def deactivate(self, token: str) -> None:
        """Deactivate the account whose token this is, as its owner does."""
        self._send(self._com.server.deactivate_account, {}, headers=_bearer(token))

    def close(self) -> None:
        self._request.close()

    def __enter__(self) -> PdsAccounts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, json: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", **headers}
        answer = self._send(self._client.invoke_procedure, method, content=dumps(dict(json)), headers=headers)
        return dict(answer.content) if answer.content else {}

    def _send(self, procedure: Callable[..., Any], *args: Any, **options: Any) -> Any:
        from atproto.exceptions import RequestErrorBase  # noqa: PLC0415

        try:
            return procedure(*args, **options)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"{self._url} did not answer: {error!r}") from error
        except RequestErrorBase as error:
            if error.response is None:
                raise ServiceUnreachable(f"{self._url} did not answer: {error!r}") from error
            raise PipelineError(f"the PDS refused: {error}", status=error.response.status_code) from error


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
