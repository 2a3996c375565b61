"""Counting what a sync did: one tally per type, one report per account, one report per run (design, section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields

from ac_pipeline.errors import Blocked, PipelineError, is_unreachable
from ac_pipeline.items import Failure, Stage, State
from ac_pipeline.media.base import Document, Verdict
from ac_pipeline.sync.planning.plan import Operation, Versions


@dataclass(slots=True)
class Tally:
    """Counts of one type. `planned` = written + unchanged + deleted + deferred + quarantined + blocked, always."""

    documents: int = 0
    eligible: int = 0
    withdrawn: int = 0
    invalid: int = 0
    records: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    deferred: int = 0
    quarantined: int = 0
    blocked: int = 0
    healed: int = 0
    duplicates_removed: int = 0
    copies_removed: int = 0  # Copies of erased work in `site.standard.document`
    pending: int = 0
    warnings: int = 0  # Items with oddities
    companions_missing: int = 0  # Items beside which storage holds no recording
    orphans_kept: int = 0  # Records without a document that stay because the database is doubted

    @property
    def written(self) -> int:
        return self.created + self.updated

    @property
    def planned(self) -> int:
        return self.written + self.unchanged + self.deleted + self.deferred + self.quarantined + self.blocked

    def read(self, documents: Iterable[Document]) -> None:
        """Add documents of the source by verdict."""
        for document in documents:
            self.documents += 1
            self.eligible += document.verdict is Verdict.ELIGIBLE
            self.withdrawn += document.verdict is Verdict.WITHDRAWN
            self.invalid += document.verdict in {Verdict.INVALID, Verdict.OWNERSHIP_UNCLEAR}
            self.warnings += bool(document.warnings)

    def count(self, state: State, number: int = 1) -> None:
        """Add items that ended in a state; what is written is counted as `created` or `updated` instead."""
        setattr(self, state.value, getattr(self, state.value) + number)

    def add(self, other: Tally) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "planned": self.planned, "written": self.written}


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item that did not get where it should, as the report shows it. `item` is `type:ObjectId`."""

    item: str
    user: str
    stage: Stage
    state: State
    error_class: str
    message: str
    status: int | None = None
    code: str | None = None
    attempts: int = 1

    @classmethod
    def of(
        cls, item: str, user: str, failure: Failure, state: State, *, code: str | None, attempts: int
    ) -> ItemFailure:
        what = (failure.stage, state, failure.error_class, failure.message, failure.status)
        return cls(item, user, *what, code, attempts)

    def to_json(self) -> dict[str, object]:
        return {"class" if name == "error_class" else name: value for name, value in asdict(self).items()}


@dataclass(slots=True)
class AccountReport:
    """What happened to one account."""

    user: str  # Its partition key
    types: dict[str, Tally] = field(default_factory=dict)
    versions: dict[str, Versions] = field(default_factory=dict)  # By type name, where all documents were read
    failures: list[ItemFailure] = field(default_factory=list)  # Items that were quarantined, or deferred by an error
    blocked: Blocked | None = None  # Why the account could not be used, or None
    error: PipelineError | None = None  # The transient error that ended its sync early; it has to be run again
    notes: list[str] = field(default_factory=list)  # For people: records left alone, untrusted reads
    seconds: float = 0.0
    skipped: list[Operation] = field(default_factory=list)  # Not in `Selection.agreed`, so not done

    @property
    def run_again(self) -> bool:
        """True if a transient error outlived its retries: the partition fails."""
        return self.error is not None

    @property
    def orphans_kept(self) -> int:
        """Records without a document that stay because the database is doubted."""
        return sum(tally.orphans_kept for tally in self.types.values())

    def tally(self, type: str) -> Tally:
        return self.types.setdefault(type, Tally())

    def tally_of(self, item: str) -> Tally:
        return self.tally(item.partition(":")[0])

    def note(self, message: str) -> None:
        """Say something once."""
        if message not in self.notes:
            self.notes.append(message)


@dataclass(slots=True)
class SyncReport:
    """What a run did to all its accounts, with what it cost; the client counts `requests` and `transferred`."""

    run_id: str
    accounts: list[AccountReport] = field(default_factory=list)
    requests: Mapping[str, int] = field(default_factory=dict)
    transferred: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    not_reached: int = 0  # Users whom an interrupted run did not come to

    def totals(self) -> dict[str, Tally]:
        totals: dict[str, Tally] = {}
        for account in self.accounts:
            for name, tally in account.types.items():
                totals.setdefault(name, Tally()).add(tally)
        return totals

    def failures(self) -> list[ItemFailure]:
        return [failure for account in self.accounts for failure in account.failures]

    @property
    def clean(self) -> bool:
        """True if nothing was quarantined, nothing has to be run again, and the database was not doubted."""
        return not any(
            a.error or a.orphans_kept or any(f.state is State.QUARANTINED for f in a.failures) for a in self.accounts
        )

    @property
    def unreachable(self) -> bool:
        """True if a service could not be reached, for some account or item."""
        errors = [(each.error.code, each.error.status) for each in self.accounts if each.error]
        return any(is_unreachable(*each) for each in [*errors, *((f.error_class, f.status) for f in self.failures())])

    def to_json(self) -> dict[str, object]:
        """The report as design section 6 fixes it. Fields may be added, not renamed."""
        return {
            "run_id": self.run_id,
            "users": len(self.accounts),
            "not_reached": self.not_reached,
            "types": {name: tally.to_json() for name, tally in self.totals().items()},
            "requests": dict(self.requests),
            "bytes": dict(self.transferred),
            "seconds": round(self.seconds, 3),
            "failures": [failure.to_json() for failure in self.failures()],
            "blocked": [_error(each.user, each.blocked) for each in self.accounts if each.blocked],
            "notes": [{"user": each.user, "note": note} for each in self.accounts for note in each.notes],
            "run_again": [_error(each.user, each.error) for each in self.accounts if each.error],
        }


def _error(user: str, error: PipelineError) -> dict[str, object]:
    return {"user": user, "class": error.code, "message": error.message}
