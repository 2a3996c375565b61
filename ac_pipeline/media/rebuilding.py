"""The way back: what a record says about the document it was made of.

For people who lost documents, and for those who take over what somebody else wrote into a record. Only fields that
record and document share come back; what else a document held is named as lost (facts, sections 3, 5 and 6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Record
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.sources import GUEST_BUCKET, USER_BUCKET
from ac_pipeline.media.times import read_when

_DATED_CODE = re.compile(r"\d{4}/\d{1,2}/\d{1,2}/([0-9A-Za-z]{3,12})")
"""The slug of a piece published as source ends with its code."""

# What JavaScript's `trim` takes off: not the same as Python's `strip`
_TRIMMED = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"  # noqa: E501


def documents(media: MediaType, record: Record, owner: str | None) -> list[dict[str, Any]]:
    """The documents a record may have been made of, the likeliest first: all fields but `_id`, `user` and links.
    `owner`: the Mongo id of the account, None for the guest. Raises InvalidRecord if the record lacks what only it
    could tell; the message says what."""
    fields = shared_fields(media, record, owner)
    if not isinstance(fields.get(media.content[0]), str):
        raise InvalidRecord(f"its record holds no `{media.content[0]}`, and nothing else does")
    if "code" in media.fields and "code" not in fields and (code := _DATED_CODE.search(str(fields.get("slug")))):
        fields["code"] = code.group(1)
    buckets: tuple[dict[str, Any], ...] = ({},)
    if "bucket" in media.fields:
        buckets = ({"bucket": USER_BUCKET if owner is not None else GUEST_BUCKET}, {})
    return [{**fields, **hidden, **bucket} for hidden in media.hidden(fields) for bucket in buckets]


def shared_fields(media: MediaType, record: Record, owner: str | None) -> dict[str, Any]:
    """What a record says in fields that its document has as well, in the document's own form.

    A mood's text may stand under its older name; a slug gets its owner back where it is a path (REC-6); a source comes
    with its hash. A time that cannot be read is left out: the ObjectId has one.
    """
    found: dict[str, Any] = {name: record[name] for name in (*media.content, "when") if name in record}
    if "mood" in media.fields and "mood" not in found and isinstance(record.get("text"), str):
        found["mood"] = record["text"]
    moment = read_when(found.pop("when", None))
    if moment is not None:
        found["when"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment)
    if isinstance(slug := found.get("slug"), str) and "/" in slug and owner and not slug.startswith(f"{owner}/"):
        found["slug"] = f"{owner}/{slug}"
    if isinstance(source := found.get("source"), str):
        found["hash"] = source_hash(source)
    return found


def lost_fields(media: MediaType, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that documents of this type often have and a rebuilt one has not, or has only guessed."""
    return tuple(name for name in media.lost if name not in document or name == "bucket")


def source_hash(source: str) -> str:
    """`hash` of a program: sha-256 (hex) of its text as JavaScript trims it; unique over all users."""
    return sha256(source.strip(_TRIMMED).encode()).hexdigest()
