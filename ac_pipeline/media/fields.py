"""Reading one field of a document with its type checked, so that a fault names the field, the type and the remedy.

What the fields mean is told by the module of each type.
"""

from __future__ import annotations

import re

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media.base import Document

_CODE = re.compile(r"[0-9A-Za-z]{3,12}")
_NOT_CODES = frozenset({"undefined", "None"})
"""What a writer without a code puts into a URL (SRC-2). `nan` and `null` stay: generated codes can spell them."""


def text(document: Document, name: str) -> str | None:
    """The field as it is stored; None when it is missing or null.

    Raises:
        InvalidDocument: It is of another type than text.
    """
    value = document.fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidDocument(
        f"{document.type} {document.id}: `{name}` is of type {type(value).__name__}, not a text: correct it in Mongo"
    )


def code(document: Document) -> str:
    """The short code of a document whose record cannot do without (SRC-2).

    Raises:
        InvalidDocument: There is none, or it does not look like one: 3 to 12 letters and digits (aesthetic-computer
            facts, section 5). The lexicon's own limit, 10 bytes, is the lexicon's to check.
    """
    value = text(document, "code")
    if not value:
        raise InvalidDocument(
            f"{document.type} {document.id} has no `code`, and its record needs one: give it a code in Mongo"
        )
    if _CODE.fullmatch(value) is None or value in _NOT_CODES:
        raise InvalidDocument(
            f"{document.type} {document.id}: the code {value[:40]!r} is not 3 to 12 letters and digits: "
            "correct it in Mongo"
        )
    return value


def code_or_none(document: Document) -> str | None:
    """The code where a type can do without one; None also for something that is not a code."""
    value = document.code
    return value if value is not None and _CODE.fullmatch(value) and value not in _NOT_CODES else None
