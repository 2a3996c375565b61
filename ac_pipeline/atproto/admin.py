"""The calls of one PDS that make accounts, look at them and change their passwords and handles.

What they are used for, and in which order so that nothing is lost, is `operations/`. Passwords and invite codes pass
through here: no message, log or `repr` shows one (ACCT-5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import Budget, Charge, Pace
from ac_pipeline.atproto.sessions import CREATE, PdsSignIn, Sessions
from ac_pipeline.atproto.transport import Read, Request, Transport
from ac_pipeline.atproto.xrpc_errors import Call, content_of, did_of, need, nothing, text_of
from ac_pipeline.bounds import Limits
from ac_pipeline.errors import Misconfigured, ServerFailed, WrongPassword

_SIGN_IN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ServerDescription:
    """What a PDS says of itself.

    Args:
        domains: Endings of the handles it gives, each with its leading dot.
        invites: Whether a new account needs an invite code.
    """

    domains: tuple[str, ...]
    invites: bool


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account as the administrator of its PDS sees it."""

    did: str
    handle: str | None
    email: str | None = field(default=None, repr=False)


class Administration:
    """The account calls of one PDS; safe to share between threads.

    Args:
        url: Its address.
        http: As `transport.open_http` makes it.
        password: Of the PDS's administrator (`PDS_ADMIN_PASSWORD`), or None.
        sessions: Who is signed in.
        bypass_key: Lifts the limits of a PDS that knows it; a secret.
        clock: Epoch seconds.
        sleep: Waits that many seconds.
        budget: What may be sent.
        pace: Where the first commit of a new account's repository is counted.
        limits: How long, slow and large answers may be.
    """

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        password: str | None,
        sessions: Sessions,
        bypass_key: str | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        budget: Budget,
        pace: Pace,
        limits: Limits | None = None,
    ) -> None:
        self._transport = Transport(
            url, http=http, bypass_key=bypass_key, clock=clock, sleep=sleep, budget=budget, limits=limits
        )
        self._password = password
        self._pace = pace
        self._sessions = sessions
        self._sign_in = PdsSignIn(self._transport, timeout=_SIGN_IN_SECONDS)
        self._general = Charge(self._transport.host, 1)

    def __repr__(self) -> str:
        return f"Administration({self._transport.place!r})"

    @property
    def authorised(self) -> bool:
        """Whether there is an administrator's password; not whether it is the right one."""
        return self._password is not None

    def describe(self) -> ServerDescription:
        """Which handles the PDS gives, and whether it asks for invite codes (`describeServer`).

        Raises:
            ServerFailed: It names no domain.
            Transient: It did not answer.
        """
        nsid = "com.atproto.server.describeServer"
        request = Request(Call.READ, "other", "GET", nsid, self._transport.host, (self._general,))

        def read(body: bytes) -> ServerDescription:
            content = content_of(body)
            domains = content.get("availableUserDomains")
            named = tuple(each for each in domains if isinstance(each, str)) if isinstance(domains, list) else ()
            need(named, "it names no domain for handles")
            return ServerDescription(named, content.get("inviteCodeRequired") is True)

        return self._transport.send(request, read)

    def invite(self) -> str:
        """A new invite code for one account; a secret.

        Raises:
            Misconfigured: There is no administrator's password, or not the right one.
            Transient: The PDS did not answer.
        """
        nsid, body = "com.atproto.server.createInviteCode", {"useCount": 1}
        return self._administer("POST", nsid, "one account", body, read=lambda answer: text_of(answer, "code"))

    def create_account(self, handle: str, email: str, password: str, invite: str | None) -> str:
        """Make an account; its DID.

        Sent once. Limited by the reference PDS to 100 in 5 minutes and address (atproto facts, Limits).

        Raises:
            HandleRefused: Reserved, malformed, too short or long, or taken. No account was made.
            AccountRefused: E-mail address or invite code are refused. No account was made.
            RateLimited: Too many; nothing was sent, or it was refused.
            OutcomeUnknown: There may be an account now: sign in to see.
        """
        body = {"handle": handle, "email": email, "password": password} | ({"inviteCode": invite} if invite else {})
        nsid = "com.atproto.server.createAccount"
        request = Request(
            Call.NEW_ACCOUNT,
            "other",
            "POST",
            nsid,
            handle,
            (Charge(f"{self._transport.host} createAccount", 1), self._general),
            body=json.dumps(body).encode(),
            content_type="application/json",
            secrets=(password, invite or ""),
        )
        with self._pace.commit(handle, held=False):  # the relay hears of it; 100 in 5 minutes are paced enough
            return self._transport.send(request, lambda answer: did_of(answer, handle=handle))

    def identify(self, handle: str, password: str) -> str | None:
        """The DID of the account that has this handle and this password; None when there is none.

        Nothing of the session is kept.

        Raises:
            AccountInactive: It is taken down.
            Transient: The PDS did not answer.
        """
        request = Request(
            Call.SIGN_IN,
            "create_session",
            "POST",
            CREATE,
            handle,
            (Charge(f"sign-in {handle}", 1), self._general),
            body=json.dumps({"identifier": handle, "password": password}).encode(),
            content_type="application/json",
            secrets=(password,),
            timeout=_SIGN_IN_SECONDS,
        )
        try:
            named = {"did" if handle.startswith("did:") else "handle": handle}
            return self._transport.send(request, lambda body: did_of(body, **named))
        except WrongPassword:
            return None

    def holder_of(self, handle: str) -> str | None:
        """The DID of the active account that has this handle, or None."""
        nsid = "com.atproto.identity.resolveHandle"
        request = Request(Call.READ, "other", "GET", nsid, handle, (self._general,), params={"handle": handle})
        try:
            return self._transport.send(request, did_of)
        except ServerFailed as error:
            if error.status is None or not 400 <= error.status < 500:
                raise
            return None  # 400 HandleNotFound

    def account_info(self, did: str) -> AccountInfo:
        """What the PDS knows of an account, whatever its state.

        Raises:
            AccountUnknown: The PDS does not host it.
            Misconfigured: As for `invite`.
        """

        def read(body: bytes) -> AccountInfo:
            did_of(body, did=did)
            email = content_of(body).get("email")
            return AccountInfo(did, text_of(body, "handle"), email if isinstance(email, str) and email else None)

        return self._administer("GET", "com.atproto.admin.getAccountInfo", did, params={"did": did}, read=read)

    def update_password(self, did: str, password: str) -> None:
        """Give an account this password; its refresh tokens are void from then on. Repeating it is harmless.

        The reference PDS answers 200 for an account it does not host: ask `account_info` first.

        Raises:
            AccountRefused: The PDS refuses this password.
            Misconfigured: As for `invite`.
        """
        body = {"did": did, "password": password}
        nsid = "com.atproto.admin.updateAccountPassword"
        self._administer("POST", nsid, did, body, secrets=(password,), read=nothing)

    def update_handle(self, did: str, handle: str) -> None:
        """Give an account this handle. Repeating it is harmless. The reference PDS gives reserved names, too.

        Raises:
            HandleRefused: Malformed, too short or long, or taken; nothing was changed.
            AccountUnknown: The PDS does not host the account.
            Misconfigured: As for `invite`.
        """
        nsid = "com.atproto.admin.updateAccountHandle"
        self._administer("POST", nsid, did, {"did": did, "handle": handle}, read=nothing)

    def prove(self, account: Account) -> None:
        """Sign in anew with the account's password; the session is kept for everybody.

        Raises:
            WrongPassword, AccountInactive, Blocked: The PDS refuses the account.
            RateLimited: Too many sign-ins of this DID; nothing was sent (LIMIT-7).
        """
        self._sessions.prove(account, self._sign_in)

    def forget(self, did: str) -> None:
        """Give up the session of a DID whose password has changed."""
        self._sessions.forget(did)

    def _administer(
        self,
        method: Literal["GET", "POST"],
        nsid: str,
        subject: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], Read],
        params: Mapping[str, str | int] | None = None,
        secrets: tuple[str, ...] = (),
    ) -> Read:
        if self._password is None:
            raise Misconfigured(f"PDS_ADMIN_PASSWORD is not set, and {nsid} needs it: set it to the PDS's own.")
        return self._transport.send(
            Request(
                Call.ADMIN,
                "other",
                method,
                nsid,
                subject,
                (self._general,),
                params=params or {},
                body=None if body is None else json.dumps(body).encode(),
                content_type=None if body is None else "application/json",
                admin=self._password,
                secrets=secrets,
            ),
            read,
        )
