"""Registration: making accounts and changing passwords with a whole pipeline, for command and job alike.

Who is chosen, that one operator at a time does it, and that it stands in the audit before it starts. How one account is
made is `provisioning.py`; how one password is changed is here. No password leaves this module (ACCT-5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import sleep
from typing import Final, Protocol

import httpx

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.admin import AccountInfo
from ac_pipeline.errors import AccountInactive, AccountUnknown, HeldBack, Misconfigured
from ac_pipeline.mongo.accounts import Credentials, Intent, Kind
from ac_pipeline.operations.accounts.handles import REPAIRABLE, Handle, Handles, HandleState, counts, shared_dids
from ac_pipeline.operations.accounts.provisioning import (
    GOOD,
    Planned,
    Provisioner,
    ProvisionPlan,
    ProvisionReport,
    email_domain,
    new_password,
    plan_provision,
    planned,
)
from ac_pipeline.operations.declare import (
    FAILED,
    UNREACHABLE,
    WELL,
    Declaration,
    OfUsers,
    Parameters,
    Report,
    Table,
    Work,
    confirm_option,
    confirms,
    dry_run_option,
    exit_code,
    option,
    why_option,
)
from ac_pipeline.operations.findings import Progress, chosen_accounts, unwatched
from ac_pipeline.sync.for_accounts import for_accounts, needed
from ac_pipeline.wiring import Pipeline, new_run_id


class Server(Protocol):
    """What is asked of the PDS; `atproto/admin.py` says what each call raises."""

    def account_info(self, did: str) -> AccountInfo: ...
    def update_password(self, did: str, password: str) -> None: ...
    def forget(self, did: str) -> None: ...
    def prove(self, account: Account) -> None: ...


class Store(Protocol):
    """What is kept in Mongo; see `mongo/accounts.py`."""

    def begin(self, intent: Intent) -> Intent: ...
    def keep_former(self, did: str, password: str) -> None: ...
    def credentials(self, account: str) -> Credentials | None: ...
    def store_password(self, account: str, did: str, password: str) -> bool: ...
    def end(self, kind: Kind, subject: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Rotated:
    """A password that was changed.

    Args:
        user: Partition key.
        did: Whose.
        repaired: Whether an interrupted change was brought to its end.
        note: What the PDS says of the account, where it is not active.
    """

    user: str
    did: str
    repaired: bool = False
    note: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def may_rotate(account: Account, accounts: Sequence[Account]) -> str:
    """The DID whose password may be changed.

    Args:
        account: Whose.
        accounts: All accounts.

    Raises:
        Misconfigured: It has no DID, or one that others have too: their copy of the password would be wrong.
    """
    if account.did is None:
        raise Misconfigured(
            f"{account.key} has no PDS account: `ac-pipeline accounts provision --user {account.key} "
            "--confirm 1` makes one."
        )
    sharing = [other.key for other in accounts if other.did == account.did and other.id != account.id]
    if sharing:
        raise Misconfigured(
            f"The DID of {account.key} stands in Mongo for {', '.join(sharing)} as well: give each its own first."
        )
    return account.did


def rotate(
    account: Account,
    did: str,
    *,
    server: Server,
    store: Store,
    lease: Callable[[str], AbstractContextManager[None]],
    now: Callable[[], datetime],
    password: Callable[[], str] = new_password,
) -> Rotated:
    """Give an account a new password, and the platform with it.

    Args:
        account: Whose.
        did: As `may_rotate` gave it.
        lease: Makes us the only writer of a repository: no sync of it meets a password that has just changed.

    Raises:
        AccountUnknown: The PDS does not host the account; nothing was changed.
        Misconfigured: The administrator's password is missing or wrong; nothing was changed.
        HeldBack: The platform does not hold this DID any more.
        WrongPassword: The PDS does not take the password it was given; all of them are kept.
        Transient: Something did not answer. Running it again repairs whatever was half done.
    """
    server.account_info(did)
    with lease(did):
        fresh = Intent(Kind.ROTATE, did, account.key, password(), now())
        intent = store.begin(fresh)
        held = store.credentials(account.id)
        if held is None or held.did != did:
            raise HeldBack(f"The platform does not hold {did} for {account.key} any more: nothing was changed.")
        if held.password is not None and held.password not in (intent.password, *intent.former):
            store.keep_former(did, held.password)
        server.update_password(did, intent.password)
        if not store.store_password(account.id, did, intent.password):
            raise HeldBack(
                f"The password of {did} was changed, but the platform does not hold it for {account.key} any more. "
                "Old and new are kept: look at the user's document, then run this again."
            )
        server.forget(did)
        note = ""
        try:
            server.prove(replace(account, did=did, password=intent.password, blocked=None))
        except AccountInactive as error:  # said only to whoever has the right password
            note = error.message
        store.end(Kind.ROTATE, did)
    return Rotated(account.key, did, repaired=intent.password != fresh.password, note=note)


Told = Callable[[int, int], None]
"""Told how many accounts are done, and of how many."""

_LEASE: Final = "the accounts of the PDS"
_AT_ONCE: Final = 8
"""Questions to the PDS at a time."""


def untold(done: int, total: int) -> None:
    """Where nobody watches."""
    del done, total


@dataclass(frozen=True, slots=True)
class Guest:
    """The account that owns all anonymous work, as Mongo has it.

    Args:
        did: None where there is none.
        handle: On the PDS.
        password: Whether Mongo holds one.
        unfinished: Whether making it was interrupted.
    """

    did: str | None
    handle: str | None
    password: bool
    unfinished: bool = False

    @property
    def exists(self) -> bool:
        return self.did is not None and not self.unfinished

    @property
    def note(self) -> str:
        """What a person has to do about it, or ""."""
        if self.exists and not self.password:
            return (
                "Mongo holds no password for it: `ac-pipeline accounts rotate --user art-guest --confirm`, or the job "
                "`rotate_password`, gives it one."
            )
        return ""

    def to_json(self) -> dict[str, object]:
        return {"exists": self.exists, "did": self.did, "handle": self.handle, "note": self.note}


@dataclass(frozen=True, slots=True)
class Rotation:
    """A password that would be changed: whose, and of which DID."""

    account: Account
    did: str


def plan_accounts(pipeline: Pipeline, users: Sequence[str], limit: int | None = None) -> ProvisionPlan:
    """Who would get an account on the PDS. Nothing is made.

    Args:
        users: Only these, as `chosen_accounts` takes them; empty for all. What an earlier run left unfinished comes
            with all of them even where its user is not there any more.
        limit: At most so many.

    Raises:
        Misconfigured: A name fits nobody, or AC_ACCOUNT_EMAIL_DOMAIN is needed and not set.
        Transient: Mongo or PDS could not be read.
    """
    description, domain = pipeline.administration.describe(), _domain(pipeline)
    listed = pipeline.accounts.all()
    chosen = chosen_accounts(pipeline, users) if users else listed
    ids, known = {account.id for account in chosen}, {account.id for account in listed}

    def ours(intent: Intent) -> bool:
        return intent.subject in ids or (not users and intent.subject not in known)

    left = [each for each in pipeline.provisioning.unfinished() if each.kind is Kind.PROVISION and ours(each)]
    return plan_provision(
        chosen,
        users=pipeline.provisioning.users(),
        unfinished=left,
        description=description,
        domain=domain,
        limit=limit,
    )


def make_accounts(
    pipeline: Pipeline, plan: ProvisionPlan, confirm: int, *, why: str = "", told: Told = untold
) -> ProvisionReport:
    """Make the accounts of a plan, or finish those that an earlier run began; in the audit before it starts.

    Args:
        plan: As `plan_accounts` made it.
        confirm: How many accounts are to be made.
        why: The operator's own words, for the audit.

    Raises:
        Misconfigured: Another number than confirmed would be made, or the administrator's password is missing or wrong.
        LeaseHeld: Somebody else changes accounts right now.
    """
    if confirm != len(plan.accounts):
        raise Misconfigured(f"{len(plan.accounts)} accounts would be made, not {confirm}: nothing was made.")
    if plan.invites and not pipeline.administration.authorised:
        raise Misconfigured("This PDS asks for invite codes: set PDS_ADMIN_PASSWORD, which makes them.")
    if not plan.accounts:
        return ProvisionReport()
    with _alone(pipeline):
        return _make(pipeline, plan.accounts, "provision-accounts", why, told)


def find_guest(pipeline: Pipeline) -> Guest:
    """Whether there is a guest account. Nothing is made.

    Raises:
        Transient: Mongo could not be read.
    """
    guest = pipeline.accounts.find(GUEST_ID)
    unfinished = pipeline.provisioning.intent(Kind.PROVISION, GUEST_ID) is not None
    return Guest(guest.did, guest.pds_handle, bool(guest.password), unfinished)


def plan_guest(pipeline: Pipeline) -> Planned:
    """Handle and e-mail address that the guest account would get.

    Raises:
        Misconfigured: AC_ACCOUNT_EMAIL_DOMAIN is needed and not set.
        Transient: Mongo or PDS could not be read.
    """
    return planned(pipeline.accounts.find(GUEST_ID), pipeline.administration.describe(), _domain(pipeline))


def make_guest(pipeline: Pipeline, *, why: str = "", told: Told = untold) -> Guest | ProvisionReport:
    """Make the guest account where there is none, in the audit before it starts; else change nothing.

    Args:
        why: The operator's own words, for the audit.

    Returns:
        The account that there is already, or what was made.

    Raises:
        Misconfigured: The administrator's password is missing or wrong, or AC_ACCOUNT_EMAIL_DOMAIN is needed.
        LeaseHeld: Somebody else changes accounts right now.
    """
    with _alone(pipeline):
        there = find_guest(pipeline)
        if there.exists:
            return there
        return _make(pipeline, [plan_guest(pipeline)], "create-guest", why, told)


def plan_rotation(pipeline: Pipeline, user: str) -> Rotation:
    """Whose password would be changed. Nothing is changed.

    Raises:
        Misconfigured: The name fits nobody, or the account has no DID of its own.
        Transient: Mongo could not be read.
    """
    account = pipeline.accounts.find(user)
    return Rotation(account, may_rotate(account, pipeline.accounts.all()))


def rotate_password(pipeline: Pipeline, wanted: Rotation, *, why: str = "") -> Rotated:
    """Give an account a new password, on the PDS and in Mongo, and prove it; in the audit before it starts.

    Args:
        wanted: As `plan_rotation` made it.
        why: The operator's own words, for the audit.

    Raises:
        Misconfigured: The administrator's password is missing or wrong.
        LeaseHeld: Somebody else changes accounts, or a run writes to this repository.
        PipelineError: As `rotation.rotate`; running it again repairs whatever was half done.
    """
    run = new_run_id()
    with _alone(pipeline), pipeline.audit.during("rotate-password", [wanted.account], (), why=why):
        return rotate(
            wanted.account,
            wanted.did,
            server=pipeline.administration,
            store=pipeline.provisioning,
            lease=lambda name: pipeline.ledger.lease(name, run),
            now=lambda: datetime.now(UTC),
        )


def look_at_handles(
    pipeline: Pipeline, users: Sequence[str], progress: Progress = unwatched, *, repair: bool = False, why: str = ""
) -> list[Handle]:
    """Compare the handles of accounts on platform, PDS and in Mongo; repair what differs only where it is asked for.

    Args:
        users: As `chosen_accounts` takes them; empty for all.
        why: The operator's own words, for the audit.

    Raises:
        Misconfigured: A name fits nobody, or the administrator's password is missing or wrong.
        LeaseHeld: Somebody else changes accounts right now.
        Transient: Mongo or PDS could not be read.
    """
    listed = pipeline.accounts.all()
    chosen = chosen_accounts(pipeline, users) if users else listed
    having = [each for each in chosen if each.did is not None and not each.owner_deleted]
    handles = Handles(
        pipeline.administration, pipeline.provisioning, pipeline.administration.describe(), shared_dids(listed)
    )
    looks = for_accounts(having, handles.look, _AT_ONCE, needed, ordered=True)
    found = [seen for _, seen in progress(looks, len(having))]
    wrong = [(account, each) for account, each in zip(having, found, strict=True) if each.state in REPAIRABLE]
    if not repair or not wrong:
        return found
    about = [replace(account, password=None) for account, _ in wrong]
    with (
        _alone(pipeline),
        pipeline.audit.during("repair-handles", about, (), why=why, counts={"handles": len(wrong)}) as audited,
    ):
        repaired = {account.key: handles.repair(account, datetime.now(UTC)) for account, _ in wrong}
        audited.counts = counts(repaired.values())
    return [repaired.get(each.user, each) for each in found]


def _domain(pipeline: Pipeline) -> str:
    settings = pipeline.settings
    return email_domain(settings.ac_account_email_domain, httpx.URL(settings.pds_url).host)


@contextmanager
def _alone(pipeline: Pipeline) -> Iterator[None]:
    """One operator at a time changes accounts, on whatever machine."""
    with pipeline.ledger.lease(_LEASE, new_run_id()):
        yield


def _make(pipeline: Pipeline, wanted: Sequence[Planned], action: str, why: str, told: Told) -> ProvisionReport:
    provisioner = Provisioner(
        pipeline.administration,
        pipeline.provisioning,
        pipeline.administration.describe(),
        _inactive_handles(pipeline),
        now=lambda: datetime.now(UTC),
        sleep=sleep,
    )
    about = [replace(each.account, password=None) for each in wanted]
    with pipeline.audit.during(action, about, (), why=why, counts={"accounts": len(wanted)}) as audited:
        report = provisioner.run(wanted, told)
        audited.counts = report.counts()
        if report.error is not None:
            audited.outcome = f"ended early: {report.error.message}"
    return report


def _inactive_handles(pipeline: Pipeline) -> Callable[[], frozenset[str]]:
    """Asked at most once: it takes a question for every account that is not active."""
    asked: list[frozenset[str]] = []

    def handles() -> frozenset[str]:
        if not asked:
            asked.append(frozenset(_handles_of_inactive(pipeline)))
        return asked[0]

    return handles


def _handles_of_inactive(pipeline: Pipeline) -> Iterator[str]:
    if not pipeline.administration.authorised:
        return
    for status in pipeline.server.list_repositories():
        if not status.active:
            try:
                handle = pipeline.administration.account_info(status.did).handle
            except AccountUnknown:
                continue
            if handle is not None:
                yield handle


_MAKING: Final = "Making accounts"


class ProvisionParameters(OfUsers):
    """Who is to get a PDS account."""

    limit: int = option(0, "At most so many accounts; 0 for all.", metavar="N", ge=0)
    confirm: int | None = confirm_option("accounts")
    dry_run: bool = dry_run_option("made")
    why: str = why_option()


def run_provision(work: Work, parameters: ProvisionParameters) -> Report:
    """Make PDS accounts for users who have none, each exactly once, and store them in Mongo. Without a confirmation
    only say for whom.

    After an interruption the same again finishes what was begun. It takes about 5 minutes for every 100 accounts.
    """
    plan = plan_accounts(work.pipeline, parameters.users, parameters.limit or None)
    if parameters.dry_run or parameters.confirm != len(plan.accounts):
        wanted = Table("would_be_made", ("user", "handle", "otherwise", "email", "unfinished"))
        return Report(
            f"{len(plan.accounts)} accounts would be made.",
            plan.to_json(),
            [wanted.extend(each.to_json() for each in plan.accounts)],
            {"asks_for_invite_codes": plan.invites},
            [f"Not for {user}: {reason}." for user, reason in plan.skipped],
            confirm=len(plan.accounts),
        )
    told = partial(work.told, _MAKING)
    return _made(make_accounts(work.pipeline, plan, parameters.confirm, why=parameters.why, told=told))


def _made(report: ProvisionReport) -> Report:
    outcomes = {name: number for name, number in report.counts().items() if number}
    wrong = sum(each.outcome not in GOOD for each in report.made)
    headline = ", ".join(f"{name} {number}" for name, number in outcomes.items()) or "No account was made."
    if report.error is not None:
        headline = f"{report.error.message} {report.left} accounts are left: run this again."
    elif not report.clean:
        headline = f"{wrong} accounts could not be made; run this again to go on with what failed."
    table = Table("accounts", ("user", "outcome", "handle", "did", "note"))
    return Report(
        headline,
        report.to_json(),
        [table.extend(each.to_json() for each in report.made)],
        {"left": report.left, **outcomes},
        exit_code=exit_code(report.clean, [report.error]),
        failed=not report.clean,
    )


PROVISION: Final = Declaration(
    "accounts provision",
    "provision_accounts",
    "provision_each_user",
    ProvisionParameters,
    run_provision,
)


class GuestParameters(Parameters):
    """Whether to make the guest account."""

    confirm: str = option("", f"Type {GUEST_ID} to make the account.", metavar="NAME")
    why: str = why_option()


def run_create_guest(work: Work, parameters: GuestParameters) -> Report:
    """Say whether there is the account that owns all anonymous work (art-guest) and, when it is confirmed, make it
    where there is none. One that exists is never touched.
    """
    guest: Guest | ProvisionReport = find_guest(work.pipeline)
    if isinstance(guest, Guest) and not guest.exists:
        if not confirms(parameters.confirm, GUEST_ID):
            wanted = plan_guest(work.pipeline)
            facts = {"would_be_made": wanted.handles[0], "email": wanted.email}
            headline = f"There is no guest account; {wanted.handles[0]} would be made."
            return Report(headline, {**guest.to_json(), **facts}, facts=facts, confirm=GUEST_ID, exit_code=2)
        guest = make_guest(work.pipeline, why=parameters.why, told=partial(work.told, _MAKING))
    if isinstance(guest, ProvisionReport):
        return _made(guest)
    return Report(
        f"The guest account exists: {guest.handle or 'no handle'} ({guest.did}). Nothing was changed.",
        guest.to_json(),
        facts={"did": guest.did or ""},
        lines=[guest.note] if guest.note else [],
        exit_code=0 if guest.password else 1,
    )


CREATE_GUEST: Final = Declaration(
    "accounts create-guest",
    "create_guest_account",
    "create_the_guest",
    GuestParameters,
    run_create_guest,
)


class RotateParameters(Parameters):
    """Whose password to change."""

    user: str = option("", "Whose: partition key, handle, user code, DID or Mongo id.", metavar="KEY")
    confirm: str = option("", "The user's partition key, as the preview names it.", metavar="KEY")
    why: str = why_option()


def run_rotate(work: Work, parameters: RotateParameters) -> Report:
    """Give an account a new password, on the PDS and in Mongo, and prove it; shown nowhere.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same again repairs what was half done.
    """
    if not parameters.user.strip():
        raise Misconfigured("No user is named, so nothing was done: say whose password shall change.")
    wanted = plan_rotation(work.pipeline, parameters.user.strip())
    key = wanted.account.key
    if not confirms(parameters.confirm, key):
        headline = f"The password of {key} ({wanted.did}) would be changed."
        json = {"user": key, "did": wanted.did}
        return Report(headline, json, facts={**json, "changed": False}, confirm=key, exit_code=2)
    done = rotate_password(work.pipeline, wanted, why=parameters.why)
    return Report(
        f"The password of {done.user} ({done.did}) was changed, stored and proven.",
        done.to_json(),
        facts={"user": done.user, "did": done.did, "changed": True},
        lines=[done.note] if done.note else [],
    )


ROTATE: Final = Declaration(
    "accounts rotate",
    "rotate_password",
    "rotate_one_password",
    RotateParameters,
    run_rotate,
)


class HandlesParameters(OfUsers):
    """Whose handles to compare."""

    confirm: int | None = confirm_option("handles")
    why: str = why_option()


def run_handles(work: Work, parameters: HandlesParameters) -> Report:
    """Compare the handle of each user on the platform with that of the PDS account and with what Mongo says of it.

    PDS and Mongo are repaired once the number is confirmed. It needs PDS_ADMIN_PASSWORD.
    """
    pipeline, users, watch = work.pipeline, parameters.users, work.watch("Looking at handles")
    found, repaired = look_at_handles(pipeline, users, watch), False
    number = sum(each.state in REPAIRABLE for each in found)
    if parameters.confirm is not None and parameters.confirm == number:
        found, repaired = look_at_handles(pipeline, users, watch, repair=True, why=parameters.why), True
    shown = [each.to_json() for each in found if each.state is not HandleState.RIGHT]
    states, totals = {each.state for each in found}, counts(found)
    table = Table("handles", ("user", "platform", "pds", "mongo", "wanted", "state", "note"))
    amiss = {HandleState.FAILED, HandleState.REFUSED} if repaired else {HandleState.FAILED}
    headline = ", ".join(f"{state} {each}" for state, each in totals.items())
    if states & amiss:
        headline = f"Some handles could not be looked at or repaired: {headline}."
    return Report(
        headline,
        {"states": totals, "handles": shown},
        [table.extend(shown)],
        dict(totals),
        confirm=number if number and not repaired else None,
        exit_code=UNREACHABLE
        if HandleState.FAILED in states
        else FAILED
        if states & {*REPAIRABLE, HandleState.REFUSED}
        else WELL,
        failed=bool(states & amiss),
    )


HANDLES: Final = Declaration("accounts handles", "repair_handles", "repair_each_handle", HandlesParameters, run_handles)
