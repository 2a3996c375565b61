"""The mirror in numbers: how much there is of each type, how much of it is published, and what keeps the rest back.

Cheap enough for every hour: a few aggregates of MongoDB, one pass over failed items, and one request to the PDS for
each 1,000 accounts. `status` is exact and reads all repositories.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.items import LedgerEntry, State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.accounts.listing import AccountState, account_rows
from ac_pipeline.operations.parameters import chosen_accounts
from ac_pipeline.operations.sync import FAILED
from ac_pipeline.wiring import Pipeline

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class TypeTotals:
    documents: int = 0  # In MongoDB, whoever owns them
    eligible: int = 0  # Those that have a record or are to get one
    records: int = 0  # On the PDS, as the ledger knows
    pending: int = 0  # Documents without a record that nothing keeps back: the next sync publishes them
    # quarantined, deferred, blocked: Items that are kept back
    quarantined: int = 0
    deferred: int = 0
    blocked: int = 0


@dataclass(slots=True)
class Totals:
    at: datetime  # When, UTC
    types: dict[str, TypeTotals] = field(default_factory=dict)  # By name of the type
    quarantined: Counter[str] = field(default_factory=Counter)  # Items by class of error
    accounts: dict[str, int] = field(default_factory=dict)  # By state, as `accounts list` has it
    # Blocked accounts by reason, such as `wrong-password`
    blocked_accounts: Counter[str] = field(default_factory=Counter)
    blocked: list[dict[str, Any]] = field(default_factory=list)  # A line for each of them
    oldest_deletion: datetime | None = None  # Since when the record waits that is to go the longest, or None
    oldest_unmirrored: datetime | None = None  # `when` of the oldest document that is pending, or None
    failed: list[LedgerEntry] = field(default_factory=list)  # The newest of the items that failed, newest first

    def numbers(self) -> dict[str, int]:
        """All of it as plain numbers, by names that stay: of all types together, then of each."""
        sums = Counter[str]()
        for each in self.types.values():
            sums.update(asdict(each))
        return {
            **{name: sums[name] for name in TypeTotals.__dataclass_fields__},
            "oldest_pending_deletion_seconds": self._age(self.oldest_deletion),
            "oldest_unmirrored_document_seconds": self._age(self.oldest_unmirrored),
            "accounts": sum(self.accounts.values()),
            **{f"accounts_{state.replace('-', '_')}": number for state, number in self.accounts.items()},
            **{f"blocked_accounts: {cause}": number for cause, number in sorted(self.blocked_accounts.items())},
            **{f"quarantined: {code}": number for code, number in sorted(self.quarantined.items())},
            **{f"{name}: {what}": number for name, each in self.types.items() for what, number in asdict(each).items()},
        }

    def _age(self, since: datetime | None) -> int:
        return max(0, int((self.at - since).total_seconds())) if since is not None else 0

    @property
    def headline(self) -> str:
        found = self.numbers()
        kept = [f"{name} {found[name]}" for name in ("pending", "quarantined", "deferred", "blocked") if found[name]]
        blocked = f" Blocked accounts: {sum(self.blocked_accounts.values())} of {found['accounts']}."
        return (
            f"{found['records']} records of {found['eligible']} eligible documents"
            f"{': ' + ', '.join(kept) if kept else ', nothing is kept back'}."
            f"{blocked if self.blocked_accounts else ''}"
        )


def mirror_totals(pipeline: Pipeline, failed: int = 0) -> Totals:
    """Count the whole mirror, and name so many of the newest failed items. Raises Transient where something could not
    be read."""
    totals = Totals(datetime.now(UTC))
    accounts = chosen_accounts(pipeline, ())
    staying = [account for account in accounts if not account.owner_deleted]
    for media in MEDIA_TYPES:
        found = TypeTotals(documents=len(pipeline.documents.dates(media)))
        recorded = {document for _, document in pipeline.ledger.recorded(media.name)}
        kept_back: list[str] = []
        invalid = 0
        for entry in pipeline.ledger.find(states=FAILED, types={media.name}):
            setattr(found, entry.state.value, getattr(found, entry.state.value) + 1)
            kept_back.append(entry.document)
            totals.failed.append(entry)
            if len(totals.failed) > 2 * failed:  # not all of them are kept (OPS-6)
                totals.failed = _newest(totals.failed, failed)
            code = entry.failure.error_class if entry.failure is not None else "unknown"
            if entry.state is State.QUARANTINED:
                totals.quarantined[code] += 1
                invalid += code == InvalidDocument.code
        found.records = len(recorded)
        found.pending, oldest = pipeline.documents.unlinked(media, staying, kept_back)
        waiting = sum(each not in recorded for each in kept_back)
        found.eligible = found.records + found.pending + max(0, waiting - invalid)
        totals.types[media.name] = found
        if oldest is not None:
            when = datetime.fromtimestamp(oldest / 1000, UTC)
            totals.oldest_unmirrored = min(totals.oldest_unmirrored or when, when)
    totals.oldest_deletion = next((each.withdrawn_at for each in pipeline.ledger.pending_deletions(limit=1)), None)
    rows = account_rows(pipeline, accounts)
    states = Counter(row["state"] for row in rows)
    totals.accounts = {state.value: states[state] for state in AccountState}
    totals.blocked = [row for row in rows if row["state"] is AccountState.BLOCKED]
    totals.blocked_accounts = Counter(row["cause"] or "blocked" for row in totals.blocked)
    totals.failed = _newest(totals.failed, failed)
    return totals


def _newest(entries: list[LedgerEntry], number: int) -> list[LedgerEntry]:
    return heapq.nlargest(number, entries, key=lambda each: each.updated_at or _LONG_AGO)
