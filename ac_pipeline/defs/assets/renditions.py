"""The derived media as assets: what has to be made of a picture or a tape before its record can be written.

Making them is `ac_pipeline/renditions/`. A records run launched alone makes what is missing by itself.
"""

import dagster as dg

from ac_pipeline.defs.assets.catalog import OWNERS, RENDITIONS, RenditionAsset, records_key, source_key, users
from ac_pipeline.defs.assets.stage import Results, run_stage
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.policies import (
    ENCODING,
    RENDITIONS_A_RUN,
    RETRY_SECONDS,
    backfill_policy_is_beta,
    rendition_retries,
)


def rendition_assets(retry_seconds: float = RETRY_SECONDS) -> list[dg.AssetsDefinition]:
    """One asset and step for each line of `RENDITIONS`.

    Args:
        retry_seconds: Before the first retry of a step.
    """
    return [_rendition_asset(rendition, retry_seconds) for rendition in RENDITIONS]


def _rendition_asset(rendition: RenditionAsset, retry_seconds: float) -> dg.AssetsDefinition:
    media = rendition.media
    with backfill_policy_is_beta():

        @dg.asset(
            key=rendition.key,
            partitions_def=users,
            deps=[source_key(media)],
            group_name=media.plural,
            description=rendition.description,
            owners=OWNERS,
            kinds=set(rendition.recipe.kinds),
            tags={"media_type": media.name},
            backfill_policy=dg.BackfillPolicy.multi_run(RENDITIONS_A_RUN),
            retry_policy=rendition_retries(retry_seconds),
            pool=ENCODING,
            output_required=False,
        )
        def render(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[PipelineResource]) -> Results:
            yield from run_stage(
                context,
                pipeline,
                {rendition.key: media},
                lambda accounts: pipeline.render(accounts, media, context.run.run_id),
                feeds=records_key(media),
            )

    return render
