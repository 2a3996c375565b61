"""Accounts on a local PDS: making them, writing as them, and the administrator's calls on them.

For the demo data and the tests. Accounts of the real PDS are `operations/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """The account calls of one PDS. Usable from several threads; a context manager that closes its connections."""

    def __init__(self, url: str, admin_password: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/xrpc/", timeout=30.0, trust_env=False)
        self._admin = httpx.BasicAuth("admin", admin_password)

    def create(self, handle: str, password: str) -> NewAccount:
        """Make an account (`com.atproto.server.createAccount`). `handle`: whole PDS handle, e.g. `jeffrey.test`.

        Raises:
            PipelineError: The PDS refused; with its words.
        """
        email = f"{handle.replace('.', '-')}@example.test"
        made = self.call("com.atproto.server.createAccount", {"handle": handle, "email": email, "password": password})
        return NewAccount(did=made["did"], handle=made["handle"], password=password, token=made["accessJwt"])

    def admin(self, method: str, json: Mapping[str, Any]) -> dict[str, Any]:
        """Call a procedure as the administrator, e.g. `com.atproto.admin.updateSubjectStatus`."""
        return self._post(method, json=dict(json), auth=self._admin)

    def call(self, method: str, json: Mapping[str, Any], *, token: str | None = None) -> dict[str, Any]:
        """Call a procedure without login, or as the account whose access token is given."""
        return self._post(method, json=dict(json), headers=_bearer(token) if token else {})

    def upload(self, data: bytes, mime_type: str, *, token: str) -> dict[str, Any]:
        """Upload a blob as an account and return its reference as a record holds it."""
        headers = {"Content-Type": mime_type, **_bearer(token)}
        return dict(self._post("com.atproto.repo.uploadBlob", content=data, headers=headers)["blob"])

    def take_down(self, did: str) -> None:
        """Take an account down, as moderation does."""
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

    def _post(self, method: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._http.post(method, **request)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"{self._http.base_url} did not answer: {error!r}") from error
        if not answer.is_success:
            raise PipelineError(f"the PDS refused: {answer.status_code} {answer.text}", status=answer.status_code)
        return dict(answer.json()) if answer.content else {}


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
