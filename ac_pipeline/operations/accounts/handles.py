"""Handles: what the PDS calls each account, beside what the platform calls its user, and how that is put right.

The PDS handle is the platform's, with `.` and `_` as `-`, or the user code where the PDS refuses that name; Mongo's
`atproto.handle` says the same (aesthetic-computer facts, section 2.1). The platform never tries again what did not
reach the PDS. No record depends on a handle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from ac_pipeline import errors
from ac_pipeline.accounts import Account
from ac_pipeline.atproto.admin import AccountInfo, Administration, ServerDescription
from ac_pipeline.errors import FAILED, UNREACHABLE, WELL
from ac_pipeline.mongo.accounts import MongoProvisioning
from ac_pipeline.operations.accounts.provisioning import alone, handle_labels, new_password
from ac_pipeline.operations.declare import Progress, Report, Table, Work, declared, unwatched
from ac_pipeline.operations.parameters import (
    OfUsers,
    chosen_accounts,
    confirm_option,
    why_option,
)
from ac_pipeline.sync.for_accounts import for_accounts, needed
from ac_pipeline.wiring import Pipeline

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,16})[a-z0-9]")
"""What a PDS takes in front of its domain: 3 to 18 characters."""


class HandleState(StrEnum):
    RIGHT = "right"
    DIFFERS = "differs"  # The PDS has another one than it should
    STORED = "stored"  # Only Mongo has
    LEFT = "left"  # A name of the user's own, or nobody can say which is right
    REFUSED = "refused"  # The PDS takes none
    FAILED = "failed"  # Something did not answer, or changed
    REPAIRED = "repaired"


REPAIRABLE: Final = frozenset({HandleState.DIFFERS, HandleState.STORED})


@dataclass(frozen=True, slots=True)
class Handle:
    """The handles of one account: on the platform (without `@`), as the PDS has it, and `atproto.handle` in Mongo;
    `wanted` is what it is to be, `note` why."""

    user: str
    did: str
    platform: str | None
    pds: str | None
    mongo: str | None
    wanted: str | None
    state: HandleState
    note: str = ""


@dataclass(frozen=True, slots=True)
class Handles:
    """Compares and repairs handles; `shared` are DIDs that stand in Mongo for several accounts."""

    server: Administration
    store: MongoProvisioning
    description: ServerDescription
    shared: frozenset[str] = frozenset()

    def look(self, account: Account) -> Handle:
        """The handles of one account that has a DID. Nothing is changed."""
        did = str(account.did)
        found = Handle(account.key, did, account.handle, None, account.pds_handle, None, HandleState.LEFT)
        if did in self.shared:
            return replace(found, note="its DID stands in Mongo for others as well")
        try:
            info = self.server.account_info(did)
            found = replace(found, pds=info.handle)
            domains, own = self.description.domains, info.handle
            if own not in (None, "handle.invalid") and not own.endswith(tuple(domains)):
                return replace(found, note="a name under a domain of its own: the user chose it")
            wanted, notes = None, []
            for label in handle_labels(account):
                handle = f"{label}{domains[0]}"
                if not (refusal := self._refusal(handle, info)):
                    wanted = handle
                    break
                notes.append(f"{handle}: {refusal}")
        except errors.AccountUnknown as error:
            return replace(found, note=error.message)
        except errors.Transient as error:
            return replace(found, state=HandleState.FAILED, note=error.message)
        note = "; ".join(notes)
        if wanted is None:
            state = HandleState.REFUSED if notes else HandleState.LEFT
            return replace(found, state=state, note=note or "it has neither a handle nor a user code")
        in_mongo = HandleState.RIGHT if account.pds_handle == wanted else HandleState.STORED
        state = in_mongo if wanted == info.handle else HandleState.DIFFERS
        return replace(found, wanted=wanted, state=state, note=note)

    def repair(self, account: Account, now: datetime) -> Handle:
        """Give the account its handle on the PDS, then Mongo; what an interrupted repair left is found and finished."""
        found = self.look(account)
        if found.state not in REPAIRABLE or found.wanted is None:
            return found
        try:
            if found.state is HandleState.DIFFERS:
                self.server.update_handle(found.did, found.wanted)
            stored = self.store.store_handle(account.id, found.did, found.wanted, now)
        except (errors.HandleRefused, errors.AccountRefused) as error:
            return replace(found, state=HandleState.REFUSED, note=error.message)
        except (errors.AccountUnknown, errors.Transient) as error:
            return replace(found, state=HandleState.FAILED, note=error.message)
        if not stored:
            note = f"Mongo does not hold {found.did} for it any more; run this again"
            return replace(found, pds=found.wanted, state=HandleState.FAILED, note=note)
        return replace(found, pds=found.wanted, mongo=found.wanted, state=HandleState.REPAIRED)

    def _refusal(self, handle: str, info: AccountInfo) -> str:
        """Why the PDS would not give the account this name, or "".

        Whether a name is reserved, only `createAccount` tells; the administrator's call would give it. It is asked
        with the account's own e-mail address, which the PDS takes once: no account can come of it.
        """
        if handle == info.handle:
            return ""
        if _LABEL.fullmatch(handle.removesuffix(self.description.domains[0])) is None:
            return "not 3 to 18 letters, digits and hyphens"
        holder = self.server.holder_of(handle)
        if holder is not None and holder != info.did:
            return f"taken by {holder}"
        if info.email is None:
            return ""
        try:
            self.server.create_account(handle, info.email, new_password(), "none" if self.description.invites else None)
        except errors.HandleRefused as error:
            return error.answer or error.message
        except errors.AccountRefused:
            return ""
        return "the PDS made a second account of it: delete that"


_AT_ONCE: Final = 8  # Questions to the PDS at a time


def look_at_handles(
    pipeline: Pipeline, users: Sequence[str], progress: Progress = unwatched, *, repair: bool = False, why: str = ""
) -> list[Handle]:
    """Compare the handles of these users, or of all, on platform, PDS and in Mongo; repair what differs only where it
    is asked for. Raises Misconfigured where a name fits nobody, or the administrator's password is missing or wrong;
    LeaseHeld where somebody else changes accounts right now."""
    listed = pipeline.accounts.all()
    chosen = chosen_accounts(pipeline, users) if users else listed
    having = [each for each in chosen if each.did is not None and not each.owner_deleted]
    numbers = Counter(account.did for account in listed if account.did is not None)
    shared = frozenset(did for did, number in numbers.items() if number > 1)
    handles = Handles(pipeline.administration, pipeline.provisioning, pipeline.administration.describe(), shared)
    looks = for_accounts(having, handles.look, _AT_ONCE, needed, ordered=True)
    found = [seen for _, seen in progress(looks, len(having))]
    wrong = [account for account, each in zip(having, found, strict=True) if each.state in REPAIRABLE]
    if not repair or not wrong:
        return found
    about, number = [replace(account, password=None) for account in wrong], {"handles": len(wrong)}
    with alone(pipeline), pipeline.audit.during("repair-handles", about, (), why=why, counts=number) as audited:
        repaired = {account.key: handles.repair(account, datetime.now(UTC)) for account in wrong}
        audited.counts = _counts(repaired.values())
    return [repaired.get(each.user, each) for each in found]


def _counts(handles: Iterable[Handle]) -> dict[str, int]:
    return dict(sorted(Counter(each.state.value for each in handles).items()))


class HandlesParameters(OfUsers):
    confirm: int | None = confirm_option("handles")
    why: str = why_option()


@declared("accounts handles", "repair_handles", "repair_each_handle")
def run_handles(work: Work, parameters: HandlesParameters) -> Report:
    """Compare the handle of each user on the platform with that of the PDS account and with what Mongo says of it.

    PDS and Mongo are repaired once the number is confirmed. It needs PDS_ADMIN_PASSWORD.
    """
    pipeline, users, watch = work.pipeline, parameters.users, work.watch("Looking at handles")
    found = look_at_handles(pipeline, users, watch)
    number = sum(each.state in REPAIRABLE for each in found)
    repaired = parameters.confirms(number)
    if repaired:
        found = look_at_handles(pipeline, users, watch, repair=True, why=parameters.why)
    shown = [asdict(each) for each in found if each.state is not HandleState.RIGHT]
    states, totals = {each.state for each in found}, _counts(found)
    table = Table("handles", ("user", "platform", "pds", "mongo", "wanted", "state", "note"))
    amiss = {HandleState.FAILED, HandleState.REFUSED} if repaired else {HandleState.FAILED}
    headline = ", ".join(f"{state} {each}" for state, each in totals.items())
    if states & amiss:
        headline = f"Some handles could not be looked at or repaired: {headline}."
    code = FAILED if states & {*REPAIRABLE, HandleState.REFUSED} else WELL
    return Report(
        headline,
        {"states": totals, "handles": shown},
        [table.extend(shown)],
        dict(totals),
        confirm=number if number and not repaired else None,
        exit_code=UNREACHABLE if HandleState.FAILED in states else code,
        failed=bool(states & amiss),
    )
