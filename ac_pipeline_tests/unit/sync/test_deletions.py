"""What has to go: withdrawn items and orphans; and what must never go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bson import Code, ObjectId

from ac_pipeline.accounts import LEAVING
from ac_pipeline.errors import NoCredentials, RecordRefused, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.planning.plan import Kind
from ac_pipeline_tests.unit.sync.world import World, totals

KEY, OTHER_KEY = "3jzfcijpj2z2a", "3jzfcijpj2z2b"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("flag", [{"nuked": True}, {"deleted": True}, {"visibility": "unlisted"}, {"draft": True}])
@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_withdrawn_item_loses_record_and_link_and_stays_away(
    world: World, media: Any, flag: dict[str, object]
) -> None:
    """DEL-1, SRC-5: in one sync; no later one brings it back."""
    user = world.user()
    document = world.add(media.name, user)
    world.sync(user)
    world.change(media.name, document, **flag)
    assert totals(world.sync(user), media.name)["deleted"] == 1
    assert world.records(user, media.name) == {}
    assert world.link(media.name, document) is None
    assert world.entry(media.name, document).state is State.DELETED
    with world.quiet():
        assert world.sync(user).types[media.name].planned == 0


def test_all_moods_of_a_user_go_at_once_and_come_back_under_their_keys(world: World) -> None:
    """DEL-1, DEL-2: the platform's nuke marks them all, and can take it back."""
    user = world.user()
    moods = world.moods(user, 250)
    world.put(user, "mood", KEY, {"mood": "mood 7", "when": WHEN_TEXT, "ref": moods[7]})
    world.sync(user)
    before = world.by_ref(user, "mood")
    assert before[moods[7]] == [KEY]
    for mood in moods:
        world.change("mood", mood, deleted=True)
    assert totals(world.sync(user)) == {"deleted": 250}
    assert world.records(user, "mood") == {}
    for mood in moods:
        world.change("mood", mood, deleted=False)
    assert totals(world.sync(user)) == {"created": 250}
    assert world.by_ref(user, "mood") == before


def test_an_item_whose_record_vanished_with_its_nuke_returns_under_its_key(world: World) -> None:
    """DEL-2: the platform's nuke deletes the record and leaves the link; the link goes, the key is remembered."""
    user = world.user()
    document = world.add("mood", user, deleted=True, atproto={"rkey": KEY})
    assert totals(world.sync(user)) == {"healed": 1}
    assert world.link("mood", document) is None
    assert (world.entry("mood", document).state, world.entry("mood", document).rkey) == (State.DELETED, KEY)
    with world.quiet():
        world.sync(user)
    world.change("mood", document, deleted=False)
    assert totals(world.sync(user)) == {"created": 1}
    assert world.by_ref(user, "mood") == {document: [KEY]}


MOMENTS = {
    "before the ledger knows the account": ("ledger", "checkpoint"),
    "before the documents are read": ("documents", "stream"),
    "after the documents were read": ("ledger", "load"),
    "before the first batch": ("pds", 0),
    "before the second batch": ("pds", 1),
    "after the write, before the links": ("documents", "write_links"),
    "after the links, before the ledger": ("ledger", "save"),
    "before the mark is kept": ("ledger", "keep_checkpoint"),
}


@pytest.mark.parametrize("known", [False, True], ids=["first sync", "later sync"])
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_nuke_at_any_moment_of_a_sync_is_carried_out_by_the_next_one(
    world: World, moment: tuple[str, Any], known: bool
) -> None:
    """DEL-3: the item ends deleted, its link too; so does one of another type that nothing else happened to."""
    user = world.user()
    moods = world.moods(user, 250)
    other = world.add("piece", user)
    if known:
        world.sync(user)
        for mood in moods:
            world.change("mood", mood, mood=f"changed {mood}")
    nuked = (("mood", moods[0]), ("mood", moods[-1]), ("piece", other))
    done = []

    def nuke() -> None:
        for type, document in nuked:
            world.change(type, document, nuked=True)
            done.append(document)

    port, turn = moment
    if port == "pds":
        first = world.pds.count("apply_writes")
        world.pds.between = lambda number: nuke() if number == first + turn else None
    else:
        getattr(world, port).before[turn] = nuke
    assert world.sync(user).error is None
    assert len(done) == 3
    world.pds.between = lambda number: None
    assert world.sync(user).error is None
    assert world.by_ref(user, "mood").keys() == set(moods[1:-1])
    assert world.records(user, "piece") == {}
    assert [world.link(type, document) for type, document in nuked] == [None] * 3
    with world.quiet():
        world.sync(user)


def test_a_nuke_during_a_sync_that_dies_is_carried_out_by_the_next_one(world: World) -> None:
    """DEL-3: the document was read as it stood; the item ends deleted."""
    user = world.user()
    document = world.add("mood", user)
    world.pds.fail("apply_writes", ServiceUnreachable("the sync dies here"), after=True)
    world.sync(user)
    world.change("mood", document, deleted=True)
    assert totals(world.sync(user)) == {"deleted": 1}
    assert world.records(user, "mood") == {}
    assert world.link("mood", document) is None


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_record_whose_document_is_gone_is_planned_as_orphan(world: World, media: Any) -> None:
    """DEL-4: in any of the five types."""
    user = world.user()
    gone, stays = (world.add(media.name, user, code=code) for code in ("gone", "stays"))
    world.sync(user)
    world.documents.remove(media, gone)
    plan, _ = world.survey(user)
    assert [(op.kind, op.orphan, op.reason) for op in plan.operations()] == [
        (Kind.DELETE_ORPHAN, gone, "its document is gone")
    ]
    assert world.sync(user).types[media.name].deleted == 1
    assert world.by_ref(user, media.name).keys() == {stays}
    assert world.entry(media.name, gone).state is State.DELETED


@pytest.mark.parametrize("method", ["stream", "owners", "dates"])
def test_a_failed_read_makes_no_orphans(world: World, method: str) -> None:
    """DEL-5: a failed read is never an empty one; the account is to be run again, nothing is deleted."""
    user = world.user()
    documents = [world.add("mood", user, mood=text) for text in "ab"]
    world.sync(user)
    world.documents.remove(MOOD, documents[0])
    world.documents.fail_next(method, ServiceUnreachable("MongoDB does not answer"))
    report = world.sync(user, types=["mood"])
    assert isinstance(report.error, ServiceUnreachable)
    assert report.run_again
    assert world.by_ref(user, "mood").keys() == set(documents)
    assert world.pds.count("apply_writes") == 1


def test_an_empty_collection_makes_no_orphans(world: World) -> None:
    """DEL-5, GUARD-1: a restored or mistaken database is distrusted; the records are listed, the run is not clean."""
    user = world.user()
    documents = world.moods(user, 3)
    world.sync(user)
    world.documents.collections.clear()
    report = world.sync(user)
    assert report.types["mood"].planned == 0
    assert len(report.notes) == 4
    assert report.orphans_kept == 3
    assert world.by_ref(user, "mood").keys() == set(documents)


def test_a_user_without_documents_keeps_what_nobody_confirmed_as_gone(world: World) -> None:
    """DEL-5: the documents exist and are theirs, only this read did not show them."""
    user = world.user()
    documents = world.moods(user, 3)
    world.sync(user)
    world.documents.stream = lambda account, media: iter(())  # type: ignore[method-assign]
    report = world.sync(user)
    assert report.types["mood"].planned == 0
    assert world.by_ref(user, "mood").keys() == set(documents)


@pytest.mark.parametrize("value", [ObjectId(), 5, b"auth0|x", Code("auth0|x"), {"id": 1}, "auth0|\udc80"], ids=type)
@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_document_whose_owner_nobody_can_tell_keeps_its_record(world: World, media: Any, value: object) -> None:
    """BORDER-1, DEL-4: as with a flag of another type, nothing is removed while the owner's wish is unclear."""
    user = world.user()
    document = world.add(media.name, user)
    world.sync(user)
    before = world.records(user, media.name)
    world.change(media.name, document, user=value)
    report = world.sync(user)
    assert world.records(user, media.name) == before
    assert any(document in note for note in report.notes)
    world.change(media.name, document, user=user.id)
    assert totals(world.sync(user), media.name).get("unchanged") == 1


def test_a_record_of_somebody_elses_document_leaves_this_repository(world: World) -> None:
    """DEL-4: each eligible document once, in the repository of its owner."""
    user, owner = world.user(), world.user()
    document = world.add("mood", owner)
    world.put(user, "mood", KEY, {"mood": "fine", "when": WHEN_TEXT, "ref": document})
    assert totals(world.sync(user)) == {"deleted": 1}
    assert world.entry("mood", KEY).account == user.id
    assert totals(world.sync(owner)) == {"created": 1}
    assert world.by_ref(owner, "mood").keys() == {document}


@pytest.mark.parametrize("first", ["before", "after"])
@pytest.mark.parametrize("media", [each for each in MEDIA_TYPES if each.anonymous], ids=lambda media: media.name)
@pytest.mark.parametrize("refused", [False, True], ids=["taken", "refused"])
def test_work_that_passes_to_another_account_is_that_accounts_in_the_ledger(
    world: World, media: Any, first: str, refused: bool
) -> None:
    """VERIFY-6, OPS-2: whoever of the two is synchronised first; what goes on in the old repository is told apart."""
    before, after = world.guest(), world.user()
    document = world.add(media.name, before)
    world.sync(before)
    (key,) = world.records(before, media.name)
    world.change(media.name, document, user=after.id)
    if refused:
        world.pds.refusals[media.nsid, key] = RecordRefused("no")
    for account in (before, after) if first == "before" else (after, before):
        if account is after:
            world.pds.refusals.clear()
        elif refused:
            world.pds.refusals[media.nsid, key] = RecordRefused("no")
        world.sync(account)
    entry = world.entry(media.name, document)
    assert (entry.account, entry.did, entry.state) == (after.id, after.did, State.WRITTEN)
    assert list(world.records(before, media.name)) == ([key] if refused else [])
    assert (world.entry(media.name, key).withdrawn_at is not None) is refused
    world.pds.refusals.clear()
    world.sync(before)
    assert world.records(before, media.name) == {}
    assert world.entry(media.name, key).withdrawn_at is None
    assert world.entry(media.name, document).account == after.id


@pytest.mark.parametrize("fields", [{"mp4Url": None, "zipUrl": None}, {"mp4Status": "failed"}, {}])
def test_no_document_is_ever_deleted(world: World, fields: dict[str, Any]) -> None:
    """DEL-8: neither a tape without addresses, which storage is asked for first, nor any other."""
    user = world.user()
    document = world.add("tape", user, **fields)
    gone = world.add("mood", user, deleted=True)
    world.sync(user)
    assert world.renderer.derived == [document]
    assert world.by_ref(user, "tape").keys() == {document}
    assert world.document("mood", gone).id == gone
    assert set(world.documents.calls) <= {"stream", "owners", "is_empty", "write_links"}


@pytest.mark.parametrize(
    "link",
    [
        {"rkey": KEY, "did": "did:plc:deletedaccount"},
        {"rkey": KEY, "uri": f"at://did:plc:deletedaccount/computer.aesthetic.kidlisp/{KEY}"},
        {"rkey": KEY},
    ],
    ids=["another DID", "another DID in the URI", "a key the guest repository does not know"],
)
def test_a_program_that_outlived_its_owner_is_not_published_as_a_guests(world: World, link: dict[str, str]) -> None:
    """DEL-10: held back and listed; clearing its link publishes it."""
    guest = world.guest()
    document = world.add("kidlisp", guest, atproto=link)
    report = world.sync(guest)
    assert totals(report, "kidlisp") == {"quarantined": 1}
    assert [(failure.item, failure.error_class) for failure in report.failures] == [
        (f"kidlisp:{document}", "held-back")
    ]
    assert world.records(guest, "kidlisp") == {}
    with world.quiet():
        world.sync(guest)
    world.documents.raw(KIDLISP, document).pop("atproto")
    assert totals(world.sync(guest), "kidlisp") == {"created": 1}


@pytest.mark.parametrize("how", ["emptied", "never published", "wiped"])
def test_a_program_of_who_was_erased_and_purged_is_not_published_as_a_guests(world: World, how: str) -> None:
    """DEL-9, DEL-10: the erasure takes the link away by which it would be told; the ledger knows whose it was."""
    user, guest = world.user(), world.guest()
    document = world.add("kidlisp", user, kept={"network": "mainnet"})
    world.sync(user if how != "never published" else replace(user, password=None, blocked=NoCredentials("none")))
    if how == "wiped":
        world.change("kidlisp", document, draft=True)
        world.sync(user)
        world.change("kidlisp", document, draft=None)
    elif how == "emptied":
        world.sync(replace(user, pending_deletion=LEAVING))
    assert world.link("kidlisp", document) is None
    world.accounts[user.id] = replace(user, pending_deletion=LEAVING)
    world.change("kidlisp", document, user=None)
    for gone in (False, True, True):
        if gone:
            world.accounts.pop(user.id, None)
        report = world.sync(guest)
        assert totals(report, "kidlisp") == {"quarantined": 1}
        assert [failure.item for failure in report.failures] == [f"kidlisp:{document}"]
        entry = world.entry("kidlisp", document)
        assert (entry.account, entry.state, entry.former) == (guest.id, State.QUARANTINED, user.id)
    assert world.records(guest, "kidlisp") == {}
    other = world.user()
    world.change("kidlisp", document, user=other.id)
    assert totals(world.sync(other), "kidlisp") == {"created": 1}
    assert world.entry("kidlisp", document).former is None


def test_a_program_that_its_owner_gives_to_the_guest_is_published_there(world: World) -> None:
    """DEL-10: only what somebody left behind is held back."""
    user, guest = world.user(), world.guest()
    document = world.add("kidlisp", user)
    world.sync(user)
    world.change("kidlisp", document, user=None, atproto=None)
    assert totals(world.sync(guest), "kidlisp") == {"created": 1}
    world.sync(user)
    assert (len(world.records(user, "kidlisp")), len(world.records(guest, "kidlisp"))) == (0, 1)
    assert world.entry("kidlisp", document).former is None
    del world.accounts[user.id]
    assert totals(world.sync(guest, full=True), "kidlisp") == {"unchanged": 1}


def test_a_guests_program_whose_record_exists_is_not_held_back(world: World) -> None:
    """DEL-10: the key is known to the guest repository."""
    guest = world.guest()
    document = world.add("kidlisp", guest)
    world.sync(guest)
    (key,) = world.by_ref(guest, "kidlisp")[document]
    world.change("kidlisp", document, atproto={"rkey": key})
    assert totals(world.sync(guest), "kidlisp") == {"unchanged": 1, "healed": 1}


def test_a_guests_program_whose_record_somebody_else_deleted_comes_back(world: World) -> None:
    """DEL-10, LINK-5: the ledger knows that the guest repository held it under that key."""
    guest = world.guest()
    document = world.add("kidlisp", guest)
    world.sync(guest)
    (key,) = world.by_ref(guest, "kidlisp")[document]
    world.drop(guest, "kidlisp", key)
    assert totals(world.sync(guest), "kidlisp") == {"created": 1}
    assert world.by_ref(guest, "kidlisp") == {document: [key]}


def test_guests_paintings_may_be_made_again_under_their_stored_key(world: World) -> None:
    """DEL-10, LINK-5: only a type that outlives its owners is held back."""
    guest = world.guest()
    document = world.add("painting", guest, slug="abcd1234", atproto={"rkey": KEY})
    world.sync(guest)
    assert world.by_ref(guest, "painting") == {document: [KEY]}


def test_a_failed_delete_keeps_its_link_and_waits_visibly_and_is_tried_again(world: World) -> None:
    """DEL-6: the time of the first attempt stays, however often it fails."""
    user = world.user()
    document, other = world.add("mood", user), world.add("mood", user, mood="other")
    world.sync(user)
    (key,) = world.by_ref(user, "mood")[document]
    for id in (document, other):
        world.change("mood", id, deleted=True)
    refused = RecordRefused("no", status=400, answer="InvalidRequest: no")
    world.pds.refusals[MOOD.nsid, key] = refused
    first = world.clock.now
    assert totals(world.sync(user)) == {"deleted": 1, "quarantined": 1}
    assert world.link("mood", other) is None
    link = world.link("mood", document)
    assert link is not None
    assert link.rkey == key
    world.clock.advance(3600)
    assert totals(world.sync(user)) == {"quarantined": 1}
    entry = world.entry("mood", document)
    assert (entry.withdrawn_at, entry.state, entry.attempts) == (first, State.QUARANTINED, 3)
    world.pds.refusals.clear()
    assert totals(world.sync(user)) == {"deleted": 1}
    assert world.link("mood", document) is None
    assert world.entry("mood", document).withdrawn_at is None


def test_an_orphan_that_cannot_be_deleted_is_counted_and_kept_in_the_ledger(world: World) -> None:
    """DEL-6, VERIFY-1: it has no document to speak for it."""
    user = world.user()
    world.add("mood", user)
    world.put(user, "mood", KEY, {"mood": "x", "when": WHEN_TEXT, "ref": "f" * 24})
    world.pds.refuse(MOOD.nsid, KEY, RecordRefused("no", status=400, answer="InvalidRequest: no"))
    report = world.sync(user)
    assert totals(report) == {"created": 1, "quarantined": 1}
    assert [failure.item for failure in report.failures] == [f"mood:{'f' * 24}"]
    entry = world.entry("mood", "f" * 24)
    assert (entry.state, entry.rkey, entry.withdrawn_at) == (State.QUARANTINED, KEY, world.clock.now)


@pytest.mark.parametrize("refuse", [None, KEY, OTHER_KEY])
def test_two_records_of_one_withdrawn_item_are_one_deletion(world: World, refuse: str | None) -> None:
    """DEL-1, DEL-6, VERIFY-1: counted once, and only when both are gone; the link stays until then."""
    user = world.user()
    document = world.add("mood", user, deleted=True, atproto={"rkey": OTHER_KEY, "did": user.did})
    for key in (KEY, OTHER_KEY):
        world.put(user, "mood", key, {"mood": "fine", "when": WHEN_TEXT, "ref": document})
    if refuse is not None:
        world.pds.refuse(MOOD.nsid, refuse, RecordRefused("no", status=400, answer="InvalidRequest: no"))
    report = world.sync(user)
    assert totals(report) == ({"deleted": 1} if refuse is None else {"quarantined": 1})
    assert set(world.records(user, "mood")) == ({refuse} if refuse else set())
    assert (world.link("mood", document) is None) == (refuse is None)
    assert world.entry("mood", document).rkey == (refuse or OTHER_KEY)


def test_two_orphans_of_one_lost_document_are_one_deletion(world: World) -> None:
    """DEL-4, VERIFY-1."""
    user = world.user()
    world.add("mood", user)
    for key in (KEY, OTHER_KEY):
        world.put(user, "mood", key, {"mood": "x", "when": WHEN_TEXT, "ref": "f" * 24})
    assert world.survey(user)[1].types["mood"].deleted == 1
    assert totals(world.sync(user)) == {"created": 1, "deleted": 1}
    assert len(world.records(user, "mood")) == 1
