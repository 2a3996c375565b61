"""The records on the PDS: an asset for each type, one step, so that a repository is read and written once a run."""

from collections.abc import Iterator
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets.catalog import OWNERS, records_key, rendition_key, source_key, users
from ac_pipeline.defs.assets.stage import run_stage
from ac_pipeline.defs.checks import evaluate_checks, record_checks
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.policies import (
    PDS,
    RECORD_RETRIES,
    RECORDS_A_RUN,
    RETRY_SECONDS,
    backfill_policy_is_beta,
    record_retries,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES

STEP: Final = "atproto_records"
BLOBS_FIELD: Final = (
    "Ask the PDS for every picture and video as well, and upload again what it has lost: one small request for each."
)
FULL: Final = "full"
"""Name of the field below, for run configs."""


SWEEP_FIELD: Final = (
    "Delete so many records without a document of this run's users although the database is doubted. The check "
    "collection_intact says why they are kept; with another number than there are, the run fails and says it."
)


class RecordsConfig(dg.Config):
    """What a person can set in the launchpad."""

    full: bool = Field(
        default=False,
        description="Compare every document and record of each user, also of those in whom nothing seems changed. "
        "The nightly schedule does; it costs one read of the whole repository for each user, and one question to "
        "storage for each item with media: what was replaced there is rendered anew.",
    )
    renditions: bool = Field(
        default=False,
        description="Make every thumbnail and video of these users again from its source, whatever is known of it.",
    )
    blobs: bool = Field(default=False, description=BLOBS_FIELD)
    sweep: int | None = Field(default=None, ge=0, description=SWEEP_FIELD)


def record_assets(retry_seconds: float = RETRY_SECONDS) -> dg.AssetsDefinition:
    """The records asset of each type, with their checks.

    Args:
        retry_seconds: Before the first retry of the step.
    """
    with backfill_policy_is_beta():

        @dg.multi_asset(
            name=STEP,
            specs=[_spec(media) for media in MEDIA_TYPES],
            check_specs=record_checks(),
            partitions_def=users,
            can_subset=True,
            backfill_policy=dg.BackfillPolicy.multi_run(RECORDS_A_RUN),
            retry_policy=record_retries(retry_seconds),
            pool=PDS,
        )
        def atproto_records(
            context: dg.AssetExecutionContext, config: RecordsConfig, pipeline: dg.ResourceParam[PipelineResource]
        ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
            selected = {records_key(media): media for media in MEDIA_TYPES}
            selected = {key: media for key, media in selected.items() if key in context.selected_asset_keys}
            types = tuple(selected.values())
            failure = None
            if selected:
                try:
                    yield from run_stage(
                        context,
                        pipeline,
                        selected,
                        lambda accounts: pipeline.sync(
                            accounts,
                            types,
                            context.run.run_id,
                            full=config.full,
                            blobs=config.blobs,
                            renditions=config.renditions,
                            sweep=config.sweep,
                        ),
                        pictures=True,
                    )
                except dg.Failure as error:
                    failure = error
            if failure is not None and failure.allow_retries and context.retry_number < RECORD_RETRIES:
                raise failure  # the last attempt evaluates the checks
            try:
                yield from evaluate_checks(pipeline, context.selected_asset_check_keys)
            except dg.Failure:
                if failure is None:
                    raise
            if failure is not None:
                raise failure

    return atproto_records


def _spec(media: MediaType) -> dg.AssetSpec:
    made = rendition_key(media)
    return dg.AssetSpec(
        records_key(media),
        deps=[source_key(media), *([made] if made is not None else [])],
        group_name=media.plural,
        owners=OWNERS,
        kinds={"atproto"},
        tags={"media_type": media.name},
        skippable=True,
        description=f"The user's records `{media.nsid}` on the PDS, equal to the eligible {media.plural} in Mongo, "
        "each once. Synchronising an unchanged user writes nothing.",
    )
