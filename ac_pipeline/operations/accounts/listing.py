"""Every account with its state, and why it is not ready: what Mongo, the PDS and the last runs say, side by side.

Also here: which accounts the network sees, of which a relay throttles those beyond a number (atproto facts, Limits).
Reading only; how long an account stays blocked is decided at every run.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.relay import Relay
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.errors import AccountDeleted, Blocked, Misconfigured, NoCredentials, WrongPassword
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import OfUsers, Parameters, chosen_accounts, option
from ac_pipeline.wiring import Pipeline, open_relay

_AT_THE_LAST_RUN: Final = {
    WrongPassword.code: "the PDS refused the password at the last run: store the right one, or give it a new one: "
    "`ac-pipeline accounts rotate --user {user} --confirm`",
    Blocked.code: "the PDS refused the account at the last run",
}
"""Reasons that only a run can tell; whether an account is active or hosted at all, the PDS is asked now."""

_INTERRUPTED: Final = "interrupted: run `ac-pipeline accounts provision`, `create-guest` or `rotate` again, as before"


class AccountState(StrEnum):
    READY = "ready"
    BLOCKED = "blocked"
    LEAVING = "leaving"  # Its records go
    ON_HOLD = "on-hold"  # Some types are kept from being mirrored
    UNPROVISIONED = "unprovisioned"  # It has no DID


class AccountsParameters(OfUsers):
    states: list[str] = option([], "Only this state.", name="--state", choices=[each.value for each in AccountState])


@declared("accounts list", "list_accounts", "list_each_account")
def run_list(work: Work, parameters: AccountsParameters) -> Report:
    """Show every account: key, handles, DID, its state (ready, blocked, leaving, on-hold or unprovisioned), the
    reason, and how many of its documents wait for a record.
    """
    rows = account_rows(work.pipeline, chosen_accounts(work.pipeline, parameters.users))
    found = Counter(row["state"] for row in rows)
    totals = {state.value: found[state] for state in AccountState}
    shown = [row for row in rows if not parameters.states or row["state"] in parameters.states]
    table = Table("accounts", ("user", "handle", "pds_handle", "did", "state", "cause", "waiting", "reason"))
    return Report(
        ", ".join(f"{state} {number}" for state, number in totals.items()),
        {"states": totals, "accounts": shown},
        [table.extend(shown), Table.counts("states", totals, "state")],
    )


def account_rows(pipeline: Pipeline, accounts: Iterable[Account]) -> list[dict[str, Any]]:
    """Each account with its state; `cause` is the reason in one word, such as `takendown`, `waiting` the number of its
    documents without a record."""
    refused: defaultdict[str, set[str]] = defaultdict(set)
    for media in MEDIA_TYPES:
        for standing in pipeline.ledger.standing(State.BLOCKED, media.name):
            refused[standing.user].add(standing.error_class or "")
    hosted, holds = hosted_repositories(pipeline), pipeline.ledger.all_holds()
    waiting = pipeline.provisioning.waiting()
    unfinished = {intent.subject for intent in pipeline.provisioning.unfinished()}
    rows: list[dict[str, Any]] = []
    for account in accounts:
        state, cause, reason = _state(account, hosted, refused.get(account.key, ()), holds.get(account.id, {}))
        reason = reason.replace("{user}", shlex.quote(account.key))
        if account.id in unfinished or account.did in unfinished:
            reason = "; ".join(filter(None, (reason, _INTERRUPTED)))
        row = {name: getattr(account, name) for name in ("handle", "pds_handle", "did")}
        row |= {"state": state, "cause": cause, "reason": reason, "waiting": waiting.get(account.id, 0)}
        rows.append({"user": account.key, **row, "created": account.created})
    return rows


def hosted_repositories(pipeline: Pipeline) -> dict[str, RepositoryStatus]:
    """Every repository of the PDS by DID: it refuses unknown DIDs and wrong passwords with the same words."""
    return {status.did: status for status in pipeline.server.list_repositories()}


def _state(
    account: Account, hosted: Mapping[str, RepositoryStatus], refused: Collection[str], holds: Mapping[str, str]
) -> tuple[AccountState, str | None, str]:
    """State, cause and reason: as Mongo has it, else the PDS, else the last run."""
    known = _known_state(account, hosted.get(account.did or ""))
    if known is not None:
        return known
    for code, reason in _AT_THE_LAST_RUN.items():
        if code in refused:
            return AccountState.BLOCKED, code, reason
    if holds:
        return AccountState.ON_HOLD, "on-hold", "; ".join(f"{name}: {why}" for name, why in sorted(holds.items()))
    return AccountState.READY, None, ""


def _known_state(account: Account, there: RepositoryStatus | None) -> tuple[AccountState, str, str] | None:
    """As Mongo and the PDS have it now; None where nothing is amiss there."""
    blocked = account.blocked
    if account.pending_deletion is not None:
        return AccountState.LEAVING, "leaving", account.pending_deletion
    if isinstance(blocked, AccountDeleted):
        return AccountState.BLOCKED, blocked.code, blocked.message
    if account.did is None:
        return AccountState.UNPROVISIONED, NoCredentials.code, blocked.message if blocked else "no DID in Mongo"
    if blocked is not None:
        return AccountState.BLOCKED, blocked.code if account.password is None else "shared-did", blocked.message
    if there is None:
        return AccountState.BLOCKED, "unknown-did", f"the PDS does not host {account.did}"
    if not there.active:
        cause = there.status or "inactive"
        return AccountState.BLOCKED, cause, f"the PDS says that {account.did} is {cause}"
    return None


# ---------------------------------------------------------------------------------------------------------- visibility

ACTIVE, THROTTLED, UNKNOWN = "active", "throttled", "unknown"
ACCOUNTS_OF_A_HOST: Final = 100  # Accounts of one PDS that a relay passes on by default (atproto facts, Limits)

ADVICE: Final = (
    f"A relay passes on {ACCOUNTS_OF_A_HOST} accounts of one PDS by default and throttles the others, although the PDS "
    "accepts all they write. The limit is lifted at the relay, by its operator: ask them to raise the account limit of "
    "this host (for Bluesky's relays in the issues of github.com/bluesky-social/pds), and to count its accounts anew."
)

_QUESTIONS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Visibility:
    """What both sides say: state -> accounts, as the PDS and as the relay has it, and the accounts that differ:
    partition key (empty when Mongo does not know it), DID, and the two states."""

    pds: Mapping[str, int]
    relay: Mapping[str, int]
    differences: Sequence[dict[str, str]]

    @property
    def hidden(self) -> int:
        """Accounts that are active on the PDS and do not reach the network."""
        return sum(each["pds"] == ACTIVE for each in self.differences)

    def to_json(self) -> dict[str, object]:
        return {
            "pds": dict(self.pds),
            "relay": dict(self.relay),
            "hidden": self.hidden,
            "differences": list(self.differences),
            "advice": ADVICE if self.relay.get(THROTTLED) else None,
        }


def compare_visibility(
    hosted: Iterable[RepositoryStatus], keys: Mapping[str, str], relay: Relay, *, workers: int, by_list: bool = False
) -> Visibility:
    """Ask the relay for every account of the PDS, several at a time; `keys` are partition keys by DID. `by_list` reads
    the relay's own list instead of asking for each account, for a relay of few hosts. Raises Transient where PDS or
    relay did not answer: nothing can be said."""
    there = {each.did: ACTIVE if each.active else each.status or "inactive" for each in hosted}
    if by_list:
        listed = {did: state for did, state in relay.states() if did in there}
        seen = [listed.get(did, UNKNOWN) for did in there]
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="relay") as pool:
            seen = list(pool.map(relay.state, there))
    differences = [
        {"user": keys.get(did, ""), "did": did, "pds": state, "relay": at_relay}
        for (did, state), at_relay in zip(there.items(), seen, strict=True)
        if state != at_relay
    ]
    differences.sort(key=lambda each: (each["user"], each["did"]))
    always = {ACTIVE: 0, THROTTLED: 0, UNKNOWN: 0}  # what people look for
    pds, at_the_relay = (always | dict(sorted(Counter(states).items())) for states in (there.values(), seen))
    return Visibility(pds, at_the_relay, differences)


class VisibilityParameters(Parameters):
    relay: str = option("", "Address of the relay. Left out: AC_RELAY_URL.", metavar="URL")
    by_list: bool = option(
        False, "Read the relay's own list instead of asking for each account: for a relay of few hosts."
    )


@declared("accounts visibility", "account_visibility", "ask_the_relay")
def run_visibility(work: Work, parameters: VisibilityParameters) -> Report:
    """Compare what the PDS and a relay say of every account: who is throttled there and does not reach the network,
    while every write succeeds. Changes nothing.
    """
    pipeline, url = work.pipeline, parameters.relay or work.pipeline.settings.ac_relay_url
    if url is None:
        raise Misconfigured(
            "AC_RELAY_URL is not set: set it, or the command's `--relay`, to a relay such as https://relay1.us-east.bsky.network."
        )
    with open_relay(pipeline.settings, url) as relay:
        keys = {account.did: account.key for account in pipeline.accounts.all() if account.did is not None}
        hosted, place = pipeline.server.list_repositories(), relay.place
        found = compare_visibility(hosted, keys, relay, workers=_QUESTIONS_AT_ONCE, by_list=parameters.by_list)
    names = dict.fromkeys([*found.pds, *found.relay])
    rows = ((state, found.pds.get(state, 0), found.relay.get(state, 0)) for state in names)
    states = Table.of("states", ("state", "pds", "relay"), rows)
    differing = Table("accounts_that_differ", ("user", "did", "pds", "relay"))
    return Report(
        f"{found.hidden} accounts are active on the PDS and do not reach the network by {place}.",
        {"relay_url": place, **found.to_json()},
        [states, differing.extend(found.differences)],
        {"relay": place, "hidden": found.hidden},
        [ADVICE] if found.relay.get(THROTTLED) else [],
        exit_code=1 if found.hidden else 0,
    )
