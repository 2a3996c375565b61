"""The code location: puts the definitions together. Nothing is decided or connected here.

Of the settings only the timetable of the schedules matters when it loads, which names no database.
"""

import sys
from collections.abc import Mapping
from multiprocessing import parent_process
from typing import Any

import dagster as dg

from ac_pipeline.defs.alerts.sensor import alerts_sensor
from ac_pipeline.defs.assets.catalog import source_assets
from ac_pipeline.defs.assets.changed_users import changed_users_job
from ac_pipeline.defs.assets.records import record_assets
from ac_pipeline.defs.assets.renditions import rendition_assets
from ac_pipeline.defs.jobs import sync_users
from ac_pipeline.defs.operator_jobs import assets_of, job_of
from ac_pipeline.defs.policies import RETRY_SECONDS
from ac_pipeline.defs.resources import (
    ALERTS,
    PIPELINE,
    alerts_resource,
    pipeline_resource,
)
from ac_pipeline.defs.retries import retry_items
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.defs.schedules import schedules
from ac_pipeline.defs.sensors.abandoned import abandoned_runs_sensor
from ac_pipeline.defs.sensors.content import make_content_sensor
from ac_pipeline.defs.sensors.drift import make_drift_sensor
from ac_pipeline.defs.sensors.users import users_sensor
from ac_pipeline.defs.verification import verify_users
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.catalog import operations
from ac_pipeline.settings import Timetable, load_settings, load_timetable


def where_runs_write() -> str:
    """Which PDS and which database, or why none."""
    try:
        return f"runs work on {load_settings().destination}."
    except Misconfigured as error:
        return f"runs cannot work: {error.message}"


def build_defs(
    overrides: Mapping[str, Any] | None = None,
    *,
    retry_seconds: float = RETRY_SECONDS,
    timetable: Timetable | None = None,
) -> dg.Definitions:
    """All definitions.

    Args:
        overrides: Resources in place of the real ones, by key.
        retry_seconds: Before the first retry of a step.
        timetable: When the schedules tick; as the environment and .env name it when None.

    Raises:
        Misconfigured: The timetable is wrong.
    """
    real = {
        PIPELINE: pipeline_resource,
        ALERTS: alerts_resource,
    }
    resources = {**real, **(overrides or {})}
    changed_users = changed_users_job(resources[PIPELINE], retry_seconds)
    return dg.Definitions(
        assets=[
            *source_assets(),
            *rendition_assets(retry_seconds),
            record_assets(retry_seconds),
            *assets_of(operations()),
        ],
        jobs=[
            sync_users,
            changed_users,
            retry_items,
            verify_users,
            *(job_of(each) for each in operations() if each.job),
        ],
        schedules=schedules(timetable or load_timetable()),
        sensors=[
            users_sensor,
            make_content_sensor(changed_users),
            make_drift_sensor(changed_users),
            alerts_sensor,
            abandoned_runs_sensor,
        ],
        resources=resources,
        executor=marked_in_process_executor,
    )


defs = build_defs()
if parent_process() is None:  # once for each code server, and not for each run
    sys.stderr.write(f"ac_pipeline: {where_runs_write()}\n")
