"""The two calls that make a session, and the checks of the tokens they give. When they are made is `sessions.py`."""

from __future__ import annotations

import json
from typing import Final

from ac_pipeline.atproto.answers import Call
from ac_pipeline.atproto.budget import Charge
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.errors import AccountInactive, AccountUnknown, ServerFailed

CREATE: Final = "com.atproto.server.createSession"
REFRESH: Final = "com.atproto.server.refreshSession"


class PdsSignIn:
    """The `SignIn` of one PDS.

    Args:
        transport: What sends.
        timeout: Seconds.
    """

    def __init__(self, transport: Transport, *, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout

    def create_session(self, did: str, password: str) -> Tokens:
        """Sign in; sent once, as the PDS counts attempts.

        Raises:
            WrongPassword: The PDS refuses DID and password; it does not say which.
            AccountInactive: Deactivated, taken down or suspended; a PDS signs in deactivated accounts and says so.
            Blocked: Another refusal.
        """
        request = Request(
            Call.SIGN_IN,
            "create_session",
            "POST",
            CREATE,
            did,
            (Charge(f"sign-in {did}", 1), Charge(self._transport.host, 1)),
            body=json.dumps({"identifier": did, "password": password}).encode(),
            content_type="application/json",
            secrets=(password,),
            timeout=self._timeout,
        )
        return self._tokens(did, request)

    def refresh_session(self, did: str, refresh: str) -> Tokens:
        """Renew a session.

        Raises:
            TokenRefused: The refresh token is expired, revoked or unknown.
            AccountInactive: Deactivated, taken down or suspended.
        """
        charges = (Charge(self._transport.host, 1),)
        request = Request(Call.REFRESH, "other", "POST", REFRESH, did, charges, token=refresh, timeout=self._timeout)
        return self._tokens(did, request)

    def _tokens(self, did: str, request: Request) -> Tokens:
        content = self._transport.json(self._transport.send(request))
        place = self._transport.place
        if content.get("did") != did:
            raise AccountUnknown(f"{place} signs {did} in as another account. Check the DID.")
        if content.get("active") is False:
            status = content.get("status")
            state = status if isinstance(status, str) and status.isalpha() else "inactive"
            raise AccountInactive(f"{did} is {state} at {place}. Reactivate it, or leave it blocked.", answer=state)
        access, refresh = content.get("accessJwt"), content.get("refreshJwt")
        if not (isinstance(access, str) and isinstance(refresh, str) and _fits_header(access, refresh)):
            raise ServerFailed(f"{request.nsid} for {did} at {place} gives no usable tokens. Try again.")
        return Tokens(access, refresh)


def _fits_header(*tokens: str) -> bool:
    return all(token and token.isascii() and token.isprintable() and " " not in token for token in tokens)
