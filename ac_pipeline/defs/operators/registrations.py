"""The jobs `provision_accounts`, `create_guest_account`, `rotate_password` and `repair_handles`: what changes accounts.

Looking at accounts is `accounts.py`. No password reaches an event or a log: the answers hold none (ACCT-5).
"""

from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.defs.operators.tables import (
    KIND,
    USER_FIELD,
    USERS_FIELD,
    WHY_FIELD,
    Metadata,
    Table,
    confirms,
    counts_table,
    named,
    refusals,
    refused,
)
from ac_pipeline.defs.registrar import Registrar
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.operations.handles import REPAIRABLE, HandleState
from ac_pipeline.operations.handles import counts as handle_counts
from ac_pipeline.operations.provision_plan import ProvisionPlan
from ac_pipeline.operations.provisioning import GOOD, ProvisionReport

_PLANNED: Final = ("user", "handle", "otherwise", "email", "unfinished")
_MADE: Final = ("user", "outcome", "handle", "did", "note")
_HANDLES: Final = ("user", "platform", "pds", "mongo", "wanted", "state", "note")
_TELL_EACH: Final = 25
"""Accounts between two lines of the log: a little more than a minute at the PDS's limit of 100 in 5 minutes."""


class ProvisionConfig(dg.Config):
    """Who is to get a PDS account. Left as it is, the job only says for whom, and how many they are."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    limit: int = Field(default=0, ge=0, description="At most so many accounts; 0 for all.")
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of accounts that will be made. Launch once with -1 to be told it; nothing is made "
        "then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="provision_each_user", out=dg.Out(dg.Nothing))
def provision_each_user(
    context: dg.OpExecutionContext, config: ProvisionConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Make PDS accounts for users who have none, and finish what an earlier run began.

    Raises:
        dg.Failure: The number was not confirmed, it was refused, or not all could be made.
    """

    def told(done: int, total: int) -> None:
        if done % _TELL_EACH == 0:
            context.log.info(f"{done} of {total} accounts are done.")

    limit = config.limit or None
    with refusals():
        if config.confirm < 0:
            plan = registrar.plan_accounts(config.users, limit)
            context.add_output_metadata({"dry_run": True, "confirm": len(plan.accounts), **_foreseen(plan)})
            number = len(plan.accounts)
            context.log.info(f"Nothing was made: launch again with confirm {number} to make {number} accounts.")
            return
        report = registrar.make_accounts(config.users, limit, config.confirm, config.why, told)
    _conclude(context, report)


@dg.job(
    name="provision_accounts",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Makes PDS accounts for users who have none, each exactly once, about 100 in five minutes, and stores "
    "them in Mongo. Makes none until their number is confirmed; by default it only says for whom.",
)
def provision_accounts() -> None:
    provision_each_user()


class GuestConfig(dg.Config):
    """Left as it is, the job only says whether there is a guest account."""

    confirm: str = Field(default="", description=f"`{GUEST_ID}`, to make the guest account where there is none.")
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="create_the_guest", out=dg.Out(dg.Nothing))
def create_the_guest(
    context: dg.OpExecutionContext, config: GuestConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Make the account that owns all anonymous work, where Mongo has none.

    Raises:
        dg.Failure: It was refused, or could not be made.
    """
    with refusals():
        guest, confirmed = registrar.guest(), confirms(config.confirm, GUEST_ID)
        if not guest.exists and not confirmed:
            wanted = registrar.plan_guest()
            context.add_output_metadata({"exists": False, "would_be_made": wanted.handles[0], "email": wanted.email})
            context.log.info(f"There is no guest account. Nothing was made: launch again with confirm {GUEST_ID}.")
            return
        made = guest if guest.exists else registrar.make_guest(config.why)
    if isinstance(made, ProvisionReport):
        _conclude(context, made)
        return
    context.log.info("The guest account exists. Nothing was changed.")
    context.add_output_metadata({name: value or "" for name, value in made.to_json().items()})


@dg.job(
    name="create_guest_account",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Says whether there is the account that owns all anonymous work (art-guest) and, with its name in "
    "confirm, makes it where there is none. One that exists is never touched.",
)
def create_guest_account() -> None:
    create_the_guest()


class RotateConfig(dg.Config):
    """Whose password to change. Left as it is, the job refuses; with a user alone, it says whose it would be."""

    user: str = Field(default="", description=USER_FIELD)
    confirm: str = Field(default="", description="The key of the account; without it, nothing is changed.")
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="rotate_one_password", out=dg.Out(dg.Nothing))
def rotate_one_password(
    context: dg.OpExecutionContext, config: RotateConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Give an account a new password, on the PDS and in Mongo, and prove it.

    Raises:
        dg.Failure: It was refused; launching it again repairs what was half done.
    """
    with refusals():
        user = named(config.user)
        wanted = registrar.plan_rotation(user)
        if not confirms(config.confirm, wanted.account.key):
            context.add_output_metadata({"changed": False, "user": wanted.account.key, "did": wanted.did})
            context.log.info(f"Nothing was changed: launch again with confirm {wanted.account.key}.")
            return
        done = registrar.rotate(user, config.why)
    context.add_output_metadata({"changed": True, **done.to_json()})


@dg.job(
    name="rotate_password",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Gives one account a new password, on the PDS and in Mongo, and proves that it works; shows it "
    "nowhere. Needs PDS_ADMIN_PASSWORD. Changes nothing until confirm names the account.",
)
def rotate_password() -> None:
    rotate_one_password()


class HandlesConfig(dg.Config):
    """Whose handles to compare. Left as it is, the job changes nothing and says how many differ."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of handles that will be repaired. Launch once with -1 to be told it; nothing is "
        "changed then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="repair_each_handle", out=dg.Out(dg.Nothing))
def repair_each_handle(
    context: dg.OpExecutionContext, config: HandlesConfig, registrar: dg.ResourceParam[Registrar]
) -> None:
    """Compare the handles of platform, PDS and Mongo, and repair them once their number is confirmed.

    Raises:
        dg.Failure: The number was not confirmed, or not all could be asked for or repaired.
    """
    looking = config.confirm < 0
    with refusals():
        found = (
            registrar.handles(config.users)
            if looking
            else registrar.repair_handles(config.users, config.confirm, config.why)
        )
    table = Table(_HANDLES)
    for each in found:
        if each.state is not HandleState.RIGHT:
            table.add(each.to_json())
    number = sum(each.state in REPAIRABLE for each in found)
    metadata: Metadata = {
        "dry_run": looking,
        "confirm": number,
        **counts_table("states", handle_counts(found)),
        **table.metadata("handles"),
    }
    wrong = {HandleState.FAILED} if looking else {HandleState.FAILED, HandleState.REFUSED}
    amiss = sum(each.state in wrong for each in found)
    if amiss:
        raise refused(f"{amiss} handles could not be looked at or repaired: see the table.", metadata)
    if looking and number:
        context.log.info(f"Nothing was changed: launch again with confirm {number} to repair {number} handles.")
    context.add_output_metadata(metadata)


@dg.job(
    name="repair_handles",
    tags=KIND,
    executor_def=dg.in_process_executor,
    description="Compares the handle of each user on the platform with that of the PDS account and with what Mongo "
    "says of it, and repairs PDS and Mongo. Needs PDS_ADMIN_PASSWORD. Changes nothing until the number is confirmed.",
)
def repair_handles() -> None:
    repair_each_handle()


def _foreseen(plan: ProvisionPlan) -> Metadata:
    wanted, skipped = Table(_PLANNED), Table(("user", "reason"))
    for each in plan.accounts:
        wanted.add(each.to_json())
    for user, reason in plan.skipped:
        skipped.add({"user": user, "reason": reason})
    tables = {**wanted.metadata("would_be_made"), **skipped.metadata("not_for")}
    return {"asks_for_invite_codes": plan.invites, **tables}


def _conclude(context: dg.OpExecutionContext, report: ProvisionReport) -> None:
    """Show what was made.

    Raises:
        dg.Failure: Not all could be made.
    """
    table = Table(_MADE)
    for each in report.made:
        table.add(each.to_json())
    outcomes = {name: number for name, number in report.counts().items() if number}
    metadata: Metadata = {
        "dry_run": False,
        "left": report.left,
        **counts_table("outcomes", outcomes),
        **table.metadata("accounts"),
    }
    if report.error is not None:
        raise refused(f"{report.error.message} {report.left} accounts are left: launch again.", metadata)
    if not report.clean:
        wrong = sum(each.outcome not in GOOD for each in report.made)
        raise refused(f"{wrong} accounts could not be made: see the table.", metadata)
    context.add_output_metadata(metadata)
