"""Who has work, told by the change stream of a real MongoDB."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.items import Failure, LedgerEntry, Stage, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.changes.pending import Cause
from ac_pipeline_tests.integration.changes.site import (
    ADA,
    BEA,
    GUEST,
    KIDLISP,
    MOOD,
    PAINTING,
    TAPE,
    WHEN,
    Site,
    items,
    nobody,
)


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
    site.change(tape, set={"mp4Error": "x"})
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


def test_a_tape_that_is_being_baked_is_asked_for_when_it_is_done_or_its_time_is_over(site: Site) -> None:
    """GUARD-6: by the stream as soon as the platform says so, else by the compare that follows its grace."""
    done, never = (site.add(TAPE, ADA, mp4Status="pending") for _ in range(2))
    site.start()
    site.settle(done, never, state=State.DEFERRED, link=False)
    until = site.now + timedelta(seconds=600)
    waits = Failure(Stage.RENDITION, "source-pending", "the platform is still making its video")
    for item in (done, never):
        entry = site.ledger.get(item)
        assert entry is not None
        site.ledger.save([entry.with_(failure=waits, deferred_until=until)])
    site.change(done, set={"mp4Error": "x"})  # no field that a record depends on
    assert not site.look(seconds=300).works
    site.change(done, set={"mp4Status": "complete"})
    assert items(site.look()) == {done: Cause.NEW}
    site.settle(done)
    late = site.look(seconds=300)
    assert (items(late), late.compared is not None) == ({never: Cause.NEW}, True)


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


def test_accounts_that_are_being_deleted_have_work_as_long_as_they_have_links(site: Site) -> None:
    """DEL-9, DEL-7."""
    item = site.add(MOOD, ADA)
    site.settle(item)
    site.start()
    assert not site.look(seconds=300).works
    site.accounts = [Account(ADA.id, "ada", did=ADA.did, password="pw", pending_deletion="the owner leaves"), BEA]
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
    site.accounts = [Account(ADA.id, "ada", did=ADA.did, password="pw", pending_deletion="the owner leaves")]
    found = site.look()
    assert (items(found), found.compared) == ({item: Cause.WITHDRAWN}, None)
