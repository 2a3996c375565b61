"""The string formats of the lexicon language: one predicate each.

Only the syntax of single strings belongs here, as the Lexicon and identifier specifications give it; where they leave
room, the stricter reading. Lengths and fields are `lexicon_rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from ac_pipeline.atproto.syntax import cid_bytes, is_record_key, is_tid, parse_datetime

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_TOP_LABEL: Final = r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DID: Final = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_HANDLE: Final = re.compile(rf"(?:{_LABEL}\.)+{_TOP_LABEL}")
_NSID: Final = re.compile(rf"{_TOP_LABEL}(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}")
_AT_URI: Final = re.compile(r"at://([^/?#]+)(?:/([^/?#]+)(?:/([^/?#]+))?)?")
_URI: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?://)?[^\s/\ufeff][^\s\ufeff]*")

# RFC 5646, section 2.1, with the primary subtag in lower case and of two or three letters, as the protocol wants it.
_LANGUAGE: Final = re.compile(
    r"(?P<primary>[a-z]{2,3})(?:-[a-z]{3}){0,3}(?:-[a-z]{4})?(?:-(?:[a-z]{2}|\d{3}))?"
    r"(?P<variants>(?:-(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*)(?P<extensions>(?:-[a-wyz\d](?:-[a-z\d]{2,8})+)*)"
    r"(?:-x(?:-[a-z\d]{1,8})+)?|x(?:-[a-z\d]{1,8})+",
    re.ASCII,
)
_GRANDFATHERED: Final = re.compile(
    r"en-GB-oed|i-(?:ami|bnn|default|enochian|hak|klingon|lux|mingo|navajo|pwn|tao|tay|tsu)"
    r"|sgn-(?:BE-FR|BE-NL|CH-DE)|art-lojban|cel-gaulish|no-(?:bok|nyn)|zh-(?:guoyu|hakka|min|min-nan|xiang)"
)

_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999, UTC
_YEAR_400_MS: Final = -49_544_438_400_000  # the calendar of the year 0, which Python's has not, is that of the year 400


def is_datetime(text: str) -> bool:
    """RFC 3339 with `T`, seconds and a zone other than `-00:00`; up to 64 characters, in the years 0 to 9999 UTC."""
    if len(text) > 64 or text.endswith("-00:00"):
        return False
    if text.startswith("0000-"):
        ms = parse_datetime(f"0400{text[4:]}")
        return ms is not None and ms >= _YEAR_400_MS
    ms = parse_datetime(text)
    return ms is not None and ms <= _LAST_MS


def is_did(text: str) -> bool:
    return len(text) <= 2048 and _DID.fullmatch(text) is not None


def is_handle(text: str) -> bool:
    return len(text) <= 253 and _HANDLE.fullmatch(text) is not None


def is_at_identifier(text: str) -> bool:
    return is_did(text) if text.startswith("did:") else is_handle(text)


def is_nsid(text: str) -> bool:
    return len(text) <= 317 and _NSID.fullmatch(text) is not None


def is_at_uri(text: str) -> bool:
    """`at://authority[/collection[/key]]`, without query and fragment."""
    match = _AT_URI.fullmatch(text) if len(text) <= 8192 else None
    if match is None:
        return False
    authority, collection, key = match.groups()
    return (
        is_at_identifier(authority)
        and (collection is None or is_nsid(collection))
        and (key is None or is_record_key(key))
    )


def is_uri(text: str) -> bool:
    """Any URI with a scheme as RFC 3986 has it, without white space, at most 8 KiB; what lies behind the scheme is not
    looked at."""
    return len(text) <= 8192 and _URI.fullmatch(text) is not None


def is_cid(text: str) -> bool:
    try:
        return bool(cid_bytes(text))
    except ValueError:
        return False


def is_language(text: str) -> bool:
    """BCP 47 without repeated variants or extensions."""
    if _GRANDFATHERED.fullmatch(text):
        return True
    match = _LANGUAGE.fullmatch(text.lower()) if text.isascii() else None
    if match is None or not text.startswith(match["primary"] or ""):
        return False
    variants = (match["variants"] or "").split("-")[1:]
    singletons = [part for part in (match["extensions"] or "").split("-") if len(part) == 1]
    return len(set(variants)) == len(variants) and len(set(singletons)) == len(singletons)


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = {
    "at-identifier": is_at_identifier,
    "at-uri": is_at_uri,
    "cid": is_cid,
    "datetime": is_datetime,
    "did": is_did,
    "handle": is_handle,
    "language": is_language,
    "nsid": is_nsid,
    "record-key": is_record_key,
    "tid": is_tid,
    "uri": is_uri,
}
"""Name in a lexicon -> predicate."""
