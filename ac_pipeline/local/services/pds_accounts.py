"""Accounts on a local PDS: making them, and the administrator's calls on them.

For the demo data and the tests. Accounts of the real PDS are `operations/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from ac_pipeline.errors import PipelineError, ServiceUnreachable


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
        self._http = httpx.Client(base_url=url, timeout=30.0, trust_env=False)
        self._admin = httpx.BasicAuth("admin", admin_password)

    def create(self, handle: str, password: str) -> NewAccount:
        """Make an account (`com.atproto.server.createAccount`).

        Args:
            handle: Whole PDS handle, e.g. `jeffrey.test`.

        Raises:
            PipelineError: The PDS refused; with its words.
        """
        answer = self.call(
            "com.atproto.server.createAccount",
            {"handle": handle, "email": f"{handle.replace('.', '-')}@example.test", "password": password},
        )
        return NewAccount(did=answer["did"], handle=answer["handle"], password=password, token=answer["accessJwt"])

    def admin(self, method: str, json: Mapping[str, Any]) -> dict[str, Any]:
        """Call a procedure as the administrator, e.g. `com.atproto.admin.updateSubjectStatus`."""
        return self._post(method, json, auth=self._admin)

    def call(self, method: str, json: Mapping[str, Any], *, token: str | None = None) -> dict[str, Any]:
        """Call a procedure without login, or as the account whose access token is given."""
        return self._post(method, json, headers={"Authorization": f"Bearer {token}"} if token else {})

    def upload(self, data: bytes, mime_type: str, *, token: str) -> dict[str, Any]:
        """Upload a blob as an account and return its reference as a record holds it."""
        answer = self._send(
            "com.atproto.repo.uploadBlob",
            content=data,
            headers={"Content-Type": mime_type, "Authorization": f"Bearer {token}"},
        )
        return dict(answer["blob"])

    def take_down(self, did: str) -> None:
        """Take an account down, as moderation does."""
        self.admin(
            "com.atproto.admin.updateSubjectStatus",
            {
                "subject": {"$type": "com.atproto.admin.defs#repoRef", "did": did},
                "takedown": {"applied": True, "ref": "local"},
            },
        )

    def deactivate(self, token: str) -> None:
        """Deactivate the account whose token this is, as its owner does."""
        self.call("com.atproto.server.deactivateAccount", {}, token=token)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> PdsAccounts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, method: str, json: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self._send(method, json=dict(json), **options)

    def _send(self, method: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._http.post(f"/xrpc/{method}", **options)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"{self._http.base_url} did not answer {method}: {error!r}") from error
        if response.status_code != httpx.codes.OK:
            raise PipelineError(
                f"the PDS refused {method}: {response.status_code} {response.text[:300]}", status=response.status_code
            )
        return dict(response.json()) if response.content else {}
