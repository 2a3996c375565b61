"""The alerts sensor: looks at the instance, and says once what changed for the worse or the better.

Messages stand in the log of the tick, and go to a webhook where one is set.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import dagster as dg

from ac_pipeline.defs.alerts.delivery import AlertDelivery
from ac_pipeline.defs.alerts.messages import Alert, Known, Memory, decide, read_cursor
from ac_pipeline.defs.alerts.runs import RunStatuses
from ac_pipeline.defs.alerts.ticks_and_checks import automation, look_at_checks, look_at_daemons, look_at_ticks

NAME: Final = "alerts_sensor"
INTERVAL_SECONDS: Final = 30
ASLEEP_SECONDS: Final = 10.0 * INTERVAL_SECONDS
"""Without a tick of our own for so long, we slept: Dagster was down, or the sensor off."""

REMEMBERED: Final = 60
"""Failed backfills and runs that are remembered until they are repaired."""


@dg.sensor(
    name=NAME,
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Says once, in its log and to the webhook of AC_ALERT_WEBHOOK_URL, when a backfill, the runs or "
    "the ticks of a schedule or sensor, a daemon or a check fails, and once when it is well again. It watches "
    "everything but itself.",
)
def alerts_sensor(context: dg.SensorEvaluationContext, alerts: dg.ResourceParam[AlertDelivery]) -> dg.SensorResult:
    """One look. What the webhook did not take is in the cursor, and is sent at the next tick."""
    repository = context.repository_def
    checks = repository.asset_graph.asset_check_keys if repository is not None else ()
    memory, new = look(context.instance, checks, read_cursor(context.cursor), time.time())
    for alert in new:
        level = logging.ERROR if alert.failed else logging.WARNING
        context.log.log(level, alert.text(alerts.base_url, alerts.redact))
    payloads = [alert.payload(alerts.base_url, alerts.redact) for alert in new]
    left, trouble = alerts.deliver([*memory.outbox, *payloads])
    if trouble is not None:
        context.log.error(f"Messages that wait for the next tick: {len(left)}. {alerts.redact(trouble)}")
    said = f"Messages: {len(new)}." if new else "Nothing has changed."
    return dg.SensorResult(cursor=replace(memory, outbox=left).cursor(), skip_reason=dg.SkipReason(said))


def look(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], memory: Memory | None, now: float
) -> tuple[Memory, list[Alert]]:
    """One look at everything.

    Args:
        checks: Asset checks of the code location.
        memory: What the last look left; None at the first one, which says nothing: history is not replayed.
        now: Epoch seconds.

    Returns:
        What to remember, and the messages.
    """
    before = memory or Memory(begun=now, looked_at=now, ticked=now, awake=now)
    if now - before.ticked > ASLEEP_SECONDS:
        before = replace(before, awake=now)
    watched = automation(instance, apart_from={NAME})
    runs = RunStatuses(instance, before, {each.subject: each.page for each in watched}, now, first=memory is None)
    statuses = list(runs.look())
    statuses += look_at_ticks(instance, watched, before, now)
    statuses += look_at_daemons(instance, before, now)
    found, held = look_at_checks(instance, checks, before, now, busy=runs.busy)
    known, alerts = decide(before.known, [*statuses, *found], now, silent=memory is None)
    after = replace(
        before,
        looked_at=runs.looked_at,
        ticked=now,
        backfills_seen=runs.backfills_seen,
        backfills=tuple(runs.backfills),
        run_sets=runs.run_sets,
        held=held,
        known=_bounded_known(known),
    )
    return after, alerts


def _bounded_known(known: Mapping[str, Known]) -> dict[str, Known]:
    """Of subjects that come and go, the newest; a sensor or check is one of few."""
    passing = [name for name, each in known.items() if each.about]
    forgotten = set(sorted(passing, key=lambda name: known[name].since)[:-REMEMBERED])
    return {name: each for name, each in known.items() if name not in forgotten}
