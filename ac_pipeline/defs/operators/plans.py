"""The job `plan_users`: the dry run in Dagster, shown by the asset `operations/flight_plan`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operator import Operator
from ac_pipeline.defs.operators.tables import (
    KIND,
    TYPES_FIELD,
    USERS_FIELD,
    Metadata,
    Table,
    refusals,
    require_everybody,
    types_of,
)
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.flight_plan import FlightPlan
from ac_pipeline.operations.retry import item_name
from ac_pipeline.sync.agreement import PlannedOperation
from ac_pipeline.sync.selection import Selection

FLIGHT_PLAN: Final = dg.AssetKey(["operations", "flight_plan"])

flight_plan_asset = dg.AssetSpec(
    FLIGHT_PLAN,
    group_name="operations",
    description="What a sync would do, and what it would cost: each materialisation is one dry run, made by the job "
    "`plan_users`. `ac-pipeline sync --plan HASH` carries exactly that out.",
)


class PlanConfig(dg.Config):
    """What to plan; left as it is, everything of everybody. Nothing is written to the PDS, whatever is chosen."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    items: list[str] = Field(default=[], description="Only these items, each as TYPE:CODE or TYPE:ID. Empty: all.")
    since: str = Field(default="", description="Only items from this day or moment on (ISO 8601, UTC).")
    until: str = Field(default="", description="Only items before this day or moment (ISO 8601, UTC).")
    limit: int = Field(default=0, ge=0, description="At most so many items of each user and type; 0 for all.")
    sweep: bool = Field(
        default=False, description="Plan to delete records without a document although the database is doubted."
    )
    relay_events: int | None = Field(
        default=None,
        ge=0,
        description="Reckon with a relay that takes so many commits an hour; 0 for none. Left out: "
        "AC_RELAY_COMMITS_PER_HOUR, which runs keep to.",
    )


@dg.op(name="plan_each_user", out=dg.Out(dg.Nothing))
def plan_each_user(context: dg.OpExecutionContext, config: PlanConfig, operator: dg.ResourceParam[Operator]) -> None:
    """Make the plan, keep it under its hash, and show it as a materialisation of `operations/flight_plan`.

    Raises:
        dg.Failure: A field is wrong, or something could not be read.
    """
    table = Table(("user", "item", "operation", "reason", "rkey", "cid"))

    def take(operation: PlannedOperation) -> None:
        table.add(operation.to_json())

    with refusals():
        made = operator.plan(config.users, _selection(config), config.relay_events, take)
    metadata = {**plan_metadata(made), **table.metadata("operations_listed")}
    require_everybody(len(made.unread), metadata)
    context.log_event(dg.AssetMaterialization(FLIGHT_PLAN, metadata=metadata))
    context.log.info(f"Plan {made.hash}: {sum(made.counts.values())} operations of {made.users} users.")


@dg.job(
    name="plan_users",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="The dry run: what a sync of the chosen users would do and cost, and when it would end under the "
    "limits of the PDS. Nothing is written to the PDS, to the documents or to storage. The result is the newest "
    "materialisation of operations/flight_plan.",
)
def plan_users() -> None:
    plan_each_user()


def plan_metadata(made: FlightPlan) -> Metadata:
    """A plan's sums: hash, counts, cost, limits, and the users who take longest."""
    cost, costs, users = made.cost, Table(("what", "amount")), Table(_USER)
    for what, amount in cost.to_json().items():
        costs.add({"what": what.replace("_", " "), "amount": str(amount)})
    for what, ceiling in made.limits.named():
        costs.add({"what": f"limit: {what}", "amount": str(ceiling)})
    for bill in made.slowest:
        users.add(bill.to_json())
    blocked, unread = Table(("user", "message")), Table(("user", "message"))
    for user, message in made.blocked.items():
        blocked.add({"user": user, "message": message})
    for user, error in made.unread.items():
        unread.add({"user": user, "message": error.message})
    total = sum(made.counts.values())
    metadata: Metadata = {
        "hash": made.hash,
        "operations": total,
        "users": made.users,
        "finishes_at": dg.MetadataValue.timestamp(cost.finishes_at),
        "waits_for": cost.waits_for,
        **{f"{kind} operations": number for kind, number in sorted(made.counts.items())},
        **{f"{name} records kept without a document": number for name, number in sorted(made.orphans_kept.items())},
        **costs.metadata("cost"),
        **users.metadata("users_who_take_longest"),
        **blocked.metadata("blocked_users"),
        **unread.metadata("unread_users"),
    }
    if made.saved:
        metadata["to_do_it"] = dg.MetadataValue.md(f"`ac-pipeline sync --plan {made.hash[:12]}`")
    return metadata


_USER: Final = ("user", "operations", "points", "blob_uploads", "commits", "finishes_at", "waits_for")


def _selection(config: PlanConfig) -> Selection:
    named: Sequence[tuple[str, str]] = [item_name(text) for text in config.items]
    if named and not config.users:
        raise Misconfigured("Items are looked for in the users they belong to: name these in `users`, too.")
    return Selection(
        types=types_of(config.types or [type_ for type_, _ in named]),
        since=_moment("since", config.since),
        until=_moment("until", config.until),
        items=frozenset(named) or None,
        limit=config.limit or None,
        sweep=0 if config.sweep else None,
    )


def _moment(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{name}: {text!r} is no date: write for example 2025-10-31.") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
