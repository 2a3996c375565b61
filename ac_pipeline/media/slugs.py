"""Slugs: the shapes that five years of writers left behind, what each names, and what of it may be published.

A `/` in a slug is structure, so a path must have one of the known shapes; where the facts know no structure, a slug is
a name and taken as generously as object storage takes it: pictures imported in 2023 are called after files, pieces
after words, in any script. "Unknown" is only what no uploader of the platform makes and what would be dangerous or
ambiguous further on:

- empty, `.` and `..` segments, backslashes, control and invisible characters, spaces at the ends of a segment: they
  lead out of the owner's folder, or look like another name;
- `? # * < > " |` and `:` outside its known places: they end or change a URL, and `|` is the mark of an Auth0 id;
- percent escapes such as `%7C`: a name that was encoded once too often, of which nobody can say what it means;
- the words `undefined` and `None` as a segment: a writer without a value;
- names longer than a key of object storage can be.

Where the objects are is `sources.py` and the types. Rules: aesthetic-computer facts, sections 3, 5, 6 and 13.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media import fields
from ac_pipeline.media.base import Document


class Shape(StrEnum):
    TIME = "time"
    ISO_TIME = "ISO time"
    RECORDED = "image and recording"
    PIECE_AND_TIME = "piece and time"
    DATED_PATH = "dated path"
    KIND_AND_NAME = "kind and name"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Slug:
    """One slug, understood.

    Args:
        shape: What it is.
        stored: As Mongo has it; the key of an owner-qualified object is made of this.
        published: Without the owner: what a record may hold (REC-6).
        image: The part that names the object: all but the recording.
        recording: The part after the colon, else None.
        qualified: Whether it starts with the owner's id.
    """

    shape: Shape
    stored: str
    published: str
    image: str
    recording: str | None
    qualified: bool


_LONGEST = 900
"""Bytes. A key of object storage has at most 1,024, and the owner, the folder and the extension need some of them."""

_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~@$!,()-]*")
_TIME = re.compile(r"\d{4}(?:\.\d{1,2}){5}(?:\.\d{1,3})?Z?")
_ISO_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}[:.-]\d{2}(?:[:.-]\d{2}(?:[.,-]\d{1,6})?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
)
_PIECE_AND_TIME = re.compile(r".+-\d{12,13}")
_DATED_PATH = re.compile(r"\d{4}/\d{1,2}/\d{1,2}/[^/]+")
_FORBIDDEN = frozenset('\\|:?#*<>"')
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_NO_VALUE = frozenset({"undefined", "None"})
_IDENTITY = re.compile(r"auth0[^0-9a-z]?[0-9a-f]{24}", re.IGNORECASE)
_SHORTEST_IDENTITY = 12
"""Characters. The part of an Auth0 id after the bar is checked from this length on: shorter ones could be words."""


def of(document: Document) -> Slug:
    """The slug of a document.

    Raises:
        InvalidDocument: It has none, or one of unknown shape; the message names it (SRC-3). Also a work in progress,
            which has no object in storage, whose `status` does not say so.
    """
    stored = fields.text(document, "slug")
    where = f"{document.type} {document.id}"
    if not stored or not stored.strip():
        raise InvalidDocument(f"{where} has no `slug`: store the name of its object in Mongo")
    slug, fault = parse(stored, document.owner)
    if slug is None:
        # A slug may hold somebody's Auth0 id, and reasons are shown: only the shape of such a part is named.
        raise InvalidDocument(f"{where} has a slug of unknown shape, {_safe(stored, document.owner)!r}: {fault}")
    return slug


def parse(stored: str, owner: str | None) -> tuple[Slug | None, str]:
    """A slug and "", or None and the fault.

    Args:
        stored: The slug as Mongo has it.
        owner: `user` of its document, None for a guest's.
    """
    qualified = owner is not None and stored.startswith(f"{owner}/")
    published = stored[len(owner) + 1 :] if owner is not None and qualified else stored
    if len(stored.encode(errors="replace")) > _LONGEST:
        return None, f"it is longer than {_LONGEST} bytes"
    shape, fault = _shape(published, qualified=qualified)
    if shape is None:
        return None, fault
    if _names_identity(published, owner):
        return None, "the id of a user would be published with it"
    image, _, recording = published.partition(":") if shape is Shape.RECORDED else (published, "", "")
    return Slug(shape, stored, published, image, recording or None, qualified), ""


def _shape(name: str, *, qualified: bool) -> tuple[Shape | None, str]:
    segments = name.split("/")
    if len(segments) == 1:
        return _shape_of_name(name)
    fault = next((fault for fault in map(_fault, segments) if fault), "")
    if fault:
        return None, fault
    if segments[0] == "wip":
        return None, "it is that of a work in progress, but `status` is not `wip`"
    if _DATED_PATH.fullmatch(name):
        return Shape.DATED_PATH, ""
    if qualified and len(segments) == 2:
        return Shape.KIND_AND_NAME, ""
    return None, "a path is known only as owner/kind/name, YYYY/MM/DD/code or wip/id"


def _shape_of_name(name: str) -> tuple[Shape | None, str]:
    if _TIME.fullmatch(name):
        return Shape.TIME, ""
    if _ISO_TIME.fullmatch(name):
        return Shape.ISO_TIME, ""
    parts = name.split(":")
    fault = next((fault for fault in map(_fault, parts) if fault), "")
    if len(parts) == 2 and not fault:
        return Shape.RECORDED, ""
    fault = fault or ("it has more than one colon" if len(parts) > 2 else "")
    if fault:
        return None, fault
    return (Shape.PIECE_AND_TIME if _PIECE_AND_TIME.fullmatch(name) else Shape.NAME), ""


def _fault(segment: str) -> str:
    """What makes a segment unusable as a name, or nothing."""
    if segment in _NO_VALUE:
        return f"{segment!r} is what a writer without a value leaves"
    if _PLAIN.fullmatch(segment):
        return ""
    if segment in {"", ".", ".."}:
        return "an empty part" if not segment else f"the part {segment!r} leads to another folder"
    if segment != segment.strip():
        return "a part that begins or ends with a space"
    if not segment.isprintable():
        return "an invisible character"
    bad = sorted(_FORBIDDEN.intersection(segment))
    if bad:
        return f"the character {bad[0]!r}"
    return "a percent escape" if _ESCAPE.search(segment) else ""


def _names_identity(name: str, owner: str | None) -> bool:
    if _IDENTITY.search(name):
        return True
    secret = owner.rpartition("|")[2] if owner else ""
    return len(secret) >= _SHORTEST_IDENTITY and secret in name


def _safe(stored: str, owner: str | None) -> str:
    shown = stored.replace(owner, "<owner>") if owner else stored
    shown = re.sub(r"[A-Za-z0-9-]+(?:\||%7C)[A-Za-z0-9]+", "<user>", shown, flags=re.IGNORECASE)
    shown = _IDENTITY.sub("<user>", shown)
    return shown if len(shown) <= 120 else shown[:119] + "…"
