"""The calls of one PDS that make accounts, look at them and change their passwords and handles.

What they are used for, and in which order so that nothing is lost, is `operations/`. Passwords and invite codes pass
through here: no message, log or `repr` shows one (ACCT-5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import Charge, Pace
from ac_pipeline.atproto.sessions import SIGN_IN_SECONDS, Sessions
from ac_pipeline.atproto.syntax import is_did
from ac_pipeline.atproto.transport import Read, Request, Transport
from ac_pipeline.atproto.xrpc_errors import Call, need
from ac_pipeline.errors import Misconfigured, ServerFailed, WrongPassword


@dataclass(frozen=True, slots=True)
class ServerDescription:
    domains: tuple[str, ...]  # Endings of the handles it gives, each with its leading dot
    invites: bool  # True if a new account needs an invite code


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account as the administrator of its PDS sees it."""

    did: str
    handle: str | None
    email: str | None = field(default=None, repr=False)


class Administration:
    """The account calls of one PDS; safe to share between threads. All raise Transient where it did not answer; those
    of its administrator raise Misconfigured where there is no password (`PDS_ADMIN_PASSWORD`), or not the right one.
    `pace`: where the first commit of a new account's repository is counted."""

    def __init__(self, transport: Transport, sessions: Sessions, pace: Pace, password: str | None) -> None:
        self._transport = transport
        self._sessions = sessions
        self._pace = pace
        self._password = password

    @property
    def authorised(self) -> bool:
        """True if there is an administrator's password, be it the right one or not."""
        return self._password is not None

    def describe(self) -> ServerDescription:
        """Which handles the PDS gives, and whether it asks for invite codes (`describeServer`). Raises ServerFailed if
        it names no domain."""

        def question(com: Any) -> ServerDescription:
            found = com.server.describe_server()
            need(found.available_user_domains, "it names no domain for handles")
            return ServerDescription(tuple(found.available_user_domains), found.invite_code_required is True)

        return self._transport.ask(Request(Call.READ, "", self._transport.host), question)

    def invite(self) -> str:
        """A new invite code for one account; a secret."""

        def question(com: Any) -> str:
            need(code := str(com.server.create_invite_code({"use_count": 1}).code), "it has no code")
            return code

        return self._administer("one account", question)

    def create_account(self, handle: str, email: str, password: str, invite: str | None) -> str:
        """Make an account; its DID. Sent once. Limited by the reference PDS to 100 in 5 minutes and address.

        Raises:
            HandleRefused: Reserved, malformed, too short or long, or taken. No account was made.
            AccountRefused: E-mail address or invite code are refused. No account was made.
            RateLimited: Too many; nothing was sent, or it was refused.
            OutcomeUnknown: There may be an account now: sign in to see.
        """

        def question(com: Any) -> str:
            data = {"handle": handle, "email": email, "password": password, "invite_code": invite}
            return _did_of(com.server.create_account(data), handle=handle)

        charges = (Charge(f"{self._transport.host} createAccount", 1),)
        request = Request(Call.NEW_ACCOUNT, "", handle, charges, secrets=(password, invite or ""))
        with self._pace.commit(handle, held=False):  # the relay hears of it; 100 in 5 minutes are paced enough
            return self._transport.ask(request, question)

    def identify(self, handle: str, password: str) -> str | None:
        """The DID of the account that has this handle and this password, or None. Nothing of the session is kept.
        Raises AccountInactive if it is taken down."""

        def question(com: Any) -> str:
            named = {"did" if handle.startswith("did:") else "handle": handle}
            return _did_of(com.server.create_session({"identifier": handle, "password": password}), **named)

        charges = (Charge(f"sign-in {handle}", 1),)
        request = Request(Call.SIGN_IN, "", handle, charges, secrets=(password,), timeout=SIGN_IN_SECONDS)
        try:
            return self._transport.ask(request, question)
        except WrongPassword:
            return None

    def holder_of(self, handle: str) -> str | None:
        """The DID of the active account that has this handle, or None."""
        request = Request(Call.READ, "", handle)
        try:
            return self._transport.ask(request, lambda com: _did_of(com.identity.resolve_handle({"handle": handle})))
        except ServerFailed as error:
            if error.status is None or not 400 <= error.status < 500:
                raise
            return None  # 400 HandleNotFound

    def account_info(self, did: str) -> AccountInfo:
        """What the PDS knows of an account, whatever its state. Raises AccountUnknown if the PDS does not host it."""

        def question(com: Any) -> AccountInfo:
            found = com.admin.get_account_info({"did": did})
            need(_did_of(found, did=did) and found.handle, "it has no handle")
            return AccountInfo(did, found.handle, found.email or None)

        return self._administer(did, question)

    def update_password(self, did: str, password: str) -> None:
        """Give an account this password; its refresh tokens are void from then on. Repeating it is harmless.

        The reference PDS answers 200 for an account it does not host: ask `account_info` first. Raises AccountRefused
        (the PDS refuses this password).
        """
        data = {"did": did, "password": password}
        self._administer(did, lambda com: _done(com.admin.update_account_password(data)), secrets=(password,))

    def update_handle(self, did: str, handle: str) -> None:
        """Give an account this handle. Repeating it is harmless. The reference PDS gives reserved names, too. Raises
        HandleRefused (malformed, too short or long, or taken; nothing was changed), AccountUnknown (the PDS does not
        host the account)."""
        data = {"did": did, "handle": handle}
        self._administer(did, lambda com: _done(com.admin.update_account_handle(data)))

    def prove(self, account: Account) -> None:
        """Sign in anew with the account's password; the session is kept for everybody. Raises WrongPassword,
        AccountInactive, Blocked (the PDS refuses the account), RateLimited (too many sign-ins of this DID; nothing was
        sent (LIMIT-7))."""
        self._sessions.prove(account)

    def forget(self, did: str) -> None:
        """Give up the session of a DID whose password has changed."""
        self._sessions.forget(did)

    def _administer(self, subject: str, question: Callable[[Any], Read], secrets: tuple[str, ...] = ()) -> Read:
        if self._password is None:
            raise Misconfigured("PDS_ADMIN_PASSWORD is not set, and this call needs it: set it to the PDS's own.")
        return self._transport.ask(Request(Call.ADMIN, "", subject, admin=self._password, secrets=secrets), question)


def _did_of(answer: Any, **asked: str) -> str:
    """The DID of an answer that is about whom was asked for, but for the case of letters."""
    need(all(str(answer[name]).lower() == value.lower() for name, value in asked.items()), "it is about another one")
    need(is_did(answer.did), "it names no DID")
    return str(answer.did)


def _done(answered_with_nothing: bool) -> None:
    need(answered_with_nothing, "this call answers with nothing")
