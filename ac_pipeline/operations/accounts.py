"""Every account with its state, and why it is not ready: what Mongo, the PDS and the last runs say, side by side.

Reading only; how long an account stays blocked is decided at every run, never here.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.messages import RepositoryStatus
from ac_pipeline.errors import AccountDeleted, Blocked, Misconfigured, NoCredentials, WrongPassword
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.choice import chosen_accounts
from ac_pipeline.operations.declare import Declaration, OfUsers, Report, Table, Work, option
from ac_pipeline.wiring import Pipeline

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
