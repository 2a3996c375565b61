"""Making accounts on the PDS and changing passwords: the commands and jobs of operators.

Who is chosen, that one operator at a time does it, and that it stands in the audit before it starts. How one account is
made is `provisioning.py`; how one password is changed is here. No password leaves this module (ACCT-5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from time import sleep
from typing import Final

import httpx

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.admin import Administration
from ac_pipeline.errors import AccountInactive, AccountUnknown, HeldBack, Misconfigured
from ac_pipeline.mongo.accounts import Intent, Kind, MongoProvisioning
from ac_pipeline.operations.accounts.provisioning import (
    GOOD,
    Planned,
    Provisioner,
    ProvisionPlan,
    ProvisionReport,
    alone,
    email_domain,
    new_password,
    plan_provision,
    planned,
)
from ac_pipeline.operations.declare import Declaration, Report, Table, Work, exit_code
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

# -------------------------------------------------------------------------------------------------------- new accounts


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
    pipeline, plan = work.pipeline, _plan(work.pipeline, parameters)
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
        raise Misconfigured("This PDS asks for invite codes: set PDS_ADMIN_PASSWORD, which makes them.")
    if not plan.accounts:
        return _made(ProvisionReport())
    with alone(pipeline):
        return _make(work, plan.accounts, "provision-accounts", parameters.why)


PROVISION: Final = Declaration(
    "accounts provision", "provision_accounts", "provision_each_user", ProvisionParameters, run_provision
)


def _plan(pipeline: Pipeline, parameters: ProvisionParameters) -> ProvisionPlan:
    """Who would get an account. What an earlier run left unfinished comes with all users even where its own is not
    there any more."""
    description, domain = pipeline.administration.describe(), _domain(pipeline)
    users, listed = parameters.users, pipeline.accounts.all()
    chosen = chosen_accounts(pipeline, users) if users else listed
    ids, known = {account.id for account in chosen}, {account.id for account in listed}
    left = [
        each
        for each in pipeline.provisioning.unfinished()
        if each.kind is Kind.PROVISION and (each.subject in ids or (not users and each.subject not in known))
    ]
    return plan_provision(
        chosen,
        users=pipeline.provisioning.users(),
        unfinished=left,
        description=description,
        domain=domain,
        limit=parameters.limit or None,
    )


def _domain(pipeline: Pipeline) -> str:
    settings = pipeline.settings
    return email_domain(settings.ac_account_email_domain, httpx.URL(settings.pds_url).host)


def _make(work: Work, wanted: Sequence[Planned], action: str, why: str) -> Report:
    """Make these accounts, or finish those that an earlier run began; in the audit before it starts."""
    pipeline = work.pipeline
    provisioner = Provisioner(
        pipeline.administration,
        pipeline.provisioning,
        pipeline.administration.describe(),
        cache(lambda: frozenset(_handles_of_inactive(pipeline))),
        now=lambda: datetime.now(UTC),
        sleep=sleep,
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
            except AccountUnknown:
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
    """Whether to make the guest account."""

    confirm: str = option("", f"Type {GUEST_ID} to make the account.", metavar="NAME")
    why: str = why_option()


_WITHOUT: Final = (
    "Mongo holds no password for it: `ac-pipeline accounts rotate --user art-guest --confirm`, or the job "
    "`rotate_password`, gives it one."
)


def run_create_guest(work: Work, parameters: GuestParameters) -> Report:
    """Say whether there is the account that owns all anonymous work (art-guest) and, when it is confirmed, make it
    where there is none. One that exists is never touched.
    """
    pipeline = work.pipeline
    guest, exists = _guest(pipeline)
    if not exists:
        wanted = planned(guest, pipeline.administration.describe(), _domain(pipeline))
        if not confirms_name(parameters.confirm, GUEST_ID):
            facts = {"would_be_made": wanted.handles[0], "email": wanted.email}
            headline = f"There is no guest account; {wanted.handles[0]} would be made."
            json = {"exists": False, "did": guest.did, "handle": guest.pds_handle, "note": "", **facts}
            return Report(headline, json, facts=facts, confirm=GUEST_ID, exit_code=2)
        with alone(pipeline):
            guest, exists = _guest(pipeline)  # somebody else may have made it since
            if not exists:
                return _make(work, [wanted], "create-guest", parameters.why)
    note = "" if guest.password else _WITHOUT
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


CREATE_GUEST: Final = Declaration(
    "accounts create-guest", "create_guest_account", "create_the_guest", GuestParameters, run_create_guest
)


# ----------------------------------------------------------------------------------------------------------- passwords


class RotateParameters(Parameters):
    """Whose password to change."""

    user: str = option("", "Whose: partition key, handle, user code, DID or Mongo id.", metavar="KEY")
    confirm: str = option("", "The user's partition key, as the preview names it.", metavar="KEY")
    why: str = why_option()


def run_rotate(work: Work, parameters: RotateParameters) -> Report:
    """Give an account a new password, on the PDS and in Mongo, and prove it; shown nowhere.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same again repairs what was half done.
    """
    pipeline, named = work.pipeline, parameters.user.strip()
    if not named:
        raise Misconfigured("No user is named, so nothing was done: say whose password shall change.")
    account = pipeline.accounts.find(named)
    did, key = may_rotate(account, pipeline.accounts.all()), account.key
    if not confirms_name(parameters.confirm, key):
        headline, json = f"The password of {key} ({did}) would be changed.", {"user": key, "did": did}
        return Report(headline, json, facts={**json, "changed": False}, confirm=key, exit_code=2)
    run = new_run_id()
    with alone(pipeline), pipeline.audit.during("rotate-password", [account], (), why=parameters.why):
        done = rotate(
            account,
            did,
            server=pipeline.administration,
            store=pipeline.provisioning,
            lease=lambda name: pipeline.ledger.lease(name, run),
            now=lambda: datetime.now(UTC),
        )
    return Report(
        f"The password of {key} ({did}) was changed, stored and proven.",
        asdict(done),
        facts={"user": key, "did": did, "changed": True},
        lines=[done.note] if done.note else [],
    )


ROTATE: Final = Declaration("accounts rotate", "rotate_password", "rotate_one_password", RotateParameters, run_rotate)


@dataclass(frozen=True, slots=True)
class Rotated:
    """A password that was changed. `repaired`: an interrupted change was brought to its end. `note`: what the PDS says
    of the account, where it is not active."""

    user: str
    did: str
    repaired: bool = False
    note: str = ""


def may_rotate(account: Account, accounts: Sequence[Account]) -> str:
    """The DID of an account whose password may be changed.

    Args:
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
    server: Administration,
    store: MongoProvisioning,
    lease: Callable[[str], AbstractContextManager[None]],
    now: Callable[[], datetime],
) -> Rotated:
    """Give an account a new password, and the platform with it.

    Args:
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
        fresh = Intent(Kind.ROTATE, did, account.key, new_password(), now())
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
