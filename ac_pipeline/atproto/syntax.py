"""The protocol's plain values: CIDs, records as DAG-CBOR, record keys (TIDs), datetimes, at-URIs and string formats.

Pure functions on strings and bytes. The encoding itself is libipld's; here are the rules that it does not enforce.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode

import libipld

from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Record

MAX_INTEGER: Final = 2**53 - 1  # Of the data model, in both directions; the PDS answers 500 to anything beyond

# First bytes of CIDs of version 1 with a sha-256, of which 32 bytes follow: of a record, MST node or commit; of a blob
DAG_CBOR_CID: Final = b"\x01\x71\x12\x20"
RAW_CID: Final = b"\x01\x55\x12\x20"

_CID_LENGTH: Final = 36
_LINK_TAG: Final = b"\xd8\x2a"  # CBOR tag 42
_DEEPEST: Final = 128  # Levels of a record that is read: so many, every walk over it can go down

_ALPHABET: Final = "234567abcdefghijklmnopqrstuvwxyz"
_AT_URI: Final = re.compile(r"at://([^/?#]+)(?:/([^/?#]+)(?:/([^/?#]+))?)?")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TID_MICROS: Final = 2**53 - 1
_MAX_TID_MS: Final = _MAX_TID_MICROS // 1000 - 1  # so that every sub-millisecond part still fits: June 2255
_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
_DATETIME: Final = re.compile(rf"\d{{4}}-\d\d-\d\dT{_CLOCK}:[0-5]\d(?:\.\d+)?(?:Z|[+-]{_CLOCK})", re.ASCII)


def _form(pattern: str, most: int) -> Callable[[str], bool]:
    """True for a text of at most so many characters that is of this form as a whole."""
    whole = re.compile(pattern)
    return lambda text: len(text) <= most and whole.fullmatch(text) is not None


# ---------------------------------------------------------------------------------------------------------------- CIDs


def cid_text(raw: bytes) -> str:
    """The text form (base32, `bafy...` or `bafk...`) of a binary CID; raises ValueError for anything else."""
    return str(libipld.encode_cid(raw))


def cid_bytes(text: str) -> bytes:
    """The 36 bytes of a CID of the kinds ATProto uses: version 1, base32, dag-cbor or raw, sha-256. Raises ValueError:
    not canonical, no CID at all, or one of another kind, which has the syntax of the format `cid`, too: the data model
    blesses these alone, no repository holds others, and nothing could verify what they name."""
    if text[:1] == "b":
        raw: bytes = libipld.decode_multibase(text)[1]
        if len(raw) == _CID_LENGTH and raw[:4] in (DAG_CBOR_CID, RAW_CID) and cid_text(raw) == text:
            return raw
    raise ValueError(f"{text[:80]!r} is not a CIDv1 in base32 of dag-cbor or raw with sha-256")


def blob_cid(data: bytes) -> str:
    """CID of a blob: CIDv1, raw, sha-256. Equal to the one the PDS answers to `uploadBlob`."""
    return cid_text(RAW_CID + sha256(data).digest())


def record_cid(record: Record) -> str:
    """CID of a record in its JSON form, equal to the one the PDS answers to a write; raises as `encode_record`."""
    return cid_text(DAG_CBOR_CID + sha256(encode_record(record)).digest())


# ------------------------------------------------------------------------------------------------- records as DAG-CBOR


def encode_record(record: Record) -> bytes:
    """DAG-CBOR of a record whose CIDs are `{"$link": text}` and whose byte strings are `{"$bytes": base64}`. A float
    without a fraction is an integer, as in JSON. Raises InvalidRecord: something the data model does not have: a float,
    an integer beyond 2**53 - 1, a key that is not text, a lone surrogate, a malformed link or byte string. The message
    names the field."""
    if type(record) is not dict or "$link" in record or "$bytes" in record:
        raise InvalidRecord(f"a record is a map of fields, found {str(record)[:80]!r}")
    try:
        encoded: bytes = libipld.encode_dag_cbor(to_ipld(record, "$"))
    except ValueError as error:  # text that UTF-8 cannot hold
        raise InvalidRecord(f"the record cannot be encoded: {error}") from error
    except RecursionError as error:
        raise InvalidRecord("the record is nested too deeply to be encoded") from error
    return encoded


def decode_record(encoded: bytes) -> Record:
    """The JSON form of a record's DAG-CBOR: what `encode_record` takes.

    Values that a PDS should not have accepted (floats, large integers) come through: whoever reads old records must be
    able to look at them; encoding or validating them raises. Raises InvalidRecord (not a map in DAG-CBOR, or it holds a
    byte string that is itself a CID (libipld decodes such a string and a link to the same value, so its meaning would
    be guessed)).
    """
    try:
        decoded = libipld.decode_dag_cbor(encoded)
        if type(decoded) is not dict:
            raise InvalidRecord(f"a record is a map, found {type(decoded).__name__}")
        found: list[bytes] = []
        record = {key: _from_ipld(item, found) for key, item in decoded.items()}
        if any(map(_is_link, found)) and libipld.encode_dag_cbor(decoded) != encoded:
            raise InvalidRecord("the record holds bytes that cannot be told from a link, or is not canonical DAG-CBOR")
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"the record is not valid DAG-CBOR: {error}") from error
    return record


def to_ipld(value: object, path: str) -> object:
    """What libipld encodes for a JSON value that stands at `path`; raises InvalidRecord as `encode_record` does."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, dict):
        return _map(value, path)
    if isinstance(value, list):
        return [to_ipld(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return int(value)
        raise InvalidRecord(f"{path}: the integer {value} is beyond 2**53 - 1")
    if isinstance(value, float):
        raise InvalidRecord(f"{path}: ATProto has no floats, found {value!r}")
    raise InvalidRecord(f"{path}: a record cannot hold {kind.__name__}")


def _map(value: dict[object, object], path: str) -> object:
    if "$link" in value:
        text = value["$link"]
        if len(value) != 1 or not isinstance(text, str):
            raise InvalidRecord(f'{path}: a link is {{"$link": CID}} and nothing else')
        try:
            return cid_bytes(text)
        except ValueError as error:
            raise InvalidRecord(f"{path}: {error}") from error
    if "$bytes" in value:
        raw = bytes_of(value)
        if raw is None:
            raise InvalidRecord(f'{path}: bytes are {{"$bytes": base64}} and nothing else')
        if _is_link(raw):
            raise InvalidRecord(f"{path}: bytes that are themselves a CID would be encoded as a link")
        return raw
    result: dict[str, object] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise InvalidRecord(f"{path}: keys are text, found {key!r}")
        result[key] = item if type(item) is str else to_ipld(item, f"{path}.{key}")
    return result


def bytes_of(value: dict[object, object]) -> bytes | None:
    """The bytes of `{"$bytes": base64}` (padding optional), or None when `value` is not of that shape."""
    text = value.get("$bytes")
    if len(value) != 1 or not isinstance(text, str):
        return None
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if text not in (bare, padded):
        return None
    try:
        return base64.b64decode(padded, validate=True)
    except ValueError:  # includes binascii.Error
        return None


def _is_link(raw: bytes) -> bool:
    """True if libipld takes these bytes for a CID; it has no type of its own for links."""
    return bool(libipld.encode_dag_cbor(raw)[:2] == _LINK_TAG)


def _from_ipld(value: object, found: list[bytes], depth: int = 1) -> object:
    if depth > _DEEPEST:
        raise InvalidRecord("the record is nested too deeply to be read")
    if isinstance(value, dict):
        return {key: item if type(item) is str else _from_ipld(item, found, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_ipld(item, found, depth + 1) for item in value]
    if isinstance(value, bytes):
        found.append(value)
        if _is_link(value):
            return {"$link": cid_text(value)}
        return {"$bytes": base64.b64encode(value).decode("ascii").rstrip("=")}
    return value


# ------------------------------------------------------------------------------------------------ keys, times and URIs


def tid(micros: int, clock: int) -> str:
    """A timestamp identifier: 53 bits of microseconds since 1970, 10 bits of clock id, sorted as text by time; raises
    ValueError for numbers outside these bits."""
    if not (0 <= micros <= _MAX_TID_MICROS and 0 <= clock < 1024):
        raise ValueError(f"a TID cannot hold {micros} microseconds with clock id {clock}")
    number = micros << 10 | clock
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(60, -1, -5)])


# True for a TID: 13 characters, the first one without the top bit
is_tid: Final = _form(f"[{_ALPHABET[:16]}][{_ALPHABET}]{{12}}", 13)


def document_tid(nsid: str, oid: str, when_ms: int, salt: int = 0) -> str:
    """The record key of a document (ObjectId, 24 hex digits), the same in every run on every host (design, section 1,
    idea 3). `when_ms`: its normalised time, milliseconds since 1970; clamped to the range of a TID (1970 to June 2255).
    `salt`: 0, or the next number when the key is taken by another document or refused by the PDS."""
    number = int(sha256(f"{nsid}{oid}{salt}".encode()).hexdigest(), 16)
    clamped = min(max(when_ms, 0), _MAX_TID_MS)
    return tid(clamped * 1000 + number % 1000, number // 1000 % 1024)


is_record_key: Final = _form(r"(?!\.{1,2}\Z)[A-Za-z0-9._:~-]+", 512)  # True for what can be a record key at all


def at_uri(did: str, nsid: str, rkey: str) -> str:
    """`at://did/collection/key`."""
    return f"at://{did}/{nsid}/{rkey}"


def record_address(pds_url: str, uri: str) -> str | None:
    """Where anybody can read the record of an at-URI at its PDS (`com.atproto.repo.getRecord`), which browsers open and
    not the at-URI itself; None for another text."""
    named = _AT_URI.fullmatch(uri)
    if named is None or named[3] is None or not named[1].startswith("did:"):
        return None
    query = urlencode({"repo": named[1], "collection": named[2], "rkey": named[3]})
    return f"{pds_url}/xrpc/com.atproto.repo.getRecord?{query}"


def parse_datetime(text: str) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 datetime as records hold them, rounded down; None for anything else.

    `T`, seconds and a zone are required; a leap second and a day that does not exist are refused.
    """
    if _DATETIME.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_TOP_LABEL: Final = r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
is_did: Final = _form(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]", 2048)
is_handle: Final = _form(rf"(?:{_LABEL}\.)+{_TOP_LABEL}", 253)
is_nsid: Final = _form(rf"{_TOP_LABEL}(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}", 317)
# True for a URI with a scheme, as RFC 3986 has it, without white space; what lies behind the scheme is not read
is_uri: Final = _form(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?://)?[^\s/\ufeff][^\s\ufeff]*", 8192)

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


def is_at_identifier(text: str) -> bool:
    return is_did(text) if text.startswith("did:") else is_handle(text)


def is_at_uri(text: str) -> bool:
    """`at://authority[/collection[/key]]`, without query and fragment."""
    match = _AT_URI.fullmatch(text) if len(text) <= 8192 else None
    if match is None:
        return False
    checks = zip(match.groups(), (is_at_identifier, is_nsid, is_record_key), strict=True)
    return all(part is None or check(part) for part, check in checks)


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
