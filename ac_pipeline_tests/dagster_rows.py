"""Rows that Dagster's daemon writes, made through Dagster's own deserialiser and stored in a real instance.

For tests that need a backfill, a turned-on sensor or a tick as they are stored, without a daemon.
"""

from __future__ import annotations

import json
import re
from typing import Any

import dagster as dg

from ac_pipeline.defs.metadata import unbroken


def _error(words: str) -> dict[str, Any]:
    inner = {"__class__": "SerializableErrorInfo", "message": f"{words}\n", "stack": ["a line"], "cls_name": "E"}
    outer = {"message": "Error occurred during the execution of evaluation_fn", "stack": [], "cls_name": "DagsterError"}
    return {"__class__": "SerializableErrorInfo", "cause": {**inner, "cause": None, "context": None}, **outer}


def backfill(
    id: str,
    status: str,
    assets: list[dg.AssetKey],
    *,
    begun: float,
    ended: float | None = None,
    error: str = "",
    **tags: str,
) -> Any:
    """A backfill of these assets; its runs carry the tag `dagster/backfill`."""
    return dg.deserialize_value(
        json.dumps(
            {
                "__class__": "PartitionBackfill",
                "backfill_id": id,
                "status": {"__enum__": f"BulkActionStatus.{status}"},
                "from_failure": False,
                "tags": {f"dagster/{name}": value for name, value in tags.items()},
                "backfill_timestamp": begun,
                "backfill_end_timestamp": ended,
                "asset_selection": [{"__class__": "AssetKey", "path": list(key.path)} for key in assets],
                "error": _error(error) if error else None,
            }
        )
    )


def automatic(kind: str, name: str, *, running: bool, since: float, interval: int = 60, cron: str = "0 * * * *") -> Any:
    """A sensor or schedule as the instance keeps it once it was turned on."""
    data = (
        {"__class__": "SensorInstigatorData", "min_interval": interval, "last_sensor_start_timestamp": since}
        if kind == "sensor"
        else {"__class__": "ScheduleInstigatorData", "cron_schedule": cron, "start_timestamp": since}
    )
    location = {
        "__class__": "GrpcServerRepositoryLocationOrigin", "host": "localhost", "port": 1, "socket": None,
        "location_name": "ac_pipeline",
    }  # fmt: skip
    repository = {"repository_location_origin": location, "repository_name": "__repository__"}
    return dg.deserialize_value(
        json.dumps(
            {
                "__class__": "InstigatorState",
                "job_specific_data": data,
                "job_type": {"__enum__": f"InstigatorType.{kind.upper()}"},
                "origin": {
                    "__class__": "ExternalJobOrigin",
                    "external_repository_origin": {"__class__": "ExternalRepositoryOrigin", **repository},
                    "job_name": name,
                },
                "status": {"__enum__": f"InstigatorStatus.{'RUNNING' if running else 'STOPPED'}"},
            }
        )
    )


def tick(state: Any, status: str, at: float, error: str = "") -> Any:
    """A tick of a sensor or schedule."""
    return dg.deserialize_value(
        json.dumps(
            {
                "__class__": "TickData",
                "job_origin_id": state.instigator_origin_id,
                "job_name": state.instigator_name,
                "job_type": {"__enum__": f"InstigatorType.{state.instigator_type.value}"},
                "selector_id": state.selector_id,
                "status": {"__enum__": f"TickStatus.{status}"},
                "timestamp": at,
                "run_ids": [],
                "error": _error(error) if error else None,
            }
        )
    )


def heartbeat(daemon: str, at: float) -> Any:
    """A sign of life of one of Dagster's daemons."""
    return dg.deserialize_value(
        json.dumps(
            {
                "__class__": "DaemonHeartbeat",
                "timestamp": at,
                "daemon_type": daemon,
                "daemon_id": "one",
                "errors": [],
            }
        )
    )


def said(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the materialisation that is a run's answer, or of its failure; tables as lists of rows."""
    answers = [event for event in result.all_events if event.is_step_materialization]
    for event in answers:
        if event.asset_key is not None and event.asset_key.path[0] == "operations":
            return plain(event.step_materialization_data.materialization.metadata)
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.user_failure_data is not None:
            return plain(event.step_failure_data.user_failure_data.metadata)
    raise AssertionError("no answer and no failure")


def sentence(result: dg.ExecuteInProcessResult) -> str:
    """What a failed run says."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None
    return str(event.step_failure_data.user_failure_data.description)


def cells_of(table: dg.TableMetadataValue) -> list[dict[str, Any]]:
    """The rows of a table, without the marks at which the UI may break their words; what stands by name in a last
    column, for want of room, as columns of text."""
    rows = [
        {column: unbroken(cell) if isinstance(cell, str) else cell for column, cell in record.data.items()}
        for record in table.records
    ]
    for row in rows:
        row |= dict(re.findall(r"(\w+): (.*?)(?:; (?=\w+: )|$)", str(row.pop("more", ""))))
    return rows


def plain(metadata: Any) -> dict[str, Any]:
    """Metadata as values, tables as lists of rows."""
    return {
        name: cells_of(value) if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in metadata.items()
    }
