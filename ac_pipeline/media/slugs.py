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
from collections.abc import Sequence
from dataclasses import dataclass

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media import fields
from ac_pipeline.media.base import Document


@dataclass(frozen=True, slots=True)
class Slug:
    stored: str  # As Mongo has it; the key of an owner-qualified object is made of this
    published: str  # Without the owner: what a record may hold (REC-6)
    image: str  # The part that names the object: all but the recording
    recording: str | None  # The part after the colon, if any
    qualified: bool  # True if it starts with the owner's id

    @property
    def by_piece_and_time(self) -> bool:
        """True for `starfield-1690000000000`: what the oldest tapes are called."""
        return _PIECE_AND_TIME.fullmatch(self.published) is not None


_LONGEST = 900
"""Bytes. A key of object storage has at most 1,024, and the owner, the folder and the extension need some of them."""

_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~@$!,()-]*")
_TIME = re.compile(r"\d{4}(?:\.\d{1,2}){5}(?:\.\d{1,3})?Z?")
_ISO_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}[:.-]\d{2}(?:[:.-]\d{2}(?:[.,-]\d{1,6})?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
)
_PIECE_AND_TIME = re.compile(r"[^/:]+-\d{12,13}")
_DATED_PATH = re.compile(r"\d{4}/\d{1,2}/\d{1,2}/[^/]+")
_FORBIDDEN = frozenset('\\|:?#*<>"')
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_NO_VALUE = frozenset({"undefined", "None"})
_IDENTITY = re.compile(r"auth0[^0-9a-z]?[0-9a-f]{24}", re.IGNORECASE)
_SHORTEST_IDENTITY = 12
"""Characters. The part of an Auth0 id after the bar is checked from this length on: shorter ones could be words."""


def of(document: Document) -> Slug:
    """The slug of a document. Raises InvalidDocument if it has none, or one of unknown shape; the message names it
    (SRC-3). Also a work in progress, which has no object in storage, whose `status` does not say so."""
    stored = fields.text(document, "slug")
    if not stored or not stored.strip():
        raise InvalidDocument(f"{document} has no `slug`: store the name of its object in Mongo")
    try:
        return parse(stored, document.owner)
    except ValueError as fault:
        # A slug may hold somebody's Auth0 id, and reasons are shown: only the shape of such a part is named.
        shown = _safe(stored, document.owner)
        raise InvalidDocument(f"{document} has a slug of unknown shape, {shown!r}: {fault}") from None


def parse(stored: str, owner: str | None) -> Slug:
    """A slug as Mongo has it, of a document of this owner (None for a guest's). Raises ValueError if it is of no known
    shape; with the fault."""
    qualified = owner is not None and stored.startswith(f"{owner}/")
    published = stored[len(owner) + 1 :] if owner is not None and qualified else stored
    if len(stored.encode(errors="replace")) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} bytes")
    image, recording = published, None
    if "/" in published:
        _check_path(published, qualified=qualified)
    elif not _TIME.fullmatch(published) and not _ISO_TIME.fullmatch(published):
        image, *further = published.split(":")
        _check_parts((image, *further))
        if len(further) > 1:
            raise ValueError("it has more than one colon")
        recording = further[0] if further else None
    if _names_identity(published, owner):
        raise ValueError("the id of a user would be published with it")
    return Slug(stored, published, image, recording, qualified)


def _check_path(name: str, *, qualified: bool) -> None:
    segments = name.split("/")
    _check_parts(segments)
    if segments[0] == "wip":
        raise ValueError("it is that of a work in progress, but `status` is not `wip`")
    if not _DATED_PATH.fullmatch(name) and not (qualified and len(segments) == 2):
        raise ValueError("a path is known only as owner/kind/name, YYYY/MM/DD/code or wip/id")


def _check_parts(parts: Sequence[str]) -> None:
    fault = next(filter(None, map(_fault, parts)), None)
    if fault:
        raise ValueError(fault)


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
