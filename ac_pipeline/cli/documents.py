"""`ac-pipeline restore-documents`: documents that Mongo has lost, rebuilt from their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import progress
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.errors import Blocked
from ac_pipeline.operations.documents import CHOICE, Lost, find_lost, restore
from ac_pipeline.operations.links import each_account
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import Pipeline, open_pipeline

_COLUMNS = ("user", "item", "inserts", "reason", "lost", "then")


@click.command("restore-documents")
@selectors
@click.option("--confirm", type=click.IntRange(0), metavar="N", help="Insert them, when there are exactly N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def restore_documents(chosen: Chosen, confirm: int | None, as_json: bool) -> int:
    """Rebuild documents that are missing in Mongo from their records. Without --confirm nothing is written.

    A record without a document is an orphan, which the next sync deletes: run this before any sync, or let it go. Only
    documents that do not exist are inserted, with the record's `ref` as `_id`; none is ever replaced. An item whose
    document is missing is selected by its ObjectId and its --user.
    """
    with open_pipeline(load_settings()) as pipeline, open_rows(_COLUMNS, as_json=as_json) as rows:
        accounts = chosen.accounts(pipeline)
        found = _Found(rows)
        _look(pipeline, chosen, accounts, found)
        ready = {user: number for user, number in found.ready.items() if number}
        total = sum(ready.values())
        if confirm is not None and confirm != total:
            raise click.UsageError(f"{total} documents can be rebuilt, not {confirm}: look at them without --confirm.")
        if not confirm:
            _tell(found, rows, as_json=as_json, inserted=None)
            return 1 if found.left else 0
        with open_rows(_COLUMNS, as_json=as_json) as done:
            outcome = _Found(done, refused=found.refused)
            _restore(pipeline, chosen, [account for account in accounts if account.key in ready], ready, outcome)
            inserted = sum(outcome.ready.values())
            _tell(outcome, done, as_json=as_json, inserted=inserted)
        return 1 if outcome.left or inserted != confirm else 0


@dataclass(slots=True)
class _Found:
    """What was found or done: the rows go out as they come, only numbers stay (OPS-6)."""

    rows: Rows
    ready: Counter[str] = field(default_factory=Counter)
    left: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def take(self, lost: Lost) -> None:
        self.rows.add(lost.to_json())
        if lost.document is None:
            self.left += 1
        else:
            self.ready[lost.user] += 1


def _tell(found: _Found, rows: Rows, *, as_json: bool, inserted: int | None) -> None:
    restorable = sum(found.ready.values())
    if as_json:
        refused = [{"user": user, "message": message} for user, message in found.refused]
        summary = {"restorable": restorable, "inserted": inserted or 0, "left": found.left, "refused": refused}
        rows.print_json("items", {**summary, "choice": CHOICE})
        return
    rows.print_table("Documents that are missing (nothing was written)" if inserted is None else "Restored")
    about_users((user, f"left alone: {message}") for user, message in found.refused)
    what = f"can be rebuilt: `--confirm {restorable}` inserts them" if inserted is None else "were inserted"
    click.echo(f"{restorable} documents {what}. {found.left} records cannot give theirs back.\n{CHOICE}")


def _look(pipeline: Pipeline, chosen: Chosen, accounts: Sequence[Account], found: _Found) -> None:
    """What is missing; accounts that never had a repository have nothing to say."""

    def look(account: Account) -> list[Lost] | Blocked:
        try:
            return find_lost(pipeline, account, chosen.selection)
        except Blocked as error:
            return error

    having = [account for account in accounts if account.did is not None]
    looks = each_account(having, pipeline.settings.ac_concurrent_users, look)
    for account, answer in progress("Looking", looks, len(having)):
        if isinstance(answer, Blocked):
            found.refused.append((account.key, answer.message))
            continue
        for lost in answer:
            found.take(lost)


def _restore(
    pipeline: Pipeline, chosen: Chosen, accounts: Sequence[Account], ready: Mapping[str, int], outcome: _Found
) -> None:
    """Insert, one account after another; in the audit before it starts."""
    types = [media.name for media in chosen.selection.types]
    with pipeline.audit.during("restore-documents", accounts, types, counts={"documents": sum(ready.values())}) as told:
        for account in progress("Restoring", accounts, len(accounts)):
            try:
                for lost in restore(pipeline, account, chosen.selection, ready[account.key]):
                    outcome.take(lost)
            except Blocked as error:
                outcome.refused.append((account.key, error.message))
            told.counts["inserted"] = sum(outcome.ready.values())
