"""The link doctor: examines the links and records of one account after another, and heals what can be healed.

Command and job show what is said here, and decide nothing themselves. What state something is in is `link_states.py`;
what happens to it is the engine's: healing is a sync of exactly the items that need it, under the same lease, planner
and writer, so no repair can do what a sync may not (LINK-8).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, PipelineError
from ac_pipeline.operations.link_states import DELETING, Finding, Judge, LinkState, Repair
from ac_pipeline.operations.rounds import LeftOut, Progress, unwatched
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.plan import existing_records
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline


@dataclass(slots=True)
class Counts:
    """How many documents and orphans are in which state, by type.

    Args:
        documents: Documents looked at.
        orphans: Records that no document wants.
        states: How many are in each state: their sum is documents + orphans.
    """

    documents: Counter[str] = field(default_factory=Counter)
    orphans: Counter[str] = field(default_factory=Counter)
    states: defaultdict[str, Counter[LinkState]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, other: Counts) -> None:
        self.documents.update(other.documents)
        self.orphans.update(other.orphans)
        for type_, states in other.states.items():
            self.states[type_].update(states)

    def total(self) -> Counter[LinkState]:
        return sum(self.states.values(), Counter())

    def to_json(self) -> dict[str, object]:
        def row(states: Counter[LinkState], documents: int, orphans: int) -> dict[str, int]:
            return {"documents": documents, "orphans": orphans, **{state.value: states[state] for state in LinkState}}

        return {
            "types": {t: row(states, self.documents[t], self.orphans[t]) for t, states in self.states.items()},
            "total": row(self.total(), self.documents.total(), self.orphans.total()),
        }


@dataclass(slots=True)
class Examination:
    """What was found in one account.

    Args:
        account: Whose.
        counts: States by type.
        findings: All that are not simply linked, and linked ones with something to say about their record.
        blocked: Why the account could not be examined, or None. None of its documents is counted then.
        notes: What the plan says of the whole: doubts about the database, types that are on hold and not counted.
    """

    account: Account
    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    blocked: PipelineError | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def healable(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.heals]

    @property
    def deletions(self) -> int:
        """Findings whose repair removes records."""
        return sum(finding.repair in DELETING for finding in self.healable)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to repair, by healing or by a person."""
        read = self.blocked is None or isinstance(self.blocked, Blocked)
        return read and all(finding.repair in {Repair.NOTHING, Repair.PUBLISH} for finding in self.findings)


@dataclass(slots=True)
class Diagnosis:
    """What is kept of the examinations of many accounts: numbers, and who has something to heal (OPS-6).

    Args:
        counts: States by type.
        ill: The accounts with something to heal.
        types: Names of the types in which they have it.
        deletions: Findings whose repair removes records.
        settled: Whether nothing is left to repair, by healing or by a person.
        blocked: Who could not be examined, and why.
        notes: User and what the plan says of the whole.
    """

    counts: Counts = field(default_factory=Counts)
    ill: list[Account] = field(default_factory=list)
    types: set[str] = field(default_factory=set)
    deletions: int = 0
    settled: bool = True
    blocked: list[LeftOut] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def add(self, found: Examination) -> None:
        user = found.account.key
        self.counts.add(found.counts)
        if found.blocked is not None:
            self.blocked.append(LeftOut(user, found.blocked))
        self.notes += [(user, note) for note in found.notes]
        self.settled &= found.settled
        if found.healable:
            self.ill.append(found.account)
            self.types |= {finding.type for finding in found.healable}
            self.deletions += found.deletions

    def to_json(self) -> dict[str, object]:
        return {
            **self.counts.to_json(),
            "blocked": [{"user": each.user, "message": each.message} for each in self.blocked],
            "notes": [{"user": user, "note": note} for user, note in self.notes],
        }


def examine(engine: Engine, account: Account, selection: Selection) -> Examination:
    """Judge every selected document of an account and, when none is left out, every orphan. Nothing is written.

    Raises:
        Transient: Something could not be read: nothing can be said.
    """
    plan, report = engine.survey(account, selection)
    found = Examination(account, notes=report.notes)
    if plan.repository is None:
        found.blocked = report.blocked
        return found
    for each in plan.plans:
        name = each.media.name
        records = existing_records(plan.repository, each.media)
        judge = Judge(engine.lexicons, account.key, plan.repository.did, each, records)
        found.counts.documents[name] += len(plan.selected[name])
        states = found.counts.states[name]
        for finding in judge.findings(plan.wanted[name]):
            states[finding.state] += 1
            found.counts.orphans[name] += finding.state is LinkState.ORPHAN
            if finding.repair is not Repair.NOTHING or finding.warnings:
                found.findings.append(finding)
    left_alone = {finding.held for finding in found.findings}
    found.notes = [note for note in found.notes if note not in left_alone]
    return found


def heal(engine: Engine, account: Account, selection: Selection, run_id: str) -> AccountReport | None:
    """Repair what `examine` finds now, and nothing else; None when there is nothing to repair.

    Documents that were never published stay so, held-back findings stay as they are. Never raises for what can be said
    of one account: that is in the report.

    Raises:
        Transient: The examination could not be made.
    """
    findings = examine(engine, account, selection).healable
    if not findings:
        return None
    named = {finding.type for finding in findings}
    chosen = replace(
        selection,
        types=tuple(media for media in selection.types if media.name in named),
        items=frozenset((finding.type, finding.document) for finding in findings if finding.document is not None),
        since=None,
        until=None,
        limit=None,
        orphans=any(finding.document is None for finding in findings),
    )
    return engine.sync(account, chosen, run_id)


def examine_all(
    pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, progress: Progress = unwatched
) -> Iterator[Examination]:
    """Examine many accounts, in their order. Nothing is written.

    Raises:
        ServiceUnreachable: A service is down.
    """
    looks = for_accounts(
        accounts,
        lambda each: examine(pipeline.engine, each, selection),
        pipeline.settings.ac_concurrent_users,
        lambda each, error: Examination(each, blocked=unread(each, error)),
        ordered=True,
    )
    for _, found in progress(looks, len(accounts)):
        yield found


def heal_all(
    pipeline: Pipeline,
    before: Diagnosis,
    selection: Selection,
    run_id: str,
    *,
    why: str = "",
    progress: Progress = unwatched,
) -> Iterator[AccountReport]:
    """Heal the accounts that need it; what deletes records is in the audit before it starts.

    Args:
        before: What `examine_all` has found.
        why: The operator's own words, for the audit.

    Yields:
        The report of each account that had something to heal still.
    """
    counts = {"deletions": before.deletions}
    audited = pipeline.audit.during("heal-links", before.ill, sorted(before.types), why=why, counts=counts)
    workers = pipeline.settings.ac_concurrent_users
    with audited if before.deletions else nullcontext() as entry:
        deleted = duplicates = 0
        work: Iterator[tuple[Account, AccountReport | None]] = for_accounts(
            before.ill,
            lambda each: heal(pipeline.engine, each, selection, run_id),
            workers,
            lambda each, error: AccountReport(each.key, error=error),
        )
        for _, report in progress(work, len(before.ill)):
            if report is None:
                continue
            deleted += sum(tally.deleted for tally in report.types.values())
            duplicates += sum(tally.duplicates_removed for tally in report.types.values())
            yield report
        if entry is not None:
            entry.counts.update(deleted=deleted, duplicates=duplicates)
