"""The two calls that make a session, and the checks of the tokens they give. When they are made is `sessions.py`."""

from __future__ import annotations

import json
from typing import Final

from ac_pipeline.atproto.answers import Call, TokenRefused
from ac_pipeline.atproto.budget import Charge
from ac_pipeline.atproto.lexicon_formats import is_did
from ac_pipeline.atproto.replies import content_of, need
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.errors import AccountInactive, AccountUnknown

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
            AccountUnknown: It signs in another account; status 200.
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
        return self._transport.send(request, lambda body: self._tokens(did, body))

    def refresh_session(self, did: str, refresh: str) -> Tokens:
        """Renew a session.

        Raises:
            TokenRefused: The refresh token is expired, revoked, unknown or another account's.
            AccountInactive: Deactivated, taken down or suspended.
        """
        charges = (Charge(self._transport.host, 1),)
        request = Request(Call.REFRESH, "other", "POST", REFRESH, did, charges, token=refresh, timeout=self._timeout)
        try:
            return self._transport.send(request, lambda body: self._tokens(did, body))
        except AccountUnknown as error:
            if error.status != 200:
                raise
            raise TokenRefused(error.message, status=error.status) from None

    def _tokens(self, did: str, body: bytes) -> Tokens:
        content = content_of(body)
        named, active = content.get("did"), content.get("active", True)
        access, refresh = content.get("accessJwt"), content.get("refreshJwt")
        need(isinstance(named, str) and is_did(named) and isinstance(active, bool), "it names no account")
        if active and not (_fits_header(access) and _fits_header(refresh)):
            raise ValueError("it gives no usable tokens")
        place = self._transport.place
        if named != did:
            raise AccountUnknown(f"{place} signs {did} in as {named}. Check the DID.", status=200)
        if not active:
            status = content.get("status")
            state = status if isinstance(status, str) and status.isalpha() else "inactive"
            raise AccountInactive(f"{did} is {state} at {place}. Reactivate it, or leave it blocked.", answer=state)
        return Tokens(str(access), str(refresh))


def _fits_header(token: object) -> bool:
    return isinstance(token, str) and bool(token) and token.isascii() and token.isprintable() and " " not in token
