"""A Dagster instance with partition keys, and runs of the real definitions over all or some of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, RENDITIONS, USERS, records_key
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

RECORDS = [records_key(media) for media in MEDIA_TYPES]
THUMBNAILS = next(iter(RENDITIONS))
PAINTINGS = records_key(media_type("painting"))
MOODS = records_key(media_type("mood"))


class _Stage:
    """Stands in the definitions for whatever mirror the test at work has."""

    mirror: ScriptedMirror

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mirror, name)


_STAGE = _Stage()


@cache
def _definitions() -> tuple[dg.Definitions, dg.JobDefinition]:
    """Built once: that takes longer than a run."""
    definitions = build_defs({"pipeline": _STAGE}, retry_seconds=0)
    return definitions, definitions.resolve_implicit_global_asset_job_def()


class Site:
    """A Dagster instance with keys, and runs over all of them."""

    def __init__(self, instance: dg.DagsterInstance, mirror: ScriptedMirror, keys: list[str]) -> None:
        self.instance, self.mirror, self.keys = instance, mirror, keys
        instance.add_dynamic_partitions(USERS, keys)
        _STAGE.mirror = mirror
        self.definitions, self.job = _definitions()

    def run(self, *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(
            instance=self.instance,
            asset_selection=list(assets),
            tags={RANGE_START: self.keys[0], RANGE_END: self.keys[-1]},
            raise_on_error=False,
        )

    def run_one(self, key: str, *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(
            instance=self.instance, asset_selection=list(assets), partition_key=key, raise_on_error=False
        )

    def launch(self, job: str, config: Mapping[str, Any]) -> dg.ExecuteInProcessResult:
        """Run an op job of one op."""
        definition = self.definitions.resolve_job_def(job)
        (op,) = definition.nodes
        return definition.execute_in_process(
            instance=self.instance, run_config={"ops": {op.name: {"config": dict(config)}}}, raise_on_error=False
        )

    def check(self, asset: dg.AssetKey, name: str) -> dg.AssetCheckEvaluation:
        """The last result of a check, as the UI shows it."""
        key = dg.AssetCheckKey(asset, name)
        (record,) = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.evaluation is not None, record.status
        return record.evaluation

    def green(self, asset: dg.AssetKey) -> set[str]:
        return set(self.instance.get_materialized_partitions(asset))

    def said(self, asset: dg.AssetKey, key: str) -> dict[str, Any]:
        """Metadata of the last materialisation of a partition."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1
        ).records
        made = records[0].asset_materialization
        assert made is not None
        return {name: value.value for name, value in made.metadata.items()}

    def version(self, asset: dg.AssetKey, key: str) -> str | None:
        """Data version of the last observation of a partition."""
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
        seen = self.instance.fetch_observations(wanted, limit=1).records[0].asset_observation
        assert seen is not None
        return (seen.tags or {}).get("dagster/data_version")

    def observed(self, asset: dg.AssetKey) -> dict[str, dict[str, Any]]:
        """Partition -> metadata of its last observation."""
        records = self.instance.fetch_observations(dg.AssetRecordsFilter(asset_key=asset), limit=100).records
        found: dict[str, dict[str, Any]] = {}
        for record in records:
            seen = record.asset_observation
            assert seen is not None
            found.setdefault(str(seen.partition), {name: value.value for name, value in seen.metadata.items()})
        return found


KEYS = ["ada", "bea", "cyd", "dan"]
