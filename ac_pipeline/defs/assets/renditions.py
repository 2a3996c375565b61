"""The derived media as assets: what has to be made of a picture or a tape before its record can be written.

Making them is `ac_pipeline/renditions/`. A records run launched alone makes what is missing by itself.
"""

from dataclasses import dataclass
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.sources import OWNERS, source_key
from ac_pipeline.defs.assets.stage import Results, run_stage
from ac_pipeline.defs.mirror import Mirror
from ac_pipeline.defs.partitions import users
from ac_pipeline.defs.policies import (
    ENCODING,
    RENDITIONS_A_RUN,
    RETRY_SECONDS,
    backfill_policy_is_beta,
    rendition_retries,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import media_type


@dataclass(frozen=True, slots=True)
class RenditionAsset:
    """One asset of derived media.

    Args:
        name: Last segment of its key.
        type: Name of the media type.
        kinds: What the UI shows on it, three at most.
        description: For people.
    """

    name: str
    type: str
    kinds: frozenset[str]
    description: str

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["renditions", self.name])

    @property
    def media(self) -> MediaType:
        return media_type(self.type)


RENDITIONS: Final = (
    RenditionAsset(
        "painting_thumbnails",
        "painting",
        frozenset({"python", "png"}),
        "One thumbnail for each painting of the user: 512 x 512, at most 100,000 bytes, kept under its blob's CID.",
    ),
    RenditionAsset(
        "tape_videos",
        "tape",
        frozenset({"ffmpeg", "mp4"}),
        "One MP4 for each tape of the user, every frame at its own time, checked after encoding, kept under its "
        "blob's CID.",
    ),
)
"""Every type whose records hold derived media, with its asset."""


def rendition_key(media: MediaType) -> dg.AssetKey | None:
    """The asset that a type's records depend on, or None."""
    return next((rendition.key for rendition in RENDITIONS if rendition.type == media.name), None)


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
            kinds=set(rendition.kinds),
            tags={"media_type": media.name},
            backfill_policy=dg.BackfillPolicy.multi_run(RENDITIONS_A_RUN),
            retry_policy=rendition_retries(retry_seconds),
            pool=ENCODING,
            output_required=False,
        )
        def render(context: dg.AssetExecutionContext, mirror: dg.ResourceParam[Mirror]) -> Results:
            yield from run_stage(
                context,
                mirror,
                {rendition.key: media},
                lambda accounts: mirror.render(accounts, media, context.run.run_id),
            )

    return render
