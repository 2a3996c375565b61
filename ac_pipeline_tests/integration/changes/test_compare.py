"""Who has work, found by comparing on a real MongoDB, with the change stream and without its help."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from ac_pipeline.accounts import Account
from ac_pipeline.errors import ServerFailed, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.changes.compare import Compare, Scan
from ac_pipeline.mongo.changes.pending import Cause, is_linked
from ac_pipeline_tests.integration.changes.site import (
    ADA,
    BEA,
    GUEST,
    KIDLISP,
    LINK,
    MOOD,
    NOW,
    PAINTING,
    RULE,
    WHEN,
    Site,
    items,
)


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

    def with_options(self, **options: Any) -> Refusing:
        return Refusing(self._database.with_options(**options), self._code, always=self._always)


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


def everybody(site: Site, *, synchronised: Iterable[str] = (), seconds: float = 60) -> dict[str, Cause]:
    """One look at all, for which the PDS serves all repositories."""
    done = {*synchronised} or {str(account.did) for account in site.accounts}
    served = {str(account.did) for account in site.accounts}
    found = site.changes.look_at_everybody(site.accounts, done, served, seconds)
    assert found.failed is None
    return items(found)


def test_one_look_at_everybody_finds_all_work_that_documents_show_and_nothing_else(site: Site) -> None:
    """VERIFY-10, WRITE-14: without the feed, and without anything that was remembered."""
    new, edited, gone, nuked, deferred, same, never = (site.add(MOOD, ADA) for _ in range(7))
    anonymous = site.add(PAINTING, GUEST)
    site.settle(edited, gone, nuked, same)
    site.settle(deferred, state=State.DEFERRED)
    site.settle(never, state=State.QUARANTINED, link=False)
    assert everybody(site) == {new: Cause.NEW, deferred: Cause.EDITED, anonymous: Cause.NEW}
    site.change(edited, set={"mood": "better"})
    site.change(nuked, set={"nuked": True})
    site.delete(gone)
    site.settle(new)
    site.settle(deferred)
    site.settle(anonymous, owner=GUEST)
    assert everybody(site) == {edited: Cause.EDITED, nuked: Cause.WITHDRAWN, gone: Cause.GONE}


def test_one_look_at_everybody_finds_who_was_never_synchronised(site: Site) -> None:
    """The platform linked their records itself: nothing but the missing checkpoint says that nobody looked yet."""
    linked, other = site.add(MOOD, ADA), site.add(MOOD, BEA)
    site.settle(linked)
    site.settle(other, owner=BEA)
    assert everybody(site) == {}
    assert everybody(site, synchronised=[str(BEA.did)]) == {linked: Cause.NEW}


@pytest.mark.parametrize(
    ("reason", "served", "work"),
    [("account-inactive", True, True), ("account-inactive", False, False), ("wrong-password", True, False)],
)
def test_one_look_at_everybody_finds_who_is_served_again(site: Site, reason: str, served: bool, work: bool) -> None:
    """ACCT-1: the PDS's list says so; whether a password is right, only a run can tell."""
    item = site.add(MOOD, ADA)
    site.settle(item, state=State.BLOCKED, link=False)
    failure = {"error_class": reason, "stage": "write", "message": ""}
    site.own["items"].update_one({"_id": item}, {"$set": {"failure": failure}})
    dids = {str(ADA.did)}
    found = site.changes.look_at_everybody(site.accounts, dids, dids if served else set(), 60)
    assert (item in items(found)) is work


def test_a_look_at_everybody_that_runs_out_of_time_says_so(site: Site) -> None:
    site.add(MOOD, ADA)
    found = site.changes.look_at_everybody(site.accounts, set(), set(), -1)
    assert "were not enough" in str(found.failed)
    site.changes = site.made(Breaking(site.database, "moods", OperationFailure("operation exceeded time limit", 50)))
    assert "Could not compare the moods" in str(site.changes.look_at_everybody(site.accounts, set(), set(), 60).failed)


def test_a_clock_that_was_wrong_puts_no_compare_off(site: Site) -> None:
    """VERIFY-10: a machine was a year ahead, and its clock was set right."""
    site.start()
    site.look(seconds=365 * 86_400)
    new, edited = (site.add(MOOD, ADA) for _ in range(2))
    site.settle(edited)
    site.look([new, edited])  # the events are read
    site.own["items"].update_one({"_id": edited}, {"$set": {"fingerprint": "before"}})
    assert items(site.look(seconds=-365 * 86_400)) == {new: Cause.NEW, edited: Cause.EDITED}
