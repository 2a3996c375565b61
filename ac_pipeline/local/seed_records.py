"""What earlier writers left of the demo's documents: their records on the PDS and their links in Mongo.

Records are put together here from the facts, not by the pipeline's own builders, which are to be compared with them.
Source: aesthetic-computer facts, sections 7, 7.1 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ac_pipeline.local.seed_maker import NOW, Maker, iso
from ac_pipeline.local.seed_values import Item, Past

COPIES = "site.standard.document"
_SITE = "https://aesthetic.computer"


@dataclass(frozen=True, slots=True)
class Whole:
    """In a record: the bytes of the item's own picture, to be uploaded and replaced by the reference."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """What one item's past amounts to.

    Args:
        records: Key -> record, to be written before the first sync.
        linked: Key of the link in Mongo, or None.
        form: Fields of the link besides `rkey`: some of uri, cid, did, syncedAt.
        link: The link as it is, where it is not made of a record.
        copy: Key of a copy of the linked record, or None.
    """

    records: Mapping[str, dict[str, Any]]
    linked: str | None = None
    form: tuple[str, ...] = ()
    link: Mapping[str, Any] | None = None
    copy: str | None = None


FULL = ("uri", "cid", "did", "syncedAt")
"""The pipeline's own form of a link."""


def nsid(type: str) -> str:
    return f"computer.aesthetic.{type}"


def left_behind(maker: Maker, item: Item, others: Mapping[str, str]) -> Left:
    """The past of one item.

    Args:
        others: Media type -> a key that holds another document's record of the same repository.
    """
    past = item.past
    when = item.document["_id"].generation_time
    if not past.records:
        return Left({}, link=_link_alone(maker, item, others))
    keys = [maker.tid(when + timedelta(minutes=minute)) for minute in range(past.records)]
    records = dict.fromkeys(keys, _record(maker, item))
    if past in {Past.ORPHAN, Past.CORRECT_UNLINKED, Past.NO_REF}:
        return Left(records)
    linked = keys[1] if past is Past.DUPLICATES else keys[0]
    return Left(records, linked, _FORMS.get(past, ()), copy=maker.tid(NOW) if past is Past.COPIED else None)


_FORMS = {
    Past.CORRECT: FULL,
    Past.COPIED: FULL,
    Past.WHEN_OFF: FULL,
    Past.NO_VIDEO: ("uri", "cid"),
    Past.DUPLICATES: ("uri",),
}
"""Fields of the link besides `rkey`; the other pasts left the key alone."""


def _record(maker: Maker, item: Item) -> dict[str, Any]:
    past = item.past
    right = correct(item)
    changes: dict[Past, dict[str, Any]] = {
        Past.TEXT_FIELD: {"mood": None, "text": right.get("mood")},
        Past.TEXTLESS: {"mood": None},
        Past.MONGO_ID: {"ref": None, "mongoId": right["ref"]},
        Past.WHEN_OFF: {"when": _shifted(item)},
        Past.PNG_URL: {"imageUrl": f"{right.get('imageUrl')}.png"},
        Past.HANDLE_URL: {"imageUrl": f"{_SITE}/media/@{_handle(item)}/painting/{item.document.get('slug')}.png"},
        Past.SPACES_URL: {"imageUrl": _in_storage(item)},
        Past.NO_PAGE: {"acUrl": None},
        Past.NO_REF: {"ref": None},
        Past.NO_VIDEO: {"zipUrl": _in_storage(item)},
    }
    record = {**right, **changes.get(past, {})}
    if past is Past.WHOLE_PICTURE:
        record["thumbnail"] = Whole(item.objects[0].make())
    if past is Past.ORPHAN:  # of a document nobody has: the item's own never gets into Mongo either
        record["ref"] = str(item.document["_id"])
    return {name: value for name, value in record.items() if value is not None}


def _link_alone(maker: Maker, item: Item, others: Mapping[str, str]) -> dict[str, Any] | None:
    """A link to a record that is not there, or not this document's."""
    past = item.past
    rkey = maker.tid(item.document["_id"].generation_time)
    if past is Past.DANGLING or past is Past.FOREIGN_RKEY:
        return {"rkey": rkey}
    if past is Past.CROSSED:
        return {"rkey": others[item.type]} if item.type in others else {}
    if past is Past.WIPED or past is Past.FOREIGN_DID:
        did = maker.did()
        uri = f"at://{did}/{nsid(item.type)}/{rkey}"
        return {"uri": uri} if past is Past.WIPED else {"rkey": rkey, "uri": uri, "did": did, "syncedAt": iso(NOW)}
    return {} if past is Past.EMPTY_LINK else None


def copy_of(record: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """The copy of a record as a script of the platform makes it for readers of other apps."""
    text = record.get("mood") or record.get("source") or record.get("slug")
    return {
        "$type": COPIES,
        "site": _SITE,
        "path": f"/{uri.rpartition('/')[2]}",
        "title": str(text).partition("\n")[0],
        "textContent": text,
        "publishedAt": record["when"],
        "sourceAtUri": uri,
        "sourceCollection": record["$type"],
        "sourceRef": record["ref"],
    }


def correct(item: Item) -> dict[str, Any]:
    """The record as it should be, but for its blobs."""
    document = item.document
    code = document.get("code")
    record: dict[str, Any] = {"$type": nsid(item.type)}
    if item.type == "painting":
        record |= {"slug": document.get("slug"), "code": code}
        record |= {"imageUrl": f"{_SITE}/media/paintings/{code}", "acUrl": f"{_SITE}/#{code}"}
    elif item.type == "mood":
        record["mood"] = document.get("mood")
    elif item.type == "piece":
        record["slug"] = document.get("slug")
    elif item.type == "kidlisp":
        record |= {"source": document.get("source"), "code": code, "acUrl": f"{_SITE}/${code}"}
    else:
        record |= {"slug": document.get("slug"), "code": code, "acUrl": f"{_SITE}/!{code}"}
    return {**record, "when": iso_of(document["when"]), "ref": str(document["_id"])}


def iso_of(when: Any) -> str:
    """A stored time (naive, UTC) as records write it."""
    return str(iso(when.replace(tzinfo=NOW.tzinfo)))


def _shifted(item: Item) -> str:
    """Three milliseconds later, as the real-time writer's second look at the clock."""
    return iso_of(item.document["when"] + timedelta(milliseconds=3))


def _handle(item: Item) -> str:
    return (item.owner.handle or item.owner.code) if item.owner else ""


def _in_storage(item: Item) -> str:
    if not item.objects:
        return ""
    one = item.objects[0]
    return f"https://{one.bucket}.sfo3.digitaloceanspaces.com/{one.key.replace('|', '%7C')}"
