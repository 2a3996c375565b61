"""Where the platform keeps objects: its buckets, their hosts, and the object that one of its own URLs means.

Which keys an item may have is told by its type. Rules: aesthetic-computer facts, section 6.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media import fields
from ac_pipeline.media.base import Document, SourceObject

USER_BUCKET = "user-aesthetic-computer"
GUEST_BUCKET = "art-aesthetic-computer"
OVEN_BUCKET = "at-blobs-aesthetic-computer"

_HOSTS = {
    host: bucket
    for bucket in (USER_BUCKET, GUEST_BUCKET, OVEN_BUCKET)
    for host in (
        f"{bucket.removesuffix('-aesthetic-computer')}.aesthetic.computer",
        f"{bucket}.sfo3.digitaloceanspaces.com",
        f"{bucket}.sfo3.cdn.digitaloceanspaces.com",
    )
}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Names without dots: the bucket becomes the first label of a host name."""


def bucket(document: Document) -> str:
    """The bucket of a document's objects; without one, the users' or the guests'. Raises InvalidDocument if what Mongo
    has is not the name of a bucket."""
    stored = fields.text(document, "bucket")
    if not stored:
        return GUEST_BUCKET if document.owner is None else USER_BUCKET
    if _BUCKET.fullmatch(stored) is None:
        raise InvalidDocument(f"{document}: `bucket` {stored[:80]!r} is not the name of a bucket: correct it in Mongo")
    return stored


def candidates(document: Document, keys: tuple[str, ...], format: str) -> tuple[SourceObject, ...]:
    """One source object for each key, in their order, each key once. Raises InvalidDocument if a key would leave its
    folder (`.` and `..` segments) or has an empty segment."""
    place = bucket(document)
    if not all(map(_is_safe, keys)):
        raise InvalidDocument(f"{document}: its object key has an empty, `.` or `..` segment")
    return tuple(SourceObject(bucket=place, key=f"{key}.{format}", format=format) for key in dict.fromkeys(keys))


def object_of_url(url: str, format: str) -> SourceObject | None:
    """The object that an http or https URL of the platform's own storage names, query and fragment left out; None for
    any other: those are never fetched. `format`: what the object is taken for, e.g. `mp4`."""
    try:
        parts = urlsplit(url.strip())
        if parts.scheme not in {"http", "https"} or parts.username is not None or parts.port is not None:
            return None
        place = _HOSTS.get(parts.hostname or "")
    except ValueError:  # a malformed host or port
        return None
    key = unquote(parts.path.removeprefix("/"))
    return SourceObject(bucket=place, key=key, format=format) if place and _is_safe(key) else None


def is_of_another(found: SourceObject, owner: str | None) -> bool:
    """True if the key names a user, as `auth0|x` does, who is not `owner`."""
    return any("|" in segment and segment != owner for segment in found.key.split("/"))


def _is_safe(key: str) -> bool:
    return key.isprintable() and "\\" not in key and not {"", ".", ".."}.intersection(key.split("/"))
