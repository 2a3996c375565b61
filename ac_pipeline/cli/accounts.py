"""`ac-pipeline accounts`: who can be mirrored and who cannot, what the PDS lets in, and what the network sees.

Parsing and printing; nothing is changed here: that is `account_changes.py`. No password is ever printed (ACCT-5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from ac_pipeline.cli.account_changes import create_guest, handles, json_option, provision, rotate, users_option
from ac_pipeline.cli.output import print_json, progress, say, table
from ac_pipeline.operations.accounts import AccountLine, AccountState, counts, list_accounts
from ac_pipeline.operations.sign_ins import UNREACHED, sign_in_as_each
from ac_pipeline.operations.visibility import ADVICE, Visibility, look_from_relay
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

_UNREACHABLE = 3

state_option = click.option(
    "--state", "states", multiple=True, type=click.Choice([s.value for s in AccountState]), help="Only this state."
)


@click.group(invoke_without_command=True)
@state_option
@users_option
@json_option
@click.pass_context
def accounts(context: click.Context, states: tuple[str, ...], users: tuple[str, ...], as_json: bool) -> int | None:
    """List accounts with their state; make them, check them, change their passwords."""
    if context.invoked_subcommand is not None:
        if states or users or as_json:
            raise click.UsageError(f"write these options behind `{context.invoked_subcommand}`")
        return None
    return _list(states, users, as_json)


@accounts.command(name="list")
@state_option
@users_option
@json_option
def list_(states: tuple[str, ...], users: tuple[str, ...], as_json: bool) -> int:
    """Every account: key, handles, DID, state, reason, and documents without a record."""
    return _list(states, users, as_json)


@accounts.command()
@users_option
@json_option
def verify(users: tuple[str, ...], as_json: bool) -> int:
    """Sign in as every account with the password Mongo holds. Exit code 1 when the PDS refuses some."""
    with open_pipeline(load_settings()) as pipeline:
        found = list(sign_in_as_each(pipeline, users, partial(progress, "Signing in")))
    totals = dict(sorted(Counter(each.state for each in found).items()))
    failed = [each for each in found if each.failed]
    if as_json:
        print_json({"states": totals, "accounts": [each.to_json() for each in found]})
    else:
        table("Sign-ins", ["state", "accounts"], list(totals.items()))
        if failed:
            table("Refused", ["user", "did", "state", "reason"], [[e.user, e.did, e.state, e.reason] for e in failed])
        for each in found:
            if each.note:
                say(f"{each.user}: {each.handle or each.did}; {each.note}")
    if any(each.state == UNREACHED for each in failed):
        return _UNREACHABLE
    return 1 if failed else 0


@accounts.command()
@click.option("--relay", metavar="URL", help="Address of the relay. Default: AC_RELAY_URL")
@click.option("--by-list", is_flag=True, help="Read the relay's own list: for a relay of few hosts.")
@json_option
def visibility(relay: str | None, by_list: bool, as_json: bool) -> int:
    """Compare what the PDS and a relay say of every account. Exit code 1 when the network does not see some."""
    with open_pipeline(load_settings()) as pipeline:
        found = look_from_relay(pipeline, relay, by_list=by_list)
    if as_json:
        print_json({"relay_url": found.place, **found.to_json()})
    else:
        _show_visibility(found)
    return 1 if found.hidden else 0


for command in (create_guest, provision, rotate, handles):
    accounts.add_command(command)


def _list(states: Sequence[str], users: Sequence[str], as_json: bool) -> int:
    with open_pipeline(load_settings()) as pipeline:
        lines = list_accounts(pipeline, users)
    shown = [line for line in lines if not states or line.state in states]
    if as_json:
        print_json({"states": counts(lines), "accounts": [line.to_json() for line in shown]})
    else:
        _show_lines(lines, shown)
    return 0


def _show_lines(lines: Sequence[AccountLine], shown: Sequence[AccountLine]) -> None:
    columns = ["user", "handle", "PDS handle", "DID", "state", "cause", "waiting"]
    rows: list[list[Any]] = [
        [line.user, line.handle, line.pds_handle, line.did, line.state.value, line.cause, line.waiting]
        for line in shown
    ]
    table("Accounts", columns, rows)
    for line in shown:
        if line.reason:
            say(f"{line.user}: {line.reason}")
    say(", ".join(f"{state} {number}" for state, number in counts(lines).items()))


def _show_visibility(found: Visibility) -> None:
    states = list(dict.fromkeys([*found.pds, *found.relay]))
    rows = [[state, found.pds.get(state, 0), found.relay.get(state, 0)] for state in states]
    table(f"Accounts on the PDS and at {found.place}", ["state", "PDS", "relay"], rows)
    if found.differences:
        differing = [[each.user, each.did, each.pds, each.relay] for each in found.differences]
        table(f"{len(differing)} accounts differ", ["user", "DID", "PDS", "relay"], differing)
    if found.hidden:
        say(f"{found.hidden} accounts are active on the PDS and do not reach the network.")
    say(ADVICE)
