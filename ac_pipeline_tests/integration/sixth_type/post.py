"""Posts: a title, a text, and a picture that becomes a thumbnail. A media type that lives in another package."""

from __future__ import annotations

from pathlib import Path

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs, sources
from ac_pipeline.media.base import BlobField, Document, MediaType, SourceObject
from ac_pipeline.media.eligibility import COMMON_FIELDS
from ac_pipeline.media.times import format_when


def _title(document: Document) -> str:
    if title := fields.text(document, "title"):
        return title
    raise InvalidDocument(f"post {document.id} has no `title`: give it one in Mongo")


def _validate(document: Document) -> None:
    _title(document)
    fields.text(document, "text")
    _sources(document)


def _build_record(document: Document, derived: Derived) -> Record:
    return {
        "$type": POST.nsid,
        "title": _title(document),
        "text": fields.text(document, "text") or "",
        "when": format_when(document.when),
        "ref": document.id,
        **{name: made.blob.to_json() for name, made in derived.renditions.items()},
    }


def _sources(document: Document) -> tuple[SourceObject, ...]:
    return sources.candidates(document, (f"{document.owner}/post/{slugs.of(document).image}",), "png")


POST = MediaType(
    name="post",
    plural="posts",
    collection="posts",
    nsid="computer.aesthetic.post",
    fields=(*COMMON_FIELDS, "title", "text", "slug", "bucket"),
    anonymous=False,
    validate=_validate,
    build_record=_build_record,
    content=("title", "text"),
    recipe="painting-thumbnail",
    blobs=(BlobField("thumbnail", required=True),),
    sources=_sources,
    lexicons=Path(__file__).parent / "lexicons",
)
