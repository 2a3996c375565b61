"""One signed-in session per DID: cached, refreshed, kept by a store, and never asked for too often.

`createSession` takes at least 350 ms by design and is limited to 30 per 5 minutes and 300 a day (atproto facts,
Accounts and sessions), so one session serves all runs. Tokens are secrets: no `repr` and no message here shows one.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Final, Protocol, TypeGuard

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import Charge
from ac_pipeline.atproto.syntax import is_did
from ac_pipeline.atproto.transport import Request, Transport
from ac_pipeline.atproto.xrpc_errors import Call, Malformed, TokenRefused, content_of, need
from ac_pipeline.errors import AccountInactive, AccountUnknown, Blocked, NoCredentials, RateLimited

# `createSession` per DID: calls and seconds, as the reference PDS limits them (LIMIT-7)
SIGN_IN_LIMITS: Final = ((30, 300.0), (300, 86_400.0))

# Seconds before its expiry at which a token is renewed, so that it does not run out on its way to the PDS
REFRESH_MARGIN: Final = 60.0

SIGN_IN_SECONDS: Final = 30.0  # Seconds of silence before a sign-in is given up, however long other calls may take

# How long a refused password is not tried again: a run asks once, not once for each batch and upload
REFUSAL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one session; kept out of `repr` so that no log can show them."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)


class SessionStore(Protocol):
    """Where tokens outlive the process, and how often each DID has signed in (LIMIT-7)."""

    def load(self, did: str) -> Tokens | None:
        """The tokens last saved for a DID, or None."""

    def save(self, did: str, tokens: Tokens) -> None:
        """Keep the tokens of a DID in place of earlier ones."""

    def drop(self, did: str) -> None:
        """Forget the tokens of a DID, not its sign-ins; nothing happens when there are none."""

    def sign_ins(self, did: str) -> Sequence[float]:
        """When a DID has signed in, as `count_sign_in` was told, oldest first."""

    def count_sign_in(self, did: str, at: float, keep: int) -> None:
        """Remember one more sign-in, at these epoch seconds; only the last `keep` of them matter."""


class SignIn:
    """The two calls of one PDS that a session is made with."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_session(self, did: str, password: str) -> Tokens:
        """Sign in (`com.atproto.server.createSession`); sent once, as the PDS counts attempts.

        Raises:
            WrongPassword: The PDS refuses DID and password; it does not say which.
            AccountInactive: Deactivated, taken down or suspended; a PDS signs in deactivated accounts and says so.
            AccountUnknown: It signs in another account; status 200.
            Blocked: Another refusal.
        """
        nsid, charge = "com.atproto.server.createSession", Charge(f"sign-in {did}", 1)
        body, secrets = json.dumps({"identifier": did, "password": password}).encode(), (password,)
        request = Request(
            Call.SIGN_IN, nsid, did, (charge,), method="POST", body=body, secrets=secrets, timeout=SIGN_IN_SECONDS
        )
        return self._transport.send(request, lambda body: self._tokens(did, body))

    def refresh_session(self, did: str, refresh: str) -> Tokens:
        """Renew (`com.atproto.server.refreshSession`). Raises TokenRefused (the refresh token is expired, revoked,
        unknown or another account's), AccountInactive (deactivated, taken down or suspended)."""
        nsid = "com.atproto.server.refreshSession"
        request = Request(Call.REFRESH, nsid, did, method="POST", token=refresh, timeout=SIGN_IN_SECONDS)
        try:
            return self._transport.send(request, lambda body: self._tokens(did, body))
        except AccountUnknown as error:
            if error.status != 200:
                raise
            raise TokenRefused(error.message, status=error.status) from None

    def _tokens(self, did: str, body: bytes) -> Tokens:
        content, place = content_of(body), self._transport.place
        named, active = content.get("did"), content.get("active", True)
        access, refresh = content.get("accessJwt"), content.get("refreshJwt")
        need(isinstance(named, str) and is_did(named) and isinstance(active, bool), "it names no account")
        need(not active or (_fits_header(access) and _fits_header(refresh)), "it gives no usable tokens")
        if named != did:
            raise AccountUnknown(f"{place} signs {did} in as {named}. Check the DID.", status=200)
        if not active:
            status = content.get("status")
            state = status if isinstance(status, str) and status.isalpha() else "inactive"
            raise AccountInactive(f"{did} is {state} at {place}. Reactivate it, or leave it blocked.", answer=state)
        return Tokens(str(access), str(refresh))


def _fits_header(token: object) -> bool:
    return isinstance(token, str) and bool(token) and token.isascii() and token.isprintable() and " " not in token


@dataclass(slots=True)
class _Slot:
    """What is known of one DID; guarded by its lock, so that two threads make one sign-in."""

    lock: Lock = field(default_factory=Lock)
    tokens: Tokens | None = None
    refusal: Blocked | None = None  # The last sign-in's, if the PDS refused it
    refused: bytes = field(default=b"", repr=False)  # Hash of the password it refused
    refused_until: float = 0.0  # As long as the refusal is remembered


class Sessions:
    """The sessions of one PDS, made with the calls of `via`."""

    def __init__(self, store: SessionStore, via: SignIn, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._via = via
        self._clock = clock
        self._lock = Lock()
        self._slots: dict[str, _Slot] = {}

    def access(self, account: Account, *, refused: str | None = None) -> str:
        """An access token of the account. `refused`: an access token the PDS has just refused, to get another one.

        Raises:
            NoCredentials: DID or password is missing; nothing was sent (ACCT-1).
            RateLimited: Too many sign-ins of this DID; nothing was sent (LIMIT-7).
            WrongPassword, AccountInactive, Blocked: The PDS refuses the account.
            Transient: The PDS did not answer.
        """
        did, password = _credentials(account)
        slot = self._slot(did)
        with slot.lock:
            if not self._usable(slot.tokens, refused):
                # Another process may have renewed it meanwhile: what is stored is never older than what is cached.
                slot.tokens = self._store.load(did) or slot.tokens
            if not self._usable(slot.tokens, refused):
                slot.tokens = self._renew(did, password, slot)
            return slot.tokens.access

    def prove(self, account: Account) -> None:
        """Sign in anew with the account's password, whatever session there is; the new one takes its place. Raises as
        `access`; a refused password leaves the session there was."""
        did, password = _credentials(account)
        slot = self._slot(did)
        with slot.lock:
            slot.tokens = self._sign_in(did, password, slot)

    def forget(self, did: str) -> None:
        """Give up the session of a DID: its password has changed."""
        slot = self._slot(did)
        with slot.lock:
            slot.tokens, slot.refusal = None, None
            self._store.drop(did)

    def _usable(self, tokens: Tokens | None, refused: str | None) -> TypeGuard[Tokens]:
        return tokens is not None and tokens.access != refused and self._lasts(tokens.access)

    def _renew(self, did: str, password: str, slot: _Slot) -> Tokens:
        if slot.tokens is not None and self._lasts(slot.tokens.refresh):
            try:
                tokens = self._via.refresh_session(did, slot.tokens.refresh)
            except TokenRefused:
                slot.tokens = None
                self._store.drop(did)
            else:
                self._store.save(did, tokens)
                return tokens
        error = slot.refusal
        if error and slot.refused == sha256(password.encode()).digest() and self._clock() < slot.refused_until:
            raise type(error)(error.message, status=error.status, answer=error.answer)
        return self._sign_in(did, password, slot)

    def _sign_in(self, did: str, password: str, slot: _Slot) -> Tokens:
        self._count_sign_in(did)
        try:
            try:
                tokens = self._via.create_session(did, password)
            except (Malformed, Blocked) as error:
                if error.status != 200:
                    raise
                # Not the answer to this call (ANSWER-1): once more, and the second one counts.
                self._count_sign_in(did)
                tokens = self._via.create_session(did, password)
        except Blocked as error:
            slot.refusal, slot.refused_until = error, self._clock() + REFUSAL_SECONDS
            slot.refused = sha256(password.encode()).digest()
            raise
        slot.refusal = None
        self._store.save(did, tokens)
        return tokens

    def _count_sign_in(self, did: str) -> None:
        """Count one more, those of other runs included, unless it is one too many."""
        now = self._clock()
        before = [at for at in self._store.sign_ins(did) if at < now + REFRESH_MARGIN]  # no later one, of a wrong clock
        waits = (before[-calls] + seconds - now for calls, seconds in SIGN_IN_LIMITS if len(before) >= calls)
        if (wait := max(waits, default=0.0)) > 0:
            said = f"{did} has signed in too often; nothing was sent. Continue in {wait:.0f} s."
            raise RateLimited(said, retry_after=wait)
        self._store.count_sign_in(did, now, max(calls for calls, _ in SIGN_IN_LIMITS))

    def _slot(self, did: str) -> _Slot:
        with self._lock:
            return self._slots.setdefault(did, _Slot())

    def _lasts(self, token: str) -> bool:
        expiry = expires_at(token)
        return expiry is None or self._clock() < expiry - REFRESH_MARGIN


def _credentials(account: Account) -> tuple[str, str]:
    if account.did and account.password:
        return account.did, account.password
    missing = "password" if account.did else "DID"
    raise NoCredentials(f"Account {account.key} has no PDS {missing} on the platform; add it there.")


def expires_at(token: str) -> float | None:
    """Epoch seconds at which a JWT expires, None when it does not say; its signature is the PDS's business."""
    try:
        _, claims, _ = token.split(".")
        content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        expiry = content.get("exp") if isinstance(content, dict) else None
        return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None
    except (ValueError, RecursionError, OverflowError):
        return None
