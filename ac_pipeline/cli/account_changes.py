"""`ac-pipeline accounts create-guest`, `provision`, `rotate`, `handles`: what changes accounts on the PDS and in Mongo.

Parsing and printing; what is done, and in which order, is `operations/`. No password is ever printed (ACCT-5).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

import click

from ac_pipeline.cli.output import print_json, progress, say, steps, table
from ac_pipeline.cli.snapshot import why_option
from ac_pipeline.operations.handles import REPAIRABLE, HandleState, counts
from ac_pipeline.operations.provision_plan import ProvisionPlan
from ac_pipeline.operations.provisioning import Outcome, ProvisionReport
from ac_pipeline.operations.registration import (
    Guest,
    look_at_handles,
    make_accounts,
    make_guest,
    plan_accounts,
    plan_rotation,
    rotate_password,
)
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

_SHOWN = 40
_NOT_CONFIRMED, _UNREACHABLE = 2, 3
_MAKING = "Making accounts"

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
users_option = click.option(
    "--user", "users", multiple=True, metavar="KEY", help="Key, handle, user code, DID or Mongo id."
)


@click.command()
@why_option
@json_option
def create_guest(why: str, as_json: bool) -> int:
    """Make the account that owns all anonymous work, where Mongo has none; else change nothing."""
    with open_pipeline(load_settings()) as pipeline, steps() as told:
        made = make_guest(pipeline, why=why, told=partial(told, _MAKING))
    if isinstance(made, ProvisionReport):
        return _show_made(made, as_json)
    _show_guest(made, as_json)
    return 0 if made.password else 1


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
        plan = plan_accounts(pipeline, users, limit)
        if dry_run or confirm != len(plan.accounts):
            _show_plan(plan, users, limit, as_json)
            if not dry_run and confirm is not None:
                say(f"Error: --confirm {confirm} is not the number of accounts, {len(plan.accounts)}.", err=True)
                return _NOT_CONFIRMED
            return 0
        with steps() as told:
            report = make_accounts(pipeline, plan, confirm, why=why, told=partial(told, _MAKING))
    return _show_made(report, as_json)


@click.command()
@click.option("--user", required=True, metavar="KEY", help="Key, handle, user code, DID or Mongo id.")
@click.option("--confirm", is_flag=True, help="Do it.")
@why_option
@json_option
def rotate(*, user: str, confirm: bool, why: str, as_json: bool) -> int:
    """Give an account a new password, on the PDS and in Mongo, and prove it.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same command repairs what was half done.
    """
    with open_pipeline(load_settings()) as pipeline:
        wanted = plan_rotation(pipeline, user)
        if not confirm:
            key, did = wanted.account.key, wanted.did
            command = _command("rotate", ["--user", user, "--confirm"])
            if as_json:
                print_json({"user": key, "did": did, "command": command})
            else:
                say(f"The password of {key} ({did}) would be changed. To do it:", "", f"  {command}")
            return _NOT_CONFIRMED
        done = rotate_password(pipeline, wanted, why=why)
    if as_json:
        print_json(done.to_json())
    else:
        say(f"The password of {done.user} ({done.did}) was changed, stored and proven.")
        if done.note:
            say(done.note)
    return 0


@click.command()
@users_option
@click.option("--repair", is_flag=True, help="Give the PDS and Mongo the handles they should have.")
@why_option
@json_option
def handles(*, users: tuple[str, ...], repair: bool, why: str, as_json: bool) -> int:
    """Compare handles on the platform, on the PDS and in Mongo; without --repair change nothing.

    It needs PDS_ADMIN_PASSWORD. Exit code 1 when some differ, or could not be repaired.
    """
    with open_pipeline(load_settings()) as pipeline:
        found = look_at_handles(pipeline, users, partial(progress, "Looking at handles"), repair=repair, why=why)
    shown = [each for each in found if each.state is not HandleState.RIGHT]
    if as_json:
        print_json({"states": counts(found), "handles": [each.to_json() for each in shown]})
    else:
        rows = [[e.user, e.platform, e.pds, e.mongo, e.wanted, e.state.value] for e in shown]
        table("Handles that are not simply right", ["user", "platform", "PDS", "Mongo", "wanted", "state"], rows)
        for each in shown:
            if each.note:
                click.echo(f"{each.user}: {each.note}")
        click.echo(", ".join(f"{state} {number}" for state, number in counts(found).items()))
        if any(each.state in REPAIRABLE for each in shown):
            arguments = [part for user in users for part in ("--user", user)]
            click.echo(f"To repair what differs:\n\n  {_command('handles', [*arguments, '--repair'])}")
    states = {each.state for each in shown}
    if HandleState.FAILED in states:
        return _UNREACHABLE
    return 1 if states & {*REPAIRABLE, HandleState.REFUSED} else 0


def _show_guest(guest: Guest, as_json: bool) -> None:
    if as_json:
        print_json(guest.to_json())
    else:
        say(f"The guest account exists: {guest.handle or 'no handle'} ({guest.did}). Nothing was changed.")
        if guest.note:
            say(guest.note)


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
        say(f"... and {len(plan.accounts) - _SHOWN} more (--json lists all).")
    for user, reason in plan.skipped:
        say(f"Not for {user}: {reason}.")
    if plan.accounts:
        say("To do it:", "", f"  {command}")


def _show_made(report: ProvisionReport, as_json: bool) -> int:
    if as_json:
        print_json(report.to_json())
    else:
        rows = [[each.user, each.outcome.value, each.handle, each.did, each.note] for each in report.made]
        table("Accounts", ["user", "outcome", "handle", "DID", "note"], rows)
        say(", ".join(f"{name} {number}" for name, number in report.counts().items() if number))
    if report.error is not None:
        say(f"Error: {report.error.message} {report.left} accounts are left: run this again.", err=True)
        return _UNREACHABLE
    if any(each.outcome is Outcome.FAILED for each in report.made):
        say("Run this again to go on with what failed.", err=True)
    return 0 if report.clean else 1


def _command(name: str, arguments: Sequence[str]) -> str:
    return shlex.join(["ac-pipeline", "accounts", name, *arguments])
