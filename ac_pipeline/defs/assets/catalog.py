"""The partitions, keys and specs of all assets of a type: collections, renditions and records."""

from dataclasses import dataclass
from typing import Final

import dagster as dg

from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.renditions.recipes import Recipe, recipe_of


@dataclass(frozen=True, slots=True)
class RenditionAsset:
    """The asset of a type's derived media, which follows from the type and its recipe."""

    media: MediaType
    recipe: Recipe

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["renditions", f"{self.media.name}_{self.recipe.products}"])

    @property
    def description(self) -> str:
        return self.recipe.description.format(type=self.media.name)


RENDITIONS: Final = tuple(
    RenditionAsset(media, recipe_of(media.recipe)) for media in MEDIA_TYPES if media.recipe is not None
)
"""Every type whose records hold derived media, with its asset."""


def rendition_key(media: MediaType) -> dg.AssetKey | None:
    """The asset that a type's records depend on, or None."""
    return next((rendition.key for rendition in RENDITIONS if rendition.media is media), None)


USERS = "users"
"""Name of the dimension in the instance."""

users = dg.DynamicPartitionsDefinition(name=USERS)

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
"""Tags of a run over all keys from one to another, both included, in the order in which keys were added."""

PARTITION = "dagster/partition"
"""Tag of a run over one key."""


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
