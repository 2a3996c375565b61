"""How backfills, and the runs of schedules and sensors, stand, for `decide` to compare. Runs that a person launched are
not looked at: who launches a run looks at it. The runs of a backfill, or of one tick, count together when the last has
ended; of a run and its automatic retries, the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

import dagster as dg

from ac_pipeline.defs.alerts.messages import GOES_ON, Known, Memory, SubjectStatus, by_count, listed
from ac_pipeline.defs.assets.catalog import USERS, source_key
from ac_pipeline.defs.jobs import (
    BACKFILL,
    BACKFILL_ENDED,
    RETRIED_AS,
    SCHEDULE,
    SENSOR,
    UNFINISHED,
    WILL_RETRY,
    in_groups,
    keys_of_run,
)
from ac_pipeline.defs.metadata import unbroken
from ac_pipeline.media.registry import MEDIA_TYPES

RUNS_READ: Final = 1_000
"""Most runs of one backfill or tick, and most changed runs, that one look reads; a full backfill has fewer than 100."""
FAILURES_READ: Final = 200  # Most failed runs whose events are read, about 3 ms each
BACKFILLS_READ: Final = 50  # Most new backfills of one look
WATCHED: Final = 100  # Backfills and ticks with runs that are followed
REMEMBERED: Final = 40
"""Failed backfills and runs, and backfills of one family or ticks of one schedule, that are remembered until they are
repaired."""

_OVERLAP_SECONDS: Final = 60.0
"""Runs of the last tick's last minute are looked at again: what another process wrote a moment ago may come late."""
_PATIENCE_SECONDS: Final = 1_800.0  # How long the failed runs of a tick wait for its other runs, one of which may hang
_RETRY_SECONDS: Final = 600.0
"""A run that is to be retried and is not after so long counts as failed; the daemon launches retries within seconds."""

_BACKFILL: Final = "backfill"
_FAMILY: Final = ("dagster/root_backfill_id", "dagster/parent_backfill_id")
_TICK: Final = "dagster/tick"
_TAGS: Final = {_BACKFILL: BACKFILL, "schedule": SCHEDULE, "sensor": SENSOR}  # What a run has of what launched it
_FAILED: Final = {"COMPLETED_FAILED": True, "FAILED": True, "COMPLETED_SUCCESS": False}  # By the status of a backfill
_SHOWN_ASSETS: Final = 3
_USERS_ASKED: Final = 200  # Most users about whom Dagster is asked at once
_SOURCES: Final = frozenset(source_key(media) for media in MEDIA_TYPES)
_PLANNED: Final = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
_MADE: Final = dg.DagsterEventType.ASSET_MATERIALIZATION
_SEEN: Final = dg.DagsterEventType.ASSET_OBSERVATION
_STEP_FAILED: Final = dg.DagsterEventType.STEP_FAILURE
_RUN_FAILED: Final = dg.DagsterEventType.RUN_FAILURE


class Failure(NamedTuple):
    """One failure of a run, or of a whole backfill."""

    users: Collection[str]  # Partition keys that have to be run again; none when nobody knows them
    code: str  # The class of the error; empty for what Dagster says of a whole backfill
    words: str  # The error's own


@dataclass(slots=True)
class RunSet:
    """The runs of one backfill, or of one tick of a schedule or sensor, and what came of them."""

    key: str  # `kind|epoch seconds|name`; a backfill's name is its id
    subject: str
    what: str  # The subject, for people
    said: str  # What is said of it when it failed
    path: str  # Its page in the UI
    failed: bool | None = None  # None while nobody knows, and when a person canceled it
    since: float | None = None  # When it, or the first of its failed runs, ended
    runs: int = 0
    failed_runs: int = 0  # For good
    unfinished: int = 0  # Runs that are not done, or will be tried again
    users: set[str] = field(default_factory=set)  # Partition keys that the runs were about
    failures: list[Failure] = field(default_factory=list)
    # Assets that the failed runs were for, each with the kind of event that every attempt at a partition leaves
    attempts: set[tuple[dg.AssetKey, dg.DagsterEventType]] = field(default_factory=set)

    @property
    def failed_users(self) -> dict[str, str]:
        """Partition keys that have to be run again, each with the class of its first error."""
        return {user: failure.code for failure in reversed(self.failures) for user in failure.users}

    @property
    def is_explained(self) -> bool:
        """True if it is known for whom, and of which assets, the runs failed."""
        return bool(self.failures and self.attempts) and all(failure.users for failure in self.failures)

    def supersedes(self, other: RunSet) -> bool:
        """True if this one, which ended well, repeats another, of which it is not known for whom it failed."""
        same = self.subject == other.subject or (bool(other.attempts) and other.attempts <= self.attempts)
        return same and _begun(self.key) > _begun(other.key)

    def status(self, before: Known | None) -> SubjectStatus:
        """That it failed, after what is remembered of its subject."""
        failed = self.failed_users
        classes = Counter([*failed.values(), *(each.code for each in self.failures if each.code and not each.users)])
        codes = ["", *(code for code, _ in by_count(classes))]
        words = [each.words for code in codes for each in self.failures if each.code == code and each.words]
        level, about = (before.level, before.about) if before is not None else (0, ())
        return SubjectStatus(
            self.subject, level + 1 if self.key.startswith(_BACKFILL) else 1, self.what, self.said, self.path,
            since=self.since,
            partitions=(len(failed), len(self.users)) if self.users else None,
            runs=(self.failed_runs, self.runs) if self.runs else None,
            classes=classes,
            names=sorted(failed),
            words=words[0] if words else "",
            about=(*(key for key in about if key != self.key), self.key)[-REMEMBERED:],
        )  # fmt: skip


class RunStatuses:
    """The look of one tick at everything that runs.

    Args:
        before: What the last tick left.
        pages: The page in the UI of each sensor and schedule, by `kind:name`.
        now: Epoch seconds.
    """

    def __init__(self, instance: dg.DagsterInstance, before: Memory, pages: Mapping[str, str], now: float) -> None:
        self._instance, self._before, self._pages, self._now = instance, before, pages, now
        self._run_ended = False
        # For the next tick, see `Memory`:
        self.looked_at, self.backfills_seen = now, before.backfills_seen
        self.run_sets: dict[str, int] = {}

    def look(self) -> Iterator[SubjectStatus]:
        """What ended badly since the last tick, and what is well again, whoever repaired it."""
        known, well = dict(self._before.known), []
        going_on = [key for key, state in self._before.run_sets.items() if state == GOES_ON]
        changed = {*going_on, *self._changed_ticks(), *self._new_backfills()}
        for key in sorted(changed, key=lambda key: (key.startswith(_BACKFILL), _begun(key))):
            found = self._read(key)
            if found is None:
                continue
            waits = found.unfinished and (found.since is None or self._now - found.since < _PATIENCE_SECONDS)
            self.run_sets[key] = state = GOES_ON if waits else found.failed_runs
            if waits or found.failed is None or self._before.run_sets.get(key) == state:
                continue
            if not found.failed or (found.is_explained and self._is_done(found)):
                well.append(found)
                continue
            status = found.status(known.get(found.subject))
            known[found.subject] = Known(status.level, self._now, announced=True, about=status.about)
            yield status
        self.run_sets = dict(list(self.run_sets.items())[-WATCHED:])  # the backfills, and the newest ticks
        for subject, remembered in known.items() if self._run_ended or well else ():
            if (repaired := self._repaired(subject, remembered.about, well)) is not None:
                yield repaired

    # --- what changed ---

    def _new_backfills(self) -> Iterator[str]:
        """Backfills that are new since the last tick. What has ended by the first one is history."""
        # They are counted first: the row of a backfill of thousands of users is a megabyte, and mostly none is new.
        page: Sequence[Any] = ()
        while (count := self._instance.get_backfills_count()) > self.backfills_seen:
            page = self._instance.get_backfills(limit=min(BACKFILLS_READ, count - self._before.backfills_seen))
            self.backfills_seen = count  # another one may have been launched since it was counted: count again
        for each in page:
            if each.status.value not in BACKFILL_ENDED or self._before.begun < self._now:
                yield f"{_BACKFILL}|{each.backfill_timestamp}|{each.backfill_id}"

    def _changed_ticks(self) -> Iterator[str]:
        """Ticks of schedules and sensors of whose runs one changed since the last look."""
        since = max(self._before.looked_at - _OVERLAP_SECONDS, self._before.begun)
        found = self._instance.get_run_records(
            dg.RunsFilter(updated_after=datetime.fromtimestamp(since, UTC)),
            limit=RUNS_READ, order_by="update_timestamp", ascending=True,
        )  # fmt: skip
        if len(found) == RUNS_READ:  # the rest waits for the next look
            self.looked_at = found[-1].update_timestamp.replace(tzinfo=UTC).timestamp() + _OVERLAP_SECONDS
        for run in (record.dagster_run for record in found):
            self._run_ended = self._run_ended or run.status not in UNFINISHED
            for kind, tag in _TAGS.items():
                if tag in run.tags and _TICK in run.tags and BACKFILL not in run.tags:
                    yield f"{kind}|{run.tags[_TICK]}|{run.tags[tag]}"

    # --- well again ---

    def _repaired(self, subject: str, keys: Iterable[str], well: Sequence[RunSet]) -> SubjectStatus | None:
        """The subject of these failed ones, if all of their users are done by now; None while they are not."""
        found, users = None, set[str]()
        for found in map(self._read, keys):
            if found is None or not self._is_done(found):
                return None
            if not found.is_explained and not any(each.supersedes(found) for each in well):
                return None
            users |= found.failed_users.keys()
        if found is None:
            return None
        said = "is repaired" if found.key.startswith(_BACKFILL) else "succeed again"
        return SubjectStatus(
            subject, 0, found.what, f"{said}: what had failed is done by now", found.path,
            partitions=(0, len(users)) if users else None,
        )  # fmt: skip

    def _is_done(self, found: RunSet) -> bool:
        """True if what failed was materialised after the last attempt at it, whoever did it; keys that are gone do not
        count."""
        left = sorted(user for user in found.failed_users if user in self._places)
        for users in in_groups(left, _USERS_ASKED):  # mostly the first few say no
            for asset, kind in found.attempts:
                made, tried = (
                    self._instance.get_latest_storage_id_by_partition(asset, each, set(users)) for each in (_MADE, kind)
                )
                if any(made.get(user, 0) <= tried.get(user, 0) for user in users):
                    return False
        return True

    # --- what came of the runs of a backfill or tick ---

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Partition key -> its place."""
        return {key: place for place, key in enumerate(self._instance.get_dynamic_partitions(USERS))}

    def _read(self, key: str) -> RunSet | None:
        """None when there is no such backfill."""
        kind, tick, name = key.split("|", 2)
        if kind != _BACKFILL:
            page = self._pages.get(f"{kind}:{name}", "/runs")
            found = RunSet(key, f"{kind}:{name}:runs", f"Runs of the {kind} {name}", "failed", page)
            self._add_runs(found, {_TAGS[kind]: name, _TICK: tick}, {dg.DagsterRunStatus.FAILURE})
            found.failed = found.failed_runs > 0 if found.runs else None
            return found
        backfill: Any = self._instance.get_backfill(name)
        if backfill is None:
            return None
        assets = backfill.asset_selection or ()
        family = next((backfill.tags[tag] for tag in _FAMILY if backfill.tags.get(tag)), name)
        named = listed(sorted(asset.to_user_string() for asset in assets), _SHOWN_ASSETS) or "a job"
        status = backfill.status.value
        said = f"of {named} {'failed' if status == 'FAILED' else 'ended with failed runs'}"
        found = RunSet(key, f"backfill:{family}", f"Backfill {name}", said, f"/runs/b/{name}")
        found.failed = _FAILED.get(status)
        if status == "FAILED":  # Dagster itself gave it up
            found.failures.append(Failure((), "", innermost(backfill.error)))
        if found.failed:
            # A canceled run of a backfill that was not canceled failed.
            self._add_runs(found, {BACKFILL: name}, {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
            found.since = backfill.backfill_end_timestamp or self._now
        found.unfinished = int(status not in BACKFILL_ENDED)
        # All of its assets: for whom one failed, runs of those that need it were not even launched.
        found.attempts = {(asset, _PLANNED) for asset in assets} or found.attempts
        return found

    def _add_runs(self, found: RunSet, tags: Mapping[str, str], failed: Collection[dg.DagsterRunStatus]) -> None:
        """What came of the runs with these tags, of which those with these statuses failed."""
        for record in self._last_attempts(self._instance.get_run_records(dg.RunsFilter(tags=tags), limit=RUNS_READ)):
            run = record.dagster_run
            users = set(keys_of_run(run, list(self._places), self._places))
            found.runs += 1
            found.users |= users
            if self._goes_on(record):
                found.unfinished += 1
            elif run.status in failed:
                found.failed_runs += 1
                ended = record.end_time or self._now
                found.since = min(found.since or ended, ended)
                if found.failed_runs <= FAILURES_READ:
                    self._add_failures(found, run, users)

    def _last_attempts(self, records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
        # A retry need not carry the tag by which its first attempt was found.
        missing = {record.dagster_run.tags.get(RETRIED_AS, "") for record in records}
        missing -= {"", *(record.dagster_run.run_id for record in records)}
        retries = self._instance.get_run_records(dg.RunsFilter(run_ids=sorted(missing))) if missing else ()
        ordered = sorted([*records, *retries], key=lambda record: record.storage_id)
        return list({each.dagster_run.root_run_id or each.dagster_run.run_id: each for each in ordered}.values())

    def _goes_on(self, record: dg.RunRecord) -> bool:
        tags = record.dagster_run.tags
        awaited = tags.get(WILL_RETRY) == "true" and RETRIED_AS not in tags
        young = self._now - (record.end_time or 0.0) < _RETRY_SECONDS
        return record.dagster_run.status in UNFINISHED or (awaited and young)

    def _add_failures(self, found: RunSet, run: dg.DagsterRun, users: Collection[str]) -> None:
        # A run of partitions plans them. An op that names none observes the assets of whom it did not finish, and of
        # its users only those are known that it names.
        planned = run.asset_selection or self._instance.get_asset_keys_for_run(run.run_id, {_PLANNED})
        observed = () if planned else self._instance.get_asset_keys_for_run(run.run_id, {_SEEN}) - _SOURCES
        found.attempts |= {*((asset, _PLANNED) for asset in planned), *((asset, _SEEN) for asset in observed)}
        users = users if planned else ()
        if run.status is dg.DagsterRunStatus.CANCELED:
            found.failures.append(Failure(users, "canceled", ""))
            return
        read = self._instance.get_records_for_run(run.run_id, of_type={_STEP_FAILED, _RUN_FAILED}).records
        events = [event for record in read if (event := record.event_log_entry.dagster_event) is not None]
        steps = [event for event in events if event.is_step_failure]
        for failure in (event.step_failure_data for event in steps):
            given = failure.user_failure_data
            table = given.metadata.get("failed_users") if given else None
            if isinstance(table, dg.TableMetadataValue):
                for row in table.records:
                    user, code, message = (unbroken(row.data.get(name)) for name in ("user", "class", "message"))
                    found.failures.append(Failure([user], code, message))
            else:
                words = (given.description if given else None) or innermost(failure.error)
                found.failures.append(Failure(users, "unforeseen", words))
        if not steps:
            found.failures.append(Failure(users, "run-crashed", str(events[0].message) if events else ""))


def _begun(key: str) -> float:
    return float(key.split("|")[1])


def innermost(error: object) -> str:
    """What went wrong at the bottom of an error that Dagster stored: its own name and words, without the traceback."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return str(getattr(error, "message", "")).strip()
