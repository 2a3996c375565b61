"""Paintings: pictures with a thumbnail, and sometimes the recording of how they came about."""

from __future__ import annotations

from collections.abc import Mapping

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs, sources
from ac_pipeline.media.base import SITE, BlobField, Document, MediaType, SourceObject
from ac_pipeline.media.eligibility import COMMON_FIELDS
from ac_pipeline.media.times import format_when

RECORDING = "recording"
"""Companion whose existence decides `recordingUrl` (MEDIA-5)."""


def _page(code: str) -> str:
    return f"{SITE}/#{code}"


def _validate(document: Document) -> None:
    slugs.of(document)
    fields.code(document)
    _sources(document)
    _companions(document)


def _build_record(document: Document, derived: Derived) -> Record:
    code = fields.code(document)
    record: Record = {
        "$type": PAINTING.nsid,
        "slug": slugs.of(document).published,
        "code": code,
        "imageUrl": f"{SITE}/media/paintings/{code}",
        "acUrl": _page(code),
        "when": format_when(document.when),
        "ref": document.id,
    }
    if RECORDING in derived.found:
        record["recordingUrl"] = f"{SITE}/media/paintings/{code}.zip"
    if (thumbnail := derived.renditions.get("thumbnail")) is not None:
        record["thumbnail"] = thumbnail.blob.to_json()
    return record


def _sources(document: Document) -> tuple[SourceObject, ...]:
    slug = slugs.of(document)
    return sources.candidates(document, _keys(document, slug, slug.image), "png")


def _companions(document: Document) -> Mapping[str, tuple[SourceObject, ...]]:
    slug = slugs.of(document)
    if slug.recording is None and document.owner is None:
        return {}  # a guest's recording has a name of its own, which stands after the colon
    return {RECORDING: sources.candidates(document, _keys(document, slug, slug.recording or slug.image), "zip")}


def _keys(document: Document, slug: slugs.Slug, name: str) -> tuple[str, ...]:
    if slug.qualified:
        return (f"{document.owner}/{name}",)
    if document.owner is None:
        return (name,)
    return (f"{document.owner}/painting/{name}", f"{document.owner}/{name}")


PAINTING = MediaType(
    name="painting",
    plural="paintings",
    collection="paintings",
    nsid="computer.aesthetic.painting",
    fields=(*COMMON_FIELDS, "code", "slug", "bucket"),
    anonymous=True,
    validate=_validate,
    build_record=_build_record,
    page=_page,
    recipe="painting-thumbnail",
    blobs=(BlobField("thumbnail", required=False),),
    sources=_sources,
    companions=_companions,
    content=("slug", "code"),
    lost=("bucket",),
)
