"""Who has work, looked for on a real MongoDB: by its change stream, by comparing, and without either's help."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import ServerFailed, ServiceUnreachable
from ac_pipeline.items import Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.changes import MongoChanges
from ac_pipeline.mongo.compare import Compare, Scan
from ac_pipeline.mongo.ledger import MongoLedger
from ac_pipeline.mongo.pending import Cause, Changes, Rule, is_linked

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


@pytest.fixture
def site(mongo_database: Any) -> Iterator[Site]:
    made = Site(mongo_database)
    yield made
    mongo_database.client.drop_database(made.own.name)


def test_the_first_look_compares_everything_and_says_why(site: Site) -> None:
    """RUN-12, WRITE-14: what was there before the first event is found as well."""
    new, edited = site.add(MOOD, ADA), site.add(MOOD, ADA)
    site.settle(edited)
    site.change(edited, set={"mood": "better"})
    found = site.look()
    assert items(found) == {new: Cause.NEW, edited: Cause.EDITED}
    assert found.fallback == "the change stream begins here"
    assert found.compared is not None


def test_a_look_at_a_quiet_database_does_nothing_but_ask_the_stream(site: Site) -> None:
    site.start()
    found = site.look(accounts=nobody)
    assert (found.works, found.events, found.compared, found.fallback) == ((), 0, None, None)


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
@pytest.mark.parametrize("account", [ADA, GUEST], ids=["user", "guest"])
def test_every_change_to_a_document_reaches_its_owner_by_the_next_look(
    site: Site, media: MediaType, account: Account
) -> None:
    """DEL-1, DEL-2, SRC-4: made, edited, removed, brought back, deleted; found by events, while no compare is due."""
    site.start()
    item = site.add(media, account)
    expected = Cause.NEW if media.anonymous or account is ADA else Cause.UNREADABLE
    found = site.look()
    assert (items(found), found.compared, {work.key for work in found.works}) == ({item: expected}, None, {account.key})
    if expected is Cause.UNREADABLE:
        return
    site.settle(item, owner=account)
    assert not site.look().works
    for update, cause in (
        ({"set": {"when": datetime(2025, 1, 1)}}, Cause.EDITED),  # noqa: DTZ001
        ({"set": {"deleted": True}}, Cause.WITHDRAWN),
        ({"set": {"deleted": False}}, Cause.EDITED),
    ):
        site.change(item, **update)
        found = site.look()
        assert (items(found), found.compared) == ({item: cause}, None)
        assert all(work.touched for work in found.works)
    site.settle(item, owner=account)
    site.delete(item)
    found = site.look()
    assert (items(found), {work.key for work in found.works}) == ({item: Cause.GONE}, {account.key})
    site.settle(item, state=State.DELETED, owner=account)
    assert not site.look([item]).works


def test_work_in_progress_is_no_work_until_it_is_sealed(site: Site) -> None:
    """SRC-6."""
    site.start()
    item = site.add(PAINTING, ADA, slug="wip/abc", status="wip", wip={"id": "abc", "revision": 1})
    assert not site.look().works
    site.change(item, set={"wip.revision": 2, "updatedAt": WHEN})
    assert not site.look(accounts=nobody).works
    site.change(item, set={"slug": "2025.1.2.3.4.5.679", "status": "done"})
    assert items(site.look()) == {item: Cause.NEW}


def test_views_and_other_fields_that_no_record_shows_are_noise(site: Site) -> None:
    """SRC-9."""
    item, tape = site.add(KIDLISP, ADA), site.add(TAPE, ADA)
    site.settle(item, tape)
    site.start()
    for _ in range(20):
        site.change(item, inc={"hits": 1}, set={"lastAccessed": WHEN})
    site.change(tape, set={"mp4Size": 3})
    found = site.look(accounts=nobody)
    assert (found.works, found.events) == ((), 21)


def test_our_own_links_are_no_work_unless_their_document_was_removed_meanwhile(site: Site) -> None:
    """DEL-3: the nuke came while the run was writing, so that its link is the last event about the item."""
    kept, nuked = site.add(MOOD, ADA), site.add(MOOD, ADA)
    site.start()
    site.change(nuked, set={"deleted": True})
    assert items(site.look([kept, nuked])) == {kept: Cause.NEW}
    site.settle(kept, nuked)
    found = site.look()
    assert (items(found), found.compared) == ({nuked: Cause.WITHDRAWN}, None)


def test_a_removed_link_is_work_again(site: Site) -> None:
    """LINK-1: somebody's wipe took the key out of Mongo; the run finds the record and adopts it."""
    item = site.add(TAPE, ADA)
    site.settle(item)
    site.start()
    site.change(item, unset={"atproto.rkey": ""})
    assert not site.look().works  # the other home still has it
    site.change(item, unset={"at": ""})
    assert items(site.look()) == {item: Cause.NEW}


def test_a_document_that_moved_to_another_user_is_work_for_both(site: Site) -> None:
    item = site.add(MOOD, ADA)
    site.settle(item)
    site.start()
    site.change(item, set={"user": BEA.id})
    assert {(work.key, work.cause) for work in site.look().works} == {("bea", Cause.NEW), ("ada", Cause.GONE)}


def test_a_deleted_document_that_the_ledger_never_had_a_record_of_is_nobodys_work(site: Site) -> None:
    item, refused = site.add(MOOD, ADA), site.add(MOOD, ADA)
    site.settle(refused, state=State.QUARANTINED, link=False)
    site.start()
    site.delete(item)
    site.delete(refused)
    assert not site.look().works


def test_items_that_a_run_has_quarantined_are_asked_for_once_their_document_changes(site: Site) -> None:
    """OPS-3: no endless requests, by no way of looking."""
    item = site.add(MOOD, ADA, mood="x" * 6_000)
    site.settle(item, state=State.QUARANTINED, link=False)
    assert not site.look().works
    assert not site.look([item]).works
    light = site.look(seconds=300)
    assert (light.works, light.compared is not None) == ((), True)
    site.change(item, set={"mood": "short"})
    assert items(site.look()) == {item: Cause.NEW}


def test_users_whose_account_row_changes_are_looked_at_as_a_whole(site: Site) -> None:
    """ACCT-1: a block that the PDS declared is over for all anybody knows."""
    item = site.add(MOOD, ADA)
    entry = LedgerEntry(
        item, "mood", item[5:], ADA.id, "ada", State.BLOCKED, Stage.WRITE, did=ADA.did,
        failure=Failure(Stage.WRITE, "wrong-password", "refused"),
    )  # fmt: skip
    site.ledger.save([entry])
    site.database["users"].insert_one({"_id": ADA.id, "atproto": {"password": "old"}})
    assert not site.look().works
    site.database["users"].update_one({"_id": ADA.id}, {"$set": {"atproto.password": "new"}})
    assert items(site.look()) == {item: Cause.NEW}


def test_no_password_comes_over_the_feed(site: Site, mongo_client: Any) -> None:
    """ACCT-5."""
    site.start()
    site.database["users"].insert_one({"_id": "auth0|x", "atproto": {"password": "s3cret-word"}})
    site.database["users"].update_one({"_id": "auth0|x"}, {"$set": {"atproto.password": "s3cret-too"}})
    found = site.look()
    assert found.events == 2
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize("bad", ['{"token":{"_data":"00"}}', '{"token":{"_data":"82"}}', "{", '{"other":1}'])
def test_a_place_that_cannot_be_used_leads_to_a_full_compare_that_finds_what_no_event_told(
    site: Site, bad: str
) -> None:
    """RUN-12, VERIFY-10."""
    new, edited, same = (site.add(MOOD, ADA) for _ in range(3))
    site.settle(edited, same)
    site.start()
    site.change(edited, set={"mood": "better"})
    site.position = bad
    found = site.look()
    assert items(found) == {new: Cause.NEW, edited: Cause.EDITED}
    assert found.fallback is not None
    assert ("refuses our place" in found.fallback) == ("token" in bad)
    assert site.look([edited, new]).fallback is None


class Refusing:
    """A database whose change stream is refused; all else is real."""

    def __init__(self, database: Any, code: int, *, always: bool) -> None:
        self._database, self._code, self._always = database, code, always

    def watch(self, *arguments: Any, resume_after: Any = None, **options: Any) -> Any:
        if self._always or resume_after is not None:
            raise OperationFailure("refused", self._code)
        return self._database.watch(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def __getitem__(self, name: str) -> Any:
        return self._database[name]


@pytest.mark.parametrize("code", [286, 280, 136, 260, 40585, 9, 50])
def test_a_lost_place_in_the_stream_is_said_with_its_code_and_a_new_one_is_taken(site: Site, code: int) -> None:
    """RUN-12."""
    site.start()
    item = site.add(MOOD, ADA)
    site.settle(item)
    site.change(item, set={"mood": "better"})
    site.changes = site.made(Refusing(site.database, code, always=False))
    found = site.look()
    assert items(found) == {item: Cause.EDITED}
    assert found.fallback == f"MongoDB refuses our place in the change stream (code {code})"
    site.changes = site.made()
    other = site.add(MOOD, ADA)
    found = site.look()
    assert (items(found), found.compared) == ({other: Cause.NEW}, None)


@pytest.mark.parametrize("code", [13, 40573, 323])
def test_without_change_streams_comparing_goes_on_and_the_newest_are_found_at_every_look(site: Site, code: int) -> None:
    """RUN-12, VERIFY-10, DEL-1."""
    site.changes = site.made(Refusing(site.database, code, always=True))
    site.start()
    new, nuked = site.add(MOOD, ADA), site.add(MOOD, ADA)
    site.settle(nuked)
    site.change(nuked, set={"deleted": True})
    found = site.look(seconds=240)
    assert items(found) == {new: Cause.NEW, nuked: Cause.WITHDRAWN}
    assert found.fallback == f"this MongoDB offers us no change stream (code {code})"
    fresh = site.add(MOOD, ADA, when=site.now)
    found = site.look(seconds=0)
    assert (items(found), found.compared) == ({fresh: Cause.NEW}, None)


def test_a_dropped_collection_is_no_reason_to_trust_what_was_read_before(site: Site) -> None:
    site.settle(site.add(MOOD, ADA))
    site.start()
    site.database["moods"].drop()
    found = site.look()
    assert found.fallback is not None
    assert not found.works


def test_with_a_quiet_stream_links_are_compared_every_few_minutes_and_everything_every_hour(site: Site) -> None:
    """VERIFY-10."""
    site.start()
    assert site.look(seconds=20).compared is None
    assert "links with documents" in str(site.look(seconds=220).compared)
    assert site.look(seconds=20).compared is None
    assert "all documents" in str(site.look(seconds=3600).compared)


def test_a_compare_goes_on_where_its_time_ran_out_and_equal_times_skip_nothing(site: Site) -> None:
    """RUN-10: 1,000 documents of one moment, a page at a look."""
    users = [Account(f"auth0|{n}", f"u{n:02}", did=f"did:plc:{n}", password="pw") for n in range(50)]
    site.accounts = users
    made = [{"_id": ObjectId(), "user": users[n % 50].id, "when": WHEN, "mood": f"mood {n}"} for n in range(1_000)]
    site.database["moods"].insert_many(made)
    site.database["moods"].insert_one({"_id": ObjectId(), "user": users[0].id, "when": "2025", "mood": "a text"})
    site.database["moods"].insert_one({"_id": ObjectId(), "user": users[0].id, "mood": "never"})
    site.changes = site.made(compare_seconds=-1)
    seen: dict[str, Cause] = {}
    looks, more = 0, True
    while more:
        found = site.look()
        seen |= items(found)
        looks, more = looks + 1, "goes on" in str(found.compared)
    assert looks > 5
    assert len(seen) == 1_002
    assert set(seen.values()) == {Cause.NEW}


@pytest.mark.parametrize("scan", [Scan.UNLINKED, Scan.EVERYTHING])
def test_every_document_is_read_once_whatever_its_date_and_wherever_the_reading_stops(mongo: Any, scan: Scan) -> None:
    """RUN-10, SRC-1: dates long ago, in the future, shared by many, of another type, or missing."""
    dates: list[Any] = [
        *(datetime(year, 1, 1) for year in (1970, 2014, 2015, 2023, 2024, 2026, 2099)),  # noqa: DTZ001
        *(WHEN + timedelta(milliseconds=number // 50) for number in range(600)),
        "2025-01-01", 1_700_000_000_000, None,
    ]  # fmt: skip
    rows = [{"_id": ObjectId(), "user": "auth0|x", "mood": "x", "when": when} for when in dates]
    mongo["moods"].insert_many([*rows, {"_id": ObjectId(), "mood": "no date"}, {"_id": "a text", "when": WHEN}])
    compare, place, seen, stops = Compare(mongo), None, [], 0
    while True:
        page = next(compare.pages(scan, MOOD, place, (), NOW), None)
        if page is None:
            break
        raws, place = page
        seen += [raw["_id"] for raw in raws]
        stops += 1
    assert len(seen) == len(set(seen)) == len(rows) + 1
    assert stops > 3


def test_many_pieces_of_work_of_one_user_are_named_in_part(site: Site) -> None:
    for _ in range(60):
        site.add(MOOD, ADA)
    other = site.add(MOOD, BEA)
    found = site.look()
    assert len(found.works) == 21
    assert other in items(found)


def test_watched_items_are_judged_anew_and_absent_once_they_are_done(site: Site) -> None:
    """WRITE-14."""
    one, other = site.add(MOOD, ADA), site.add(MOOD, ADA)
    site.start()
    assert items(site.look([one, other])) == {one: Cause.NEW, other: Cause.NEW}
    site.settle(one)
    assert items(site.look([one, other, "mood:nonsense", "song:1"])) == {other: Cause.NEW}


class Breaking:
    """A database in which one collection cannot be read."""

    def __init__(self, database: Any, collection: str, error: Exception) -> None:
        self._database, self._collection, self._error = database, collection, error

    def get_collection(self, name: str, **options: Any) -> Any:
        if name == self._collection:
            raise self._error
        return self._database.get_collection(name, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_a_compare_that_the_server_gives_up_on_does_not_hold_up_the_feed(site: Site) -> None:
    """DEL-5: it is said, it is begun again where it stopped, and what was not read is not taken for done."""
    site.start()
    lost = site.add(KIDLISP, ADA, atproto={"rkey": "."})
    site.look()
    too_slow = OperationFailure("operation exceeded time limit", 50)
    site.changes = site.made(Breaking(site.database, "kidlisp", too_slow))
    new = site.add(MOOD, ADA)
    found = site.look(seconds=4000)
    assert items(found) == {new: Cause.NEW}
    assert "Could not compare the kidlisp" in str(found.failed)
    site.changes = site.made()
    assert lost in items(site.look())


def test_a_failed_read_passes_nothing(site: Site) -> None:
    """WRITE-14, DEL-5."""
    site.start()
    item = site.add(MOOD, ADA)
    before = site.position

    def broken() -> Iterable[Account]:
        raise ServiceUnreachable("MongoDB does not answer")

    with pytest.raises(ServiceUnreachable):
        site.look(accounts=broken)
    site.changes = site.made(Breaking(site.database, "moods", OperationFailure("interrupted", 11601)))
    with pytest.raises(ServerFailed):
        site.look()
    assert site.position == before
    site.changes = site.made()
    assert items(site.look()) == {item: Cause.NEW}


def variants() -> Iterator[dict[str, Any]]:
    """Every flag, visibility and status with every form of link and owner."""
    flags = ("nuked", "deleted", "private", "draft", "hidden")
    states: list[dict[str, Any]] = [
        *({flag: value} for flag in flags for value in (True, False, None, 1)),
        *({"visibility": value} for value in (None, "public", "unlisted", 3)),
        *({"status": value} for value in (None, "wip", "done", 3)),
        {},
    ]
    links = [{}, {"rkey": "3kaaaaaaaaa2a"}, LINK, {"uri": LINK["uri"]}, {"rkey": ""}, {"rkey": None}]
    needs = {"mood": "x", "source": "x", "slug": "2025.1.2.3.4.5.6", "code": "abc", "when": WHEN}
    for number, (state, link, user) in enumerate(itertools.product(states, links, [ADA.id, None, ""])):
        yield {"_id": ObjectId(), "user": user, **needs, **state, ("atproto", "at")[number % 2]: link}


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_the_filters_of_the_compare_let_through_all_that_the_rule_calls_work(media: MediaType, mongo: Any) -> None:
    """SRC-4, SRC-5, LINK-4: Mongo's filters against Python's rule on all documents."""
    rows = list(variants())
    mongo[media.collection].insert_many(rows)
    compare = Compare(mongo)
    passed = {
        scan: {raw["_id"] for raws, _ in compare.pages(scan, media, None, (), NOW) for raw in raws}
        for scan in (Scan.UNLINKED, Scan.WITHDRAWN)
    }
    for row in rows:
        account = ADA if row["user"] else GUEST
        document = interpret(media, row, account_did=account.did)
        work = RULE.cause(account, document, None)
        if work is Cause.WITHDRAWN:
            assert row["_id"] in passed[Scan.WITHDRAWN], row
        # One whose key is of another repository is found by events, and by comparing everything.
        if work is Cause.NEW and (document.link is None or not document.link.rkey):
            assert row["_id"] in passed[Scan.UNLINKED], row
        if document.verdict is Verdict.ELIGIBLE and is_linked(document, account):
            assert row["_id"] not in passed[Scan.UNLINKED] | passed[Scan.WITHDRAWN], row
    everything = {raw["_id"] for raws, _ in compare.pages(Scan.EVERYTHING, media, None, (), NOW) for raw in raws}
    assert everything == {row["_id"] for row in rows}


def test_documents_of_accounts_that_do_not_exist_are_nobodys_work(site: Site) -> None:
    site.add(MOOD, Account("auth0|gone", "gone"))
    assert not site.look().works


def test_accounts_that_are_being_deleted_have_work_as_long_as_they_have_links(site: Site) -> None:
    """DEL-9, DEL-7."""
    item = site.add(MOOD, ADA)
    site.settle(item)
    site.start()
    assert not site.look(seconds=300).works
    site.accounts = [Account(ADA.id, "ada", did=ADA.did, password="pw", leaving="the owner leaves"), BEA]
    assert items(site.look(seconds=300)) == {item: Cause.WITHDRAWN}
    site.settle(item, state=State.DELETED, link=False)
    assert not site.look(seconds=300).works
    other = site.add(MOOD, ADA)
    assert not site.look([other]).works


def test_the_row_of_a_deletion_is_seen_at_the_next_look(site: Site) -> None:
    """DEL-9."""
    item = site.add(PAINTING, ADA)
    site.settle(item)
    site.start()
    site.database["account-deletions"].insert_one({"_id": ADA.id, "state": "scheduled"})
    site.accounts = [Account(ADA.id, "ada", did=ADA.did, password="pw", leaving="the owner leaves")]
    found = site.look()
    assert (items(found), found.compared) == ({item: Cause.WITHDRAWN}, None)
