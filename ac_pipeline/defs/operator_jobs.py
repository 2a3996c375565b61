"""Jobs made from operations: a launchpad from the parameters, the report as the run's answer. One that is launched as
it is writes nothing: `dry_run` is true where no confirmation is asked for. A preview is a green run that says what to
launch; a run is red only when something went wrong. A report holds no secret (ACCT-5)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import dagster as dg
from pydantic import Field, create_model

from ac_pipeline.defs.alerts.messages import listed
from ac_pipeline.defs.assets.catalog import OPERATIONS_GROUP, OWNERS, records_key
from ac_pipeline.defs.metadata import Metadata, dagster_failures, fitted_table
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.declare import Declaration, Report, Table, Work, wrong_confirmation
from ac_pipeline.operations.parameters import Parameters, hint

ROWS: Final = 500  # Rows of a table in one event: an event is kept for good. The command line lists all of them.

KIND: Final = {"kind": "operator"}  # Tag of these jobs, by which the UI finds them and their runs

OPERATION, USER, DRY_RUN = "ac_pipeline/operation", "ac_pipeline/user", "ac_pipeline/dry_run"
"""Tags of a run of an operator's job."""
_TAGGED_USERS: Final = 5

_TELL_EACH: Final = 25  # Things done between two lines of the log


def job_of(operation: Declaration[Any]) -> dg.JobDefinition:
    config_type = _config_of(operation)

    def work(context: Any, config: Any, pipeline: Any) -> None:
        with dagster_failures():
            parameters = operation.parse(config.model_dump())
            tag_run(context, operation.command or operation.job, _named_users(parameters))
            using = work_of(context, pipeline)
            report = operation.run(using, parameters)
        preview = report.confirm is not None or bool(getattr(parameters, "dry_run", False))
        if hasattr(parameters, "dry_run") or hasattr(parameters, "confirm"):
            tag_run(context, operation.command or operation.job, dry_run=preview)
        conclude(context, using, operation, parameters, report)

    work.__annotations__ = {
        "context": dg.OpExecutionContext,
        "config": config_type,
        "pipeline": dg.ResourceParam[PipelineResource],
        "return": None,
    }
    made = dg.op(name=operation.op, description=operation.help, out=dg.Out(dg.Nothing))(work)

    @dg.job(
        name=operation.job,
        tags=KIND,
        description=f"{operation.help}\n\n"
        + (f"The same as `ac-pipeline {operation.command}`. " if operation.command else "")
        + f"Its answer: [{answer_key(operation).to_user_string()}](/assets/{answer_key(operation).to_user_string()}).",
    )
    def job() -> None:
        made()

    return job


def answer_key(operation: Declaration[Any]) -> dg.AssetKey:
    """The asset whose materialisations are the answers of an operation's job, one for each launch."""
    return dg.AssetKey(["operations", operation.asset or operation.job])


def assets_of(operations: Iterable[Declaration[Any]]) -> Iterator[dg.AssetSpec]:
    """The assets whose materialisations show what these operations answer."""
    for each in operations:
        if each.job:
            yield answer_asset(
                answer_key(each), f"What the job `{each.job}` answers: each materialisation is one launch. {each.help}"
            )


def answer_asset(key: dg.AssetKey, description: str, group: str = OPERATIONS_GROUP, **more: Any) -> dg.AssetSpec:
    return dg.AssetSpec(key, group_name=group, owners=OWNERS, kinds={"report"}, description=description, **more)


def tag_run(
    context: dg.OpExecutionContext, operation: str, users: Sequence[str] = (), dry_run: bool | None = None
) -> None:
    """Let the list of runs say what a run does, to whom, and whether it only says what it would do."""
    tags = {OPERATION: operation}
    if users:
        tags[USER] = listed(users, _TAGGED_USERS)
    if dry_run is not None:
        tags[DRY_RUN] = str(dry_run).lower()
    context.instance.add_run_tags(context.run_id, tags)


def _named_users(parameters: Parameters) -> list[str]:
    """The users that any of the parameters names."""
    given = (getattr(parameters, name, None) for name in ("user", "users", "forget_user"))
    return [name for each in given if each for name in ([each] if isinstance(each, str) else each)]


def conclude(
    context: dg.OpExecutionContext, using: Work, operation: Declaration[Any], parameters: Parameters, report: Report
) -> None:
    """Show a report as the answer of a run: one sentence in its log, and a materialisation with its tables. Raises
    dg.Failure: something went wrong, or was confirmed with another number."""
    target = using.pipeline.settings.destination
    metadata: Metadata = dict(report.facts)
    for each in report.tables:
        metadata.update(table_metadata(each))
    if report.left_out:
        rows = ((each.user, each.message) for each in report.left_out)
        metadata.update(table_metadata(Table.of("left_out", ("user", "message"), rows)))
    sentence = " ".join([report.headline, *report.lines])
    if report.confirm is not None:
        metadata["confirm"] = report.confirm
        off = " and dry_run off" if getattr(parameters, "dry_run", False) else ""
        sentence += f" Nothing was done. To do it on {target}, launch again with confirm {report.confirm}{off}."
        given = wrong_confirmation(parameters, report)
        if given is not None:
            raise dg.Failure(f"{given} is not {report.confirm}. {sentence}", metadata, allow_retries=False)
    for (user, type_), shown in report.touched.items():
        key = records_key(media_type(type_))
        context.log_event(
            dg.AssetObservation(key, partition=user, metadata={**dict[str, Any](shown), "job": context.job_name})
        )
    unread = sum(each.failed for each in report.left_out)
    if unread:
        sentence = f"{unread} users could not be looked at: see the tables, and launch again. {sentence}"
    if report.failed or unread:
        raise dg.Failure(sentence, metadata, allow_retries=False)
    context.log.info(sentence)
    answer: Metadata = {"answer": sentence, **metadata, "target": target}
    context.log_event(dg.AssetMaterialization(answer_key(operation), description=sentence, metadata=answer))


def table_metadata(table: Table) -> Metadata:
    """A table's first rows, and how many it does not show; nothing without rows."""
    if not table.count:
        return {}
    rows = [{name: _cell(row.get(name)) for name in table.columns} for row in islice(table, ROWS)]
    made: Metadata = {table.name: fitted_table(rows, table.columns)}
    if table.count > len(rows):
        made[f"{table.name}_not_shown"] = table.count - len(rows)
    return made


def _config_of(operation: Declaration[Any]) -> type[dg.Config]:
    """The launchpad's fields: a dry run is usual, and of a number to confirm -1, so that the field is seen."""
    fields: dict[str, Any] = {}
    for name, info in operation.parameters.model_fields.items():
        usual = info.default
        if name == "dry_run":
            usual = "confirm" not in operation.parameters.model_fields
        elif name == "confirm" and usual is None:
            usual = -1
        choices = hint(info, "choices")
        said = [info.description or "", *([f"One of {', '.join(choices)}."] if choices else [])]
        fields[name] = (info.annotation, Field(usual, description=" ".join(filter(None, said))))
    return create_model(f"{operation.job}_config", __base__=dg.Config, **fields)


def work_of(context: dg.OpExecutionContext, pipeline: PipelineResource) -> Work:
    """What an operation works with in a run of Dagster."""

    def told(what: str, done: int, total: int) -> None:
        if done and (done % _TELL_EACH == 0 or done == total):
            context.log.info(f"{what}: {done} of {total}.")

    return Work(pipeline.open(), context.run_id, told, context.log.info)


def _cell(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, int | float | bool):
        return value
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
