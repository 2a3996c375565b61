"""Paintings: pictures with a thumbnail, and sometimes the recording of how they came about."""

from __future__ import annotations

from collections.abc import Mapping

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs, sources
from ac_pipeline.media.base import SITE, BlobField, Document, MediaType, SourceObject
from ac_pipeline.media.eligibility import COMMON_FIELDS

RECORDING = "recording"  # Companion whose existence decides `recordingUrl` (MEDIA-5)


_page = f"{SITE}/#".__add__


def _validate(document: Document) -> None:
    slugs.of(document)
    fields.code(document)
    _sources(document)
    _companions(document)


def _build_record(document: Document, derived: Derived) -> Record:
    slug, code = slugs.of(document).published, fields.code(document)
    url = f"{SITE}/media/paintings/{code}"
    recording = {"recordingUrl": f"{url}.zip"} if RECORDING in derived.found else {}
    return fields.record(
        PAINTING, document, derived, slug=slug, code=code, imageUrl=url, acUrl=_page(code), **recording
    )


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
