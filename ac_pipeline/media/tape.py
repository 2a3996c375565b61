"""Tapes: screen recordings, stored as a ZIP of frames or as a finished MP4, published as MP4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs, sources
from ac_pipeline.media.base import SITE, BlobField, Document, MediaType, SourceObject
from ac_pipeline.media.eligibility import COMMON_FIELDS
from ac_pipeline.media.times import read_when

_ADDRESSES = ("mp4Url", "mp4")  # Where the address of a finished MP4 stands; `mp4` is the older name
_BAKING = ("pending", "processing")  # `mp4Status` while the oven makes the MP4 of a ZIP
_BAKED = ("mp4CompletedAt", "mp4Size")  # Tell a finished MP4 from the one that was under the same address before


_page = f"{SITE}/!".__add__


def _validate(document: Document) -> None:
    slugs.of(document)
    fields.code(document)
    for name in ("kind", "mp4Status", *_ADDRESSES):
        fields.text(document, name)
    _sources(document)


def _build_record(document: Document, derived: Derived) -> Record:
    slug, code = slugs.of(document).published, fields.code(document)
    return fields.record(TAPE, document, derived, slug=slug, code=code, acUrl=_page(code))


def _sources(document: Document) -> tuple[SourceObject, ...]:
    """A finished MP4 first (MEDIA-13), then the ZIP of frames: no address in Mongo is no sign of no source (DEL-8)."""
    slug = slugs.of(document)
    finished = tuple(found for _, found, _ in _finished(document) if found is not None)
    stored = sources.candidates(document, _keys(document, slug), "mp4" if _is_uploaded_video(document) else "zip")
    return tuple(dict.fromkeys((*finished, *stored)))


def _keys(document: Document, slug: slugs.Slug) -> tuple[str, ...]:
    if slug.qualified or document.owner is None:
        return (slug.stored,)
    folder = document.owner
    keys = [f"{folder}/{slug.stored}", f"{folder}/video/{slug.stored}"]
    if slug.by_piece_and_time:
        keys.append(f"{folder}/{slug.stored.replace('-', '/', 1)}")  # the server turned the first dash into a slash
    return tuple(keys)


def _is_uploaded_video(document: Document) -> bool:
    return document.fields.get("kind") == "mp4"


def _finished(document: Document) -> list[tuple[str, SourceObject | None, str]]:
    """Field, object and, without one, the fault of each finished MP4 that the document names."""
    if not _is_uploaded_video(document) and document.fields.get("mp4Status") != "complete":
        return []
    return [(name, *_object(document, address)) for name in _ADDRESSES if (address := fields.text(document, name))]


def _object(document: Document, address: str) -> tuple[SourceObject | None, str]:
    found = sources.object_of_url(address, "mp4")
    if found is None:
        return None, "is not an address in the platform's storage"
    if sources.is_of_another(found, document.owner):
        return None, "names an object of another user"
    baked = [document.fields.get(name) for name in _BAKED]
    return replace(found, version="" if baked == [None, None] else str([read_when(baked[0]) or baked[0], baked[1]])), ""


def _pending_since(document: Document) -> int | None:
    """When it was posted, or its baking began; the oven makes a record of its own as soon as it is done."""
    if _is_uploaded_video(document) or document.fields.get("mp4Status") not in _BAKING:
        return None
    return max(document.when, read_when(document.fields.get("mp4StartedAt")) or 0)


def _oddities(document: Document) -> tuple[str, ...]:
    return tuple(f"`{name}` {fault}, so it is not fetched" for name, _, fault in _finished(document) if fault)


def _hidden(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A ZIP of frames, an uploaded MP4, or one that the oven has finished."""
    oven = f"https://{sources.OVEN_BUCKET}.sfo3.digitaloceanspaces.com/tapes/{fields.get('code')}.mp4"
    ways: tuple[dict[str, Any], ...] = ({}, {"kind": "mp4"}, {"mp4Status": "complete", "mp4Url": oven})
    return tuple({"nuked": False, **way} for way in ways)  # the platform sets the flag at insertion


TAPE = MediaType(
    name="tape",
    plural="tapes",
    collection="tapes",
    nsid="computer.aesthetic.tape",
    fields=(*COMMON_FIELDS, "code", "slug", "bucket", "kind", "mp4Status", "mp4StartedAt", *_ADDRESSES, *_BAKED),
    anonymous=True,
    validate=_validate,
    build_record=_build_record,
    page=_page,
    link_homes=("atproto", "at"),
    recipe="tape-video",
    blobs=(BlobField("video", required=True), BlobField("thumbnail", required=False)),
    sources=_sources,
    pending_since=_pending_since,
    oddities=_oddities,
    facts=("mp4StartedAt", *_BAKED),
    content=("slug", "code"),
    lost=("bucket", "kind", "mp4Url", "thumbnailUrl"),
    hidden=_hidden,
)
