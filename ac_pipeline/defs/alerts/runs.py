"""How backfills, and the runs of schedules and sensors, stand, for `decide` to compare. Runs that a person launched are
not looked at: who launches a run looks at it. Failed partitions count when their backfill, or the last run of their
tick, has ended; of a run and its automatic retries, the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.alerts.messages import Known, Memory, SubjectStatus, by_count, listed
from ac_pipeline.defs.assets.catalog import USERS, source_key, users
from ac_pipeline.defs.jobs import (
    BACKFILL,
    BACKFILL_ENDED,
    RETRIED_AS,
    SCHEDULE,
    SENSOR,
    UNFINISHED,
    WILL_RETRY,
    keys_of_run,
)
from ac_pipeline.defs.metadata import unbroken
from ac_pipeline.media.registry import MEDIA_TYPES

RUNS_READ: Final = 1_000
"""Most runs of one backfill or tick, and most changed runs, that one look reads; a full backfill has fewer than 100."""
FAILURES_READ: Final = 200  # Most failed runs whose events are read, about 3 ms each
WATCHED: Final = 50  # Backfills, and ticks with runs, that are followed; and most new backfills of one look
REMEMBERED: Final = 40
"""Failed backfills and runs, and backfills of one family or ticks of one schedule, that are remembered until they are
repaired."""

_OVERLAP_SECONDS: Final = 60.0
"""Runs of the last tick's last minute are looked at again: what another process wrote a moment ago may come late."""
_PATIENCE_SECONDS: Final = 1_800.0  # How long the failed runs of a tick wait for its other runs, one of which may hang
_RETRY_SECONDS: Final = 600.0
"""A run that is to be retried and is not after so long counts as failed; the daemon launches retries within seconds."""
_UNFINISHED: Final = -1

_FAMILY: Final = ("dagster/root_backfill_id", "dagster/parent_backfill_id")
_TICK: Final = "dagster/tick"
_LAUNCHERS: Final = {"schedule": SCHEDULE, "sensor": SENSOR}
_FAILED: Final = {"COMPLETED_FAILED", "FAILED"}
_SHOWN_ASSETS: Final = 3
_SOURCES: Final = frozenset(source_key(media) for media in MEDIA_TYPES)
_PLANNED: Final = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
_MADE: Final = dg.DagsterEventType.ASSET_MATERIALIZATION
_SEEN: Final = dg.DagsterEventType.ASSET_OBSERVATION


@dataclass(slots=True)
class Outcome:
    """What came of some runs."""

    runs: int = 0  # How many there are
    failed_runs: int = 0  # How many failed for good
    unfinished: int = 0  # How many are not done, or will be tried again
    users: set[str] = field(default_factory=set)  # Partition keys they were about
    failed: dict[str, str] = field(default_factory=dict)  # Keys that have to be run again -> class of the error
    planned: set[dg.AssetKey] = field(default_factory=set)  # Assets whose partitions the failed runs were planned for
    # Assets of failed ops that name no partitions and say by observations what became of them
    observed: set[dg.AssetKey] = field(default_factory=set)
    # Failures of which nobody knows whom they left undone, by class of error
    unnamed: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)  # An error's own words, by class
    since: float | None = None  # When the first of the failed runs ended

    def fail(self, keys: Iterable[str], code: str, words: str) -> None:
        named = {key: self.failed.get(key, code) for key in keys}
        self.failed |= named
        if not named:
            self.unnamed[code] += 1
        if words:
            self.words.setdefault(code, words)

    @property
    def named(self) -> bool:
        """True if it is known for whom, and of which assets, the runs failed."""
        return bool(self.failed and (self.planned or self.observed) and not self.unnamed)

    def numbers(self, words: str = "") -> dict[str, Any]:
        """What a message says of the failed ones, with the words of the class most failures have."""
        classes = self.unnamed + Counter(self.failed.values())
        return {
            "partitions": (len(self.failed), len(self.users)) if self.users else None,
            "runs": (self.failed_runs, self.runs) if self.runs else None,
            "classes": classes,
            "names": sorted(self.failed),
            "words": words or next((self.words[name] for name, _ in by_count(classes) if name in self.words), ""),
        }


@dataclass
class RunStatuses:
    """The look of one tick at everything that runs."""

    instance: dg.DagsterInstance
    before: Memory  # What the last tick left
    after: Memory  # What this one leaves: the look fills in what is of runs
    pages: Mapping[str, str]  # Page in the UI of each sensor and schedule, by `kind:name`
    now: float  # Epoch seconds
    first: bool  # At the first look everything is history
    busy: bool = False  # True, after `look`, while a backfill, or runs of a schedule or sensor, are going on
    _changed: bool = False
    _done_well: list[frozenset[dg.AssetKey]] = field(default_factory=list)
    _done_well_at: dict[str, int] = field(default_factory=dict)

    def look(self) -> Iterator[SubjectStatus]:
        """What ended badly since the last tick, and what is well again, whoever repaired it."""
        known = dict(self.before.known)
        for status in [*self._ended_backfills(known), *self._ended_run_sets(known)]:
            known[status.subject] = Known(status.level, self.now, told=True, about=status.about)
            yield status
        for subject, before in known.items() if self._changed else ():
            repaired = self._repaired(subject, before) if before.about else None
            if repaired is not None:
                yield repaired

    # --- backfills ---

    def _ended_backfills(self, known: Mapping[str, Known]) -> Iterator[SubjectStatus]:
        going_on = []
        for backfill in self._new_and_watched():
            status, assets = backfill.status.value, frozenset(backfill.asset_selection or ())
            if status not in BACKFILL_ENDED:
                going_on.append(backfill.backfill_id)
            elif not self.first:
                self._changed = True
                if status == "COMPLETED_SUCCESS":
                    self._done_well.append(assets)
                if status in _FAILED:
                    yield self._failed_backfill(backfill, known)
        self.after.backfills = tuple(going_on[-WATCHED:])
        self.busy = bool(going_on)

    def _new_and_watched(self) -> Iterator[Any]:
        """Backfills that are new since the last tick, oldest first, after those that ran then."""
        # They are counted first: the row of a backfill of thousands of users is a megabyte, and mostly none is new.
        page: Sequence[Any] = ()
        while (count := self.instance.get_backfills_count()) > self.after.backfills_seen:
            page = self.instance.get_backfills(limit=min(WATCHED, count - self.before.backfills_seen))
            self.after.backfills_seen = count  # another one may have been launched since it was counted: count again
        watched = map(self.instance.get_backfill, self.before.backfills)
        yield from (each for each in watched if each is not None)
        yield from (each for each in reversed(page) if each.backfill_id not in self.before.backfills)

    def _failed_backfill(self, backfill: Any, known: Mapping[str, Known]) -> SubjectStatus:
        id = backfill.backfill_id
        subject = f"backfill:{next((backfill.tags[tag] for tag in _FAMILY if backfill.tags.get(tag)), id)}"
        before = known.get(subject, Known(0, self.now, told=False))
        assets = sorted(asset.to_user_string() for asset in backfill.asset_selection or ())
        own = innermost(backfill.error) if backfill.error is not None else ""
        said = f"of {listed(assets, _SHOWN_ASSETS) or 'a job'} {'failed' if own else 'ended with failed runs'}"
        what, page = self._called(subject, id)
        return SubjectStatus(
            subject,
            before.level + 1,
            what,
            said,
            page,
            since=backfill.backfill_end_timestamp or self.now,
            about=(*before.about, id)[-REMEMBERED:],
            **self._outcome(subject, id).numbers(own),
        )

    # --- runs of schedules and sensors ---

    def _ended_run_sets(self, known: Mapping[str, Known]) -> Iterator[SubjectStatus]:
        worse: dict[str, SubjectStatus] = {}
        run_sets: dict[str, int] = {}
        for key in sorted(self._touched(), key=lambda key: int(key.split("|")[1])):
            kind, tick, name = key.split("|", 2)
            subject = f"{kind}:{name}:runs"
            outcome = self._outcome(subject, key)
            if not outcome.runs:
                continue
            run_sets[key] = _UNFINISHED if outcome.unfinished else outcome.failed_runs
            if outcome.unfinished:
                self.busy = True
                if outcome.since is None or self.now - outcome.since < _PATIENCE_SECONDS:
                    continue
            elif self.before.run_sets.get(key) == outcome.failed_runs:
                continue
            self._changed = True
            if not outcome.failed_runs or (outcome.named and self._done(outcome)):
                self._done_well_at[subject] = int(tick)
                continue
            before = worse.get(subject) or known.get(subject)
            about = (*(each for each in (before.about if before else ()) if each != key), key)[-REMEMBERED:]
            what, page = self._called(subject, key)
            worse[subject] = SubjectStatus(
                subject, 1, what, "failed", page, since=outcome.since, about=about, **outcome.numbers()
            )
        self.after.run_sets = dict(list(run_sets.items())[-WATCHED:])
        yield from worse.values()

    def _touched(self) -> set[str]:
        """Ticks of schedules and sensors of whose runs one changed since the last look, or had not ended by then."""
        if self.first:
            return set()
        since = max(self.before.looked_at - _OVERLAP_SECONDS, self.before.begun)
        touched = {key for key, state in self.before.run_sets.items() if state == _UNFINISHED}
        found = self.instance.get_run_records(
            dg.RunsFilter(updated_after=datetime.fromtimestamp(since, UTC)),
            limit=RUNS_READ, order_by="update_timestamp", ascending=True,
        )  # fmt: skip
        for record in found:
            run = record.dagster_run
            self._changed = self._changed or run.status not in UNFINISHED
            for kind, tag in _LAUNCHERS.items():
                if tag in run.tags and _TICK in run.tags and BACKFILL not in run.tags:
                    touched.add(f"{kind}|{run.tags[_TICK]}|{run.tags[tag]}")
        if len(found) == RUNS_READ:  # the rest waits for the next look
            self.after.looked_at = found[-1].update_timestamp.replace(tzinfo=UTC).timestamp() + _OVERLAP_SECONDS
        return touched

    def _called(self, subject: str, about: str) -> tuple[str, str]:
        """What a message calls a subject, of whose backfills or ticks this is the last; and its page."""
        kind, name = subject.split(":")[:2]
        if kind == "backfill":
            return f"Backfill {about}", f"/runs/b/{about}"
        return f"Runs of the {kind} {name}", self.pages.get(f"{kind}:{name}", "/runs")

    # --- well again ---

    def _repaired(self, subject: str, before: Known) -> SubjectStatus | None:
        """A failed subject all of whose users are done by now; None while they are not."""
        kind = subject.partition(":")[0]
        users: set[str] = set()
        for each in before.about:
            outcome = self._outcome(subject, each)
            users |= set(outcome.failed)
            if kind == "backfill":
                backfill = self.instance.get_backfill(each)
                assets = frozenset(backfill.asset_selection or ()) if backfill is not None else frozenset()
                outcome.planned, outcome.observed = set(assets), set()
                known = bool(outcome.failed)
                done = bool(assets) and any(assets <= done for done in self._done_well)
            else:
                known, done = outcome.named, self._done_well_at.get(subject, 0) > int(each.split("|")[1])
            if not self._done(outcome) or not (known or done):
                return None
        what, page = self._called(subject, before.about[-1])
        said = f"{'is repaired' if kind == 'backfill' else 'succeed again'}: what had failed is done by now"
        return SubjectStatus(subject, 0, what, said, page, partitions=(0, len(users)) if users else None)

    def _done(self, outcome: Outcome) -> bool:
        """True if the users that failed are done by now, whoever did it; keys that are gone do not count.

        A failed partition is red until it is materialised. An op that names no partitions left an observation, which
        a materialisation has to follow.
        """
        left = {key for key in outcome.failed if key in self._places}
        for asset in outcome.planned if left else ():
            states = self.instance.get_status_by_partition(asset, sorted(left), users) or {}
            if any(states.get(key) is not dg.AssetPartitionStatus.MATERIALIZED for key in left):
                return False
        for asset in outcome.observed if left else ():
            made, seen = (
                self.instance.get_latest_storage_id_by_partition(asset, kind, left) for kind in (_MADE, _SEEN)
            )
            if any(made.get(key, 0) <= seen.get(key, 0) for key in left):
                return False
        return True

    # --- what came of the runs of a backfill or tick ---

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Partition key -> its place."""
        return {key: place for place, key in enumerate(self.instance.get_dynamic_partitions(USERS))}

    def _outcome(self, subject: str, about: str) -> Outcome:
        """What came of the runs of a backfill or a tick. A canceled run of a backfill that was not canceled failed."""
        kind, _, name = subject.removesuffix(":runs").partition(":")
        backfill = kind == "backfill"
        tags = {BACKFILL: about} if backfill else {_LAUNCHERS[kind]: name, _TICK: about.split("|")[1]}
        last = self._last_of_each(self.instance.get_run_records(dg.RunsFilter(tags=tags), limit=RUNS_READ))
        outcome = Outcome(runs=len(last))
        for record in last:
            run = record.dagster_run
            keys = set(keys_of_run(run, list(self._places), self._places))
            outcome.users |= keys
            if self._goes_on(record):
                outcome.unfinished += 1
            elif run.status is dg.DagsterRunStatus.FAILURE:
                outcome.failed_runs += 1
                ended = record.end_time or self.now
                outcome.since = min(outcome.since or ended, ended)
                if outcome.failed_runs <= FAILURES_READ:
                    self._add_failure(outcome, run, keys)
            elif run.status is dg.DagsterRunStatus.CANCELED and backfill:
                outcome.failed_runs += 1
                outcome.planned |= self._assets(run, _PLANNED)
                outcome.fail(keys, "canceled", "")
        return outcome

    def _last_of_each(self, records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
        # A retry need not carry the tag by which its first attempt was found.
        missing = {record.dagster_run.tags.get(RETRIED_AS, "") for record in records}
        missing -= {"", *(record.dagster_run.run_id for record in records)}
        retries = self.instance.get_run_records(dg.RunsFilter(run_ids=sorted(missing))) if missing else ()
        ordered = sorted([*records, *retries], key=lambda record: record.storage_id)
        return list({each.dagster_run.root_run_id or each.dagster_run.run_id: each for each in ordered}.values())

    def _goes_on(self, record: dg.RunRecord) -> bool:
        tags = record.dagster_run.tags
        awaited = tags.get(WILL_RETRY) == "true" and RETRIED_AS not in tags
        young = self.now - (record.end_time or 0.0) < _RETRY_SECONDS
        return record.dagster_run.status in UNFINISHED or (awaited and young)

    def _assets(self, run: dg.DagsterRun, kind: dg.DagsterEventType) -> set[dg.AssetKey]:
        return set(run.asset_selection or self.instance.get_asset_keys_for_run(run.run_id, {kind}))

    def _add_failure(self, outcome: Outcome, run: dg.DagsterRun, keys: set[str]) -> None:
        planned = self._assets(run, _PLANNED)
        outcome.planned |= planned
        if not planned:  # of an op's users only those are known that it named
            keys = set()
            outcome.observed |= self._assets(run, _SEEN) - _SOURCES
        steps = self._events(run, dg.DagsterEventType.STEP_FAILURE)
        for event in steps:
            failure = event.step_failure_data
            given = failure.user_failure_data
            table = given.metadata.get("failed_users") if given else None
            if isinstance(table, dg.TableMetadataValue):
                for row in table.records:
                    user, code, message = (unbroken(row.data.get(name)) for name in ("user", "class", "message"))
                    outcome.fail([user], code, message)
            else:
                words = given.description if given else None
                outcome.fail(keys, "unforeseen", words or innermost(failure.error))
        if not steps:
            ends = self._events(run, dg.DagsterEventType.RUN_FAILURE)
            outcome.fail(keys, "run-crashed", str(ends[0].message) if ends else "")

    def _events(self, run: dg.DagsterRun, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        found = self.instance.get_records_for_run(run.run_id, of_type=kind).records
        events = (record.event_log_entry.dagster_event for record in found)
        return [event for event in events if event is not None]


def innermost(error: object) -> str:
    """What went wrong at the bottom of an error that Dagster stored: its own name and words, without the traceback."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return str(getattr(error, "message", "")).strip()
