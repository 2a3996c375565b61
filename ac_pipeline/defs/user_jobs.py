"""The jobs over users and items that a launchpad names: `verify_users` (what is looked at is
`operations/inspection/verification.py`, what it amounts to for an asset is `checks.py`) and `retry_items`
(`operations/sync.py`)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import PDS, records_key
from ac_pipeline.defs.checks import check_events, part_metadata
from ac_pipeline.defs.metadata import (
    Metadata,
    Summary,
    account_metadata,
    by_number,
    dagster_failures,
    error_metadata,
    failure_of,
)
from ac_pipeline.defs.operator_jobs import answer_asset, tag_run
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.errors import ERROR_CLASSES, Misconfigured, PipelineError, Transient
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.receipts import Receipt
from ac_pipeline.operations.parameters import TYPE_NAMES, media_types
from ac_pipeline.operations.sync import FAILED, AccountRetry, FailedItems, RetryParameters, in_order, plan_retry
from ac_pipeline.sync.selection import Selection

VERIFY_USERS: Final = "verify_users"
VERIFY_STEP: Final = "verify_each_user"

VERIFICATION: Final = dg.AssetKey(["operations", "verification"])
verification_asset = answer_asset(
    VERIFICATION,
    f"What the job `{VERIFY_USERS}` found of all users: each materialisation is one verification of everybody. What is "
    "wrong stands in the checks of the records.",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8)),
)

_TYPES: Final = ", ".join(TYPE_NAMES)


class VerificationConfig(dg.Config):
    """Whom and what to verify; left as it is, everybody and everything."""

    users: list[str] = Field(
        default=[], description='Only these users, by partition key, for example ["ada", "art-guest"]. Empty: all.'
    )
    types: list[str] = Field(default=[], description=f"Only these types: {_TYPES}. Empty: all.")
    blobs: bool = Field(
        default=True,
        description="Ask the PDS for every picture and video as well: one small request for each.",
    )


@dg.op(name=VERIFY_STEP, out=dg.Out(dg.Nothing))
def verify(
    context: dg.OpExecutionContext, config: VerificationConfig, pipeline: dg.ResourceParam[PipelineResource]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Verify the users the config names, then let the checks of the verified types say what is amiss: a finding fails
    a check, where a person looks, and never the job. Raises dg.Failure: the config names something that does not exist;
    or some users could not be read."""
    with dagster_failures():
        types = media_types(config.types)
        accounts = _accounts(pipeline, config.users)
    tag_run(context, "verify", config.users)
    sums, verified = Counter[str](users=0, blocked=0), list[str]()  # no user's receipt is kept here (OPS-6)
    failures: dict[str, PipelineError] = {}
    with dagster_failures():
        taken = pipeline.verify(accounts, types, blobs=config.blobs, run_id=context.run.run_id)
        for number, (account, receipt) in enumerate(taken, start=1):
            count = f"{number} of {len(accounts)}"
            if isinstance(receipt, PipelineError):
                failures[account.key] = receipt
                context.log.error(f"{count}: {account.key} could not be verified: {receipt}")
                continue
            verified.append(receipt.user)
            sums.update(_sums(receipt))
            _log_user(context, pipeline, receipt, count)
    yield from check_events(pipeline, types, verified)
    said = _sentence(sums)
    context.log.info(said)
    if not config.users and not failures:
        context.log_event(dg.AssetMaterialization(VERIFICATION, description=said, metadata={"answer": said, **sums}))
    if failures:
        raise failure_of(failures, len(accounts))


@dg.job(
    name=VERIFY_USERS,
    description="Compares every expected record, link and blob of the users in its config, or of all, with their "
    "repositories, and repairs nothing. What it finds is in the checks of the records assets, and in an observation of "
    "each partition in which something is amiss. It fails only when a user could not be read.",
)
def verify_users() -> None:
    verify()


def _sentence(sums: Mapping[str, int]) -> str:
    aspects = [name.removesuffix(" expected") for name in sums if name.endswith(" expected")]
    found = [f"{sums[f'{each} verified']} of {sums[f'{each} expected']} {each}" for each in aspects]
    wrong = [
        f"{name} {count}"
        for name, count in sums.items()
        if count and name.partition(" ")[0] in aspects and not name.endswith((" expected", " verified"))
    ]
    of_users = f"{sums['users']} users, {sums['blocked']} of them blocked"
    return f"Verified of {of_users}: {', '.join(found) or 'nothing'}. Wrong: {', '.join(wrong) or 'nothing'}."


def _sums(receipt: Receipt) -> Counter[str]:
    """What a receipt adds to the sums of a run, by aspect."""
    counts = Counter(users=1, blocked=int(receipt.blocked is not None))
    for (_, aspect), part in receipt.parts.items():
        counts.update({f"{aspect} expected": part.expected, f"{aspect} verified": part.sound})
        counts.update({f"{aspect} {state}": number for state, number in part.states.items()})
    return counts


def _log_user(context: dg.OpExecutionContext, pipeline: PipelineResource, receipt: Receipt, count: str) -> None:
    """One line about each user, and an observation of each partition in which something is amiss."""
    user = receipt.user
    if receipt.blocked is not None:
        context.log.info(f"{count}: {user} is blocked: {receipt.blocked}")
        return
    wrong = {cell: part for cell, part in receipt.parts.items() if part.unsound}
    if not wrong:
        context.log.info(f"{count}: {user} is as it should be")
        return
    said = ", ".join(f"{part.unsound} {type_} {aspect.value}" for (type_, aspect), part in wrong.items())
    context.log.warning(f"{count}: {user}: wrong: {said}")
    for media in MEDIA_TYPES:
        if metadata := part_metadata(pipeline, receipt, media):
            context.log_event(dg.AssetObservation(records_key(media), partition=user, metadata=metadata))


def _accounts(pipeline: PipelineResource, users: Sequence[str]) -> list[Account]:
    known = pipeline.accounts()
    unknown = sorted(set(users) - known.keys())
    if unknown:
        raise Misconfigured(f"No user has the partition key {', '.join(unknown)}: nothing was verified.")
    return [known[user] for user in dict.fromkeys(users)] or list(known.values())


RETRY_ITEMS: Final = "retry_items"
RETRY_STEP: Final = "retry_failed_items"

_STATES: Final = ", ".join(state.value for state in FAILED)


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
    """Run exactly the failed items that the config names, and say of each user and type what came of it. Raises
    dg.Failure: nothing is selected or a field is wrong; or some users have to be run again, or items failed again."""
    with dagster_failures():
        plan = plan_retry(pipeline.open(), _wanted(config))
    tag_run(context, "retry", config.users or [retry.account.key for retry in plan.accounts])
    context.log.info(f"{plan.items} failed items of {len(plan.accounts)} users are run again.")
    for said in plan.left_alone:
        context.log.warning(said)
    summary, again = Summary(), Counter[str]()
    retries = {retry.account.key: retry for retry in plan.accounts}
    with dagster_failures():
        for outcome in pipeline.retry(plan.accounts, context.run.run_id):
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
    context.log.info(summary.sentence(types))
    if summary.failures:
        raise failure_of(summary.failures, len(retries))
    if again:  # as the command ends with 1
        raise dg.Failure(
            f"{again.total()} of {plan.items} items failed again ({by_number(again)}): their partitions and "
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
    """The config as the pipeline's own words. Raises Misconfigured: nothing is selected, or a field holds what it
    cannot hold."""
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
    return RetryParameters(**config.model_dump(exclude={"all_failed", "limit"})).wanted(config.limit)


def _report(context: dg.OpExecutionContext, pipeline: PipelineResource, outcome: Outcome, retry: AccountRetry) -> None:
    """One event for each type of one user's turn: an observation with what came of its items, for a retry is about
    items and a partition is a user's whole type; a materialisation only where a dry run afterwards proves that the
    whole partition is as it should be, with the counts of that dry run."""
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
        _, survey = pipeline.open().engine.survey(outcome.account, Selection(types=tuple(types)))
    except Transient as error:
        context.log.warning(f"{outcome.account.key}: whether the rest is in order could not be read: {error.message}")
        return {}
    whole = Outcome(outcome.account, survey)
    return {media.name: account_metadata(pipeline, whole, media) for media in types if in_order(survey, media)}
