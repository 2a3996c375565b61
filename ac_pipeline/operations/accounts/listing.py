"""Every account with its state, and why it is not ready: what Mongo, the PDS and the last runs say, side by side.

Also here: whether accounts can sign in, and which of them the network sees. A relay takes a limited number of accounts
from one PDS, 100 by default; those beyond are throttled there while every write to the PDS succeeds (atproto facts,
Limits). Reading only; how long an account stays blocked is decided at every run, never here.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.admin import AccountInfo
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.errors import (
    AccountDeleted,
    AccountInactive,
    AccountUnknown,
    Blocked,
    Misconfigured,
    NoCredentials,
    PipelineError,
    RateLimited,
    Transient,
    WrongPassword,
)
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.declare import Declaration, OfUsers, Parameters, Report, Table, Work, option
from ac_pipeline.operations.findings import Progress, chosen_accounts, unwatched
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.wiring import Pipeline, open_relay

_AT_THE_LAST_RUN: Final = {
    WrongPassword.code: "the PDS refused the password at the last run: store the right one, or give it a new one: "
    "`ac-pipeline accounts rotate --user {user} --confirm`",
    Blocked.code: "the PDS refused the account at the last run",
}
"""Reasons that only a run can tell; whether an account is active or hosted at all, the PDS is asked now."""


class AccountState(StrEnum):
    """`leaving`: its records go. `unprovisioned`: it has no DID. `on-hold`: some types are kept from being mirrored."""

    READY = "ready"
    BLOCKED = "blocked"
    LEAVING = "leaving"
    ON_HOLD = "on-hold"
    UNPROVISIONED = "unprovisioned"


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account.

    Args:
        user: Partition key.
        handle: On the platform.
        pds_handle: As Mongo has it.
        did: As Mongo has it.
        state: See there.
        cause: The reason in one word, such as `wrong-password` or `takendown`; None when ready.
        reason: In a sentence.
        waiting: Documents without a record.
        created: When its PDS account was made, as Mongo has it.
    """

    user: str
    handle: str | None
    pds_handle: str | None
    did: str | None
    state: AccountState
    cause: str | None = None
    reason: str = ""
    waiting: int = 0
    created: str | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def list_accounts(pipeline: Pipeline, users: Sequence[str]) -> list[AccountLine]:
    """A line for each of these accounts, or for all of them.

    Args:
        users: As `chosen_accounts` takes them; empty for all.

    Raises:
        Misconfigured: A name fits nobody.
        Transient: Mongo or PDS could not be read.
    """
    accounts = chosen_accounts(pipeline, users)
    refused: dict[str, set[str]] = {}
    for media in MEDIA_TYPES:
        for standing in pipeline.ledger.standing(State.BLOCKED, media.name):
            refused.setdefault(standing.user, set()).add(standing.error_class or "")
    return overview(
        accounts,
        hosted=hosted_repositories(pipeline),
        refused=refused,
        holds=pipeline.ledger.all_holds(),
        waiting=pipeline.provisioning.waiting(),
        unfinished={intent.subject for intent in pipeline.provisioning.unfinished()},
    )


def hosted_repositories(pipeline: Pipeline) -> dict[str, RepositoryStatus]:
    """Every repository of the PDS by DID.

    Raises:
        Transient: They could not be listed.
    """
    return {status.did: status for status in pipeline.server.list_repositories()}


def overview(
    accounts: Iterable[Account],
    *,
    hosted: Mapping[str, RepositoryStatus],
    refused: Mapping[str, Collection[str]],
    holds: Mapping[str, Mapping[str, str]],
    waiting: Mapping[str, int],
    unfinished: Collection[str] = (),
) -> list[AccountLine]:
    """A line for each account, in their order.

    Args:
        hosted: Every repository of the PDS by DID.
        refused: Partition key -> classes of the errors its items are blocked for.
        holds: Mongo id -> type -> reason.
        waiting: Mongo id -> documents without a record.
        unfinished: Mongo ids and DIDs that `provision` or `rotate` has left half done.
    """
    lines = []
    for account in accounts:
        state, cause, reason = _state(account, hosted, refused.get(account.key, ()), holds.get(account.id, {}))
        reason = reason.replace("{user}", shlex.quote(account.key))
        if account.id in unfinished or account.did in unfinished:
            again = "interrupted: run `ac-pipeline accounts provision`, `create-guest` or `rotate` again, as before"
            reason = "; ".join(part for part in (reason, again) if part)
        lines.append(
            AccountLine(
                account.key, account.handle, account.pds_handle, account.did, state, cause, reason,
                waiting.get(account.id, 0), account.created,
            )
        )  # fmt: skip
    return lines


def blocked_reason(account: Account, code: str, message: str, answer: str | None = None) -> str:
    """Why an account is blocked, in the sentence of `accounts list`: no words of a protocol.

    Args:
        code: Class of the error that a run met.
        message: Its message.
        answer: What the PDS said, such as `AccountDeactivated`.
    """
    if code == AccountInactive.code:
        said = (answer or "").removeprefix("Account").lower()
        return f"the PDS says that {account.did} is {_AS_LISTED.get(said, said) or 'inactive'}"
    if code == AccountUnknown.code:
        return f"the PDS does not host {account.did}"
    return _AT_THE_LAST_RUN.get(code, message).replace("{user}", shlex.quote(account.key))


_AS_LISTED: Final = {"takedown": "takendown"}
"""What a PDS answers -> what it says of the account in its list."""


def counts(lines: Iterable[AccountLine]) -> dict[str, int]:
    """Accounts per state, those without any included."""
    found = Counter(line.state for line in lines)
    return {state.value: found[state] for state in AccountState}


def _state(
    account: Account,
    hosted: Mapping[str, RepositoryStatus],
    refused: Collection[str],
    holds: Mapping[str, str],
) -> tuple[AccountState, str | None, str]:
    known = _as_mongo_has_it(account) or _as_the_pds_has_it(account, hosted)
    if known is not None:
        return known
    for code, reason in _AT_THE_LAST_RUN.items():
        if code in refused:
            return AccountState.BLOCKED, code, reason
    if holds:
        return AccountState.ON_HOLD, "on-hold", "; ".join(f"{name}: {why}" for name, why in sorted(holds.items()))
    return AccountState.READY, None, ""


def _as_mongo_has_it(account: Account) -> tuple[AccountState, str | None, str] | None:
    blocked = account.blocked
    if account.leaving is not None:
        return AccountState.LEAVING, "leaving", account.leaving
    if isinstance(blocked, AccountDeleted):
        return AccountState.BLOCKED, blocked.code, blocked.message
    if account.did is None:
        return AccountState.UNPROVISIONED, NoCredentials.code, blocked.message if blocked else "no DID in Mongo"
    if blocked is not None:
        return AccountState.BLOCKED, blocked.code if account.password is None else "shared-did", blocked.message
    return None


def _as_the_pds_has_it(
    account: Account, hosted: Mapping[str, RepositoryStatus]
) -> tuple[AccountState, str | None, str] | None:
    there = hosted.get(account.did or "")
    if there is None:
        return AccountState.BLOCKED, "unknown-did", f"the PDS does not host {account.did}"
    if not there.active:
        cause = there.status or "inactive"
        return AccountState.BLOCKED, cause, f"the PDS says that {account.did} is {cause}"
    return None


_STATES: Final = tuple(state.value for state in AccountState)


class AccountsParameters(OfUsers):
    """Which accounts to show."""

    states: list[str] = option([], "Only this state.", name="--state", choices=_STATES)


def run_list(work: Work, parameters: AccountsParameters) -> Report:
    """Show every account: key, handles, DID, its state (ready, blocked, leaving, on-hold or unprovisioned), the
    reason, and how many of its documents wait for a record.
    """
    for name in parameters.states:
        if name not in _STATES:
            raise Misconfigured(f"{name!r} is no state of an account: write one of {', '.join(_STATES)}.")
    lines = list_accounts(work.pipeline, parameters.users)
    shown = [line.to_json() for line in lines if not parameters.states or line.state in parameters.states]
    table = Table("accounts", ("user", "handle", "pds_handle", "did", "state", "cause", "waiting", "reason"))
    totals = counts(lines)
    return Report(
        ", ".join(f"{state} {number}" for state, number in totals.items()),
        {"states": totals, "accounts": shown},
        [table.extend(shown), Table.counts("states", totals, "state")],
    )


LIST: Final = Declaration(
    "accounts list",
    "list_accounts",
    "list_each_account",
    AccountsParameters,
    run_list,
)


OK, UNPROVISIONED, UNREACHED, UNKNOWN = "ok", "unprovisioned", "unreached", "unknown"
"""States besides those the PDS names, and `wrong-password`, `no-credentials` and `blocked`."""

LONGEST_PAUSE: Final = 310.0
"""Seconds to wait for a limit that counts in windows of 5 minutes."""

_AT_ONCE: Final = 10
"""A PDS takes 20 sign-ins a second at best, ten at once (atproto facts, Writing)."""


class Server(Protocol):
    """What is asked of the PDS; `atproto/admin.py` says what each call raises."""

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


def run_verify(work: Work, parameters: OfUsers) -> Report:
    """Sign in as every account with the password Mongo holds, and show whom the PDS refuses and why.

    Changes nothing; `accounts rotate` gives an account a new password.
    """
    found = list(sign_in_as_each(work.pipeline, parameters.users, work.watch("Signing in")))
    totals = dict(sorted(Counter(each.state for each in found).items()))
    failed = [each for each in found if each.failed]
    unreached = sum(each.state == UNREACHED for each in failed)
    headline = f"The PDS refuses {len(failed)} of {len(found)} accounts."
    if unreached:
        headline = f"{unreached} accounts could not be asked for: run this again."
    refused, notes = (
        Table("refused_accounts", ("user", "did", "state", "reason")),
        Table("notes", ("user", "handle", "note")),
    )
    return Report(
        headline,
        {"states": totals, "accounts": [each.to_json() for each in found]},
        [
            Table.counts("states", totals, "state", title="Sign-ins"),
            refused.extend(each.to_json() for each in failed),
            notes.extend(each.to_json() for each in found if each.note),
        ],
        {"accounts": len(found), "refused": len(failed) - unreached},
        exit_code=3 if unreached else 1 if failed else 0,
        failed=bool(unreached),
    )


VERIFY: Final = Declaration(
    "accounts verify",
    "verify_credentials",
    "sign_in_as_each_user",
    OfUsers,
    run_verify,
)


ACTIVE: Final = "active"
THROTTLED: Final = "throttled"
ACCOUNTS_OF_A_HOST: Final = 100
"""Accounts of one PDS that a relay passes on by default (atproto facts, Limits)."""

ADVICE: Final = (
    f"A relay passes on {ACCOUNTS_OF_A_HOST} accounts of one PDS by default and throttles the others, although the PDS "
    "accepts all they write. The limit is lifted at the relay, by its operator: ask them to raise the account limit of "
    "this host (for Bluesky's relays in the issues of github.com/bluesky-social/pds), and to count its accounts anew."
)

_QUESTIONS_AT_ONCE: Final = 8


class Relay(Protocol):
    """What is asked of the relay; see `atproto/relay.py`."""

    def state(self, did: str) -> str: ...
    def states(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """An account of which PDS and relay do not say the same; `user` is empty when Mongo does not know it."""

    user: str
    did: str
    pds: str
    relay: str


@dataclass(frozen=True, slots=True)
class Visibility:
    """What both sides say.

    Args:
        pds: State -> accounts, as the PDS has it.
        relay: State -> the same accounts, as the relay has it.
        differences: Accounts that differ, by key and DID.
        place: Address of the relay, without secrets.
    """

    pds: Mapping[str, int]
    relay: Mapping[str, int]
    differences: tuple[Difference, ...]
    place: str = ""

    @property
    def hidden(self) -> int:
        """Accounts that are active on the PDS and do not reach the network."""
        return sum(each.pds == ACTIVE for each in self.differences)

    def to_json(self) -> dict[str, object]:
        return {
            "pds": dict(self.pds),
            "relay": dict(self.relay),
            "hidden": self.hidden,
            "differences": [asdict(each) for each in self.differences],
            "advice": ADVICE if self.relay.get(THROTTLED) else None,
        }


def look_from_relay(pipeline: Pipeline, url: str | None = None, *, by_list: bool = False) -> Visibility:
    """Ask a relay for every account of our PDS.

    Args:
        url: Address of the relay; None for AC_RELAY_URL.
        by_list: See `compare_visibility`.

    Raises:
        Misconfigured: No relay is named, or its address cannot be used.
        Transient: Mongo, PDS or relay did not answer: nothing can be said.
    """
    url = url or pipeline.settings.ac_relay_url
    if url is None:
        raise Misconfigured(
            "AC_RELAY_URL is not set: set it, or the command's `--relay`, to a relay such as https://relay1.us-east.bsky.network."
        )
    with open_relay(pipeline.settings, url) as relay:
        keys = {account.did: account.key for account in pipeline.accounts.all() if account.did is not None}
        hosted = pipeline.server.list_repositories()
        found = compare_visibility(hosted, keys, relay, workers=_QUESTIONS_AT_ONCE, by_list=by_list)
        return replace(found, place=relay.place)


def compare_visibility(
    hosted: Iterable[RepositoryStatus], keys: Mapping[str, str], relay: Relay, *, workers: int, by_list: bool = False
) -> Visibility:
    """Ask the relay for every account of the PDS.

    Args:
        hosted: Every repository of the PDS.
        keys: DID -> partition key.
        relay: Whom to ask.
        workers: Questions at once.
        by_list: Read the relay's own list instead of asking for each account; for a relay of few hosts.

    Raises:
        Transient: PDS or relay did not answer: nothing can be said.
    """
    there = {each.did: ACTIVE if each.active else each.status or "inactive" for each in hosted}
    if by_list:
        listed = {did: state for did, state in relay.states() if did in there}
        seen = [listed.get(did, UNKNOWN) for did in there]
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="relay") as pool:
            seen = list(pool.map(relay.state, there))
    differences = [
        Difference(keys.get(did, ""), did, state, at_relay)
        for (did, state), at_relay in zip(there.items(), seen, strict=True)
        if state != at_relay
    ]
    return Visibility(
        _counted(there.values()), _counted(seen), tuple(sorted(differences, key=lambda each: (each.user, each.did)))
    )


def _counted(states: Iterable[str]) -> dict[str, int]:
    """Counts, with the three that people look for always there."""
    return {ACTIVE: 0, THROTTLED: 0, UNKNOWN: 0} | dict(sorted(Counter(states).items()))


class VisibilityParameters(Parameters):
    """How to ask which relay."""

    relay: str = option("", "Address of the relay. Left out: AC_RELAY_URL.", metavar="URL")
    by_list: bool = option(
        False, "Read the relay's own list instead of asking for each account: for a relay of few hosts."
    )


def run_visibility(work: Work, parameters: VisibilityParameters) -> Report:
    """Compare what the PDS and a relay say of every account: who is throttled there and does not reach the network,
    while every write succeeds. Changes nothing.
    """
    found = look_from_relay(work.pipeline, parameters.relay or None, by_list=parameters.by_list)
    states, differing = (
        Table("states", ("state", "pds", "relay")),
        Table("accounts_that_differ", ("user", "did", "pds", "relay")),
    )
    for state in dict.fromkeys([*found.pds, *found.relay]):
        states.add({"state": state, "pds": found.pds.get(state, 0), "relay": found.relay.get(state, 0)})
    return Report(
        f"{found.hidden} accounts are active on the PDS and do not reach the network by {found.place}.",
        {"relay_url": found.place, **found.to_json()},
        [states, differing.extend(asdict(each) for each in found.differences)],
        {"relay": found.place, "hidden": found.hidden},
        [ADVICE] if found.relay.get(THROTTLED) else [],
        exit_code=1 if found.hidden else 0,
    )


VISIBILITY: Final = Declaration(
    "accounts visibility",
    "account_visibility",
    "ask_the_relay",
    VisibilityParameters,
    run_visibility,
)
