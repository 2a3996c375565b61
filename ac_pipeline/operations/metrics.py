"""The mirror in numbers for Prometheus, by its own client library: the totals, what the PDS still lets through, and
what all runs together have asked for and spent.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.operations.plan import known_limits
from ac_pipeline.operations.totals import TypeTotals, mirror_totals
from ac_pipeline.sync.costs import WRITE_POINTS
from ac_pipeline.wiring import Pipeline

_PREFIX: Final = "ac_pipeline_"
_AGES: Final = {
    "oldest_pending_deletion_seconds": "Since when the record waits that is to go the longest; 0 without one.",
    "oldest_unmirrored_document_seconds": "Age of the oldest document that waits to be published; 0 without one.",
}
_SPENT: Final = {
    "bytes_uploaded": "Bytes sent to the PDS.",
    "bytes_downloaded": "Bytes read from the PDS.",
    "media_bytes_downloaded": "Bytes of source media read from object storage.",
    "encodings": "Runs of the encoder.",
    "encoding_seconds": "Seconds that the encoder ran.",
}
_log = logging.getLogger(__name__)


def metrics(pipeline: Pipeline) -> Iterator[Metric]:
    """Everything, counted now. Raises Transient: something could not be read."""
    totals, limits, spent = mirror_totals(pipeline), known_limits(pipeline), pipeline.counters.read()
    numbers = totals.numbers()
    for name in TypeTotals.__dataclass_fields__:
        by_type = ((type_, getattr(each, name)) for type_, each in totals.types.items())
        yield _gauge(name, f"Items of each type: {name}, as in the asset mirror/totals.", "type", by_type)
    yield _gauge("quarantined_by_class", "Quarantined items.", "error_class", totals.quarantined.items())
    yield _gauge("accounts", "Accounts by state.", "state", totals.accounts.items())
    yield _gauge("blocked_accounts", "Blocked accounts by reason.", "reason", totals.blocked_accounts.items())
    for name, help in _AGES.items():
        yield GaugeMetricFamily(_PREFIX + name, help, value=numbers[name])
    labels = ("limit", "seconds")
    allowed = GaugeMetricFamily(f"{_PREFIX}limit", "What a window of so many seconds lets through.", labels=labels)
    left = GaugeMetricFamily(f"{_PREFIX}limit_left", "What is left of it; of any user's, the least.", labels=labels)
    for name, each in limits.named():
        of_users = (mine for known in limits.spent.values() for mine in known if mine.seconds == each.seconds)
        known = [mine.left for mine in (of_users if name == WRITE_POINTS else [each]) if mine.left is not None]
        allowed.add_metric((name, f"{each.seconds:g}"), each.limit)
        left.add_metric((name, f"{each.seconds:g}"), min(known, default=each.limit))
    yield from (allowed, left)
    requests = CounterMetricFamily(f"{_PREFIX}pds_requests", "Requests to the PDS, every attempt.", labels=("kind",))
    for kind in pipeline.server.usage().requests:
        requests.add_metric((kind,), spent.get(kind, 0))
    yield requests
    for name, help in _SPENT.items():
        yield CounterMetricFamily(_PREFIX + name, help, value=spent.get(name, 0))


def _gauge(name: str, help: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(_PREFIX + name, help, labels=(label,))
    for value, number in values:
        made.add_metric((value,), number)
    return made


class Counts(Collector):
    """Counts when it is asked, and again once `every` seconds have gone by; `text` is Prometheus's format of it."""

    def __init__(self, pipeline: Pipeline, every: float) -> None:
        self._pipeline, self._every, self._lock = pipeline, every, Lock()
        self._found: list[Metric] = []
        self._due = 0.0

    def describe(self) -> list[Metric]:
        return []  # or registering would count

    def count(self) -> None:
        begun, self._found = time.monotonic(), []
        self._found = list(metrics(self._pipeline))
        self._due = begun + self._every

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            try:
                if time.monotonic() >= self._due:
                    self.count()
            except PipelineError as error:
                _log.warning("Nothing was counted: %s", error.message)
            yield GaugeMetricFamily(f"{_PREFIX}up", "1 if everything could be counted.", value=bool(self._found))
            yield from self._found

    def text(self) -> str:
        return generate_latest(self).decode()


def serve(counts: Counts, host: str, port: int) -> None:
    """Answer at `http://HOST:PORT/metrics` until Ctrl-C or SIGTERM. Raises Misconfigured: the address cannot be
    used."""
    registry = CollectorRegistry()
    registry.register(counts)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Misconfigured(f"{host}:{port} cannot be listened at: {error.strerror}.") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the first process of a container would ignore it
    try:
        thread.join()
    except KeyboardInterrupt:
        server.shutdown()
