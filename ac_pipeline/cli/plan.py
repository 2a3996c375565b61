"""`ac-pipeline plan` and `plans`: the dry run, what it costs, and the plans that are kept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import click

from ac_pipeline.cli.output import print_json, progress, say, table
from ac_pipeline.cli.rows import about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.mongo.plans import KEPT, SHORTEST
from ac_pipeline.operations.flight_plan import FlightPlan, draw_up, known_limits
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.agreement import PlannedOperation
from ac_pipeline.sync.costs import UserBill
from ac_pipeline.wiring import Pipeline, open_pipeline

_COLUMNS = ("item", "user", "operation", "reason", "rkey", "cid")

relay_option = click.option(
    "--relay-events",
    type=click.IntRange(0),
    metavar="N",
    help="Reckon with a relay that takes N commits an hour, 0 for none. Default: AC_RELAY_COMMITS_PER_HOUR, "
    "which syncs keep to.",
)


@click.command()
@selectors
@click.option(
    "--sweep", is_flag=True, help="Plan to delete records without a document although the database is doubted."
)
@relay_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="All operations as CSV on stdout.")
def plan(chosen: Chosen, *, sweep: bool, relay_events: int | None, as_json: bool, as_csv: bool) -> int:
    """The dry run: every operation with its reason, and what it costs. Nothing is written to PDS, Mongo or storage.

    The plan is kept under its hash: `ac-pipeline sync --plan HASH` carries out exactly these operations.
    """
    chosen = replace(chosen, selection=replace(chosen.selection, sweep=0 if sweep else None))
    with open_pipeline(load_settings()) as pipeline:
        return show_plan(pipeline, chosen, as_json, as_csv, relay=relay_events)


@click.command()
@click.option("--limit", type=click.IntRange(1, KEPT), default=KEPT, show_default=True, metavar="N", help="The last N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plans(limit: int, as_json: bool) -> int:
    """List the plans that are kept, newest first; `ac-pipeline sync --plan HASH` carries one out."""
    with open_pipeline(load_settings()) as pipeline:
        found = pipeline.plans.list(limit)
    if as_json:
        print_json([each.to_json() for each in found])
        return 0
    rows = [
        [
            each.hash[:SHORTEST],
            f"{each.when:%Y-%m-%d %H:%M:%S}",
            each.who,
            each.users,
            ", ".join(f"{name} {number}" for name, number in each.counts.items()),
            each.cost.get("points"),
            str(each.cost.get("finishes_at"))[:16],
        ]
        for each in found
    ]
    columns = ["plan", "made (UTC)", "who", "users", "operations", "points", "finished by (UTC)"]
    table(f"{len(rows)} plans", columns, rows)
    return 0


def show_plan(
    pipeline: Pipeline,
    chosen: Chosen,
    as_json: bool,
    as_csv: bool,
    *,
    relay: int | None = None,
    save: bool = True,
) -> int:
    """Plan, print, and keep the plan. Operations go to a file as they come, not into memory (OPS-6)."""
    bills: dict[str, UserBill] = {}
    with open_rows(_COLUMNS, as_json=as_json, as_csv=as_csv) as rows:

        def take(operation: PlannedOperation, bill: UserBill) -> None:
            rows.add(operation.to_json())
            if as_json:
                bills[operation.user] = bill

        accounts = chosen.accounts(pipeline)
        made = draw_up(
            pipeline.engine,
            accounts,
            chosen.selection,
            limits=known_limits(pipeline, relay),
            workers=pipeline.settings.ac_concurrent_users,
            plans=pipeline.plans if save else None,
            chosen=None if chosen.everybody else accounts,
            take=take,
            progress=partial(progress, "Planning"),
        )
        if as_json:
            rows.print_json("operations", {**made.to_json(), "by_user": [bill.to_json() for bill in bills.values()]})
        elif as_csv:
            rows.print_csv()
        else:
            if not rows.count:
                whose = f" of all but the {len(made.blocked)} blocked users" if made.blocked else ""
                click.echo(f"Nothing to do: every record and link{whose} is as it should be.\n")
            rows.print_table("Plan (nothing was written)")
            show_cost(made)
            show_kept(made.orphans_kept, chosen)
    return 0


def show_kept(kept: Mapping[str, int], chosen: Chosen) -> None:
    """How many records without a document stay because the database is doubted, and how they would go."""
    if number := sum(kept.values()):
        types = tuple(media for media in chosen.selection.types if kept.get(media.name))
        swept = replace(chosen, selection=replace(chosen.selection, types=types, sweep=number))
        click.echo(
            f"{number} records without a document are kept, because the database is doubted. If they shall go:\n\n"
            f"  {shlex.join(['ac-pipeline', 'sync', *swept.arguments()])}\n"
        )


def show_cost(made: FlightPlan) -> None:
    """What a plan costs, as tables, and how it is carried out."""
    table("Cost", ["what", "amount"], cost_rows(made))
    if len(made.slowest) > 1:
        table("Users who take longest", _USER_COLUMNS, [user_row(bill) for bill in made.slowest])
    if made.blocked:
        click.echo(f"Blocked users, of whom nothing is planned: {len(made.blocked)}")
    about_users(made.blocked.items())
    about_users((user, f"could not be planned: {error.message}") for user, error in made.unread.items())
    about_users(made.notes)
    if made.saved:
        say(f"Plan {made.hash}", f"To do exactly this: ac-pipeline sync --plan {made.hash[:12]}")


_USER_COLUMNS = ["user", "operations", "points", "blob uploads", "commits", "finished by (UTC)", "waits for"]


def user_row(bill: UserBill) -> Sequence[object]:
    cost = bill.cost
    counts = [cost.user, cost.operations, cost.points, cost.blob_uploads, cost.commits]
    return [*counts, f"{bill.finishes_at:%Y-%m-%d %H:%M}", bill.waits_for]


def cost_rows(made: FlightPlan) -> list[Sequence[object]]:
    """The cost of a plan in lines: amounts, when it ends and what binds, under the limits known and the usual ones."""
    cost = made.cost
    kinds: Mapping[str, int] = dict(sorted(made.counts.items()))
    lines: list[Sequence[object]] = [
        ["users with something to do", f"{made.users:,}"],
        *([f"operations: {name}", f"{number:,}"] for name, number in kinds.items()),
        ["write points", f"{cost.points:,}"],
        ["blob uploads", f"{cost.blob_uploads:,}"],
        ["bytes", f"{cost.bytes:,}"],
        ["commits", f"{cost.commits:,}"],
        ["logins, at most", f"{cost.sessions:,}"],
        *([f"limit: {what}", str(ceiling)] for what, ceiling in made.limits.named()),
    ]
    if made.limits.points and made.limits.headroom:
        lines.append(["left to the users themselves", f"{made.limits.headroom:.0%} of their points"])
    known = "under the limits known" if made.limits.named() else "no limit is known of this PDS"
    lines += [
        ["finished at the earliest (UTC)", f"{cost.finishes_at:%Y-%m-%d %H:%M:%S}, {known}"],
        ["what it waits for", cost.waits_for],
        ["with the usual limits on (UTC)", f"{cost.finishes_limited:%Y-%m-%d %H:%M:%S}, waits for {cost.limited_by}"],
    ]
    return lines
