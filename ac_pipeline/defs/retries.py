"""The job `retry_items`: failed items once more, chosen in the launchpad. Which they are is `operations/retry.py`.

A retry is about items, a partition is a user's whole type. So each touched user and type gets an observation with what
came of its items; it is materialised only where a dry run afterwards proves that the whole partition is as it should
be, with the counts of that dry run.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.checks import check_events
from ac_pipeline.defs.metadata import (
    Metadata,
    Trouble,
    account_metadata,
    dagster_failures,
    failure_of,
    trouble_metadata,
    trouble_of,
)
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.defs.policies import PDS
from ac_pipeline.errors import Misconfigured, Transient
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.parameters import item_name
from ac_pipeline.operations.retry import FAILED, AccountRetry, FailedItems, RetryPlan, in_order

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
        dg.Failure: Nothing is selected or a field is wrong; or some users have to be run again.
    """
    with dagster_failures():
        plan = pipeline.plan_retry(_wanted(config))
    _tell(context, plan)
    retries = {retry.account.key: retry for retry in plan.accounts}
    troubles: dict[str, Trouble] = {}
    with dagster_failures():
        for outcome in pipeline.retry(plan.accounts, context.run.run_id):
            trouble = trouble_of(outcome)
            if trouble is not None:
                troubles[outcome.account.key] = trouble
            _report(context, pipeline, outcome, retries[outcome.account.key], trouble)
    for event in check_events(pipeline, {media for retry in plan.accounts for media in retry.selection.types}):
        context.instance.report_runless_asset_event(event)
    if troubles:
        raise failure_of(troubles, len(retries))


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
    return FailedItems(
        users=tuple(config.users),
        types=tuple(media_type(name) for name in config.types) or MEDIA_TYPES,
        items=frozenset(item_name(text) for text in config.items) or None,
        states=tuple(State(name) for name in config.states) or FAILED,
        error_class=config.error_class or None,
        limit=config.limit,
    )


def _tell(context: dg.OpExecutionContext, plan: RetryPlan) -> None:
    context.log.info(f"{plan.items} failed items of {len(plan.accounts)} users are run again.")
    for name in plan.unknown:
        context.log.warning(f"{name} is not among the failed items: nothing was done to it.")
    for item in plan.ownerless:
        context.log.warning(f"{item} belongs to an account that is not on the platform any more: left alone.")


def _report(
    context: dg.OpExecutionContext,
    pipeline: PipelineResource,
    outcome: Outcome,
    retry: AccountRetry,
    trouble: Trouble | None,
) -> None:
    """One event for each type of one user."""
    user, types = outcome.account.key, retry.selection.types
    said = ", ".join(f"{count} {name}" for name, count in retry.counts.items())
    context.log.log("ERROR" if trouble else "INFO", f"{user}: {said} run again. {trouble.message if trouble else ''}")
    proven = _proven(context, pipeline, outcome, types) if trouble is None else {}
    for media in types:
        metadata: Metadata = {"retried": retry.counts[media.name], **account_metadata(pipeline, outcome, media)}
        if media.name in proven:
            whole = {**proven[media.name], "retried": retry.counts[media.name], "retried_in": context.run.run_id}
            context.log_event(dg.AssetMaterialization(records_key(media), partition=user, metadata=whole))
            continue
        if trouble is not None:
            metadata.update(trouble_metadata(trouble))
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
