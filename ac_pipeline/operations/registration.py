"""Registration: making accounts and changing passwords with a whole pipeline, for command and job alike.

Who is chosen, that one operator at a time does it, and that it stands in the audit before it starts. How one account is
made is `provisioning.py`, how one password is changed `rotation.py`. No password leaves this module (ACCT-5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import sleep
from typing import Final

import httpx

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import AccountUnknown, Misconfigured
from ac_pipeline.mongo.provisioning import Intent, Kind
from ac_pipeline.operations.choice import chosen_accounts
from ac_pipeline.operations.handles import REPAIRABLE, Handle, Handles, counts, shared_dids
from ac_pipeline.operations.provision_plan import Planned, ProvisionPlan, email_domain, plan_provision, planned
from ac_pipeline.operations.provisioning import Provisioner, ProvisionReport
from ac_pipeline.operations.rotation import Rotated, may_rotate, rotate
from ac_pipeline.operations.rounds import Progress, unwatched
from ac_pipeline.sync.for_accounts import for_accounts, needed
from ac_pipeline.wiring import Pipeline, new_run_id

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
