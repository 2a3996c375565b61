"""`ac-pipeline audit`: who removed or brought back whose records, when and why."""

from __future__ import annotations

import click

from ac_pipeline.cli.output import print_json, table
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline


@click.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="The last N.")
@click.option("--action", metavar="NAME", help="Only this action, such as wipe or restore.")
@click.option("--user", metavar="KEY", help="Only this user's: a key, or a DID.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def audit(limit: int, action: str | None, user: str | None, as_json: bool) -> int:
    """List operations that remove records or bring them back, the last one first.

    An operation that stays `started` was killed: run it again.
    """
    with open_pipeline(load_settings()) as pipeline:
        found = pipeline.audit.entries(limit, action, user)
    if as_json:
        print_json([entry.to_json() for entry in found])
        return 0
    rows = [
        [
            f"{entry.when:%Y-%m-%d %H:%M:%S}",
            entry.action,
            entry.who,
            " ".join(entry.users),
            " ".join(entry.types),
            ", ".join(f"{name} {number}" for name, number in entry.counts.items()),
            entry.outcome,
            entry.why,
        ]
        for entry in found
    ]
    columns = ["when (UTC)", "action", "who", "users", "types", "records", "outcome", "why"]
    table(f"{len(rows)} operations", columns, rows)
    return 0
