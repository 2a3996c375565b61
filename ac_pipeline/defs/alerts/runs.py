"""How backfills, and the runs of schedules and sensors, stand: read from the instance, for `alerts.py` to decide on.

Runs that a person launched are not looked at: who launches a run looks at it. Single partitions are not either; they
are counted when their backfill, or the last run of their tick, has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.alerts.messages import Facts, Known, Memory, SubjectStatus
from ac_pipeline.defs.alerts.run_outcomes import Outcome, RunReader, innermost
from ac_pipeline.defs.jobs import UNFINISHED

_OVERLAP_SECONDS: Final = 60.0
"""Runs of the last tick's last minute are looked at again: what another process wrote a moment ago may come late."""
_CHANGED_RUNS: Final = 1_000
"""Runs with a change that one tick reads; the rest waits for the next."""
_BACKFILLS_A_TICK: Final = 50
"""Most new backfills one tick looks at."""
_BACKFILLS_WATCHED: Final = 50
_RUN_SETS_WATCHED: Final = 50
_UNFINISHED: Final = -1
_REMEMBERED: Final = 20
"""Backfills of one family, or ticks of one schedule, whose failures are remembered until they are repaired."""
_FAILED_SUBJECTS: Final = 40

_PATIENCE_SECONDS: Final = 1_800.0
"""How long the failed runs of a tick wait for its other runs, one of which may hang."""

_BACKFILL: Final = "dagster/backfill"
_ROOT_BACKFILL: Final = "dagster/root_backfill_id"
_PARENT_BACKFILL: Final = "dagster/parent_backfill_id"
_TICK: Final = "dagster/tick"
_LAUNCHERS: Final = {"schedule": "dagster/schedule_name", "sensor": "dagster/sensor_name"}

_ENDED: Final = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
_FAILED: Final = {"COMPLETED_FAILED", "FAILED"}
_SHOWN_ASSETS: Final = 3


class RunStatuses:
    """The look of one tick at everything that runs. `look` first; then the attributes are what to remember.

    Args:
        instance: Where to look.
        memory: What the last tick left.
        pages: Subject (`schedule:NAME`, `sensor:NAME`) -> its page in the UI.
        now: Epoch seconds.
        first: Whether this is the first tick, which sees no history.

    Attributes:
        looked_at, backfills_seen, backfills, run_sets: See `Memory`.
        busy: Whether a backfill, or runs of a schedule or sensor, are going on.
    """

    def __init__(
        self, instance: dg.DagsterInstance, memory: Memory, pages: Mapping[str, str], now: float, *, first: bool
    ) -> None:
        self.looked_at = now
        self.backfills_seen = memory.backfills_seen
        self.backfills: list[str] = []
        self.run_sets: dict[str, int] = {}
        self.busy = False
        self._instance, self._memory, self._pages, self._now, self._first = instance, memory, pages, now, first
        self._reader = RunReader(instance, now)
        self._changed = False
        self._done_well: list[frozenset[dg.AssetKey]] = []
        self._done_well_at: dict[str, int] = {}

    def look(self) -> Iterator[SubjectStatus]:
        """What ended badly since the last tick, and what is well again."""
        known = dict(self._memory.known)
        for status in [*self._backfills(known), *self._run_sets(known)]:
            known[status.subject] = Known(status.level, self._now, told=True, about=status.about)
            yield status
        if self._changed:
            yield from self._recovered(known)

    # --- backfills ---

    def _backfills(self, known: Mapping[str, Known]) -> Iterator[SubjectStatus]:
        for backfill in self._new_and_watched():
            status = backfill.status.value
            if status not in _ENDED:
                self.backfills.append(backfill.backfill_id)
                continue
            if self._first:
                continue
            self._changed = True
            assets = frozenset(backfill.asset_selection or ())
            if status == "COMPLETED_SUCCESS":
                self._done_well.append(assets)
            if status in _FAILED:
                yield self._failed_backfill(backfill, known)
        self.backfills = self.backfills[-_BACKFILLS_WATCHED:]
        self.busy = self.busy or bool(self.backfills)

    def _new_and_watched(self) -> Iterator[Any]:
        """Backfills that are new since the last tick, oldest first, after those that ran then."""
        # They are counted first: the row of a backfill of thousands of users is a megabyte, and mostly none is new.
        page: Sequence[Any] = ()
        self.backfills_seen = self._memory.backfills_seen
        while (count := self._instance.get_backfills_count()) > self.backfills_seen:
            page = self._instance.get_backfills(limit=min(_BACKFILLS_A_TICK, count - self._memory.backfills_seen))
            self.backfills_seen = count  # another one may have been launched since it was counted: count again
        for id in self._memory.backfills:
            watched = self._instance.get_backfill(id)
            if watched is not None:
                yield watched
        yield from (each for each in reversed(page) if each.backfill_id not in self._memory.backfills)

    def _failed_backfill(self, backfill: Any, known: Mapping[str, Known]) -> SubjectStatus:
        id, tags = backfill.backfill_id, backfill.tags
        family = tags.get(_ROOT_BACKFILL) or tags.get(_PARENT_BACKFILL) or id
        subject = f"backfill:{family}"
        before = known.get(subject)
        outcome = self._backfill_outcome(id)
        assets = _listed(backfill.asset_selection or ())
        own = innermost(backfill.error) if backfill.error is not None else ""
        said = f"of {assets} failed" if own else f"of {assets} ended with failed runs"
        return SubjectStatus(
            subject,
            level=(before.level if before is not None else 0) + 1,
            facts=_facts(
                f"Backfill {id}",
                said,
                f"/runs/b/{id}",
                outcome,
                since=backfill.backfill_end_timestamp or self._now,
                own=own,
            ),
            about=(*(before.about if before is not None else ()), id)[-_REMEMBERED:],
        )

    def _backfill_outcome(self, id: str) -> Outcome:
        return self._reader.outcome(self._reader.tagged({_BACKFILL: id}), canceled=True)

    # --- runs of schedules and sensors ---

    def _run_sets(self, known: Mapping[str, Known]) -> Iterator[SubjectStatus]:
        worse: dict[str, SubjectStatus] = {}
        for key in sorted(self._touched(), key=lambda key: int(key.split("|")[1])):
            kind, tick, name = key.split("|", 2)
            records = self._reader.tagged({_LAUNCHERS[kind]: name, _TICK: tick})
            if not records:
                continue
            outcome = self._reader.outcome(records)
            if outcome.unfinished:
                self.busy = True
                self.run_sets[key] = _UNFINISHED
                if outcome.since is None or self._now - outcome.since < _PATIENCE_SECONDS:
                    continue
            else:
                self.run_sets[key] = outcome.failed_runs
                if self._memory.run_sets.get(key) == outcome.failed_runs:
                    continue
            self._changed = True
            subject = f"{kind}:{name}:runs"
            if not outcome.failed_runs or self._repaired(outcome):
                self._done_well_at[subject] = int(tick)
                continue
            before = worse.get(subject) or known.get(subject)
            worse[subject] = SubjectStatus(
                subject,
                level=1,
                facts=_facts(
                    f"Runs of the {kind} {name}", "failed", self._page(f"{kind}:{name}"), outcome, since=outcome.since
                ),
                about=(*(each for each in (before.about if before else ()) if each != key), key)[-_REMEMBERED:],
            )
        self.run_sets = dict(list(self.run_sets.items())[-_RUN_SETS_WATCHED:])
        yield from worse.values()

    def _touched(self) -> set[str]:
        """Ticks of schedules and sensors of whose runs one changed since the last look, or had not ended by then."""
        since = max(self._memory.looked_at - _OVERLAP_SECONDS, self._memory.begun)
        if self._first:
            return set()
        touched = {key for key, state in self._memory.run_sets.items() if state == _UNFINISHED}
        found = self._instance.get_run_records(
            dg.RunsFilter(updated_after=datetime.fromtimestamp(since, UTC)),
            limit=_CHANGED_RUNS, order_by="update_timestamp", ascending=True,
        )  # fmt: skip
        for record in found:
            run = record.dagster_run
            self._changed = self._changed or run.status not in UNFINISHED
            for kind, tag in _LAUNCHERS.items():
                if tag in run.tags and _TICK in run.tags and _BACKFILL not in run.tags:
                    touched.add(f"{kind}|{run.tags[_TICK]}|{run.tags[tag]}")
        if len(found) == _CHANGED_RUNS:
            self.looked_at = found[-1].update_timestamp.replace(tzinfo=UTC).timestamp() + _OVERLAP_SECONDS
        return touched

    def _page(self, subject: str) -> str:
        return self._pages.get(subject, "/runs")

    # --- well again ---

    def _recovered(self, known: Mapping[str, Known]) -> Iterator[SubjectStatus]:
        """Failed subjects whose users are done by now, whoever did it: a later backfill, the schedule or a person."""
        for subject, before in list(known.items())[-_FAILED_SUBJECTS:]:
            kind, _, rest = subject.partition(":")
            if kind == "backfill":
                found = self._well_backfill(before)
            elif rest.endswith(":runs"):
                found = self._well_sets(subject, before)
            else:
                continue
            if found is not None:
                yield SubjectStatus(subject, 0, found)

    def _well_backfill(self, before: Known) -> Facts | None:
        users: set[str] = set()
        for id in before.about:
            backfill = self._instance.get_backfill(id)
            assets = frozenset(backfill.asset_selection or ()) if backfill is not None else frozenset()
            failed = self._backfill_outcome(id).failed
            users |= set(failed)
            if failed:
                if not self._reader.well(failed, assets):
                    return None
            elif assets and not any(assets <= done for done in self._done_well):
                return None
        last = before.about[-1] if before.about else ""
        return Facts(
            f"Backfill {last}", "is repaired: what had failed is done by now", f"/runs/b/{last}",
            partitions=(0, len(users)) if users else None,
        )  # fmt: skip

    def _well_sets(self, subject: str, before: Known) -> Facts | None:
        kind, name, _ = subject.split(":")
        users: set[str] = set()
        for key in before.about:
            _, tick, _ = key.split("|", 2)
            outcome = self._reader.outcome(self._reader.tagged({_LAUNCHERS[kind]: name, _TICK: tick}))
            users |= set(outcome.failed)
            if not self._reader.well(outcome.failed, outcome.planned, outcome.observed):
                return None
            if not _named(outcome) and self._done_well_at.get(subject, 0) <= int(tick):
                return None
        return Facts(
            f"Runs of the {kind} {name}", "succeed again: what had failed is done by now",
            self._page(f"{kind}:{name}"), partitions=(0, len(users)) if users else None,
        )  # fmt: skip

    def _repaired(self, outcome: Outcome) -> bool:
        """Whether all that failed is known by name and done by now, as after a run of the same users by hand."""
        return _named(outcome) and self._reader.well(outcome.failed, outcome.planned, outcome.observed)


def _named(outcome: Outcome) -> bool:
    """Whether it is known for whom, and of which assets, the runs failed."""
    return bool(outcome.failed and (outcome.planned or outcome.observed) and not outcome.unnamed)


def _facts(what: str, said: str, path: str, outcome: Outcome, *, since: float | None, own: str = "") -> Facts:
    return Facts(
        what,
        said,
        path,
        since=since,
        partitions=(len(outcome.failed), len(outcome.users)) if outcome.users else None,
        runs=(outcome.failed_runs, outcome.runs) if outcome.runs else None,
        classes=outcome.errors,
        names=sorted(outcome.failed),
        words=own or outcome.first_words,
    )


def _listed(assets: Sequence[dg.AssetKey]) -> str:
    names = sorted(asset.to_user_string() for asset in assets)
    more = len(names) - _SHOWN_ASSETS
    shown = ", ".join(names[:_SHOWN_ASSETS])
    return f"{shown}{f' and {more} more' if more > 0 else ''}" if names else "a job"
