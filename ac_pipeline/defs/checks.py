"""Checks: what a person must look at although every partition is green. Which there are, and how they are evaluated.

Each check is one per asset, over all users, with the partition keys in its table and metadata (VERIFY-12). Measured on
Dagster 1.13.27, a check with partitions of its own (`AssetCheckSpec(partitions_def=...)`, a preview) holds up in a
partly failing range when it is logged by name, but: its summary on the asset's page is that of the partition evaluated
last, so that a failed user hides behind a later one who is well; it cannot be executed from the UI; and it costs one
event for each user and check, as much as all of a user's other events together.

All are evaluated by every step that writes the records, before it may fail: a check of its own would be skipped for the
whole range as soon as one user fails, and one that is left out shows as "not evaluated" from the next materialisation
on. They look at what the ledger and the receipts say, which is cheap; the job `verify_users` reads the repositories.
Each can also be executed alone from the UI.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.failures import dagster_failures
from ac_pipeline.defs.ledger_checks import (
    ACCOUNTS_USABLE,
    COLLECTION_INTACT,
    INPUT_ARRIVES,
    NO_QUARANTINED_ITEMS,
    NOTHING_DEFERRED,
    accounts_usable,
    collection_intact,
    input_arrives,
    no_quarantined_items,
    nothing_deferred,
)
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.receipt_checks import (
    ASPECTS,
    BLOBS_PRESENT,
    LEXICON_VALID,
    LINKS_CONSISTENT,
    RECORDS_MATCH_DOCUMENTS,
    verified,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES

_BY_JOB = (
    "The job verify_users finds out, once a week by its schedule; here, and after every run, its last findings are "
    "looked at again, without those that a sync has settled since."
)
_LEDGER_CHECKS: Final[Mapping[str, Callable[[PipelineResource, MediaType], dg.AssetCheckResult]]] = {
    NO_QUARANTINED_ITEMS: no_quarantined_items,
    NOTHING_DEFERRED: nothing_deferred,
    ACCOUNTS_USABLE: accounts_usable,
    COLLECTION_INTACT: collection_intact,
    INPUT_ARRIVES: input_arrives,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        name: Its name.
        description: What it says and what to do, with `{singular}` and `{plural}` for the type.
        blobs: Whether it is only about types whose records hold blobs.
    """

    name: str
    description: str
    blobs: bool = False


CHECKS: Final = (
    Check(
        NO_QUARANTINED_ITEMS,
        "No {singular} of any user is quarantined: held back for an error that no retry helps. The items that are "
        "stand in the table with their reason; each is tried again when its document changes, or at once by the job "
        "retry_items or `ac-pipeline retry`. AC_QUARANTINE_THRESHOLD says from how many on it is an error.",
    ),
    Check(
        NOTHING_DEFERRED,
        "No {singular} of any user waits for a limit of the PDS or for another attempt. A warning: nothing is to be "
        "done, the result says until when.",
    ),
    Check(
        ACCOUNTS_USABLE,
        "Every account can be written to. A warning while some are blocked: without a password, refused by the PDS, "
        "or unknown to it; their {plural} wait. An error when they are more than AC_BLOCKED_THRESHOLD, or when many "
        "became so within a day: then one cause is likely, such as PDS_URL or the users collection.",
    ),
    Check(
        COLLECTION_INTACT,
        "The collection of the {plural} holds what it held, within AC_MAX_ORPHAN_SHARE, and so do the documents of the "
        "records that are known. Otherwise the database is doubted: no record is deleted because its document is gone "
        "until the collection recovers, or a person names the number in the field `sweep` of the run.",
    ),
    Check(
        INPUT_ARRIVES,
        "A new {singular} has come within AC_SILENT_DAYS, if some used to: otherwise what writes the collection on the "
        "platform may have stopped.",
    ),
    Check(
        RECORDS_MATCH_DOCUMENTS,
        "Every eligible document has exactly one record with exactly its content, and no other record is there. "
        f"{_BY_JOB}",
    ),
    Check(
        LINKS_CONSISTENT,
        f"Every link in Mongo names the record of its own document, and every record is linked. {_BY_JOB}",
    ),
    Check(
        BLOBS_PRESENT,
        f"Every picture and video that a record refers to can be downloaded from the PDS. {_BY_JOB}",
        blobs=True,
    ),
    Check(
        LEXICON_VALID,
        "Every record satisfies its lexicon: those on the PDS, in the form of today, and those that were built and "
        f"refused for it, which are never written. {_BY_JOB}",
    ),
)


def record_checks() -> list[dg.AssetCheckSpec]:
    """The checks of all records assets."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=records_key(media),
            description=check.description.format(singular=media.name, plural=media.plural),
        )
        for media in MEDIA_TYPES
        for check in CHECKS
        if media.blobs or not check.blobs
    ]


def evaluate_checks(
    pipeline: PipelineResource, selected: Collection[dg.AssetCheckKey], run: Sequence[str] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks on ledger and receipts as they are now.

    Args:
        run: Partition keys that this run has verified; None for a run that verified nobody.

    Raises:
        dg.Failure: Ledger or receipts could not be read.
    """
    with dagster_failures():
        wanted = {spec.key for spec in record_checks()} & set(selected)
        types = [media for media in MEDIA_TYPES if any(key.asset_key == records_key(media) for key in wanted)]
        findings = pipeline.findings(types) if any(key.name in ASPECTS for key in wanted) else None
        for media in types:
            for check in CHECKS:
                if dg.AssetCheckKey(records_key(media), check.name) not in wanted:
                    continue
                if check.name in _LEDGER_CHECKS:
                    yield _LEDGER_CHECKS[check.name](pipeline, media)
                elif findings is not None:
                    yield verified(pipeline, media, check.name, findings, run)


def check_events(
    pipeline: PipelineResource, types: Collection[MediaType], run: Sequence[str] | None = None
) -> Iterator[dg.AssetCheckEvaluation]:
    """The results of all checks on these types as events of a plain op, which has no check outputs."""
    keys = {records_key(media) for media in types}
    wanted = [spec.key for spec in record_checks() if spec.asset_key in keys]
    for result in evaluate_checks(pipeline, wanted, run):
        if result.asset_key is not None and result.check_name is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )
