"""PDS accounts for users who have none, and for the guest: made exactly once, whatever happens in between.

Handle and password are written down before the PDS is asked, and stay so until the platform holds them; whoever finds
them left behind signs in to learn whether the account was made. An account that does not open with our own password is
never adopted (atproto facts, Accounts and sessions).
"""

from __future__ import annotations

import re
import secrets
import string
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, partial
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

import httpx

from ac_pipeline import errors
from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.admin import Administration, ServerDescription
from ac_pipeline.mongo.accounts import Credentials, Intent, Kind, MongoProvisioning
from ac_pipeline.operations.declare import Report, Table, Work, declared, exit_code
from ac_pipeline.operations.parameters import (
    OfUsers,
    Parameters,
    chosen_accounts,
    confirm_option,
    confirms_name,
    dry_run_option,
    option,
    why_option,
)
from ac_pipeline.wiring import Pipeline, new_run_id

GUEST_LABEL: Final = "art"  # The guest's handle is `art.{domain}` (aesthetic-computer facts, section 2.3)


@dataclass(frozen=True, slots=True)
class Planned:
    account: Account
    handles: tuple[str, ...]  # It gets the first one that the PDS takes
    email: str
    unfinished: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "user": self.account.key,
            "handle": self.handles[0] if self.handles else None,
            "otherwise": list(self.handles[1:]),
            "email": self.email,
            "unfinished": self.unfinished,
        }


@dataclass(frozen=True, slots=True)
class ProvisionPlan:
    """Which accounts would be made, and whose not, with the reason."""

    accounts: tuple[Planned, ...]  # To be made; those an earlier run left unfinished come first
    skipped: tuple[tuple[str, str], ...] = ()  # Partition key and reason of everybody else who has none
    invites: bool = False  # True if the PDS asks for invite codes

    def to_json(self) -> dict[str, object]:
        return {
            "accounts": [each.to_json() for each in self.accounts],
            "number": len(self.accounts),
            "skipped": [{"user": user, "reason": reason} for user, reason in self.skipped],
            "invites": self.invites,
        }


def handle_labels(account: Account) -> tuple[str, ...]:
    """First labels of the PDS handle, best first: the handle with `.` and `_` as `-`, then the user code."""
    if account.is_guest:
        return (GUEST_LABEL,)
    named = re.sub(r"[._]", "-", account.handle.lower()) if account.handle else ""
    return tuple(dict.fromkeys(label for label in (named, (account.code or "").lower()) if label))


def email_domain(pipeline: Pipeline) -> str:
    """The domain of new accounts' e-mail addresses: the setting, else the PDS's host; Misconfigured where that is no
    domain, and a PDS would refuse the address."""
    setting, host = pipeline.settings.ac_account_email_domain, httpx.URL(pipeline.settings.pds_url).host
    if setting is not None:
        return setting
    try:
        ip_address(host)
    except ValueError:
        if "." in host:
            return host
    raise errors.Misconfigured(
        f"PDS_URL names {host}, which makes no e-mail address for new accounts: set AC_ACCOUNT_EMAIL_DOMAIN."
    )


def planned(account: Account, description: ServerDescription, domain: str) -> Planned:
    """The handles and the e-mail address an account would get.

    The address is made of what never changes, the code or the Mongo id: the PDS takes each only once, so that not even
    a lost ledger leads to a second account of one user.
    """
    ending = description.domains[0]
    hashed = f"u{sha256(account.id.encode(errors='surrogateescape')).hexdigest()[:16]}"
    name = GUEST_LABEL if account.is_guest else (account.code or hashed).lower()
    handles = tuple(f"{label}{ending}" for label in handle_labels(account))
    return Planned(account, handles, f"{name}@{domain}")


def plan_provision(pipeline: Pipeline, users: Sequence[str] = (), limit: int | None = None) -> ProvisionPlan:
    """Who of these users, or of all, would get an account; whatever an earlier run left unfinished comes first, with
    all users even where its own is not there any more. Raises Misconfigured (a name fits nobody, or there is no domain
    for e-mail addresses), Transient (Mongo or PDS could not be read)."""
    description, domain = pipeline.administration.describe(), email_domain(pipeline)
    chosen = {each.id: each for each in (chosen_accounts(pipeline, users) if users else pipeline.accounts.all())}
    wanted: dict[str, Planned] = {}
    skipped: list[tuple[str, str]] = []
    for intent in pipeline.provisioning.unfinished():
        id = intent.subject
        if intent.kind is Kind.PROVISION and id != GUEST_ID and (id in chosen or not users):
            account = chosen.get(id) or Account(id, intent.key)
            handles = dict.fromkeys((intent.handle or "", *planned(account, description, domain).handles))
            wanted[id] = Planned(account, tuple(handles), intent.email or "", unfinished=True)
    held = pipeline.provisioning.users()
    for id, account in chosen.items():
        if account.did is not None or id in wanted:
            continue
        reason = _unfit(account, held.get(id))
        if reason is None:
            wanted[id] = planned(account, description, domain)
        else:
            skipped.append((account.key, reason))
    return ProvisionPlan(tuple(wanted.values())[:limit], tuple(skipped), description.invites)


def _unfit(account: Account, held: Credentials | None) -> str | None:
    if account.is_guest:
        return "the guest account is made by `ac-pipeline accounts create-guest`"
    if account.owner_deleted:
        return "its owner's account is being deleted"
    if account.blocked is not None and not isinstance(account.blocked, errors.NoCredentials):
        return account.blocked.message
    if held is None:
        return "the platform has no user document for it"
    if held.password is not None:
        return "Mongo holds a PDS password without a DID for it: find out whose it is"
    if not handle_labels(account):
        return "it has neither a handle nor a user code"
    return None


LONGEST_PAUSE: Final = 600.0  # Seconds to wait for a limit: 100 accounts fit into 5 minutes (atproto facts, Limits)

STORING_SECONDS: Final = 5.0
"""The platform stores an account that it makes by itself right afterwards: time to let it, where a handle is held."""

FAILURES_IN_A_ROW: Final = 3  # After so many the PDS is in trouble, not the accounts: the rest is left for the next run


class Outcome(StrEnum):
    """How it ended for one account."""

    MADE = "made"
    FINISHED = "finished"  # An earlier run was interrupted, and its account is stored now
    SKIPPED = "skipped"  # No account may be made
    REFUSED = "refused"  # The PDS refuses it, and nothing was made
    CONFLICT = "conflict"  # There is an account, and Mongo cannot hold it: a person decides
    FAILED = "failed"  # Unclear or too early; running it again goes on


GOOD: Final = frozenset({Outcome.MADE, Outcome.FINISHED, Outcome.SKIPPED})


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one account; `note` is why it is not what was asked for."""

    user: str
    outcome: Outcome
    handle: str | None = None
    did: str | None = None
    note: str = ""


@dataclass(slots=True)
class ProvisionReport:
    """What a run did: every account it looked at, how many it did not come to, and what ended it early."""

    made: list[Made] = field(default_factory=list)
    left: int = 0
    error: errors.Transient | None = None

    @property
    def clean(self) -> bool:
        return not self.left and all(each.outcome in GOOD for each in self.made)

    def counts(self) -> dict[str, int]:
        return {outcome.value: sum(each.outcome is outcome for each in self.made) for outcome in Outcome}

    def to_json(self) -> dict[str, object]:
        accounts = [asdict(each) for each in self.made]
        error = self.error.message if self.error else None
        return {"counts": self.counts(), "accounts": accounts, "left": self.left, "error": error}


def alone(pipeline: Pipeline) -> AbstractContextManager[None]:
    """One operator at a time changes accounts, on whatever machine; LeaseHeld where somebody else does right now."""
    return pipeline.ledger.lease("the accounts of the PDS", new_run_id())


def new_password() -> str:
    """32 random letters and digits, as the platform's own accounts have them."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


@dataclass(frozen=True, slots=True)
class Provisioner:
    server: Administration
    store: MongoProvisioning
    description: ServerDescription
    # Handles of accounts the PDS keeps though they are not active; asked at most once, for they are taken without the
    # PDS saying so
    inactive_handles: Callable[[], Collection[str]]
    now: Callable[[], datetime]
    sleep: Callable[[float], None]  # Waits that many seconds

    def run(self, wanted: Sequence[Planned], progress: Callable[[int, int], None]) -> ProvisionReport:
        """Make these accounts; one that fails does not keep the others from being made. Raises Misconfigured where the
        administrator's password is missing or wrong."""
        report, in_a_row = ProvisionReport(left=len(wanted)), 0
        for each in wanted:
            try:
                report.made.append(self.make(each))
                in_a_row = 0
            except errors.Misconfigured:
                raise
            except errors.Transient as error:
                in_a_row += 1
                report.made.append(Made(each.account.key, Outcome.FAILED, note=error.message))
                if isinstance(error, errors.ServiceUnreachable | errors.RateLimited) or in_a_row == FAILURES_IN_A_ROW:
                    report.error = error
            except errors.PipelineError as error:
                report.made.append(Made(each.account.key, Outcome.REFUSED, note=error.message))
            report.left -= 1
            progress(len(report.made), len(wanted))
            if report.error is not None:
                break
        return report

    def make(self, wanted: Planned) -> Made:
        """Make one account, or finish what an earlier run began. Raises HandleRefused, AccountRefused (the PDS refuses
        it; nothing was made), Transient (something did not answer; the next run goes on from there)."""
        account = wanted.account
        obstacle = self.store.obstacle(account.id)  # 4,000 accounts take hours: the plan may be old
        intent = self.store.intent(Kind.PROVISION, account.id)
        known = intent is not None
        if intent is None:
            if obstacle is not None:
                return Made(account.key, Outcome.SKIPPED, note=obstacle)
            fresh = Intent(
                Kind.PROVISION, account.id, account.key, new_password(), self.now(), wanted.handles[0], wanted.email
            )
            intent = self.store.begin(fresh)
            known = intent.password != fresh.password
        handle = intent.handle or wanted.handles[0]
        did = self.server.identify(handle, intent.password) if known else None
        found = did is not None
        notes: list[str] = []
        if did is None:
            if obstacle is not None:
                self.store.end(Kind.PROVISION, account.id)
                return Made(account.key, Outcome.SKIPPED, note=obstacle)
            created = self._create(intent, [handle, *(h for h in wanted.handles if h != handle)], notes)
            if isinstance(created, str):
                self.store.end(Kind.PROVISION, account.id)
                return Made(account.key, Outcome.SKIPPED, note=created)
            handle, did = created
        return self._store(intent, handle, did, Outcome.FINISHED if found else Outcome.MADE, notes)

    def _create(self, intent: Intent, handles: Sequence[str], notes: list[str]) -> tuple[str, str] | str:
        """The first handle the PDS takes, and the DID of the account that has it now; or why none may be made: the
        platform makes accounts by itself, so PDS and user document are looked at once more before each attempt."""
        invite = self.server.invite() if self.description.invites else None
        for handle in handles:
            if handle != intent.handle:
                self.store.try_handle(intent.subject, handle)
            if self.server.holder_of(handle) is not None:
                self.sleep(STORING_SECONDS)
            obstacle = self.store.obstacle(intent.subject)
            if obstacle is not None:
                return obstacle
            try:
                return handle, self._send(handle, intent, invite)
            except errors.HandleRefused as error:
                # A lost answer of an earlier attempt may be why it is taken.
                taken = "taken" in (error.answer or "").lower()
                did = self.server.identify(handle, intent.password) if taken else None
                holder = self.server.holder_of(handle) if taken and did is None else None
                notes.append(f"{handle}: {error.answer}" + (f" ({holder})" if holder else ""))
            except errors.OutcomeUnknown:
                did = self.server.identify(handle, intent.password)
                if did is None and handle not in self.inactive_handles():
                    raise
                notes.append(f"{handle}: taken by an account that is not active")
            if did is not None:
                return handle, did
        self.store.end(Kind.PROVISION, intent.subject)
        raise errors.HandleRefused(
            f"The PDS takes none of the handles of {intent.key}: {'; '.join(notes)}. "
            "Give the user a handle of 3 to 18 letters, digits and hyphens on the platform, or make the account there."
        )

    def _send(self, handle: str, intent: Intent, invite: str | None) -> str:
        """`createAccount`, as often as it takes to fit into the limit."""
        while True:
            try:
                return self.server.create_account(handle, intent.email or "", intent.password, invite)
            except errors.RateLimited as error:
                pause = error.retry_after
                if pause is None or pause > LONGEST_PAUSE:
                    raise
                self.sleep(max(pause, 1.0))

    def _store(self, intent: Intent, handle: str, did: str, outcome: Outcome, notes: list[str]) -> Made:
        """Give the platform the credentials; only then is the intent dropped."""
        kept = self.store.store_account(intent.subject, did, handle, intent.password, self.now())
        if kept == Credentials(did, intent.password):
            self.store.end(Kind.PROVISION, intent.subject)
            return Made(intent.key, outcome, handle, did, "; ".join(notes))
        if kept is None:
            why = "the platform has no user document any more"
        elif kept.did is None:
            why = "Mongo holds a password without a DID"
        else:
            why = "Mongo holds another password for it" if kept.did == did else f"Mongo holds {kept.did} meanwhile"
        note = f"The account was made, but {why}: store it, or delete it on the PDS. Its password is kept until then."
        return Made(intent.key, Outcome.CONFLICT, handle, did, note)


# -------------------------------------------------------------------------------------------------------- new accounts


class ProvisionParameters(OfUsers):
    limit: int = option(0, "At most so many accounts; 0 for all.", metavar="N", ge=0)
    confirm: int | None = confirm_option("accounts")
    dry_run: bool = dry_run_option("made")
    why: str = why_option()


@declared("accounts provision", "provision_accounts", "provision_each_user")
def run_provision(work: Work, parameters: ProvisionParameters) -> Report:
    """Make PDS accounts for users who have none, each exactly once, and store them in Mongo. Without a confirmation
    only say for whom.

    After an interruption the same again finishes what was begun. It takes about 5 minutes for every 100 accounts.
    """
    pipeline, plan = work.pipeline, plan_provision(work.pipeline, parameters.users, parameters.limit or None)
    if not parameters.confirms(len(plan.accounts)):
        wanted = Table("would_be_made", ("user", "handle", "otherwise", "email", "unfinished"))
        return Report(
            f"{len(plan.accounts)} accounts would be made.",
            plan.to_json(),
            [wanted.extend(each.to_json() for each in plan.accounts)],
            {"asks_for_invite_codes": plan.invites},
            [f"Not for {user}: {reason}." for user, reason in plan.skipped],
            confirm=len(plan.accounts),
        )
    if plan.invites and not pipeline.administration.authorised:
        raise errors.Misconfigured("This PDS asks for invite codes: set PDS_ADMIN_PASSWORD, which makes them.")
    if not plan.accounts:
        return _made(ProvisionReport())
    with alone(pipeline):
        return _make(work, plan.accounts, "provision-accounts", parameters.why)


def _make(work: Work, wanted: Sequence[Planned], action: str, why: str) -> Report:
    """Make these accounts, or finish those that an earlier run began; in the audit before it starts."""
    pipeline = work.pipeline
    provisioner = Provisioner(
        pipeline.administration,
        pipeline.provisioning,
        pipeline.administration.describe(),
        cache(lambda: frozenset(_handles_of_inactive(pipeline))),
        now=lambda: datetime.now(UTC),
        sleep=time.sleep,
    )
    about = [replace(each.account, password=None) for each in wanted]
    with pipeline.audit.during(action, about, (), why=why, counts={"accounts": len(wanted)}) as audited:
        report = provisioner.run(wanted, partial(work.progress, "Making accounts"))
        audited.counts = report.counts()
        if report.error is not None:
            audited.outcome = f"ended early: {report.error.message}"
    return _made(report)


def _handles_of_inactive(pipeline: Pipeline) -> Iterator[str]:
    """Takes a question for every account that is not active."""
    if not pipeline.administration.authorised:
        return
    for status in pipeline.server.list_repositories():
        if not status.active:
            try:
                handle = pipeline.administration.account_info(status.did).handle
            except errors.AccountUnknown:
                continue
            if handle is not None:
                yield handle


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
        [table.extend(asdict(each) for each in report.made)],
        {"left": report.left, **outcomes},
        exit_code=exit_code(report.clean, [report.error]),
        failed=not report.clean,
    )


# --------------------------------------------------------------------------------------------------- the guest account


class GuestParameters(Parameters):
    confirm: str = option("", f"Type {GUEST_ID} to make the account.", metavar="NAME")
    why: str = why_option()


@declared("accounts create-guest", "create_guest_account", "create_the_guest")
def run_create_guest(work: Work, parameters: GuestParameters) -> Report:
    """Say whether there is the account that owns all anonymous work (art-guest) and, when it is confirmed, make it
    where there is none. One that exists is never touched.
    """
    pipeline = work.pipeline
    guest, exists = _guest(pipeline)
    if not exists:
        wanted = planned(guest, pipeline.administration.describe(), email_domain(pipeline))
        if not confirms_name(parameters.confirm, GUEST_ID):
            facts = {"would_be_made": wanted.handles[0], "email": wanted.email}
            headline = f"There is no guest account; {wanted.handles[0]} would be made."
            json = {"exists": False, "did": guest.did, "handle": guest.pds_handle, "note": "", **facts}
            return Report(headline, json, facts=facts, confirm=GUEST_ID, exit_code=2)
        with alone(pipeline):
            guest, exists = _guest(pipeline)  # somebody else may have made it since
            if not exists:
                return _make(work, [wanted], "create-guest", parameters.why)
    rotate = "`ac-pipeline accounts rotate --user art-guest --confirm`, or the job `rotate_password`, gives it one."
    note = "" if guest.password else f"Mongo holds no password for it: {rotate}"
    return Report(
        f"The guest account exists: {guest.pds_handle or 'no handle'} ({guest.did}). Nothing was changed.",
        {"exists": True, "did": guest.did, "handle": guest.pds_handle, "note": note},
        facts={"did": guest.did or ""},
        lines=[note] if note else [],
        exit_code=0 if guest.password else 1,
    )


def _guest(pipeline: Pipeline) -> tuple[Account, bool]:
    """The guest as Mongo has it; True if it has an account, and making that was not interrupted."""
    guest = pipeline.accounts.find(GUEST_ID)
    return guest, guest.did is not None and pipeline.provisioning.intent(Kind.PROVISION, GUEST_ID) is None
