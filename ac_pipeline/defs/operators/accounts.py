"""The jobs `list_accounts`, `verify_credentials` and `account_visibility`: looking at accounts, changing nothing.

What a person has to look at is in tables of a run that succeeds, as with the other jobs that look; a run fails where
something could not be asked. What changes accounts is `registrations.py`.
"""

from collections import Counter
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operators.tables import KIND, USERS_FIELD, Metadata, Table, counts_table, refusals, refused
from ac_pipeline.defs.registrar import Registrar
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.accounts import AccountState, counts
from ac_pipeline.operations.sign_ins import UNREACHED
from ac_pipeline.operations.visibility import ADVICE, THROTTLED, Visibility

_ACCOUNT: Final = ("user", "handle", "pds_handle", "did", "state", "cause", "reason", "waiting")
_STATES: Final = ", ".join(state.value for state in AccountState)


class AccountsConfig(dg.Config):
    """Which accounts to show. Nothing is written."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    states: list[str] = Field(default=[], description=f"Only these states: {_STATES}. Empty: all.")


@dg.op(name="list_each_account", out=dg.Out(dg.Nothing))
def list_each_account(
    context: dg.OpExecutionContext, config: AccountsConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Say the state of each account, and why it is not ready.

    Raises:
        dg.Failure: A name is wrong, or something could not be read.
    """
    table = Table(_ACCOUNT)
    with refusals():
        states = {_state(name) for name in config.states}
        lines = registrar.accounts(config.users)
    for line in lines:
        if not states or line.state in states:
            table.add(line.to_json())
    context.add_output_metadata({**counts_table("states", counts(lines)), **table.metadata("accounts")})


@dg.job(
    name="list_accounts",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Shows every account with its state (ready, blocked, leaving, on-hold or unprovisioned), the reason, "
    "and how many of its documents wait for a record. Writes nothing.",
)
def list_accounts() -> None:
    list_each_account()


class CredentialsConfig(dg.Config):
    """Whose sign-in to check. Nothing is changed."""

    users: list[str] = Field(default=[], description=USERS_FIELD)


@dg.op(name="sign_in_as_each_user", out=dg.Out(dg.Nothing))
def sign_in_as_each_user(
    context: dg.OpExecutionContext, config: CredentialsConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Sign in as each account with the password Mongo holds, and show whom the PDS refuses.

    Raises:
        dg.Failure: A name is wrong, or somebody could not be asked for.
    """
    states, failed = Counter[str](), Table(("user", "did", "state", "reason"))
    notes, unreached = Table(("user", "handle", "note")), 0
    with refusals():
        for each in registrar.sign_ins(config.users):
            states[each.state] += 1
            unreached += each.state == UNREACHED
            if each.failed:
                failed.add(each.to_json())
            if each.note:
                notes.add(each.to_json())
    tables = {**counts_table("states", dict(sorted(states.items()))), **failed.metadata("refused_accounts")}
    wrong = failed.count - unreached
    metadata: Metadata = {"accounts": states.total(), "refused": wrong, **tables, **notes.metadata("notes")}
    if unreached:
        raise refused(f"{unreached} accounts could not be asked for: launch again.", metadata)
    if wrong:
        context.log.warning(f"The PDS refuses {wrong} of {states.total()} accounts: see the table.")
    context.add_output_metadata(metadata)


@dg.job(
    name="verify_credentials",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Signs in as every account with the password Mongo holds, and shows in a table whom the PDS refuses "
    "and why. Changes nothing; `rotate_password` gives an account a new password.",
)
def verify_credentials() -> None:
    sign_in_as_each_user()


class VisibilityConfig(dg.Config):
    """How to ask the relay of AC_RELAY_URL. Nothing is changed."""

    by_list: bool = Field(
        default=False,
        description="Read the relay's own list instead of asking for each account: for a relay of few hosts.",
    )


@dg.op(name="ask_the_relay", out=dg.Out(dg.Nothing))
def ask_the_relay(
    context: dg.OpExecutionContext, config: VisibilityConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Put beside each other what the PDS and the relay say of every account.

    Raises:
        dg.Failure: AC_RELAY_URL is not set, or PDS or relay did not answer.
    """
    with refusals():
        found = registrar.visibility(by_list=config.by_list)
    if found.hidden:
        context.log.warning(f"{found.hidden} accounts are active on the PDS and do not reach the network.")
    context.add_output_metadata(_seen(found))


@dg.job(
    name="account_visibility",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Compares what the PDS and the relay of AC_RELAY_URL say of every account: who is throttled there and "
    "does not reach the network, while every write succeeds. Changes nothing.",
)
def account_visibility() -> None:
    ask_the_relay()


def _state(name: str) -> AccountState:
    if name not in set(AccountState):
        raise Misconfigured(f"{name!r} is no state of an account: write one of {_STATES}.")
    return AccountState(name)


def _seen(found: Visibility) -> Metadata:
    states, differing = Table(("state", "pds", "relay")), Table(("user", "did", "pds", "relay"))
    for state in dict.fromkeys([*found.pds, *found.relay]):
        states.add({"state": state, "pds": found.pds.get(state, 0), "relay": found.relay.get(state, 0)})
    for each in found.differences:
        differing.add({"user": each.user, "did": each.did, "pds": each.pds, "relay": each.relay})
    advice: Metadata = {"advice": ADVICE} if found.relay.get(THROTTLED) else {}
    tables = {**states.metadata("states"), **differing.metadata("accounts_that_differ")}
    return {"relay": found.place, "hidden": found.hidden, **tables, **advice}
