"""Which types have derived media, and the assets that stand for it. Their steps are `renditions.py`."""

from dataclasses import dataclass
from typing import Final

import dagster as dg

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
