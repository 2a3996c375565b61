"""What a Mongo document means: its owner, time, link and fingerprint, and whether a record of it shall exist; and the
way back, what a record says about the document it was made of.

Generic over the types; what differs between them is data on `MediaType`. No I/O, and never a failure for what a
document holds: a value of the wrong type ends as a verdict with a reason.

The way back is for people who lost documents, and for those who take over what somebody else wrote into a record. Only
fields that record and document share come back; what else a document held is named as lost (facts, sections 3, 5, 6).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from ac_pipeline.errors import InvalidDocument, InvalidRecord
from ac_pipeline.items import Record
from ac_pipeline.media.base import Document, Link, MediaType, Verdict
from ac_pipeline.media.eligibility import COMMON_FIELDS, is_guest, why_withdrawn
from ac_pipeline.media.fields import is_text, plain, sound_text, wrong_type
from ac_pipeline.media.sources import GUEST_BUCKET, USER_BUCKET
from ac_pipeline.media.times import object_id_time, read_when

_SHOWN = 60  # Characters of an odd value that stands where a text or an ObjectId should
_AT_URI = re.compile(r"at://(did:[a-z]+:[A-Za-z0-9._:%-]+)/")
_RKEY = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._:~-]{1,512}")  # Record key syntax of ATProto: nothing else is a key


def interpret(
    media: MediaType, raw: Mapping[str, Any], *, owner_deleted: bool = False, account_did: str | None = None
) -> Document:
    """One Mongo document as the mirror sees it; fields that are not synchronised change nothing. `owner_deleted`: True
    if the owner's account is scheduled for deletion or deleted. `account_did`: the DID of the repository it would be
    published in, where known: lets work of a vanished owner be told from a guest's (DEL-10)."""
    stored, user = raw.get("_id"), raw.get("user")
    # An `_id` that is no ObjectId can never be mistaken for one.
    id = str(stored) if _is_object_id(stored) else f"{type(stored).__name__} {shown(stored)}"
    fields = {name: plain(raw[name]) for name in media.fields if name in raw}
    when = read_when(fields.get("when"))
    warnings: tuple[str, ...] = ()
    if when is None:
        when = object_id_time(id) or 0
        warnings = (_about_when(fields.get("when")),)
    owner = None if is_guest(user) else sound_text(user) or shown(user)
    document = Document(
        type=media.name,
        id=id,
        owner=owner,
        code=sound_text(raw.get("code")),
        when=when,
        fields=fields,
        fingerprint=_fingerprint(fields, owner, when),
        link=read_link(raw, media.link_homes),
        warnings=warnings,
    )
    verdict, reason, oddities = _judge(media, document, raw, owner_deleted=owner_deleted, account_did=account_did)
    if verdict is Verdict.ELIGIBLE and not oddities:
        return document
    return replace(document, verdict=verdict, reason=reason, warnings=(*warnings, *oddities))


def _judge(
    media: MediaType, document: Document, raw: Mapping[str, Any], *, owner_deleted: bool, account_did: str | None
) -> tuple[Verdict, str, tuple[str, ...]]:
    try:
        reason = why_withdrawn(document.fields, owner_deleted=owner_deleted)
        if reason:
            return Verdict.WITHDRAWN, reason, ()
        _check_identity(media, document, raw.get("_id"), raw.get("user"))
        _check_texts(document)
        media.validate(document)
        oddities = (*media.oddities(document), *_passed_over(media, document))
    except InvalidDocument as fault:
        return Verdict.INVALID, fault.message, ()
    link = document.link
    if media.outlives_owner and document.owner is None and account_did and link and link.did not in {None, account_did}:
        why = f"it has no `user`, and its link is into the repository {link.did}: its owner seems to have left"
        todo = "publish it as guest work only by clearing the link, or remove it"
        return Verdict.OWNERSHIP_UNCLEAR, f"{why}; {todo}", oddities
    return Verdict.ELIGIBLE, "", oddities


def _check_identity(media: MediaType, document: Document, stored_id: object, user: object) -> None:
    if not _is_object_id(stored_id):
        kind = type(stored_id).__name__
        raise InvalidDocument(f"{document}: `_id` is of type {kind}, not an ObjectId: store the document anew")
    if document.owner is None:
        if not media.anonymous:
            raise InvalidDocument(f"{document} has no `user`; {media.plural} are never anonymous")
    elif not is_text(user):
        raise InvalidDocument(f"{document}: {wrong_type('user', user, 'a text')}")


def _check_texts(document: Document) -> None:
    """Half a surrogate pair stands for bytes that were not UTF-8: no record can hold it, and no CID exists for it."""
    for name, value in document.fields.items():
        if is_text(value) and value and sound_text(value) is None:
            raise InvalidDocument(f"{document}: `{name}` is not valid UTF-8: correct it in Mongo")


def _passed_over(media: MediaType, document: Document) -> Iterator[str]:
    """Fields of the type itself that hold something else than they should, which its record can do without."""
    for name in media.fields:
        value = document.fields.get(name)
        fact = name in media.facts
        if name in COMMON_FIELDS or value is None or is_text(value) or (fact and type(value) in _FACTS):
            continue
        said = wrong_type(name, value, "a time or a number" if fact else "a text")
        yield said.replace(": correct", ", and passed over: correct")


def _about_when(value: object) -> str:
    said = "unreadable" if is_text(value) else f"of type {type(value).__name__}, from which no time can be read"
    said = "missing" if value is None else said
    return f"`when` is {said}: the time of the ObjectId is used"


def _is_object_id(value: object) -> bool:
    """By name: no rule of the mirror needs the driver."""
    return type(value).__name__ == "ObjectId"


def shown(value: object) -> str:
    """An odd value in a few characters that can be stored, the same in every run."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "nested too deeply"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… {sha256(text.encode()).hexdigest()[:16]}"


def _plain(value: object) -> object:
    """Values that JSON does not know, in a form that is the same in every run and on every host."""
    if isinstance(value, datetime):
        return {"$date": read_when(value)}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    return {f"${type(value).__name__}": str(value)}


def _content(value: object) -> object:
    """A field's value for the fingerprint: one of the driver's own types never has that of its base."""
    if type(value) in _JSON:
        return value
    if not isinstance(value, dict | list):
        return _plain(value)
    try:
        _canonical(value)
    except (RecursionError, TypeError):
        return {f"${type(value).__name__}": shown(value)}
    return value


_JSON = frozenset({str, int, float, bool})
_FACTS = frozenset({datetime, int, float})
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain, check_circular=False).encode


def _fingerprint(fields: Mapping[str, Any], owner: str | None, when: int) -> str:
    """sha-256 of what decides the record: missing, null and false are one, so are the forms of a guest and a time."""
    content = {name: _content(value) for name, value in fields.items() if value is not None and value is not False}
    content["user"] = owner
    content["when"] = when
    return sha256(_canonical(content).encode()).hexdigest()


def read_link(raw: Mapping[str, Any], homes: Sequence[str]) -> Link | None:
    """Where a document says its record is (aesthetic-computer facts, section 11), or None when no home holds a link.

    The first home with a record key wins, else the first that holds anything: a wipe of the original leaves `uri`
    and `cid` behind without `rkey`, and such a rest is no key to write under. Where a type has several homes and they
    do not say the same, the CID is unknown (None), so that whoever compares the link with the record writes all homes
    anew (LINK-4). `homes`: names of its link sub-documents, the pipeline's own first.
    """
    found = [_read_home(raw.get(home)) for home in homes]
    links = [link for link in found if link is not None]
    if not links:
        return None
    winner = next((link for link in links if link.rkey), links[0])
    alike = len(links) == len(found) and len({(link.rkey, link.uri, link.cid) for link in links}) == 1
    return winner if alike else replace(winner, cid=None)


def _read_home(home: object) -> Link | None:
    if not isinstance(home, Mapping):
        return None
    rkey, uri, cid, did = (sound_text(home.get(part)) for part in ("rkey", "uri", "cid", "did"))
    rkey = rkey if rkey is not None and _RKEY.fullmatch(rkey) else None
    if did is None and uri is not None and (match := _AT_URI.match(uri)):
        did = match.group(1)
    return Link(rkey=rkey, uri=uri, cid=cid, did=did) if rkey or uri or cid else None


# --------------------------------------------------------------------------------------------------------- the way back

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
