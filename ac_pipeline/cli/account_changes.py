"""`ac-pipeline accounts create-guest`, `provision` and `rotate`: what changes accounts on the PDS and in Mongo.

Parsing and printing; what is done, and in which order, is `operations/`. No password is ever printed (ACCT-5).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from time import sleep

import click
import httpx

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.cli.output import print_json, steps, table
from ac_pipeline.cli.snapshot import why_option
from ac_pipeline.errors import AccountUnknown, Misconfigured
from ac_pipeline.mongo.provisioning import Kind
from ac_pipeline.operations.provision_plan import Planned, ProvisionPlan, email_domain, plan_provision, planned
from ac_pipeline.operations.provisioning import Outcome, Provisioner, ProvisionReport
from ac_pipeline.operations.rotation import may_rotate, rotate
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import Pipeline, new_run_id, open_pipeline

_SHOWN = 40
_NOT_CONFIRMED, _UNREACHABLE = 2, 3
_LEASE = "the accounts of the PDS"

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
users_option = click.option(
    "--user", "users", multiple=True, metavar="KEY", help="Key, handle, user code, DID or Mongo id."
)


@click.command()
@why_option
@json_option
def create_guest(why: str, as_json: bool) -> int:
    """Make the account that owns all anonymous work, where Mongo has none; else change nothing."""
    with open_pipeline(load_settings()) as pipeline, _alone(pipeline):
        guest = pipeline.accounts.find(GUEST_ID)
        if guest.did is not None and pipeline.provisioning.intent(Kind.PROVISION, GUEST_ID) is None:
            _show_guest(guest, as_json)
            return 0 if guest.password else 1
        provisioner, domain = _provisioner(pipeline), _domain(pipeline)
        wanted = planned(guest, provisioner.description, domain)
        report = _make(pipeline, provisioner, [wanted], "create-guest", why)
    return _show_made(report, as_json)


@click.command()
@users_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N accounts.")
@click.option("--dry-run", is_flag=True, help="Only say which accounts would be made.")
@click.option("--confirm", type=click.IntRange(0), metavar="N", help="The number of accounts, as the dry run names it.")
@why_option
@json_option
def provision(
    *, users: tuple[str, ...], limit: int | None, dry_run: bool, confirm: int | None, why: str, as_json: bool
) -> int:
    """Make PDS accounts for users who have none; without --confirm only say for whom.

    After an interruption the same command finishes what was begun. It takes about 5 minutes for every 100 accounts.
    """
    with open_pipeline(load_settings()) as pipeline:
        provisioner, domain = _provisioner(pipeline), _domain(pipeline)
        listed = pipeline.accounts.all()
        chosen = pipeline.accounts.select(users) if users else listed
        ids = {account.id for account in chosen}
        known = {account.id for account in listed}
        plan = plan_provision(
            chosen,
            users=pipeline.provisioning.users(),
            unfinished=[
                intent
                for intent in pipeline.provisioning.unfinished()
                if intent.kind is Kind.PROVISION
                and (intent.subject in ids or (not users and intent.subject not in known))
            ],
            description=provisioner.description,
            domain=domain,
            limit=limit,
        )
        if dry_run or confirm != len(plan.accounts):
            _show_plan(plan, users, limit, as_json)
            if not dry_run and confirm is not None:
                click.echo(f"Error: --confirm {confirm} is not the number of accounts, {len(plan.accounts)}.", err=True)
                return _NOT_CONFIRMED
            return 0
        if plan.invites and not pipeline.administration.authorised:
            raise Misconfigured("This PDS asks for invite codes: set PDS_ADMIN_PASSWORD, which makes them.")
        with _alone(pipeline):
            report = _make(pipeline, provisioner, plan.accounts, "provision-accounts", why)
    return _show_made(report, as_json)


@click.command(name="rotate")
@click.option("--user", required=True, metavar="KEY", help="Key, handle, user code, DID or Mongo id.")
@click.option("--confirm", is_flag=True, help="Do it.")
@why_option
@json_option
def rotate_password(*, user: str, confirm: bool, why: str, as_json: bool) -> int:
    """Give an account a new password, on the PDS and in Mongo, and prove it.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same command repairs what was half done.
    """
    with open_pipeline(load_settings()) as pipeline:
        account = pipeline.accounts.find(user)
        did = may_rotate(account, pipeline.accounts.all())
        if not confirm:
            plan = {"user": account.key, "did": did, "command": _command("rotate", ["--user", user, "--confirm"])}
            if as_json:
                print_json(plan)
            else:
                click.echo(f"The password of {account.key} ({did}) would be changed. To do it:\n\n  {plan['command']}")
            return _NOT_CONFIRMED
        run = new_run_id()
        with _alone(pipeline), pipeline.audit.during("rotate-password", [account], (), why=why):
            done = rotate(
                account,
                did,
                server=pipeline.administration,
                store=pipeline.provisioning,
                lease=lambda name: pipeline.ledger.lease(name, run),
                now=lambda: datetime.now(UTC),
            )
    if as_json:
        print_json(done.to_json())
    else:
        click.echo(f"The password of {done.user} ({done.did}) was changed, stored and proven.")
        if done.note:
            click.echo(done.note)
    return 0


def _domain(pipeline: Pipeline) -> str:
    settings = pipeline.settings
    return email_domain(settings.ac_account_email_domain, httpx.URL(settings.pds_url).host)


@contextmanager
def _alone(pipeline: Pipeline) -> Iterator[None]:
    """One operator at a time changes accounts, on whatever machine."""
    with pipeline.ledger.lease(_LEASE, new_run_id()):
        yield


def _provisioner(pipeline: Pipeline) -> Provisioner:
    return Provisioner(
        pipeline.administration,
        pipeline.provisioning,
        pipeline.administration.describe(),
        _inactive_handles(pipeline),
        now=lambda: datetime.now(UTC),
        sleep=sleep,
    )


def _inactive_handles(pipeline: Pipeline) -> Callable[[], frozenset[str]]:
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


def _make(
    pipeline: Pipeline, provisioner: Provisioner, wanted: Sequence[Planned], action: str, why: str
) -> ProvisionReport:
    about = [replace(each.account, password=None) for each in wanted]
    with (
        pipeline.audit.during(action, about, (), why=why, counts={"accounts": len(wanted)}) as audited,
        steps() as told,
    ):
        report = provisioner.run(wanted, lambda done, total: told("Making accounts", done, total))
        audited.counts = report.counts()
        if report.error is not None:
            audited.outcome = f"ended early: {report.error.message}"
    return report


def _show_guest(guest: Account, as_json: bool) -> None:
    note = "" if guest.password else "Mongo holds no password for it: `ac-pipeline accounts rotate --user art-guest`."
    if as_json:
        print_json({"exists": True, "did": guest.did, "handle": guest.pds_handle, "note": note})
    else:
        click.echo(f"The guest account exists: {guest.pds_handle or 'no handle'} ({guest.did}). Nothing was changed.")
        if note:
            click.echo(note)


def _show_plan(plan: ProvisionPlan, users: Sequence[str], limit: int | None, as_json: bool) -> None:
    arguments = [part for user in users for part in ("--user", user)]
    arguments += ["--limit", str(limit)] if limit else []
    command = _command("provision", [*arguments, "--confirm", str(len(plan.accounts))])
    if as_json:
        print_json({**plan.to_json(), "command": command})
        return
    rows = [
        [p.account.key, p.handles[0] if p.handles else "", ", ".join(p.handles[1:]), "yes" if p.unfinished else ""]
        for p in plan.accounts[:_SHOWN]
    ]
    table(f"{len(plan.accounts)} accounts (nothing was made)", ["user", "handle", "otherwise", "unfinished"], rows)
    if len(plan.accounts) > _SHOWN:
        click.echo(f"... and {len(plan.accounts) - _SHOWN} more (--json lists all).")
    for user, reason in plan.skipped:
        click.echo(f"Not for {user}: {reason}.")
    if plan.accounts:
        click.echo(f"To do it:\n\n  {command}")


def _show_made(report: ProvisionReport, as_json: bool) -> int:
    if as_json:
        print_json(report.to_json())
    else:
        rows = [[each.user, each.outcome.value, each.handle, each.did, each.note] for each in report.made]
        table("Accounts", ["user", "outcome", "handle", "DID", "note"], rows)
        click.echo(", ".join(f"{name} {number}" for name, number in report.counts().items() if number))
    if report.error is not None:
        click.echo(f"Error: {report.error.message} {report.left} accounts are left: run this again.", err=True)
        return _UNREACHABLE
    if any(each.outcome is Outcome.FAILED for each in report.made):
        click.echo("Run this again to go on with what failed.", err=True)
    return 0 if report.clean else 1


def _command(name: str, arguments: Sequence[str]) -> str:
    return shlex.join(["ac-pipeline", "accounts", name, *arguments])
