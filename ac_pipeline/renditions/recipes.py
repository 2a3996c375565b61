"""The recipes: how one file on disk becomes the blobs of a record, by the name a media type asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ac_pipeline.errors import Misconfigured, TooLarge, UnreadableMedia
from ac_pipeline.renditions import thumbnail
from ac_pipeline.renditions.pictures import FRAME_COST, FRAMES, HEAD, sniff
from ac_pipeline.renditions.tape_archive import ARCHIVE_BYTES, TapeArchive
from ac_pipeline.renditions.thumbnail import Product, check_thumbnail, make_thumbnail, thumbnail_of
from ac_pipeline.renditions.video import VIDEO_CAP, Encoder, Job, Video, encode_tape, shrink_video
from ac_pipeline.renditions.video_check import check_finished, middle_frame, read_facts, why_not_as_it_is

ENDS_EARLY = "ends_early"  # Detail of a video that was made of a file that is not all there: any other source is better


@dataclass(frozen=True, slots=True)
class Made:
    """All blobs of one source, by record field, and the oddities met."""

    products: Mapping[str, Product]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workshop:
    encoder: Encoder  # Which ffmpeg
    blob_limit: Callable[[], int]  # Largest blob the PDS takes, in bytes
    slots: threading.BoundedSemaphore  # Held while encoding, so that only so many encodings run at a time

    @property
    def video_cap(self) -> int:
        return min(self.blob_limit(), VIDEO_CAP)


@dataclass(frozen=True, slots=True)
class Recipe:
    formats: tuple[str, ...]  # Formats its sources come in, by the names of `SourceObject.format`
    source_bytes: int  # Largest source taken
    products: str  # What it makes, as the asset of a type's derived media is named: `thumbnails`
    kinds: tuple[str, ...]  # How it is made and in which format, as the UI shows it
    description: str  # Of that asset, with `{type}` for the name of the type
    spec: Callable[[Workshop], str]  # Names everything besides the source that decides the result
    # Source file, the format its key promised, an empty folder to work in -> blobs
    make: Callable[[Path, str, Path, Workshop], Made]


def _tape_video(source: Path, format: str, folder: Path, workshop: Workshop) -> Made:
    with workshop.slots:
        job = Job(folder, workshop.encoder, workshop.video_cap)
        return _from_mp4(source, job) if format == "mp4" else _from_zip(source, job)


def _from_zip(source: Path, job: Job) -> Made:
    with TapeArchive(source) as archive, FRAMES.reserve(archive.memory, "The tape"):
        video = encode_tape(archive, job)
        poster = thumbnail_of(archive.picture(len(archive.frames) // 2))
        return Made({"video": _video_product(video, job.cap), "thumbnail": _checked(poster)}, archive.warnings)


def _from_mp4(source: Path, job: Job) -> Made:
    """A finished MP4 byte for byte where every browser plays it whole (MEDIA-13), else encoded again (MEDIA-18)."""
    facts = read_facts(source, most_pixels=10 * job.encoder.most_pixels, timeout=job.encoder.timeout)
    check_finished(facts)
    with FRAMES.reserve(facts.width * facts.height * FRAME_COST, "The MP4"):
        poster = _checked(thumbnail_of(middle_frame(source, facts)))
    size = source.stat().st_size
    reasons = why_not_as_it_is(facts)
    if size > job.cap:
        reasons.append(f"{size} bytes are over {job.cap}")
    if not reasons:
        details = {"width": facts.width, "height": facts.height, "seconds": round(facts.duration / 1000, 3)}
        details |= {"frames": len(facts.times), "finished": True}
        return Made({"video": _video_product(Video(source, size, details), job.cap), "thumbnail": poster})
    video = shrink_video(source, facts, job)
    if facts.cut:
        video = replace(video, details={**video.details, ENDS_EARLY: True})
        reasons.append(f"{video.details['frames']} frames, {video.details['seconds']} s, are published")
    warning = f"The finished MP4 was encoded again: {'; '.join(reasons)}"
    return Made({"video": _video_product(video, job.cap), "thumbnail": poster}, (warning,))


def _video_product(video: Video, cap: int) -> Product:
    if video.size > cap:
        raise TooLarge(f"The video has {video.size} bytes; at most {cap} are taken")
    data = video.path.read_bytes()
    mime_type = sniff(data[:HEAD])
    if mime_type != "video/mp4":
        raise UnreadableMedia(f"The video is {mime_type}, not video/mp4")
    return Product(data, mime_type, video.details)


def _checked(made: Product) -> Product:
    check_thumbnail(made.data)
    return made


# Name on the media type -> recipe. The names stand in the rendition store: another one renders everything anew.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "painting-thumbnail": Recipe(
            formats=("png",),
            source_bytes=thumbnail.SOURCE_BYTES,
            products="thumbnails",
            kinds=("python", "png"),
            description="One thumbnail for each {type} of the user: 512 x 512, at most 100,000 bytes, kept under its "
            "blob's CID.",
            spec=lambda workshop: thumbnail.SPEC,
            make=lambda source, format, folder, workshop: Made(
                {"thumbnail": _checked(make_thumbnail(source, "The picture"))}
            ),
        ),
        "tape-video": Recipe(
            formats=("zip", "mp4"),
            source_bytes=ARCHIVE_BYTES,
            products="videos",
            kinds=("ffmpeg", "mp4"),
            description="One MP4 for each {type} of the user, every frame at its own time, checked after encoding, "
            "kept under its blob's CID.",
            spec=lambda workshop: f"{workshop.encoder.spec(workshop.video_cap)}; {thumbnail.SPEC}",
            make=_tape_video,
        ),
    }
)


def recipe_of(name: str) -> Recipe:
    """The recipe of this name; raises Misconfigured if there is none, with those there are."""
    if name not in RECIPES:
        raise Misconfigured(f"There is no rendition recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
