"""What came of some runs, read from the instance: which users have to be run again, by which errors.

Runs are counted as people count them: of a run and its automatic retries, the last one. What is said of it is
`alerts.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.sources import source_key
from ac_pipeline.defs.busy import keys_of_run
from ac_pipeline.defs.jobs import UNFINISHED
from ac_pipeline.defs.partitions import USERS, users
from ac_pipeline.media.registry import MEDIA_TYPES

RUNS_READ: Final = 1_000
"""Most runs of one backfill or tick that are read; a full backfill has fewer than 100 (RUN-3)."""
FAILURES_READ: Final = 200
"""Most failed runs whose events are read, about 3 ms each."""

CRASHED: Final = "run-crashed"
UNFORESEEN: Final = "unforeseen"

_SOURCES: Final = frozenset(source_key(media) for media in MEDIA_TYPES)
_WILL_RETRY: Final = "dagster/will_retry"
_RETRIED_AS: Final = "dagster/auto_retry_run_id"
_RETRY_SECONDS: Final = 600.0
"""A run that is to be retried and is not after so long counts as failed; the daemon launches retries within seconds."""


@dataclass(slots=True)
class Outcome:
    """What came of some runs.

    Args:
        runs: How many there are.
        failed_runs: How many failed for good.
        unfinished: How many are not done, or will be tried again.
        users: Partition keys they were about.
        failed: Keys that have to be run again -> class of the error.
        planned: Assets whose partitions the failed runs were planned for.
        observed: Assets of failed ops that name no partitions and say by observations what became of them.
        unnamed: Failures of which nobody knows whom they left undone.
        errors: Failures by class of error; those without users count as one each.
        words: An error's own words, by class.
        since: When the first of the failed runs ended.
    """

    runs: int = 0
    failed_runs: int = 0
    unfinished: int = 0
    users: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    planned: set[dg.AssetKey] = field(default_factory=set)
    observed: set[dg.AssetKey] = field(default_factory=set)
    unnamed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)
    since: float | None = None

    @property
    def first_words(self) -> str:
        """An error's own words, of the class most failures have."""
        most = sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))
        return next((self.words[name] for name, _ in most if name in self.words), "")


class RunReader:
    """Reads runs of one instance, at one moment.

    Args:
        now: Epoch seconds.
    """

    def __init__(self, instance: dg.DagsterInstance, now: float) -> None:
        self._instance = instance
        self._now = now

    def tagged(self, tags: Mapping[str, str]) -> Sequence[dg.RunRecord]:
        """All runs with these tags, newest first."""
        return self._instance.get_run_records(dg.RunsFilter(tags=dict(tags)), limit=RUNS_READ)

    def outcome(self, records: Sequence[dg.RunRecord], *, canceled: bool = False) -> Outcome:
        """What came of these runs.

        Args:
            canceled: Whether a canceled run counts as failed: it does in a backfill that nobody canceled as a whole.
        """
        last = self._last_of_each(records)
        outcome = Outcome(runs=len(last))
        read = 0
        for record in last:
            run = record.dagster_run
            keys = set(keys_of_run(run, self._existing, self._places))
            outcome.users |= keys
            if self._unfinished(record):
                outcome.unfinished += 1
            elif run.status is dg.DagsterRunStatus.FAILURE:
                outcome.failed_runs += 1
                outcome.since = min(outcome.since or record.end_time or self._now, record.end_time or self._now)
                read += 1
                if read <= FAILURES_READ:
                    self._add_failure(outcome, run, keys)
            elif run.status is dg.DagsterRunStatus.CANCELED and canceled:
                outcome.failed_runs += 1
                outcome.planned |= self._planned(run)
                _fail(outcome, keys, "canceled", "")
        outcome.errors += Counter(outcome.failed.values())
        return outcome

    def well(self, failed: Iterable[str], planned: Iterable[dg.AssetKey], observed: Iterable[dg.AssetKey] = ()) -> bool:
        """Whether these users are done by now, whoever did it; keys that are gone do not count.

        Args:
            failed: The users.
            planned: Assets whose runs name their partitions: a failed one is red until it is materialised.
            observed: Assets of an op that names none: it left an observation, which a materialisation has to follow.
        """
        left = {key for key in failed if key in self._places}
        if not left:
            return True
        for asset in planned:
            states = self._instance.get_status_by_partition(asset, sorted(left), users) or {}
            if any(states.get(key) is not dg.AssetPartitionStatus.MATERIALIZED for key in left):
                return False
        for asset in observed:
            made = self._last_event(asset, dg.DagsterEventType.ASSET_MATERIALIZATION, left)
            seen = self._last_event(asset, dg.DagsterEventType.ASSET_OBSERVATION, left)
            if any(made.get(key, 0) <= seen.get(key, 0) for key in left):
                return False
        return True

    def _last_event(self, asset: dg.AssetKey, kind: dg.DagsterEventType, keys: set[str]) -> Mapping[str, int]:
        return self._instance.get_latest_storage_id_by_partition(asset, kind, keys)

    @cached_property
    def _existing(self) -> Sequence[str]:
        return self._instance.get_dynamic_partitions(USERS)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {key: place for place, key in enumerate(self._existing)}

    def _last_of_each(self, records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
        last: dict[str, dg.RunRecord] = {}
        for record in [*records, *self._retries_elsewhere(records)]:
            root = record.dagster_run.root_run_id or record.dagster_run.run_id
            if root not in last or last[root].storage_id < record.storage_id:
                last[root] = record
        return sorted(last.values(), key=lambda record: record.storage_id)

    def _retries_elsewhere(self, records: Sequence[dg.RunRecord]) -> Sequence[dg.RunRecord]:
        """Retries that do not carry the tag by which their first attempt was found."""
        known = {record.dagster_run.run_id for record in records}
        named = {record.dagster_run.tags.get(_RETRIED_AS) for record in records}
        missing = sorted(id for id in named if id is not None and id not in known)
        return self._instance.get_run_records(dg.RunsFilter(run_ids=missing)) if missing else ()

    def _unfinished(self, record: dg.RunRecord) -> bool:
        run = record.dagster_run
        if run.status in UNFINISHED:
            return True
        awaited = run.tags.get(_WILL_RETRY) == "true" and _RETRIED_AS not in run.tags
        return awaited and self._now - (record.end_time or 0.0) < _RETRY_SECONDS

    def _planned(self, run: dg.DagsterRun) -> set[dg.AssetKey]:
        kind = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED}
        return set(run.asset_selection or self._instance.get_asset_keys_for_run(run.run_id, kind))

    def _observed(self, run: dg.DagsterRun) -> set[dg.AssetKey]:
        """Assets of an op that plans none and says of each user how it ended."""
        seen = self._instance.get_asset_keys_for_run(run.run_id, {dg.DagsterEventType.ASSET_OBSERVATION})
        return set(seen) - _SOURCES

    def _add_failure(self, outcome: Outcome, run: dg.DagsterRun, keys: set[str]) -> None:
        planned = self._planned(run)
        outcome.planned |= planned
        outcome.observed |= set() if planned else self._observed(run)
        keys = keys if planned else set()  # of an op's users only those are known that it named
        steps = self._instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        for step in steps:
            event = step.event_log_entry.dagster_event
            if event is None:
                continue
            found = event.step_failure_data
            table = found.user_failure_data.metadata.get("failed_users") if found.user_failure_data else None
            if isinstance(table, dg.TableMetadataValue):
                for row in table.records:
                    code = str(row.data.get("class"))
                    _fail(outcome, {str(row.data.get("user"))}, code, str(row.data.get("message")))
            else:
                described = found.user_failure_data.description if found.user_failure_data else None
                _fail(outcome, keys, UNFORESEEN, described or innermost(found.error))
        if not steps:
            ends = self._instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
            said = [end.event_log_entry.dagster_event for end in ends]
            _fail(outcome, keys, CRASHED, next((str(event.message) for event in said if event is not None), ""))


def innermost(error: object) -> str:
    """What went wrong at the bottom of an error that Dagster stored: its own name and words, without the traceback."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return str(getattr(error, "message", "")).strip()


def _fail(outcome: Outcome, keys: Iterable[str], code: str, words: str) -> None:
    none = True
    for key in keys:
        outcome.failed.setdefault(key, code)
        none = False
    if none:
        outcome.unnamed += 1
        outcome.errors[code] += 1
    if words:
        outcome.words.setdefault(code, words)
