"""The Mongo collections as assets we do not compute, and the keys of all assets of a type.

Sensors and jobs report what they see of them; nothing here reads anything.
"""

import dagster as dg

from ac_pipeline.defs.partitions import users
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES

OWNERS = ["team:aesthetic-computer"]


def source_key(media: MediaType) -> dg.AssetKey:
    return dg.AssetKey(["mongo", media.plural])


def records_key(media: MediaType) -> dg.AssetKey:
    return dg.AssetKey(["atproto", media.plural])


def source_assets() -> list[dg.AssetSpec]:
    """One external asset for each type, partitioned by user."""
    return [
        dg.AssetSpec(
            source_key(media),
            partitions_def=users,
            group_name=media.plural,
            owners=OWNERS,
            kinds={"mongodb"},
            tags={"media_type": media.name},
            description=f"The {media.plural} of each user as the platform stores them: documents of the collection "
            f"`{media.collection}`. Written by the platform; the pipeline only adds the link of each record.",
        )
        for media in MEDIA_TYPES
    ]
