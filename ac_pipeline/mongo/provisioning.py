"""What the operations on accounts read and write in MongoDB: credentials on the platform, intents in the ledger.

An intent is written before an account or a password is made on the PDS and goes once the platform holds the result, so
that a kill in between loses no password and makes no second account. The collection `provisioning` holds passwords: it
belongs to the pipeline alone, and nothing ever shows it (ACCT-5). The order of the steps is `operations/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from bson.codec_options import CodecOptions
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.errors import ServerFailed
from ac_pipeline.media.eligibility import FLAGS, is_guest
from ac_pipeline.media.fields import is_text, sound_text
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.media.times import format_when
from ac_pipeline.mongo.database import SOURCE_CODEC, mongo_errors

_AWARE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)
_FIELDS: Final = ("atproto.did", "atproto.password", "atproto_did", "atproto_password")
_CANCELLED: Final = "cancelled"
_ATTEMPTS: Final = 5
"""Tries to change a user document that somebody else keeps changing."""
_BATCH: Final = 5_000


class Kind(StrEnum):
    """What an intent is about."""

    PROVISION = "provision"
    ROTATE = "rotate"


@dataclass(frozen=True, slots=True)
class Intent:
    """An account or a password that is being made.

    Args:
        kind: Which of the two.
        subject: Mongo id of the account to be made; the DID whose password changes.
        key: The account's partition key, for people.
        password: The new password.
        at: When it was begun, UTC.
        handle: The whole handle that is being tried.
        email: The e-mail address of the new account.
        former: Passwords that may still be in force, until the new one is proven.
    """

    kind: Kind
    subject: str
    key: str
    password: str = field(repr=False)
    at: datetime
    handle: str | None = None
    email: str | None = None
    former: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """DID and password as the platform holds them, in either form; None where it holds none."""

    did: str | None = None
    password: str | None = field(default=None, repr=False)


class MongoProvisioning:
    """The store of the operations on accounts.

    Args:
        source: The platform's database.
        own: The pipeline's own database.
    """

    def __init__(self, source: Database[dict[str, Any]], own: Database[dict[str, Any]]) -> None:
        self._source = source
        self._users = source.get_collection("users", codec_options=SOURCE_CODEC)
        self._intents = own.get_collection("provisioning", codec_options=_AWARE)

    # -------------------------------------------------------------------------------------------------------- intents

    def begin(self, intent: Intent) -> Intent:
        """Keep an intent, unless there is one of its kind and subject; the one that is kept."""
        stored = {name: getattr(intent, name) for name in Intent.__slots__} | {"former": list(intent.former)}
        with mongo_errors(f"write down what is to be done about the account {intent.key}"):
            kept = self._intents.find_one_and_update(
                {"_id": _name(intent.kind, intent.subject)},
                {"$setOnInsert": stored},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return intent if kept is None else _intent(kept)

    def intent(self, kind: Kind, subject: str) -> Intent | None:
        """The unfinished intent about a subject, or None."""
        with mongo_errors("read what is unfinished of the accounts"):
            found = self._intents.find_one({"_id": _name(kind, subject)})
        return None if found is None else _intent(found)

    def unfinished(self) -> list[Intent]:
        """Every intent, oldest first."""
        with mongo_errors("read what is unfinished of the accounts"):
            return sorted((_intent(row) for row in self._intents.find()), key=lambda each: (each.at, each.subject))

    def try_handle(self, account: str, handle: str) -> None:
        """Write down the next handle before it is tried."""
        with mongo_errors("write down the next handle of an account"):
            self._intents.update_one({"_id": _name(Kind.PROVISION, account)}, {"$set": {"handle": handle}})

    def keep_former(self, did: str, password: str) -> None:
        """Keep a password that is about to be replaced until the new one is proven."""
        with mongo_errors(f"keep the former password of {did}"):
            self._intents.update_one({"_id": _name(Kind.ROTATE, did)}, {"$addToSet": {"former": password}})

    def end(self, kind: Kind, subject: str) -> None:
        """Drop an intent: what it was about is done, or certainly did not happen."""
        with mongo_errors("drop what is done of the accounts"):
            self._intents.delete_one({"_id": _name(kind, subject)})

    # ------------------------------------------------------------------------------------------------------- platform

    def users(self) -> dict[str, Credentials]:
        """Every user document's credentials by Mongo id; reads all of them."""
        with mongo_errors("read the credentials of all users"):
            rows = self._users.find({}, dict.fromkeys(_FIELDS, 1), batch_size=_BATCH)
            return {row["_id"]: _credentials(row) for row in rows if is_text(row["_id"])}

    def credentials(self, account: str) -> Credentials | None:
        """What the platform holds for one account, as of now; None without a user document."""
        row = self._row(account)
        return None if row is None else _credentials(row)

    def obstacle(self, account: str) -> str | None:
        """Why no PDS account may be made for this one, as of now; None when one may."""
        held = self.credentials(account)
        if held is None and account != GUEST_ID:
            return "the platform has no user document for it"
        if held is not None and held.did:
            return f"it has the DID {held.did}"
        if held is not None and held.password:
            return "Mongo holds a PDS password without a DID for it: find out whose it is"
        buried = sha256(account.encode(errors="surrogateescape")).hexdigest()
        with mongo_errors("look whether an account is being deleted"):
            row = self._source["account-deletions"].find_one({"_id": account}, {"state": 1})
            gone = self._source["account-tombstones"].find_one({"_id": buried}, {"_id": 1})
        leaving = (row is not None and row.get("state") != _CANCELLED) or gone is not None
        return "its owner's account is being deleted" if leaving and account != GUEST_ID else None

    def store_account(
        self, account: str, did: str, handle: str, password: str, created: datetime
    ) -> Credentials | None:
        """Give the platform a new account's credentials, unless it holds any; what it holds afterwards.

        A user document is made for the guest only. None: there is no user document.
        """
        for _ in range(_ATTEMPTS):
            row = self._row(account)
            if row is None and account != GUEST_ID:
                return None
            held = _credentials(row or {})
            if held.did or held.password:
                return held
            # The platform's own writers have called it `created`, and `createdAt` since 2026.
            values = {"did": did, "handle": handle, "password": password, "created": created, "createdAt": created}
            if self._change(account, row, _nested(row or {}, values)):
                return Credentials(did, password)
        raise _busy(account)

    def store_password(self, account: str, did: str, password: str) -> bool:
        """Give the platform the new password of a DID, in each form it holds this DID in; False when it is not there.

        Raises:
            ServerFailed: Somebody else keeps changing the document.
        """
        for _ in range(_ATTEMPTS):
            row = self._row(account)
            if row is None or _credentials(row).did != did:
                return False
            change = _nested(row, {"did": did, "password": password})
            if row.get("atproto_did") == did:
                change["atproto_password"] = password
            if self._change(account, row, change):
                return True
        raise _busy(account)

    def store_handle(self, account: str, did: str, handle: str, now: datetime) -> bool:
        """Write down the PDS handle of a DID, in each form the platform holds it in; False when it is not there.

        Raises:
            ServerFailed: Somebody else keeps changing the document.
        """
        for _ in range(_ATTEMPTS):
            row = self._row(account)
            if row is None or _credentials(row).did != did:
                return False
            change: dict[str, Any] = {}
            if isinstance(row.get("atproto"), Mapping):
                change = {"atproto.handle": handle, "atproto.syncedAt": format_when(int(now.timestamp() * 1000))}
            if row.get("atproto_did") == did:
                change["atproto_handle"] = handle
            if self._change(account, row, change):
                return True
        raise _busy(account)

    def waiting(self) -> dict[str, int]:
        """Documents without a record by Mongo id of their owner, removed ones left out; owners without are absent."""
        counts: dict[str, int] = {}
        for media in MEDIA_TYPES:
            unlinked: dict[str, Any] = {f"{home}.rkey": {"$not": {"$gt": ""}} for home in media.link_homes}
            removed = [
                *({flag: True} for flag in FLAGS),
                {"visibility": {"$nin": [None, "public"]}},
                {"status": "wip"},
            ]
            stages = [{"$match": {**unlinked, "$nor": removed}}, {"$group": {"_id": "$user", "number": {"$sum": 1}}}]
            with mongo_errors(f"count the {media.plural} without a record"):
                rows = list(
                    self._source.get_collection(media.collection, codec_options=SOURCE_CODEC).aggregate(
                        stages, batchSize=_BATCH
                    )
                )
            for row in rows:
                id = GUEST_ID if is_guest(row["_id"]) else row["_id"]
                if not is_text(id):
                    continue
                counts[id] = counts.get(id, 0) + int(row["number"])
        return counts

    def _row(self, account: str) -> dict[str, Any] | None:
        with mongo_errors("read the credentials of an account"):
            return self._users.find_one({"_id": account}, {"atproto": 1, **dict.fromkeys(_FIELDS[2:], 1)})

    def _change(self, account: str, row: Mapping[str, Any] | None, change: Mapping[str, Any]) -> bool:
        """Set fields of a user document as long as its credentials are those that were read; whether they were."""
        with mongo_errors("store the credentials of an account"):
            try:
                done = self._users.update_one(_unchanged(account, row), {"$set": dict(change)}, upsert=row is None)
            except DuplicateKeyError:  # somebody else has made the guest's document meanwhile
                return False
        return done.matched_count == 1 or done.upserted_id is not None


def _unchanged(account: str, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A filter for the user document with the very credentials that were read."""
    query: dict[str, Any] = {"_id": account}
    if row is None:
        return {**query, "atproto": {"$exists": False}}
    nested = row.get("atproto")
    query["atproto"] = {"$type": "object"} if isinstance(nested, Mapping) else {"$not": {"$type": "object"}}
    for path in _FIELDS:
        outer, _, inner = path.partition(".")
        place = nested if inner else row
        name = inner or outer
        if isinstance(place, Mapping):
            query[path] = place.get(name, {"$exists": False})
    return query


def _nested(row: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What to set so that these stand in `atproto`, whatever stands there now; other fields of it stay."""
    if isinstance(row.get("atproto"), Mapping):
        return {f"atproto.{name}": value for name, value in values.items()}
    return {"atproto": dict(values)}


def _credentials(row: Mapping[str, Any]) -> Credentials:
    """As `mongo/accounts.py` reads them, but with a password that belongs to no DID, so that none is overwritten."""
    nested = row.get("atproto")
    nested = nested if isinstance(nested, Mapping) else {}
    flat_did, flat_password = sound_text(row.get("atproto_did")), sound_text(row.get("atproto_password"))
    did = sound_text(nested.get("did")) or flat_did
    belongs = flat_did is None or flat_did == did
    return Credentials(did, sound_text(nested.get("password")) or (flat_password if belongs else None))


def _name(kind: Kind, subject: str) -> str:
    return f"{kind.value} {subject}"


def _intent(row: Mapping[str, Any]) -> Intent:
    return Intent(
        Kind(row["kind"]),
        row["subject"],
        row["key"],
        row["password"],
        row["at"],
        row.get("handle"),
        row.get("email"),
        tuple(row.get("former") or ()),
    )


def _busy(account: str) -> ServerFailed:
    who = "the guest account" if account == GUEST_ID else "a user"
    return ServerFailed(f"The credentials of {who} in Mongo keep changing while they are stored. Run this again.")
