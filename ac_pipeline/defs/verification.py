"""The job `verify_users`: every user's records, links, blobs and shapes against the repository itself.

What is looked at is `operations/inspection/verification.py`, what it amounts to for an asset is `checks.py`. A finding
fails a check, where a person looks, and never the job; the job fails when somebody could not be read.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.checks import check_events, part_metadata
from ac_pipeline.defs.metadata import dagster_failures, failure_of
from ac_pipeline.defs.operator_jobs import answer_asset, tag_run
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.ledger.receipts import Receipt
from ac_pipeline.operations.inspection.verification import Taken

VERIFY_USERS: Final = "verify_users"
VERIFY_STEP: Final = "verify_each_user"

VERIFICATION: Final = dg.AssetKey(["operations", "verification"])
verification_asset = answer_asset(
    VERIFICATION,
    f"What the job `{VERIFY_USERS}` found of all users: each materialisation is one verification of everybody. What is "
    "wrong stands in the checks of the records.",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8)),
)

_TYPES: Final = ", ".join(media.name for media in MEDIA_TYPES)


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
    """Verify the users the config names, then let the checks of the verified types say what is amiss.

    Raises:
        dg.Failure: The config names something that does not exist; or some users could not be read.
    """
    with dagster_failures():
        types = tuple(media_type(name) for name in config.types) or MEDIA_TYPES
        accounts = _accounts(pipeline, config.users)
    tag_run(context, "verify", config.users)
    sums, verified = Counter[str](users=0, blocked=0), list[str]()  # no user's receipt is kept here (OPS-6)
    failures: dict[str, PipelineError] = {}
    with dagster_failures():
        taken = pipeline.verify(accounts, types, blobs=config.blobs, run_id=context.run.run_id)
        for number, each in enumerate(taken, start=1):
            _log_user(context, pipeline, each, f"{number} of {len(accounts)}")
            if each.receipt is not None:
                verified.append(each.receipt.user)
                sums.update(_sums(each.receipt))
            if each.error is not None:
                failures[each.account.key] = each.error
    yield from check_events(pipeline, types, verified)
    said = ", ".join(f"{name}: {value}" for name, value in sums.items())
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


def _sums(receipt: Receipt) -> Counter[str]:
    """What a receipt adds to the sums of a run, by aspect."""
    counts = Counter(users=1, blocked=int(receipt.blocked is not None))
    for (_, aspect), part in receipt.parts.items():
        counts.update({f"{aspect} expected": part.expected, f"{aspect} verified": part.sound})
        counts.update({f"{aspect} {state}": number for state, number in part.states.items()})
    return counts


def _log_user(context: dg.OpExecutionContext, pipeline: PipelineResource, taken: Taken, count: str) -> None:
    """One line about each user, and an observation of each partition in which something is amiss."""
    user, receipt = taken.account.key, taken.receipt
    if receipt is None:
        context.log.error(f"{count}: {user} could not be verified: {taken.error}")
        return
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
