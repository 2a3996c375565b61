"""Whether the PDS lets every account in with the password Mongo holds, and what it says of those it refuses.

Nothing is changed; sessions that come of it are kept for the next run (LIMIT-7). A different handle is only mentioned:
identity is the Mongo id and the DID (ACCT-3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.administration import AccountInfo
from ac_pipeline.atproto.messages import RepositoryStatus
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    Blocked,
    NoCredentials,
    PipelineError,
    RateLimited,
    Transient,
    WrongPassword,
)
from ac_pipeline.operations.accounts import hosted_repositories
from ac_pipeline.operations.choice import chosen_accounts
from ac_pipeline.operations.rounds import Progress, unwatched
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.wiring import Pipeline

OK, UNPROVISIONED, UNREACHED, UNKNOWN = "ok", "unprovisioned", "unreached", "unknown"
"""States besides those the PDS names, and `wrong-password`, `no-credentials` and `blocked`."""

LONGEST_PAUSE: Final = 310.0
"""Seconds to wait for a limit that counts in windows of 5 minutes."""

_AT_ONCE: Final = 10
"""A PDS takes 20 sign-ins a second at best, ten at once (atproto facts, Writing)."""


class Server(Protocol):
    """What is asked of the PDS; `atproto/administration.py` says what each call raises."""

    @property
    def authorised(self) -> bool: ...
    def prove(self, account: Account) -> None: ...
    def account_info(self, did: str) -> AccountInfo: ...


@dataclass(frozen=True, slots=True)
class SignedIn:
    """How an account's sign-in ended.

    Args:
        user: Partition key.
        did: As Mongo holds it.
        state: `ok`, `wrong-password`, `deactivated`, `takendown` or another state the PDS names, `unknown` (the PDS
            does not host the DID), `no-credentials`, `blocked`, `unprovisioned` (no DID: nothing to check), or
            `unreached` (no answer, or too many sign-ins).
        reason: In words.
        handle: On the PDS, where its administrator asked.
        note: A handle that differs from Mongo's.
    """

    user: str
    did: str | None
    state: str
    reason: str = ""
    handle: str | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        return self.state not in (OK, UNPROVISIONED)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def sign_in_as_each(pipeline: Pipeline, users: Sequence[str], progress: Progress = unwatched) -> Iterator[SignedIn]:
    """Sign in as each of these accounts, or as everybody; yields in their order.

    Args:
        users: As `chosen_accounts` takes them; empty for all.

    Raises:
        Misconfigured: A name fits nobody, or the administrator's password is wrong.
        Transient: Mongo could not be read, or the PDS lists no repositories.
    """
    accounts = chosen_accounts(pipeline, users)
    hosted = hosted_repositories(pipeline)
    found = check_sign_ins(accounts, pipeline.administration, hosted, workers=_AT_ONCE, sleep=time.sleep)
    yield from progress(found, len(accounts))


def check_sign_ins(
    accounts: Sequence[Account],
    server: Server,
    hosted: Mapping[str, RepositoryStatus],
    *,
    workers: int,
    sleep: Callable[[float], None],
) -> Iterator[SignedIn]:
    """Sign in as each of these accounts, several at once; yields in the order of `accounts`.

    Args:
        hosted: Every repository of the PDS by DID: it refuses unknown DIDs and wrong passwords with the same words.
        workers: How many at once.
        sleep: Waits that many seconds.

    Raises:
        Misconfigured: The administrator's password is wrong.
    """

    def failed(account: Account, error: PipelineError) -> SignedIn:
        return SignedIn(account.key, account.did, UNREACHED, error.message)

    checks = for_accounts(
        accounts, lambda account: _check(account, server, hosted, sleep), workers, failed, ordered=True
    )
    for _, found in checks:
        yield found


def _check(
    account: Account, server: Server, hosted: Mapping[str, RepositoryStatus], sleep: Callable[[float], None]
) -> SignedIn:
    did = account.did
    if did is None:
        return SignedIn(account.key, None, UNPROVISIONED, "the platform has made no PDS account for it")
    known = hosted.get(did)
    try:
        _prove(account, server, sleep)
        state, reason = OK, ""
    except WrongPassword as error:
        state = WrongPassword.code if known is not None else UNKNOWN
        reason = error.message if known is not None else f"the PDS does not host {did}"
    except AccountInactive as error:
        state = (known.status if known is not None and not known.active else None) or error.answer or "inactive"
        reason = error.message
    except (NoCredentials, AccountUnknown, Blocked) as error:
        state, reason = (UNKNOWN if isinstance(error, AccountUnknown) else error.code), error.message
    except Transient as error:
        return SignedIn(account.key, did, UNREACHED, error.message)
    return _with_handle(SignedIn(account.key, did, state, reason), account, server)


def _with_handle(found: SignedIn, account: Account, server: Server) -> SignedIn:
    if not server.authorised or found.did is None:
        return found
    try:
        info = server.account_info(found.did)
    except AccountUnknown as error:
        return SignedIn(found.user, found.did, UNKNOWN, error.message)
    except Transient as error:
        return SignedIn(found.user, found.did, found.state, found.reason, note=error.message)
    differs = account.pds_handle is not None and info.handle != account.pds_handle
    note = f"Mongo has the handle {account.pds_handle}" if differs else ""
    return SignedIn(found.user, found.did, found.state, found.reason, info.handle, note)


def _prove(account: Account, server: Server, sleep: Callable[[float], None]) -> None:
    try:
        server.prove(account)
    except RateLimited as error:
        if error.retry_after is None or error.retry_after > LONGEST_PAUSE:
            raise
        sleep(max(error.retry_after, 1.0))
        server.prove(account)
