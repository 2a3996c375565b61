"""How sensors, schedules, daemons and checks stand, for `decide` to compare. The sensor that sends alerts does not look
at itself, and what stops all of them (the daemon process, the code location) has to be watched from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.alerts.messages import Known, Memory, SubjectStatus
from ac_pipeline.defs.alerts.runs import innermost
from ac_pipeline.defs.metadata import unbroken

FAILED_TICKS: Final = {"sensor": 2, "schedule": 1}
"""Failed ticks in a row that are worth a message: a sensor looks again within a minute, a schedule perhaps tomorrow."""
FAILING_SECONDS: Final = {"sensor": 30.0, "schedule": 0.0}
"""For how long they have to fail: a sensor of 5 seconds may find a service restarting several times."""
MISSED: Final = 5
"""Intervals without a tick after which a sensor is silent. A schedule is when it missed two of its times."""
LEAST_SILENCE_SECONDS: Final = 300.0
"""No sensor is called silent earlier: a busy machine delays ticks, and a code location takes its time to load."""
DAEMON_SILENCE_SECONDS: Final = 600.0  # Without a heartbeat of one of Dagster's daemons; they beat every 30 seconds

_TICKS_READ: Final = 20
_FAILURE: Final = "FAILURE"
_COMPLETED: Final = {_FAILURE, "SUCCESS", "SKIPPED"}
_STARTED: Final = {"sensor": "last_sensor_start_timestamp", "schedule": "start_timestamp"}
_DEFAULT_INTERVAL: Final = 30.0
_DAEMONS: Final = {
    "SENSOR": "sensors",
    "SCHEDULER": "schedules",
    "BACKFILL": "backfills",
    "QUEUED_RUN_COORDINATOR": "the queue of runs",
    "MONITORING": "runs whose process died",
    "EVENT_LOG_CONSUMER": "retries of runs",
}


@dataclass(frozen=True, slots=True)
class Automation:
    """A sensor or schedule that was ever turned on, with its page in the UI and its state in the instance."""

    kind: str
    name: str
    page: str
    state: Any

    @property
    def subject(self) -> str:
        return f"{self.kind}:{self.name}"


def automation(instance: dg.DagsterInstance, apart_from: Collection[str]) -> list[Automation]:
    """Every sensor and schedule that was ever turned on, but those of these names."""
    found = []
    for state in instance.all_instigator_state():
        kind, name = state.instigator_type.value.lower(), state.instigator_name
        if kind in FAILED_TICKS and name not in apart_from:
            page = f"/locations/{state.repository_selector.location_name}/{kind}s/{name}"
            found.append(Automation(kind, name, page, state))
    return found


def look_at_ticks(
    instance: dg.DagsterInstance, found: Iterable[Automation], memory: Memory, now: float
) -> Iterator[SubjectStatus]:
    """The sensors and schedules whose ticks fail, that do not tick, and that are well at `now`, in epoch seconds. Ticks
    before the beginning of the memory are history."""
    for each in found:
        called, failing, silent = f"{each.kind} {each.name}", f"{each.subject}:ticks", f"{each.subject}:silence"
        if not each.state.is_running:
            # A person turned it off: that is no failure, and what was wrong with it is settled.
            for subject in (failing, silent):
                yield SubjectStatus(subject, 0, called, "is turned off", each.page, quiet=True)
            continue
        where = (each.state.instigator_origin_id, each.state.selector_id)
        ticks = instance.get_tick_summaries(*where, limit=_TICKS_READ)
        done = [tick for tick in ticks if tick.status.value in _COMPLETED and tick.timestamp >= memory.begun]
        failed = list(takewhile(lambda tick: tick.status.value == _FAILURE, done))
        since = failed[-1].timestamp if failed else now
        if len(failed) >= FAILED_TICKS[each.kind] and now - since >= FAILING_SECONDS[each.kind]:
            newest = instance.get_ticks(*where, statuses=[failed[0].status], limit=1)
            words = innermost(newest[0].error) if newest else ""
            yield SubjectStatus(failing, 1, f"Ticks of the {called}", "fail", each.page, since=since, words=words)
        elif done and not failed:
            yield SubjectStatus(failing, 0, f"Ticks of the {called}", "succeed again", each.page)
        started = getattr(each.state.instigator_data, _STARTED[each.kind], None) or 0.0
        last = max([memory.awake, started, *(tick.timestamp for tick in ticks)])
        quiet = now - last > _allowed_silence(each, now)
        said = "is on and does not tick" if quiet else "ticks again"
        yield SubjectStatus(silent, int(quiet), called.capitalize(), said, each.page, since=last)


def look_at_daemons(instance: dg.DagsterInstance, memory: Memory, now: float) -> Iterator[SubjectStatus]:
    """Each of Dagster's daemons, at work or not. The one for sensors is, as it is the one that asks."""
    for kind, status in instance.get_daemon_statuses().items():
        if kind not in _DAEMONS or not status.required:
            continue
        beat = status.last_heartbeat.timestamp if status.last_heartbeat is not None else 0.0
        last = max(beat, memory.awake)
        quiet = now - last > DAEMON_SILENCE_SECONDS
        said = "has stopped: nothing of it happens until Dagster is restarted" if quiet else "is at work again"
        what = f"Dagster's daemon for {_DAEMONS[kind]}"
        yield SubjectStatus(f"daemon:{kind}", int(quiet), what, said, "/deployment/daemons", since=last)


def look_at_checks(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], known: Mapping[str, Known], *, hold_back: bool
) -> Iterator[SubjectStatus]:
    """Failed checks by how many items they count. With `hold_back` those that are worse than what is known wait: each
    run of a backfill may raise the count."""
    for key in sorted(checks, key=lambda key: (key.asset_key.to_user_string(), key.name)):
        record = instance.get_latest_asset_check_evaluation_record(key)
        event = record.event.dagster_event if record is not None and record.event is not None else None
        if event is None or event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        subject = f"check:{key.asset_key.to_user_string()}:{key.name}"
        before = known.get(subject)
        status = _check(subject, key, event.asset_check_evaluation_data, before)
        if not hold_back or status.level <= (before.level if before is not None else 0):
            yield status


def _check(subject: str, key: dg.AssetCheckKey, found: dg.AssetCheckEvaluation, before: Known | None) -> SubjectStatus:
    asset = key.asset_key.to_user_string()
    what, page = f"Check {key.name} of {asset}", f"/assets/{asset}?view=checks"
    if found.passed or found.severity is not dg.AssetCheckSeverity.ERROR:
        return SubjectStatus(subject, 0, what, "passes again" if found.passed else "only warns now", page)
    values: dict[str, Any] = {name: value.value for name, value in found.metadata.items()}
    count = values.get("quarantined", 1)
    level = count if isinstance(count, int) else 1
    said = "failed"
    if "quarantined" in values:
        new = f", {level - before.level} of them new" if before is not None else ""
        said = f"counts {level} quarantined {'item' if level == 1 else 'items'}{new}"
    elif values.get("blocked"):  # however many accounts are blocked, and become it later: one event (SEEN-1)
        said = f"counts {values['blocked']} blocked accounts of {values.get('accounts')}"
    table = values.get("items") or values.get("blocked_accounts")
    rows = table.records if isinstance(table, dg.TableMetadataValue) else ()
    return SubjectStatus(
        subject,
        level,
        what,
        said,
        page,
        classes=values.get("error_classes") or {},
        names=[unbroken(f"{row.data.get('user', '')} {row.data.get('item', '')}").strip() for row in rows],
        words=next(
            (unbroken(f"{row.data.get('class')}: {row.data.get('message')}") for row in rows), found.description or ""
        ),
    )


def _allowed_silence(each: Automation, now: float) -> float:
    """Seconds without a tick that are as they should be."""
    data = each.state.instigator_data
    if each.kind == "sensor":
        return max(MISSED * float(data.min_interval or _DEFAULT_INTERVAL), LEAST_SILENCE_SECONDS) if data else now
    lines = [data.cron_schedule] if isinstance(data.cron_schedule, str) else list(data.cron_schedule)
    return min(now - _missed_time(line, now) for line in lines)


def _missed_time(cron: str, now: float) -> float:
    """A time of a cron line so long ago that, without a tick since, two times of it are missed."""
    times = dg.TimeWindowPartitionsDefinition(
        start=datetime(2020, 1, 1, tzinfo=UTC), cron_schedule=cron, fmt="%Y%m%d%H%M"
    )
    # The span between the last two times of the line; the newer one is given some minutes before it counts as missed.
    latest = datetime.fromtimestamp(now - LEAST_SILENCE_SECONDS, UTC)
    span = times.get_prev_partition_window(latest, respect_bounds=False)
    return span.start.timestamp() if span is not None else 0.0
