"""A Dagster instance with runs, rows of backfills and daemons, and one look of the alerts sensor after another."""

from __future__ import annotations

import time
from typing import Any

import dagster as dg

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.alerts.messages import Memory
from ac_pipeline.defs.alerts.sensor import look
from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START, RENDITIONS, USERS, records_key
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.dagster_rows import backfill, heartbeat
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

RECORDS = [records_key(media) for media in MEDIA_TYPES]
PAINTINGS = records_key(media_type("painting"))
THUMBNAILS = next(iter(RENDITIONS))
KEYS = ["ada", "bea", "cyd", "dan"]
DAEMONS = ("SENSOR", "BACKFILL", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER", "ASSET")


class Site:
    """An instance on disk, runs in it, and one look at it after another."""

    def __init__(self, instance: dg.DagsterInstance, keys: list[str]) -> None:
        self.instance, self.keys = instance, keys
        self.mirror = ScriptedMirror(*keys)
        self.memory: Memory | None = None
        self.ahead = 0.0
        self._began, self._readings = time.time(), 0
        instance.add_dynamic_partitions(USERS, keys)
        definitions = build_defs({"pipeline": self.mirror}, retry_seconds=0)
        self.everything = definitions.resolve_implicit_global_asset_job_def()
        self.changed = definitions.resolve_job_def(SYNC_CHANGED_USERS)
        self.sync = definitions.resolve_job_def(SYNC_USERS)
        self.repository = definitions.get_repository_def()
        self.checks = self.repository.asset_graph.asset_check_keys
        self.beat()

    @property
    def now(self) -> float:
        """A clock that stands still but for `ahead`, and for a millisecond at each reading, which keeps rows in order.

        Limits are met to the second however long a busy machine takes for what is between.
        """
        self._readings += 1
        return self._began + self._readings / 1000 + self.ahead

    def beat(self, *daemons: str) -> None:
        for daemon in daemons or DAEMONS:
            self.instance.add_daemon_heartbeat(heartbeat(daemon, self.now))

    def look(self) -> list[str]:
        """The headlines of one look."""
        return [alert.headline for alert in self.alerts()]

    def alerts(self) -> list[Any]:
        self.memory, alerts = look(self.instance, self.checks, self.memory, self.now)
        return alerts

    def run(
        self, *assets: dg.AssetKey, first: str | None = None, last: str | None = None, **tags: str
    ) -> dg.ExecuteInProcessResult:
        first, last = first or self.keys[0], last or self.keys[-1]
        which = {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}
        named = {f"dagster/{name}": value for name, value in tags.items()}
        return self.everything.execute_in_process(
            instance=self.instance,
            asset_selection=list(assets or (THUMBNAILS,)),
            tags={**which, **named},
            raise_on_error=False,
        )

    def fail(self, *keys: str, error: Exception | None = None) -> None:
        """Let the next run of these users fail, all attempts of it; without another error, at the first."""
        for key in keys:
            self.mirror.troubles.pop(key, None)
            self.mirror.trouble(key, *[error or KeyError("nobody foresaw this") for _ in range(4)])

    def heal(self) -> None:
        self.mirror.troubles.clear()

    def store(self, id: str, status: str, *assets: dg.AssetKey, ended: bool = True, **more: Any) -> None:
        row = backfill(id, status, list(assets), begun=self.now, ended=self.now if ended else None, **more)
        if self.instance.get_backfill(id) is None:
            self.instance.add_backfill(row)
        else:
            self.instance.update_backfill(row)
