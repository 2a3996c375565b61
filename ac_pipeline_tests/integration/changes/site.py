"""A platform database on a real MongoDB with its ledger, and one look for work after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.items import Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.changes.pending import Cause, Changes, MongoChanges, Rule
from ac_pipeline.mongo.ledger.items import MongoLedger

WHEN = datetime(2025, 10, 15, 12, 30, 45, 123_000)  # noqa: DTZ001  (naive, as pymongo stores it)
ADA = Account("auth0|ada", "ada", did="did:plc:ada", password="pw")
BEA = Account("auth0|bea", "bea", did="did:plc:bea", password="pw")
GUEST = Account(GUEST_ID, GUEST_ID, did="did:plc:guest", password="pw")
LINK = {"rkey": "3kaaaaaaaaa2a", "uri": "at://did:plc:ada/x/3kaaaaaaaaa2a", "cid": "bafy", "did": "did:plc:ada"}
NOW = datetime(2026, 1, 2, tzinfo=UTC)
RULE = Rule(NOW, {}, frozenset())
MOOD, PAINTING, KIDLISP, TAPE = (media_type(name) for name in ("mood", "painting", "kidlisp", "tape"))


def nobody() -> Iterable[Account]:
    raise AssertionError("the accounts are read although there is nothing to judge")


class Site:
    """A platform database with its ledger, and looks at them one after another.

    `settle` does to the ledger and the links what a run of the engine would.
    """

    def __init__(self, database: Any) -> None:
        self.database = database
        self.own = database.client[f"{database.name}-pipeline"]
        self.ledger = MongoLedger(self.own)
        self.accounts = [ADA, BEA, GUEST]
        self.now = NOW
        self.position: str | None = None
        self.changes = self.made()

    def made(self, database: Any = None, **options: Any) -> MongoChanges:
        options = {"feed_seconds": 0.2, **options}
        source = database if database is not None else self.database
        return MongoChanges(source, self.own, clock=lambda: self.now, **options)

    def look(
        self,
        watched: Iterable[str] = (),
        *,
        seconds: float = 5,
        accounts: Callable[[], Iterable[Account]] | None = None,
    ) -> Changes:
        self.now += timedelta(seconds=seconds)
        found = self.changes.look(self.position, set(watched), accounts or (lambda: self.accounts))
        self.position = found.position
        return found

    def start(self) -> None:
        """The first look, which compares everything; then the feed alone until a compare is due."""
        self.look()

    def add(self, media: MediaType, account: Account, **fields: Any) -> str:
        """A document with what its type needs; the item."""
        id = ObjectId()
        needs = {"mood": "fine", "source": "(ink 1)", "slug": "2025.1.2.3.4.5.678", "code": f"c{str(id)[-5:]}"}
        owner = {} if account.is_guest else {"user": account.id}
        common = {name: value for name, value in needs.items() if name in media.fields}
        self.database[media.collection].insert_one({"_id": id, "when": WHEN, **owner, **common, **fields})
        return item_id(media.name, str(id))

    def change(self, item: str, **update: Any) -> None:
        type, _, id = item.partition(":")
        change = {f"${name}": value for name, value in update.items()}
        self.database[media_type(type).collection].update_one({"_id": ObjectId(id)}, change)

    def delete(self, item: str) -> None:
        type, _, id = item.partition(":")
        self.database[media_type(type).collection].delete_one({"_id": ObjectId(id)})

    def settle(self, *items: str, state: State = State.WRITTEN, link: bool = True, owner: Account = ADA) -> None:
        """The ledger says this of the items as they are now; with a link in Mongo, or without one."""
        for item in items:
            type, _, id = item.partition(":")
            media = media_type(type)
            raw = self.database[media.collection].find_one({"_id": ObjectId(id)})
            fingerprint = interpret(media, raw).fingerprint if raw else "gone"
            failure = Failure(Stage.RECORD, "too-large", "5,001 bytes") if state is State.QUARANTINED else None
            cid = "bafy" if state in {State.WRITTEN, State.UNCHANGED} else None
            entry = LedgerEntry(
                item, type, id, owner.id, owner.key, state, Stage.WRITE,
                did=owner.did, fingerprint=fingerprint, cid=cid, failure=failure,
            )  # fmt: skip
            self.ledger.save([entry])
            homes = {home: {**LINK, "did": owner.did} for home in media.link_homes}
            self.change(item, **({"set": homes} if link else {"unset": dict.fromkeys(media.link_homes, "")}))


def items(found: Changes) -> dict[str, Cause]:
    return {work.item: work.cause for work in found.works}
