"""`ac-pipeline erasure`: what was to be erased, and whether records, links and blobs of it are really gone."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import progress
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.errors import Blocked
from ac_pipeline.operations.erasure import Erasure, Erasures, kept_in_snapshots, unseen
from ac_pipeline.operations.links import each_account
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import Pipeline, open_pipeline

_COLUMNS = ("user", "item", "reason", "records", "linked", "blobs", "snapshot", "since")
_GONE_COLUMNS = ("user", "item", "reason", "gone_at")


@click.command()
@selectors
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def erasure(chosen: Chosen, as_json: bool) -> int:
    """Withdrawn items and deleted accounts: what is still on the PDS, in Mongo or in snapshots, and what has gone, and
    when.

    Asks the PDS for every record, and for every blob that only erased items used. Nothing is written; `ac-pipeline
    sync` erases, `ac-pipeline snapshots --forget` deletes snapshots. Ends with 1 while anything is pending.
    """
    with (
        open_pipeline(load_settings()) as pipeline,
        open_rows(_COLUMNS, as_json=as_json) as pending,
        open_rows(_GONE_COLUMNS, as_json=False) as gone,
    ):
        found = _Found(pipeline, chosen, pending, pending if as_json else gone)
        oldest = found.oldest.isoformat() if found.oldest else None
        age = (datetime.now(UTC) - found.oldest).total_seconds() if found.oldest else None
        if as_json:
            counts = {"pending": found.pending, "gone": found.gone, "records": found.records, "links": found.links}
            held = {"blobs": found.blobs, "snapshots": found.snapshots}
            summary = {**counts, **held, "oldest_pending": oldest, "oldest_pending_seconds": age}
            refused = [{"user": user, "message": message} for user, message in found.refused]
            pending.print_json("items", {**summary, "not_looked_at": refused})
        else:
            pending.print_table("Pending erasures")
            gone.print_table("Erased")
            about_users((user, f"not looked at: {message}") for user, message in found.refused)
            click.echo(
                f"{found.pending} items pending ({found.records} records, {found.links} links, {found.blobs} blobs, "
                f"{found.snapshots} snapshots); {found.gone} erased."
            )
            waited = (
                f"{age / 3600:.1f} hours, since {found.oldest:%Y-%m-%d %H:%M} UTC" if found.oldest and age else "none"
            )
            click.echo(f"Oldest pending deletion that a run has seen: {waited}.")
        return 1 if found.pending else 0


class _Found:
    """One look at all accounts; rows go out as they come, numbers stay (OPS-6)."""

    def __init__(self, pipeline: Pipeline, chosen: Chosen, pending: Rows, gone: Rows) -> None:
        self._rows, self._gone_rows = pending, gone
        self.pending = self.gone = self.records = self.links = self.blobs = self.snapshots = 0
        self.oldest: datetime | None = None
        self.refused: list[tuple[str, str]] = []
        erasures = Erasures(pipeline.documents, pipeline.server, pipeline.ledger)
        everybody = not (chosen.users or chosen.anonymous or chosen.selection.items)
        accounts = chosen.accounts(pipeline)
        having = [account for account in accounts if account.did is not None]

        def look(account: Account) -> list[Erasure] | Blocked:
            try:
                return erasures.of(account, chosen.selection)
            except Blocked as error:
                return error

        looks = each_account(having, pipeline.settings.ac_concurrent_users, look)
        for account, answer in progress("Looking", looks, len(having)):
            if isinstance(answer, list):
                for each in answer:
                    self._take(each)
            elif account.owner_deleted:
                self._take(unseen(account, answer))
            else:
                self.refused.append((account.key, answer.message))
        if everybody:
            known = {account.did for account in accounts}
            for did in sorted(set(pipeline.ledger.marks()) - known):
                self._take(erasures.of_purged(did, chosen.selection.types))
        if not chosen.selection.items:
            for each in kept_in_snapshots(pipeline.snapshots.find(), accounts, everybody=everybody):
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
        self.links += each.linked
        self.blobs += len(each.blobs)
        self.snapshots += each.snapshot is not None
        if each.since is not None:
            self.oldest = min(self.oldest or each.since, each.since)
