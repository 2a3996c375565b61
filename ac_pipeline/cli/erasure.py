"""`ac-pipeline erasure`: what was to be erased, and whether records, copies, links, blobs and renditions are gone.

Where to look is `operations/erasure_search.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import click

from ac_pipeline.cli.output import exit_code, progress, say
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.operations.erasure import Erasure
from ac_pipeline.operations.erasure_search import ErasureSearch
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

_COLUMNS = ("user", "item", "reason", "records", "copies", "linked", "blobs", "renditions", "snapshot", "since")
_GONE_COLUMNS = ("user", "item", "reason", "gone_at")


@click.command()
@selectors
@click.option(
    "--forget-renditions", is_flag=True, help="Delete the renditions that are found, of items without record."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def erasure(chosen: Chosen, *, forget_renditions: bool, as_json: bool) -> int:
    """Withdrawn items and deleted accounts: what is still on the PDS, in Mongo, in the rendition store or in snapshots,
    and what has gone, and when.

    Asks the PDS for every record, for copies of erased ones in `site.standard.document`, and for every blob that only
    erased items used. Nothing is written; `ac-pipeline sync` erases, `ac-pipeline snapshots --forget` deletes
    snapshots. Renditions of accounts that no sync reaches any more go with --forget-renditions. Ends with 1 while
    anything is pending.
    """
    with (
        open_pipeline(load_settings()) as pipeline,
        open_rows(_COLUMNS, as_json=as_json) as pending,
        open_rows(_GONE_COLUMNS, as_json=False) as gone,
    ):
        everybody = not (chosen.users or chosen.anonymous or chosen.selection.items)
        search = ErasureSearch(pipeline, chosen.accounts(pipeline), chosen.selection, everybody, forget_renditions)
        found = _Found(search, pending, pending if as_json else gone)
        oldest = found.oldest.isoformat() if found.oldest else None
        age = (datetime.now(UTC) - found.oldest).total_seconds() if found.oldest else None
        if as_json:
            counts = {"pending": found.pending, "gone": found.gone, "records": found.records, "links": found.links}
            held = {
                "copies": found.copies,
                "blobs": found.blobs,
                "renditions": found.renditions,
                "snapshots": found.snapshots,
            }
            summary = {**counts, **held, "oldest_pending": oldest, "oldest_pending_seconds": age}
            refused = [{"user": each.user, "message": each.message} for each in found.refused]
            pending.print_json("items", {**summary, "not_looked_at": refused})
        else:
            pending.print_table("Pending erasures")
            gone.print_table("Erased")
            about_users((each.user, f"not looked at: {each.message}") for each in found.refused)
            click.echo(
                f"{found.pending} items pending ({found.records} records, {found.copies} copies, {found.links} links, "
                f"{found.blobs} blobs, {found.renditions} renditions, {found.snapshots} snapshots); "
                f"{found.gone} erased."
            )
            waited = (
                f"{age / 3600:.1f} hours, since {found.oldest:%Y-%m-%d %H:%M} UTC" if found.oldest and age else "none"
            )
            say(f"Oldest pending deletion that a run has seen: {waited}.")
        return exit_code(not found.pending, (each.error for each in found.refused))


class _Found:
    """What a search finds: rows go out as they come, numbers stay (OPS-6)."""

    def __init__(self, search: ErasureSearch, pending: Rows, gone: Rows) -> None:
        self._rows, self._gone_rows = pending, gone
        self.pending = self.gone = self.records = self.links = self.blobs = self.renditions = self.snapshots = 0
        self.copies = 0
        self.oldest: datetime | None = None
        self.refused: list[LeftOut] = []
        for each in search.found(partial(progress, "Looking")):
            if isinstance(each, LeftOut):
                self.refused.append(each)
            else:
                self._take(each)

    def _take(self, each: Erasure) -> None:
        row = each.to_json()
        if not each.pending:
            self.gone += 1
            self._gone_rows.add(row)
            return
        self._rows.add(row)
        self.pending += 1
        self.records += len(each.records)
        self.copies += len(each.copies)
        self.links += each.linked
        self.blobs += len(each.blobs)
        self.renditions += len(each.renditions)
        self.snapshots += each.snapshot is not None
        if each.since is not None:
            self.oldest = min(self.oldest or each.since, each.since)
