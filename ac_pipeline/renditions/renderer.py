"""Derived media of one document: known, kept from before, or made now. Implements the engine's `Renderer` port.
Also the recipes: how one file on disk becomes the blobs of a record, by the name a media type asks for."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from weakref import WeakValueDictionary

from ac_pipeline.errors import (
    EncodingFailed,
    Misconfigured,
    Permanent,
    SourceMissing,
    TooLarge,
    Transient,
    UnreadableMedia,
)
from ac_pipeline.items import BlobRef, Derived, Rendition
from ac_pipeline.media.base import Document, MediaType, SourceObject
from ac_pipeline.objects import Fetched, ObjectStorage
from ac_pipeline.renditions import thumbnail
from ac_pipeline.renditions.ffmpeg_process import TIMEOUT, default_binary
from ac_pipeline.renditions.pictures import FRAME_COST, FRAMES, HEAD, sniff
from ac_pipeline.renditions.store import Kept, RenditionStore
from ac_pipeline.renditions.tape_archive import ARCHIVE_BYTES, TapeArchive
from ac_pipeline.renditions.thumbnail import Product, check_thumbnail, make_thumbnail, thumbnail_of
from ac_pipeline.renditions.video import MOST_PIXELS, VIDEO_CAP, Encoder, Job, Video, encode_tape, shrink_video
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


class Renderer:
    """Renders documents, any number of threads at once. What asks storage raises Transient where it did not answer."""

    def __init__(
        self,
        objects: ObjectStorage,
        store: RenditionStore,
        *,
        blob_limit: Callable[[], int],  # Largest blob the PDS takes, in bytes; asked when something has to be made
        work_dir: Path,  # For temporary files; made if missing, nothing stays in it
        ffmpeg: str | None = None,  # One with libx264 (`AC_FFMPEG`); imageio-ffmpeg's when None
        encode_seconds: float = TIMEOUT,
        encode_pixels: int = MOST_PIXELS,  # Frames x width x height of one encoding
        encode_slots: int = 2,  # Encodings at a time; each uses one thread of libx264 and one that decodes frames
    ) -> None:
        self._objects = objects
        self._store = store
        self._work_dir = work_dir
        encoder = Encoder(ffmpeg or default_binary(), encode_seconds, encode_pixels)
        self._workshop = Workshop(encoder, blob_limit, threading.BoundedSemaphore(encode_slots))
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # those that somebody holds

    @property
    def encodings(self) -> Sequence[float]:
        """How many seconds each run of the encoder has taken so far."""
        return tuple(self._workshop.encoder.spent)

    def derive(
        self, media: MediaType, document: Document, known: Derived | None, *, look: bool = False, anew: bool = False
    ) -> Derived:
        """Renditions and companions of a document: from what is known, else the store, else made now.

        What is known is taken as it is while the candidate objects are the same, whatever encoder it was made with:
        published media does not change because ffmpeg did. Only companions not found before are asked for again.
        `look`: ask storage whether the object is still the one that was rendered. `anew`: make renditions again,
        whatever is known or kept; those of a source that is gone stay. Raises SourceMissing, UnreadableMedia,
        EncodingFailed, TooLarge (the item is to be quarantined), Transient (storage or the encoder did not answer).
        """
        candidates = media.sources(document)
        key = source_key(candidates)
        before = known if known is not None and _is_same(known, key, candidates) else None
        before_found = before.found if before is not None else frozenset()
        found = self.companions(media, document, before_found) if look else self._found(media, document, before_found)
        wanted = {blob.name for blob in media.blobs}
        before = before if before is not None and wanted <= before.renditions.keys() else None
        if before is not None and not anew:
            stamp = (self._stamp(candidates) if look else None) or before.stamp
            if before.stamp in ("", stamp):
                now = replace(before, found=found, key=key, stamp=stamp)
                return before if now == before else now
        if media.recipe is None:
            return Derived(found=found, key=key)
        try:
            kept, stamp = self._render(media.recipe, candidates, anew=anew)
        except SourceMissing as error:
            if before is None:
                raise
            gone = f"not rendered anew: {error.message}"
            return replace(before, found=found, warnings=tuple(dict.fromkeys((*before.warnings, gone))))
        except OSError as error:
            said = f"The work folder {self._work_dir} cannot be used ({error}); make room or check it"
            raise Transient(said) from error
        return Derived(kept.renditions, found, key, kept.warnings, stamp)

    def companions(self, media: MediaType, document: Document, known: frozenset[str]) -> frozenset[str]:
        """Names of the document's companions that are in storage now. What differs from what is known is believed when
        storage says it twice."""
        found = self._found(media, document, frozenset())
        return found if found == known else self._found(media, document, frozenset())

    def source(self, media: MediaType, document: Document) -> SourceObject | None:
        """The object a document would be rendered from, asked for without downloading it; None when there is none.
        Raises InvalidDocument if it names none."""
        return self._objects.exists(media.sources(document))

    def open(self, blob: BlobRef) -> bytes:
        """The bytes of a rendition; raises SourceMissing if the store has lost it: derive again with `known=None`."""
        return self._store.open(blob.cid)

    def forget(self, media: MediaType, renditions: Iterable[Rendition]) -> None:
        """Let the store give up these renditions and how they were made; what is not there is gone already. Raises
        ServiceUnreachable if it did not answer, or keeps one."""
        recipe = media.recipe or ""
        formats = recipe_of(recipe).formats if recipe else ()
        for made in renditions:
            for format in formats:
                self._store.forget(_identity(recipe, format), made.source, made.spec)
            self._store.remove(made.blob.cid)

    def _found(self, media: MediaType, document: Document, before: frozenset[str]) -> frozenset[str]:
        companions = media.companions(document).items()
        return frozenset(name for name, objects in companions if name in before or self._objects.exists(objects))

    def _stamp(self, candidates: Sequence[SourceObject]) -> str | None:
        """What storage says of the object; None if it has none, or gives no answer: then the next look will tell."""
        with suppress(Transient):
            found = self._objects.look(candidates)
            return found[1] if found is not None else None
        return None

    def _render(self, recipe: str, candidates: Sequence[SourceObject], *, anew: bool) -> tuple[Kept, str]:
        """Render the first candidate that exists: the renditions and its stamp. If it cannot be used, those after it in
        another format are tried: a broken MP4 does not hide the ZIP it was made from, but a broken picture is never
        replaced by another one. What could be made of an MP4 that ends early is taken when no ZIP is whole."""
        source_bytes = recipe_of(recipe).source_bytes
        left = tuple(candidates)
        unusable: Permanent | None = None
        partial: Kept | None = None
        stamp = ""
        warnings: list[str] = []
        while True:
            self._work_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="derive-", dir=self._work_dir) as folder:
                try:
                    fetched = self._objects.fetch(left, Path(folder, "source"), source_bytes)
                except (SourceMissing, TooLarge) as error:
                    if partial is not None:
                        return partial, stamp
                    raise unusable or error from error
                after = left[left.index(fetched.object) + 1 :]
                left = tuple(other for other in after if other.format != fetched.object.format)
                stamp = stamp or fetched.stamp
                try:
                    kept = self._once(recipe, fetched, Path(folder), anew=anew)
                except (UnreadableMedia, EncodingFailed, TooLarge) as error:
                    if partial is not None:
                        return partial, stamp
                    if not left:
                        raise
                    unusable = unusable or error
                    found = error.message
                else:
                    kept = Kept(kept.renditions, (*warnings, *kept.warnings))
                    if not left or not any(made.details.get(ENDS_EARLY) for made in kept.renditions.values()):
                        return kept, stamp
                    partial, found = kept, "it ends early"
                warnings.append(f"{fetched.object.format} passed over: {found}")

    def _once(self, recipe: str, fetched: Fetched, folder: Path, *, anew: bool) -> Kept:
        """From the store, else made now; equal sources are rendered once, however many threads ask."""
        if fetched.encoding:
            raise UnreadableMedia(
                f"{fetched.object.bucket}/{fetched.object.key} is stored with `Content-Encoding: {fetched.encoding}`; "
                "store it again without"
            )
        spec = RECIPES[recipe].spec(self._workshop)
        identity = _identity(recipe, fetched.object.format)
        with self._guard:
            lock = self._locks.setdefault(f"{identity}:{fetched.sha256}", threading.Lock())
        with lock:
            kept = None if anew else self._store.lookup(identity, fetched.sha256, spec)
            if kept is not None:
                return kept
            made = RECIPES[recipe].make(fetched.path, fetched.object.format, folder, self._workshop)
            renditions = {
                name: Rendition(self._store.put(product.data, product.mime_type), fetched.sha256, spec, product.details)
                for name, product in made.products.items()
            }
            self._store.remember(identity, fetched.sha256, spec, renditions, made.warnings)
            return Kept(renditions, made.warnings)


def _identity(recipe: str, format: str) -> str:
    """Under what the store remembers a recipe: a ZIP offered as an MP4 is read by other rules."""
    return f"{recipe}:{format}"


def _is_same(known: Derived, key: str, candidates: Sequence[SourceObject]) -> bool:
    """True if it was derived from these objects; what was made before versions and stamps were kept has a key without
    them."""
    if known.key != key and not known.stamp:
        key = source_key([replace(candidate, version="") for candidate in candidates])
    return known.key == key


def source_key(candidates: Sequence[SourceObject]) -> str:
    """Identity of what an item is derived from: sha-256 (hex) of its ordered candidate objects."""
    value = [[part for part in (c.bucket, c.key, c.format, c.version) if part] for c in candidates]
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
