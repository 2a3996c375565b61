"""Passwords of PDS accounts: signing in with the one in Mongo, and giving a new one. None leaves here (ACCT-5).

Also handles: what the PDS calls each account, beside what the platform calls its user, and how that is put right. The
PDS handle is the platform's, with `.` and `_` as `-`, or the user code where the PDS refuses that name; Mongo's
`atproto.handle` says the same (aesthetic-computer facts, section 2.1). The platform never tries again what did not
reach the PDS. No record depends on a handle.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from ac_pipeline import errors
from ac_pipeline.accounts import Account
from ac_pipeline.atproto.admin import AccountInfo, Administration, ServerDescription
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.errors import FAILED, UNREACHABLE, WELL
from ac_pipeline.mongo.accounts import Intent, Kind, MongoProvisioning
from ac_pipeline.operations.accounts.listing import UNKNOWN, hosted_repositories
from ac_pipeline.operations.accounts.provisioning import alone, handle_labels, new_password
from ac_pipeline.operations.declare import Progress, Report, Table, Work, declared, unwatched
from ac_pipeline.operations.parameters import (
    OfUsers,
    Parameters,
    chosen_accounts,
    confirm_option,
    confirms_name,
    option,
    why_option,
)
from ac_pipeline.sync.for_accounts import for_accounts, needed
from ac_pipeline.sync.ports import Ledger
from ac_pipeline.wiring import Pipeline, new_run_id

# ------------------------------------------------------------------------------------------------------------ sign-ins

OK, UNPROVISIONED, UNREACHED = "ok", "unprovisioned", "unreached"
"""States besides those the PDS names, and `wrong-password`, `no-credentials` and `blocked`."""

LONGEST_PAUSE: Final = 310.0  # Seconds to wait for a limit that counts in windows of 5 minutes

_SIGN_INS_AT_ONCE: Final = 10  # A PDS takes 20 sign-ins a second at best, ten at once (atproto facts, Writing)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """How an account's sign-in ended."""

    user: str
    did: str | None  # As Mongo holds it
    # `ok`, `wrong-password`, `deactivated`, `takendown` or another state the PDS names, `unknown` (the PDS does not
    # host the DID), `no-credentials`, `blocked`, `unprovisioned` (no DID: nothing to check), or `unreached` (no answer,
    # or too many sign-ins)
    state: str
    reason: str = ""
    handle: str | None = None  # On the PDS, where its administrator asked
    note: str = ""  # A handle that differs from Mongo's


@declared("accounts verify", "verify_credentials", "sign_in_as_each_user")
def run_verify(work: Work, parameters: OfUsers) -> Report:
    """Sign in as every account with the password Mongo holds, and show whom the PDS refuses and why.

    Changes nothing; `accounts rotate` gives an account a new password.
    """
    accounts, server = chosen_accounts(work.pipeline, parameters.users), work.pipeline.administration
    hosted = hosted_repositories(work.pipeline)
    checks = for_accounts(
        accounts,
        lambda account: check_sign_in(account, server, hosted, time.sleep),
        _SIGN_INS_AT_ONCE,
        lambda account, error: SignedIn(account.key, account.did, UNREACHED, error.message),
        ordered=True,
    )
    found = [asdict(each) for _, each in work.watch("Signing in")(checks, len(accounts))]
    totals = dict(sorted(Counter(each["state"] for each in found).items()))
    failed = [each for each in found if each["state"] not in (OK, UNPROVISIONED)]
    unreached = totals.get(UNREACHED, 0)
    headline = f"The PDS refuses {len(failed)} of {len(found)} accounts."
    if unreached:
        headline = f"{unreached} accounts could not be asked for: run this again."
    return Report(
        headline,
        {"states": totals, "accounts": found},
        [
            Table.counts("states", totals, "state", title="Sign-ins"),
            Table("refused_accounts", ("user", "did", "state", "reason")).extend(failed),
            Table("notes", ("user", "handle", "note")).extend(each for each in found if each["note"]),
        ],
        {"accounts": len(found), "refused": len(failed) - unreached},
        exit_code=3 if unreached else 1 if failed else 0,
        failed=bool(unreached),
    )


def check_sign_in(
    account: Account, server: Administration, hosted: Mapping[str, RepositoryStatus], sleep: Callable[[float], None]
) -> SignedIn:
    """Sign in as an account. `hosted` is every repository of the PDS by DID; `sleep` waits that many seconds. Raises
    Misconfigured where the administrator's password is wrong."""
    if account.did is None:
        return SignedIn(account.key, None, UNPROVISIONED, "the platform has made no PDS account for it")
    known, found = hosted.get(account.did), SignedIn(account.key, account.did, OK)
    try:
        _prove(account, server, sleep)
    except errors.Blocked as error:
        state, reason = error.code, error.message
        if isinstance(error, errors.WrongPassword) and known is None:
            state, reason = UNKNOWN, f"the PDS does not host {account.did}"
        elif isinstance(error, errors.AccountUnknown):
            state = UNKNOWN
        elif isinstance(error, errors.AccountInactive):
            state = (known.status if known is not None and not known.active else None) or error.answer or "inactive"
        found = replace(found, state=state, reason=reason)
    except errors.Transient as error:
        return replace(found, state=UNREACHED, reason=error.message)
    if not server.authorised:
        return found
    try:
        handle = server.account_info(account.did).handle
    except errors.AccountUnknown as error:
        return replace(found, state=UNKNOWN, reason=error.message)
    except errors.Transient as error:
        return replace(found, note=error.message)
    differs = account.pds_handle is not None and handle != account.pds_handle
    return replace(found, handle=handle, note=f"Mongo has the handle {account.pds_handle}" if differs else "")


def _prove(account: Account, server: Administration, sleep: Callable[[float], None]) -> None:
    try:
        server.prove(account)
    except errors.RateLimited as error:
        if error.retry_after is None or error.retry_after > LONGEST_PAUSE:
            raise
        sleep(max(error.retry_after, 1.0))
        server.prove(account)


# ------------------------------------------------------------------------------------------------------- new passwords


class RotateParameters(Parameters):
    user: str = option("", "Whose: partition key, handle, user code, DID or Mongo id.", metavar="KEY")
    confirm: str = option("", "The user's partition key, as the preview names it.", metavar="KEY")
    why: str = why_option()


@declared("accounts rotate", "rotate_password", "rotate_one_password")
def run_rotate(work: Work, parameters: RotateParameters) -> Report:
    """Give an account a new password, on the PDS and in Mongo, and prove it; shown nowhere.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same again repairs what was half done.
    """
    pipeline, named = work.pipeline, parameters.user.strip()
    if not named:
        raise errors.Misconfigured("No user is named, so nothing was done: say whose password shall change.")
    account = pipeline.accounts.find(named)
    did, key = may_rotate(account, pipeline.accounts.all()), account.key
    if not confirms_name(parameters.confirm, key):
        headline, json = f"The password of {key} ({did}) would be changed.", {"user": key, "did": did}
        return Report(headline, json, facts={**json, "changed": False}, confirm=key, exit_code=2)
    with alone(pipeline), pipeline.audit.during("rotate-password", [account], (), why=parameters.why):
        server, store = pipeline.administration, pipeline.provisioning
        done = rotate(account, did, server=server, store=store, ledger=pipeline.ledger)
    return Report(
        f"The password of {key} ({did}) was changed, stored and proven.",
        asdict(done),
        facts={"user": key, "did": did, "changed": True},
        lines=[done.note] if done.note else [],
    )


@dataclass(frozen=True, slots=True)
class Rotated:
    """A password that was changed."""

    user: str
    did: str
    repaired: bool = False  # True if an interrupted change was brought to its end
    note: str = ""  # What the PDS says of the account, where it is not active


def may_rotate(account: Account, accounts: Sequence[Account]) -> str:
    """The DID of an account whose password may be changed. Raises Misconfigured where it has none, or one that others
    of all accounts have too: their copy of the password would be wrong."""
    if account.did is None:
        raise errors.Misconfigured(
            f"{account.key} has no PDS account: `ac-pipeline accounts provision --user {account.key} "
            "--confirm 1` makes one."
        )
    sharing = [other.key for other in accounts if other.did == account.did and other.id != account.id]
    if sharing:
        raise errors.Misconfigured(
            f"The DID of {account.key} stands in Mongo for {', '.join(sharing)} as well: give each its own first."
        )
    return account.did


def rotate(account: Account, did: str, *, server: Administration, store: MongoProvisioning, ledger: Ledger) -> Rotated:
    """Give an account a new password, and the platform with it.

    Args:
        did: As `may_rotate` gave it.
        ledger: Makes us the only writer of the repository: no sync of it meets a password that has just changed.

    Raises:
        AccountUnknown: The PDS does not host the account; nothing was changed.
        Misconfigured: The administrator's password is missing or wrong; nothing was changed.
        HeldBack: The platform does not hold this DID any more.
        WrongPassword: The PDS does not take the password it was given; all of them are kept.
        Transient: Something did not answer. Running it again repairs whatever was half done.
    """
    server.account_info(did)
    with ledger.lease(did, new_run_id()):
        fresh = Intent(Kind.ROTATE, did, account.key, new_password(), datetime.now(UTC))
        intent = store.begin(fresh)
        held = store.credentials(account.id)
        if held is None or held.did != did:
            raise errors.HeldBack(f"The platform does not hold {did} for {account.key} any more: nothing was changed.")
        if held.password is not None and held.password not in (intent.password, *intent.former):
            store.keep_former(did, held.password)
        server.update_password(did, intent.password)
        if not store.store_password(account.id, did, intent.password):
            raise errors.HeldBack(
                f"The password of {did} was changed, but the platform does not hold it for {account.key} any more. "
                "Old and new are kept: look at the user's document, then run this again."
            )
        server.forget(did)
        note = ""
        try:
            server.prove(replace(account, did=did, password=intent.password, blocked=None))
        except errors.AccountInactive as error:  # said only to whoever has the right password
            note = error.message
        store.end(Kind.ROTATE, did)
    return Rotated(account.key, did, repaired=intent.password != fresh.password, note=note)


# ------------------------------------------------------------------------------------------------------------- handles

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
