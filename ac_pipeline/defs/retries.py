"""The job `retry_items`: failed items once more, chosen in the launchpad. Which they are is `operations/retry.py`.

A retry is about items, a partition is a user's whole type. So each touched user and type gets an observation with what
came of its items; it is materialised only where a dry run afterwards proves that the whole partition is as it should
be, with the counts of that dry run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets.catalog import PDS, records_key
from ac_pipeline.defs.checks import check_events
from ac_pipeline.defs.metadata import (
    Metadata,
    Summary,
    account_metadata,
    dagster_failures,
    error_metadata,
    failure_of,
)
from ac_pipeline.defs.operator_jobs import tag_run
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.errors import ERROR_CLASSES, Misconfigured, PipelineError, Transient
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.parameters import item_name
from ac_pipeline.operations.retry import FAILED, AccountRetry, FailedItems, RetryPlan, in_order
from ac_pipeline.sync.selection import Selection

RETRY_ITEMS: Final = "retry_items"
RETRY_STEP: Final = "retry_failed_items"

_STATES: Final = ", ".join(state.value for state in FAILED)
_TYPES: Final = ", ".join(media.name for media in MEDIA_TYPES)


class RetryConfig(dg.Config):
    """Which failed items to run again: every field that is filled in narrows the choice."""

    items: list[str] = Field(
        default=[],
        description='Only these items, each as TYPE:CODE or TYPE:ID, for example ["painting:abc", "tape:xyz"].',
    )
    users: list[str] = Field(default=[], description="Only items of these users, by partition key.")
    types: list[str] = Field(default=[], description=f"Only items of these types: {_TYPES}.")
    error_class: str = Field(
        default="",
        description="Only items whose last error is of this class, as tables of failed items show it, for example "
        "source-missing.",
    )
    states: list[str] = Field(default=[], description=f"Only items in these states: {_STATES}. Empty: all three.")
    limit: int = Field(default=1_000, ge=1, description="At most so many items in all.")
    all_failed: bool = Field(
        default=False, description="Run every failed item of every user, where no other field says which."
    )


@dg.op(name=RETRY_STEP, pool=PDS, out=dg.Out(dg.Nothing))
def retry_failed_items(
    context: dg.OpExecutionContext, config: RetryConfig, pipeline: dg.ResourceParam[PipelineResource]
) -> None:
    """Run exactly the failed items that the config names, and say of each user and type what came of it.

    Raises:
        dg.Failure: Nothing is selected or a field is wrong; or some users have to be run again, or items failed again.
    """
    with dagster_failures():
        plan = pipeline.plan_retry(_wanted(config))
    tag_run(context, "retry", config.users or [retry.account.key for retry in plan.accounts])
    _log_plan(context, plan)
    summary, again = Summary(), Counter[str]()
    retries = {retry.account.key: retry for retry in plan.accounts}
    failures: dict[str, PipelineError] = {}
    with dagster_failures():
        for outcome in pipeline.retry(plan.accounts, context.run.run_id):
            if outcome.report.error is not None:
                failures[outcome.account.key] = outcome.report.error
            summary.add(outcome.report)
            retry = retries[outcome.account.key]
            asked = {f"{type_}:{document}" for type_, document in retry.selection.items or ()}
            again.update(
                each.error_class
                for each in outcome.report.failures
                if each.state is State.QUARANTINED and each.item in asked
            )
            _report(context, pipeline, outcome, retry)
    for event in check_events(pipeline, {media for retry in plan.accounts for media in retry.selection.types}):
        context.instance.report_runless_asset_event(event)
    types = [media.name for media in MEDIA_TYPES if media.name in summary.types]
    context.log.info(summary.sentence(types, failures))
    if failures:
        raise failure_of(failures, len(retries))
    if again:  # as the command ends with 1
        classes = ", ".join(f"{name} {number}" for name, number in again.most_common())
        raise dg.Failure(
            f"{again.total()} of {plan.items} items failed again ({classes}): their partitions and "
            "operations/failed_items say why.",
            {"error_classes": dg.MetadataValue.json(dict(again))},
            allow_retries=False,
        )


@dg.job(
    name=RETRY_ITEMS,
    description="Runs exactly the failed items that the launchpad names, quarantined ones too, and nothing else. "
    "Fill in at least one field; `all_failed` stands for everything.",
)
def retry_items() -> None:
    retry_failed_items()


def _wanted(config: RetryConfig) -> FailedItems:
    """The config as the pipeline's own words.

    Raises:
        Misconfigured: Nothing is selected, or a field holds what it cannot hold.
    """
    if not (config.items or config.users or config.types or config.error_class or config.all_failed):
        raise Misconfigured(
            "No item is selected, so nothing was done: fill in items, users, types or error_class in the launchpad, "
            "or set all_failed to true."
        )
    unknown = sorted(set(config.states) - {state.value for state in FAILED})
    if unknown:
        raise Misconfigured(f"{', '.join(unknown)} is no state of a failed item: the states are {_STATES}.")
    if config.error_class and config.error_class not in ERROR_CLASSES:
        raise Misconfigured(f"error_class: {config.error_class!r} is none of {', '.join(ERROR_CLASSES)}.")
    return FailedItems(
        Selection(
            types=tuple(media_type(name) for name in config.types) or MEDIA_TYPES,
            items=frozenset(item_name(text) for text in config.items) or None,
        ),
        users=tuple(config.users),
        states=tuple(State(name) for name in config.states) or FAILED,
        error_class=config.error_class or None,
        limit=config.limit,
    )


def _log_plan(context: dg.OpExecutionContext, plan: RetryPlan) -> None:
    context.log.info(f"{plan.items} failed items of {len(plan.accounts)} users are run again.")
    for name in plan.unknown:
        context.log.warning(f"{name} is not among the failed items: nothing was done to it.")
    for item in plan.ownerless:
        context.log.warning(f"{item} belongs to an account that is not on the platform any more: left alone.")


def _report(context: dg.OpExecutionContext, pipeline: PipelineResource, outcome: Outcome, retry: AccountRetry) -> None:
    """One event for each type of one user's turn."""
    user, types, error = outcome.account.key, retry.selection.types, outcome.report.error
    said = ", ".join(f"{count} {name}" for name, count in retry.counts.items())
    context.log.log("ERROR" if error else "INFO", f"{user}: {said} run again. {error.message if error else ''}")
    proven = _proven(context, pipeline, outcome, types) if error is None else {}
    for media in types:
        metadata: Metadata = {"retried": retry.counts[media.name], **account_metadata(pipeline, outcome, media)}
        if media.name in proven:
            whole = {**proven[media.name], "retried": retry.counts[media.name], "retried_in": context.run.run_id}
            context.log_event(dg.AssetMaterialization(records_key(media), partition=user, metadata=whole))
            continue
        if error is not None:
            metadata.update(error_metadata(error))
        context.log_event(dg.AssetObservation(records_key(media), partition=user, metadata=metadata))


def _proven(
    context: dg.OpExecutionContext, pipeline: PipelineResource, outcome: Outcome, types: Sequence[MediaType]
) -> Mapping[str, Metadata]:
    """Types of which the user's whole partition is as it should be, with the counts of the dry run that says so."""
    report = outcome.report
    if report.blocked is not None or report.failures:
        return {}
    try:
        survey = pipeline.survey(outcome.account, types)
    except Transient as error:
        context.log.warning(f"{outcome.account.key}: whether the rest is in order could not be read: {error.message}")
        return {}
    whole = Outcome(outcome.account, survey)
    return {media.name: account_metadata(pipeline, whole, media) for media in types if in_order(survey, media)}
