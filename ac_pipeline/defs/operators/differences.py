"""The job `settle_differences`: records that others changed or deleted, and the two ways to settle that."""

from collections.abc import Iterable
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operator import Operator
from ac_pipeline.defs.operators.tables import (
    KIND,
    LEFT_OUT,
    TYPES_FIELD,
    USERS_FIELD,
    WHY_FIELD,
    Metadata,
    Table,
    refusals,
    refused,
    require_everybody,
    types_of,
)
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.differences import Difference
from ac_pipeline.operations.retry import item_name
from ac_pipeline.operations.rounds import LeftOut, failed
from ac_pipeline.operations.settling import Accepted, DifferenceCount, all_pushed, side_by_side
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection

PUSH, ACCEPT = "push-ours", "accept-theirs"

_DIFFERENCE: Final = ("user", "item", "kind", "ours", "theirs", "push_ours", "accept_theirs")
_ACCEPTED: Final = ("user", "item", "kind", "accept_theirs", "outcome")
_FAILED: Final = ("user", "item", "stage", "class", "message")


class DifferencesConfig(dg.Config):
    """Whose differences to look at, and how to settle them. Left as it is, it only lists them."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    items: list[str] = Field(default=[], description="Only these items, each as TYPE:CODE or TYPE:ID. Empty: all.")
    choice: str = Field(
        default="",
        description=f"{PUSH}: write our records again. {ACCEPT}: take theirs over into the documents; a deleted record "
        "sets the flag by which the platform removes an item. Either needs `users` or `items`. Empty: only list them.",
    )
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of items that will be settled. Launch once with a choice and -1 to be told it; nothing "
        "is written then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="settle_each_difference", out=dg.Out(dg.Nothing))
def settle_each_difference(
    context: dg.OpExecutionContext, config: DifferencesConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """List records that others have touched, ours beside theirs, and settle them once their number is confirmed.

    Raises:
        dg.Failure: A field is wrong, the number was not confirmed, or not all could be settled.
    """
    with refusals():
        choice, selection = _choice(config), _selection(config)
        if not choice or config.confirm < 0:
            counts, metadata = _listed(operator.differences(config.users, selection))
            number = counts.acceptable.total() if choice == ACCEPT else counts.total
            if choice:
                metadata["confirm"] = number
                context.log.info(f"Nothing was written: launch again with confirm {number} to settle {number} items.")
            require_everybody(failed(counts.left_out), metadata)
            context.add_output_metadata({"dry_run": True, **metadata})
            return
        if choice == PUSH:
            run_id = context.run.run_id
            pushed = operator.push_ours(config.users, selection, config.confirm, config.why, run_id)
            done, metadata = _pushed(pushed, run_id)
        else:
            accepted = operator.accept_theirs(config.users, selection, config.confirm, config.why)
            done, metadata = _accepted(accepted, config.confirm)
    metadata = {"dry_run": False, **metadata}
    if not done:
        raise refused("Not all of the confirmed items could be settled: see the tables.", metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="settle_differences",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Lists records that somebody else changed or deleted since we wrote them, ours beside theirs; with a "
    "choice and their number confirmed, writes ours again or takes theirs over into the documents. Never deletes a "
    "document.",
)
def settle_differences() -> None:
    settle_each_difference()


def _choice(config: DifferencesConfig) -> str:
    choice = config.choice.strip()
    if choice not in {"", PUSH, ACCEPT}:
        raise Misconfigured(f"Nothing was written: `choice` is {PUSH}, {ACCEPT} or empty, not {choice!r}.")
    if choice and not (config.users or config.items):
        raise Misconfigured("Nothing was written: say whose items are to be settled, in `users` or `items`.")
    return choice


def _selection(config: DifferencesConfig) -> Selection:
    items = [item_name(text) for text in config.items]
    types = types_of(config.types or [type_ for type_, _ in items])
    return Selection(types=types, items=frozenset(items) or None)


def _listed(found: Iterable[Difference | LeftOut]) -> tuple[DifferenceCount, Metadata]:
    counts, table, left_out = DifferenceCount(), Table(_DIFFERENCE), Table(LEFT_OUT)
    for each in found:
        counts.add(each)
        if isinstance(each, LeftOut):
            left_out.add({"user": each.user, "message": each.message})
        else:
            table.add({**each.to_json(), **side_by_side(each)})
    tables = {**table.metadata("records_others_touched"), **left_out.metadata("not_looked_at")}
    return counts, {"differences": counts.total, "acceptable": counts.acceptable.total(), **tables}


def _pushed(reports: Iterable[AccountReport | LeftOut], run_id: str) -> tuple[bool, Metadata]:
    """Whether ours is everywhere again, and what was done."""
    made, wrong, left_out = SyncReport(run_id), Table(_FAILED), Table(LEFT_OUT)
    for each in reports:
        if isinstance(each, LeftOut):
            left_out.add({"user": each.user, "message": each.message})
            continue
        made.accounts.append(each)
        trouble = each.error or each.blocked
        if trouble is not None:
            wrong.add({"user": each.user, "class": trouble.code, "message": trouble.message})
        for failure in each.failures:
            wrong.add(failure.to_json())
    written = sum(tally.written for tally in made.totals().values())
    tables = {**wrong.metadata("not_pushed"), **left_out.metadata("not_looked_at")}
    return all_pushed(made), {"pushed": written, **tables}


def _accepted(found: Iterable[Accepted | LeftOut], confirm: int) -> tuple[bool, Metadata]:
    """Whether as many documents were changed as was confirmed, and what was done."""
    number, table, left_out = 0, Table(_ACCEPTED), Table(LEFT_OUT)
    for each in found:
        if isinstance(each, LeftOut):
            left_out.add({"user": each.user, "message": each.message})
        else:
            table.add(each.to_json())
            number += not each.problem
    return number == confirm, {"accepted": number, **table.metadata("items"), **left_out.metadata("left_alone")}
