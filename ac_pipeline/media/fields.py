"""Reading one field of a document with its type checked, and what all records have in common.

Types are checked exactly: the driver's `Code` is a subclass of text that cannot be hashed, its `Binary` one of bytes.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.items import Derived, Record
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.times import format_when

_CODE = re.compile(r"[0-9A-Za-z]{3,12}")
_NOT_CODES = frozenset({"undefined", "None"})
"""What a writer without a code puts into a URL (SRC-2). `nan` and `null` stay: generated codes can spell them."""


def plain(value: object) -> object:
    """The value, where it is of a subclass that says no more than its base (`Int64`, `SON`) as that base."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return dict(value) if isinstance(value, dict) else value


def is_text(value: object) -> TypeGuard[str]:
    """True if it is a text and nothing but a text; a `Code` is none."""
    return type(value) is str


def sound_text(value: object) -> str | None:
    """A text that is not empty and can be stored and sent: no half of a surrogate pair, which stands for bytes that
    were not UTF-8. None for anything else."""
    if not is_text(value) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def text(document: Document, name: str) -> str | None:
    """The field as it is stored; None when it is missing or null. Raises InvalidDocument if it is of another type than
    text."""
    value = document.fields.get(name)
    if value is None or is_text(value):
        return value
    raise InvalidDocument(f"{document}: {wrong_type(name, value, 'a text')}")


def wrong_type(name: str, value: object, wanted: str) -> str:
    """What is said of a field that holds something else than it should."""
    return f"`{name}` is of type {type(value).__name__}, not {wanted}: correct it in Mongo"


def code(document: Document) -> str:
    """The short code of a document whose record cannot do without (SRC-2). Raises InvalidDocument if there is none, or
    it does not look like one: 3 to 12 letters and digits (aesthetic-computer facts, section 5). The lexicon's own
    limit, 10 bytes, is the lexicon's to check."""
    value = text(document, "code")
    if not value:
        raise InvalidDocument(f"{document} has no `code`, and its record needs one: give it a code in Mongo")
    if not is_code(value):
        fault = f"the code {value[:40]!r} is not 3 to 12 letters and digits"
        raise InvalidDocument(f"{document}: {fault}: correct it in Mongo")
    return value


def record(media: MediaType, document: Document, derived: Derived, **own: object) -> Record:
    """A record with fields of its own, those that all have, and the blobs there are."""
    blobs = ((blob.name, derived.renditions.get(blob.name)) for blob in media.blobs)
    return {
        "$type": media.nsid,
        **own,
        "when": format_when(document.when),
        "ref": document.id,
        **{name: made.blob.to_json() for name, made in blobs if made is not None},
    }


def is_code(value: str) -> bool:
    return _CODE.fullmatch(value) is not None and value not in _NOT_CODES
