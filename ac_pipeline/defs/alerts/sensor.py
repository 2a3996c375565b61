"""The alerts sensor: says once what changed for the worse or the better, in the log of the tick and to a webhook, whose
address is itself a secret: it lets anybody post (ACCT-5). A message that the webhook does not take is in the log alone;
the next change of its subject is told."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import dagster as dg
import httpx
from pydantic import SecretStr

from ac_pipeline.bounds import Limit, OverLimit, within
from ac_pipeline.defs.alerts.messages import GOES_ON, Memory, SubjectStatus, decide, read_cursor
from ac_pipeline.defs.alerts.runs import REMEMBERED, RunStatuses
from ac_pipeline.defs.alerts.ticks_and_checks import automation, look_at_checks, look_at_daemons, look_at_ticks
from ac_pipeline.errors import Misconfigured, PipelineError, ServerFailed, ServiceUnreachable
from ac_pipeline.proxies import through
from ac_pipeline.redaction import Redactor
from ac_pipeline.settings import load_settings

NAME: Final = "alerts_sensor"
INTERVAL_SECONDS: Final = 30
ASLEEP_SECONDS: Final = 10.0 * INTERVAL_SECONDS
"""Without a tick of our own for so long, we slept: Dagster was down, or the sensor off."""
HOLD_SECONDS: Final = 3_600.0  # While runs go on, new quarantined items are told once an hour at most, not once a run

ALERTS: Final = "alerts"  # Key of the resource; tests put one of their own in its place
MESSAGE_SECONDS: Final = 10.0
DELIVERY_SECONDS: Final = 25.0
"""For one message, and for all of one tick, which has 60 seconds (Dagster facts, "Sensors, automation, pools")."""


class Webhook:
    """An incoming webhook. `url`: the address; in no error, log or repr. `budget_seconds`: for all messages together;
    what does not fit is refused at once. `transport`: how it is reached; directly when None. `clock`: seconds that only
    grow."""

    def __init__(
        self,
        url: SecretStr,
        budget_seconds: float,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._clock, self._ends = url, clock, clock() + budget_seconds
        self._http = httpx.Client(transport=transport, trust_env=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Deliver one message. Raises Transient: it was not delivered, and may be later; Misconfigured: the receiver
        refuses it, for the address or its rights are wrong."""
        limit = Limit("TIMEOUT", min(MESSAGE_SECONDS, self._ends - self._clock()), 1)
        if limit.seconds <= 0:
            raise ServiceUnreachable("The alert webhook was not asked: the time of this tick is used up.")
        error: PipelineError
        logging.getLogger("httpx").addFilter(_no_requests)
        try:
            post = self._http.stream("POST", self._url.get_secret_value(), json=dict(payload), timeout=limit.seconds)
            with within(limit), post as answer:
                said = b"".join(limit.watch(answer.iter_bytes())).decode("utf-8", "replace").strip()
        except OverLimit:
            error = ServiceUnreachable("The alert webhook does not come to the end of its answer.")
        except (httpx.HTTPError, httpx.InvalidURL) as trouble:
            # Their words and their traceback may hold the address: only the kind of trouble is told.
            kind = type(trouble).__name__
            error = ServiceUnreachable(f"The alert webhook does not answer{through(trouble)} ({kind}).")
        else:
            if answer.is_success:
                return
            error = _refusal(answer.status_code, said)
        finally:
            logging.getLogger("httpx").removeFilter(_no_requests)
        raise error

    def close(self) -> None:
        self._http.close()


def _no_requests(record: logging.LogRecord) -> bool:
    """httpx logs every request with its address, at level INFO."""
    return False


def _refusal(status: int, said: str) -> PipelineError:
    # Slack says one word, such as `invalid_payload`. Whole sentences of others may quote the address.
    word = f": {said}" if re.fullmatch(r"[a-z_]{1,40}", said) else ""
    message = f"The alert webhook answered {status}{word}."
    if status >= 500 or status in {408, 425, 429}:
        return ServerFailed(message, status=status)
    return Misconfigured(f"{message} Check AC_ALERT_WEBHOOK_URL.", status=status)


@dataclass(frozen=True, slots=True)
class AlertDelivery:
    """How the alerts of one tick leave."""

    base_url: str | None  # Of the UI, for links; None leaves paths
    redact: Callable[[str], str]  # Removes secrets from a text
    webhook: Webhook | None  # Where messages are posted, or None for the log alone


@dg.resource(description="Where alerts go: AC_ALERT_WEBHOOK_URL, with links to AC_DAGSTER_URL.")
def alerts_resource(_: dg.InitResourceContext) -> Iterator[AlertDelivery]:
    """The way out of one tick's alerts."""
    settings = load_settings()
    url, webhook = settings.ac_alert_webhook_url, None
    if url is not None:
        webhook = Webhook(url, DELIVERY_SECONDS, transport=settings.proxies.transport(httpx.Limits()))
    yield AlertDelivery(settings.ac_dagster_url, Redactor(settings.secrets()), webhook)
    if webhook is not None:
        webhook.close()


@dg.sensor(
    name=NAME,
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Says once, in its log and to the webhook of AC_ALERT_WEBHOOK_URL, when a backfill, the runs or "
    "the ticks of a schedule or sensor, a daemon or a check fails, and once when it is well again. It watches "
    "everything but itself.",
)
def alerts_sensor(context: dg.SensorEvaluationContext, alerts: dg.ResourceParam[AlertDelivery]) -> dg.SensorResult:
    """One look."""
    now, repository = time.time(), context.repository_def
    checks = repository.asset_graph.asset_check_keys if repository is not None else ()
    memory, new = look(context.instance, checks, read_cursor(context.cursor), now)
    for alert in new:
        level = logging.ERROR if alert.level else logging.WARNING
        context.log.log(level, alert.text(now, alerts.base_url, alerts.redact))
        try:
            if alerts.webhook is not None:
                alerts.webhook.send(alert.payload(now, alerts.base_url, alerts.redact))
        except PipelineError as error:
            trouble = f"This message stands here alone, the webhook did not take it: {alerts.redact(error.message)}"
            context.log.log(logging.ERROR, trouble)  # without the traceback
    said = f"Messages: {len(new)}." if new else "Nothing has changed."
    return dg.SensorResult(cursor=memory.cursor(), skip_reason=dg.SkipReason(said))


def look(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], memory: Memory | None, now: float
) -> tuple[Memory, list[SubjectStatus]]:
    """One look at everything: what to remember, and the subjects that are worth a message. `checks` are those of the
    code location; `memory` is what the last look left, None at the first one, which says nothing, for history is not
    replayed; `now` is in epoch seconds."""
    before = memory or Memory(begun=now, looked_at=now, ticked=now, awake=now)
    if now - before.ticked > ASLEEP_SECONDS:
        before = replace(before, awake=now)
    watched = automation(instance, apart_from={NAME})
    runs = RunStatuses(instance, before, {each.subject: each.page for each in watched}, now)
    statuses = [*runs.look(), *look_at_ticks(instance, watched, before, now), *look_at_daemons(instance, before, now)]
    hold_back = GOES_ON in runs.run_sets.values() and now - before.checked < HOLD_SECONDS
    statuses += look_at_checks(instance, checks, before.known, hold_back=hold_back)
    known, alerts = decide(before.known, statuses, now, silent=memory is None)
    # Of subjects that come and go, the newest; a sensor or check is one of few.
    passing = sorted((name for name, each in known.items() if each.about), key=lambda name: known[name].since)
    after = replace(
        before,
        looked_at=runs.looked_at,
        ticked=now,
        checked=before.checked if hold_back else now,
        backfills_seen=runs.backfills_seen,
        run_sets=runs.run_sets,
        known={name: each for name, each in known.items() if name not in passing[:-REMEMBERED]},
    )
    return after, alerts
