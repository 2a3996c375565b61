"""The code location: puts the definitions together. Nothing is decided or connected here; of the settings only the
timetable of the schedules matters when it loads, which names no database."""

import sys
from collections.abc import Mapping
from multiprocessing import parent_process
from typing import Any

import dagster as dg

from ac_pipeline.defs.alerts.sensor import ALERTS, alerts_resource, alerts_sensor
from ac_pipeline.defs.assets.catalog import RETRY_SECONDS, source_assets
from ac_pipeline.defs.assets.records import changed_users_job, record_assets
from ac_pipeline.defs.assets.stage import rendition_assets
from ac_pipeline.defs.assets.totals import count_mirror, derived_assets, totals_sensor
from ac_pipeline.defs.jobs import sync_users
from ac_pipeline.defs.operator_jobs import assets_of, job_of
from ac_pipeline.defs.pipeline import PIPELINE, pipeline_resource
from ac_pipeline.defs.schedules import schedules
from ac_pipeline.defs.sensors.abandoned import abandoned_runs_sensor, marked_in_process_executor
from ac_pipeline.defs.sensors.content import make_content_sensor
from ac_pipeline.defs.sensors.drift import make_drift_sensor
from ac_pipeline.defs.sensors.users import users_sensor
from ac_pipeline.defs.user_jobs import retry_items, verification_asset, verify_users
from ac_pipeline.errors import Misconfigured
from ac_pipeline.logs import in_form, use_json
from ac_pipeline.operations.catalog import operations
from ac_pipeline.settings import Timetable, load_settings, load_timetable


def where_runs_write() -> str:
    """Which PDS and which database, or why none."""
    try:
        return f"runs work on {load_settings().destination}."
    except Misconfigured as error:
        return f"runs cannot work: {error.message}"


def build_defs(
    overrides: Mapping[str, Any] | None = None,  # Resources in place of the real ones, by key
    *,
    retry_seconds: float = RETRY_SECONDS,  # Before the first retry of a step
    timetable: Timetable | None = None,  # When the schedules tick; as the environment and .env name it when None
    # Of all jobs. With another one `abandoned_runs_sensor` knows of no process, and judges no run.
    executor: dg.ExecutorDefinition = marked_in_process_executor,
) -> dg.Definitions:
    """All definitions. Raises Misconfigured: the timetable is wrong."""
    resources = {PIPELINE: pipeline_resource, ALERTS: alerts_resource, **(overrides or {})}
    changed_users = changed_users_job(resources[PIPELINE], retry_seconds)
    reports = [*derived_assets(), *assets_of(operations()), verification_asset]
    operator_jobs = [job_of(each) for each in operations() if each.job]
    sync_sensors = [make_content_sensor(changed_users), make_drift_sensor(changed_users)]
    return dg.Definitions(
        assets=[*source_assets(), *rendition_assets(retry_seconds), record_assets(retry_seconds), *reports],
        jobs=[sync_users, changed_users, retry_items, verify_users, count_mirror, *operator_jobs],
        schedules=schedules(timetable or load_timetable()),
        sensors=[users_sensor, *sync_sensors, totals_sensor, alerts_sensor, abandoned_runs_sensor],
        resources=resources,
        executor=executor,
    )


defs = build_defs()
if load_timetable().ac_log_format == "json":
    use_json()
# Once for each code server, not for each run, which is its child, and not where somebody merely imports this.
if parent_process() is None and not {"grpc", "code-server"}.isdisjoint(sys.argv):
    sys.stderr.write(in_form(f"ac_pipeline: {where_runs_write()}") + "\n")
