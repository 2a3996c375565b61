"""A desk of the operators: their jobs, launched on ports in memory, and what the launches say."""

from __future__ import annotations

from functools import cache
from typing import Any

import dagster as dg

from ac_pipeline.definitions import build_defs
from ac_pipeline.errors import PipelineError
from ac_pipeline_tests.unit.defs.scripted_operator import ScriptedOperator
from ac_pipeline_tests.unit.defs.scripted_registrar import ScriptedRegistrar


class _StandIn:
    """Stands in the definitions for whatever port the test at work has."""

    port: object

    def __getattr__(self, name: str) -> Any:
        return getattr(self.port, name)


_OPERATOR, _REGISTRAR = _StandIn(), _StandIn()


@cache
def _definitions() -> dg.Definitions:
    """Built once: that takes longer than a run."""
    return build_defs({"operator": _OPERATOR, "registrar": _REGISTRAR}, retry_seconds=0)


class Desk:
    """An instance, the operators' ports in memory, and launches of their jobs."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.operator, self.registrar = instance, ScriptedOperator(), ScriptedRegistrar()
        _OPERATOR.port, _REGISTRAR.port = self.operator, self.registrar
        self.definitions = _definitions()

    @property
    def changes(self) -> list[tuple[object, ...]]:
        """What was asked to be changed, of either port."""
        return [*self.operator.changes, *self.registrar.changes]

    def fail(self, error: PipelineError) -> None:
        """Let every call of either port raise this."""
        self.operator.error = self.registrar.error = error

    def fields(self, job: str) -> set[str]:
        """Names of a job's config."""
        (op,) = self.definitions.resolve_job_def(job).nodes
        schema: Any = op.definition.config_schema
        return set(schema.config_type.fields)

    def launch(self, job: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        definition = self.definitions.resolve_job_def(job)
        (op,) = definition.nodes
        run_config = None if config is None else {"ops": {op.name: {"config": config}}}
        return definition.execute_in_process(instance=self.instance, run_config=run_config, raise_on_error=False)


def said(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the op's output, or of its failure; tables as lists of rows."""
    for event in result.all_events:
        if event.is_successful_output:
            return plain(event.step_output_data.metadata)
        if event.is_step_failure and event.step_failure_data.user_failure_data is not None:
            return plain(event.step_failure_data.user_failure_data.metadata)
    raise AssertionError("no output and no failure")


def sentence(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None
    return str(event.step_failure_data.user_failure_data.description)


def plain(metadata: Any) -> dict[str, Any]:
    return {
        name: [dict(record.data) for record in value.records]
        if isinstance(value, dg.TableMetadataValue)
        else value.value
        for name, value in metadata.items()
    }
