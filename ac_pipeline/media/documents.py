"""What a Mongo document means: its owner, time, link and fingerprint, and whether a record of it shall exist.

Generic over the five types; what differs between them is data on `MediaType`. No I/O, and never a failure for what a
document holds: a value of the wrong type ends as a verdict with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.eligibility import is_guest, why_withdrawn
from ac_pipeline.media.links import read_link
from ac_pipeline.media.times import object_id_time, read_when


def interpret(
    media: MediaType, raw: Mapping[str, Any], *, owner_deleted: bool = False, account_did: str | None = None
) -> Document:
    """One Mongo document as the mirror sees it.

    Args:
        media: Its type.
        raw: The document; fields that are not synchronised may be there or not, they change nothing.
        owner_deleted: Whether the owner's account is scheduled for deletion or deleted.
        account_did: The DID of the repository it would be published in, where known: lets work of a vanished owner be
            told from a guest's (DEL-10). That the stored key is unknown to that repository is the plan's to find.
    """
    id = str(raw.get("_id"))
    user = raw.get("user")
    guest = is_guest(user)
    fields = {name: raw[name] for name in media.fields if name in raw}
    when = read_when(raw.get("when"))
    warnings: tuple[str, ...] = ()
    if when is None:
        when = object_id_time(id) or 0
        warnings = (_about_when("when" in raw and raw["when"] is not None),)
    code = raw.get("code")
    owner = None if guest else str(user)
    document = Document(
        type=media.name,
        id=id,
        owner=owner,
        code=code if isinstance(code, str) and code else None,
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
        oddities = media.oddities(document)
    except InvalidDocument as fault:
        return Verdict.INVALID, fault.message, ()
    link = document.link
    if media.outlives_owner and document.owner is None and account_did and link and link.did not in {None, account_did}:
        return (
            Verdict.HELD,
            f"it has no `user`, and its link is into the repository {link.did}: its owner seems to have left; "
            "publish it as guest work only by clearing the link, or remove it",
            oddities,
        )
    return Verdict.ELIGIBLE, "", oddities


def _check_identity(media: MediaType, document: Document, stored_id: object, user: object) -> None:
    if isinstance(stored_id, str) or object_id_time(document.id) is None:
        raise InvalidDocument(
            f"{document.type} {document.id}: `_id` is of type {type(stored_id).__name__}, not an ObjectId: "
            "store the document anew"
        )
    if document.owner is None:
        if not media.anonymous:
            raise InvalidDocument(f"{document.type} {document.id} has no `user`; {media.plural} are never anonymous")
    elif not isinstance(user, str):
        raise InvalidDocument(
            f"{document.type} {document.id}: `user` is of type {type(user).__name__}, not a text: correct it in Mongo"
        )


def _check_texts(document: Document) -> None:
    """Half a surrogate pair stands for bytes that were not UTF-8: no record can hold it, and no CID exists for it."""
    for name, value in document.fields.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidDocument(
                    f"{document.type} {document.id}: `{name}` is not valid UTF-8: correct it in Mongo"
                ) from None


def _about_when(present: bool) -> str:
    return f"`when` is {'unreadable' if present else 'missing'}: the time of the ObjectId is used"


def _plain(value: object) -> object:
    """Values that JSON does not know, in a form that is the same in every run and on every host."""
    if isinstance(value, datetime):
        return {"$date": read_when(value)}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    return {f"${type(value).__name__}": str(value)}


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain, check_circular=False).encode


def _fingerprint(fields: Mapping[str, Any], owner: str | None, when: int) -> str:
    """sha-256 of what decides the record: missing, null and false are one, so are the forms of a guest and a time."""
    content = {name: value for name, value in fields.items() if value is not None and value is not False}
    content["user"] = owner
    content["when"] = when
    return sha256(_canonical(content).encode()).hexdigest()
