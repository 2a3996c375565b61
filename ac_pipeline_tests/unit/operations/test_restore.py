"""The restore: what comes back, byte by byte, and what never does, with every port in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.accounts import LEAVING
from ac_pipeline.errors import (
    AccountDeleted,
    Misconfigured,
    ServiceUnreachable,
)
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.removal.restore import Restore
from ac_pipeline.operations.removal.snapshot import take_snapshot
from ac_pipeline.sync.engine import AccountChanged
from ac_pipeline_tests.unit.operations.guarded import Guarded, medias
from ac_pipeline_tests.unit.operations.wiped import held, settled, wiped
from ac_pipeline_tests.unit.sync.world import totals

A, B, C, D = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c", "3jzfcijpj2z2d"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


MOOD = "computer.aesthetic.mood"


@pytest.fixture
def world() -> Guarded:
    return Guarded()


# ------------------------------------------------------------------------------------------ from a snapshot


def test_a_snapshot_brings_back_the_same_records_under_the_same_keys(world: Guarded) -> None:
    """PLAN-6: every CID, every link, every blob; then a sync has nothing to do."""
    user, ids, before = wiped(world)
    report = world.restore(user)
    assert report.clean
    assert report.restored == dict.fromkeys(ids, 1)
    assert world.contents(user) == before
    links = {name: world.link(name, id) for name, id in ids.items()}
    assert {f"{media_type(n).nsid}/{link.rkey}": link.cid for n, link in links.items() if link} == before
    assert {link.did for link in links.values() if link} == {user.did}
    raw = world.documents.raw(media_type("tape"), ids["tape"])
    assert raw["at"] == raw["atproto"]
    assert world.holds(user) == set()
    assert {world.entry(name, id).state for name, id in ids.items()} == {State.WRITTEN}
    assert {name: tally.unchanged for name, tally in settled(world, user).types.items()} == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("change", [{"pending_deletion": LEAVING}, {"password": "another"}], ids=str)
def test_nothing_comes_back_for_an_account_that_changed_since_it_was_looked_up(
    world: Guarded, change: dict[str, str]
) -> None:
    """DEL-9: checking a snapshot with many videos takes minutes, in which its owner may leave."""
    user, ids, before = wiped(world)
    world.engine.current = lambda account: replace(account, **change)
    report = world.restore(user)
    assert isinstance(report.error, AccountChanged)
    assert (report.restored, world.contents(user)) == ({}, {})
    assert world.holds(user) == set(ids)
    world.engine.current = lambda account: account
    assert world.restore(user).clean
    assert world.contents(user) == before


def test_a_restore_says_what_it_would_do_and_writes_nothing(world: Guarded) -> None:
    """PLAN-1, PLAN-6."""
    user, ids, _ = wiped(world)
    world.change("piece", ids["piece"], nuked=True)
    snapshot = world.snapshots()[0]
    with world.quiet():
        plan = Restore(world.vault, user, MEDIA_TYPES, snapshot=snapshot).plan()
    assert len(plan.operations) == 4
    assert (plan.price.operations, plan.price.points, plan.price.blob_uploads) == (4, 12, 3)
    assert [each.reason for each in plan.held] == ["its document is withdrawn: nuked"]


def test_only_the_blobs_that_are_needed_are_uploaded(world: Guarded) -> None:
    """PLAN-6, MEDIA-15."""
    user, _, before = wiped(world)
    sent = world.pds.count("upload_blob")
    world.restore(user, "mood", "painting")
    assert world.pds.count("upload_blob") == sent + 1
    world.restore(user, source=world.snapshots()[0].id)
    assert world.pds.count("upload_blob") == sent + 3
    assert world.contents(user) == before


def test_a_second_restore_writes_nothing(world: Guarded) -> None:
    """WRITE-1, PLAN-6."""
    user, _, before = wiped(world)
    world.restore(user)
    written = len(world.pds.batches(user)), len(world.documents.link_writes)
    report = world.restore(user)
    assert (report.restored, report.present) == ({}, 5)
    assert (len(world.pds.batches(user)), len(world.documents.link_writes)) == written
    assert world.contents(user) == before


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"nuked": True}, "its document is withdrawn: nuked"),
        ({"deleted": True}, "its document is withdrawn: deleted"),
        ({"visibility": "private"}, "its document is withdrawn: visibility: private"),
        ({"nuked": "yes"}, "its document is invalid"),
    ],
)
def test_what_was_removed_since_is_held_back(world: Guarded, fields: dict[str, Any], reason: str) -> None:
    """DEL-1, PLAN-6: nothing ineligible returns."""
    user, ids, before = wiped(world)
    world.change("mood", ids["mood"], **fields)
    report = world.restore(user)
    assert report.clean  # what was held back on purpose did not fail
    (told,) = held(report).values()
    assert told.startswith(reason)
    assert world.records(user, "mood") == {}
    assert len(world.contents(user)) == len(before) - 1
    assert world.link("mood", ids["mood"]) is None
    world.sync(user)
    assert world.records(user, "mood") == {}


def test_the_record_of_a_document_that_is_gone_is_held_back(world: Guarded) -> None:
    """DEL-4, PLAN-6."""
    user, ids, _ = wiped(world)
    world.documents.remove(media_type("mood"), ids["mood"])
    world.moods(world.user(), 1)
    report = world.restore(user)
    assert list(held(report).values()) == ["its document is gone"]
    assert world.records(user, "mood") == {}


def test_the_record_of_a_document_that_changed_hands_is_held_back(world: Guarded) -> None:
    """PLAN-6."""
    user, ids, _ = wiped(world)
    world.change("mood", ids["mood"], user=world.user().id)
    assert list(held(world.restore(user)).values()) == ["its document belongs to another account"]


@pytest.mark.parametrize("form", ["blocked", "leaving"])
def test_nothing_of_an_owner_who_is_leaving_comes_back(world: Guarded, form: str) -> None:
    """DEL-9, PLAN-6."""
    user = world.user()
    world.one_of_each(user)
    world.put(user, "mood", A, {"text": "nobody's", "when": WHEN_TEXT})
    world.wipe(user)
    blocked = AccountDeleted("scheduled") if form == "blocked" else None
    leaving = None if form == "blocked" else "the owner's account is deleted"
    report = world.restore(replace(user, blocked=blocked, pending_deletion=leaving))
    assert len(report.held) == 6
    assert world.contents(user) == {}


def test_a_record_that_names_nothing_comes_back_only_after_a_wipe(world: Guarded) -> None:
    """PLAN-6: what its own client has deleted is not ours to publish again."""
    user = world.user()
    world.one_of_each(user)
    world.put(user, "mood", A, {"text": "nobody's", "when": WHEN_TEXT})
    before = world.contents(user)
    world.wipe(user)
    assert world.restore(user).clean
    assert world.contents(user) == before
    world.drop(user, "mood", A)
    report = world.restore(user)
    assert held(report) == {A: "it names no document, and no wipe deleted it: somebody else did"}
    assert f"{MOOD}/{A}" not in world.contents(user)


def test_of_several_copies_of_an_item_one_comes_back(world: Guarded) -> None:
    """PLAN-6, LINK-7: no duplicates; the linked one."""
    user = world.user()
    mood = world.add("mood", user, mood="twice", atproto={"rkey": B})
    value = {"mood": "twice", "when": WHEN_TEXT, "ref": mood}
    for key in (A, B, C):
        world.put(user, "mood", key, value)
    world.wipe(user)
    report = world.restore(user)
    assert world.by_ref(user, "mood") == {mood: [B]}
    assert held(report) == dict.fromkeys([A, C], f"it is a duplicate of {B}")
    assert totals(world.sync(user)) == {"unchanged": 1}


def test_an_item_that_has_a_record_already_gets_no_second_one(world: Guarded) -> None:
    """PLAN-6."""
    user, ids, _ = wiped(world)
    world.put(user, "mood", C, {"mood": "fine", "when": WHEN_TEXT, "ref": ids["mood"]})
    report = world.restore(user)
    assert list(held(report).values()) == [f"its document has the record {C} already"]
    assert world.by_ref(user, "mood") == {ids["mood"]: [C]}


def test_a_record_that_differs_is_left_unless_told_to_replace_it(world: Guarded) -> None:
    """PLAN-6."""
    user, ids, before = wiped(world)
    key = str(world.entry("mood", ids["mood"]).rkey)
    world.put(user, "mood", key, {"mood": "other", "when": WHEN_TEXT, "ref": ids["mood"]})
    report = world.restore(user)
    assert "--overwrite" in held(report)[key]
    assert world.records(user, "mood")[key]["mood"] == "other"
    assert world.restore(user, overwrite=True).restored == {"mood": 1}
    assert world.contents(user) == before


def test_a_key_that_another_documents_record_has_is_never_overwritten(world: Guarded) -> None:
    """LINK-6."""
    user, ids, _ = wiped(world)
    key = str(world.entry("mood", ids["mood"]).rkey)
    other = world.add("mood", user, mood="other")
    world.put(user, "mood", key, {"mood": "other", "when": WHEN_TEXT, "ref": other})
    report = world.restore(user, overwrite=True)
    assert held(report) == {key: f"its key belongs to the record of document {other}"}
    assert world.by_ref(user, "mood") == {other: [key]}


def test_a_link_to_another_record_is_not_rewritten_for_a_copy_that_is_there(world: Guarded) -> None:
    """LINK-7: which of two records counts is the sync's to decide."""
    user = world.user()
    mood = world.add("mood", user, mood="fine")
    world.put(user, "mood", A, {"mood": "fine", "when": WHEN_TEXT, "ref": mood})
    taken = take_snapshot(world.vault, user, MEDIA_TYPES)
    world.put(user, "mood", B, {"mood": "fine", "when": WHEN_TEXT, "ref": mood})
    world.change("mood", mood, atproto={"rkey": B, "did": user.did})
    world.restore(user, source=taken.id)
    link = world.link("mood", mood)
    assert link is not None
    assert link.rkey == B


def test_historical_shapes_come_back_as_they_were_and_the_next_sync_repairs_them_in_place(world: Guarded) -> None:
    """PLAN-6, LINK-10, WRITE-11."""
    user = world.user()
    mood = world.add("mood", user, mood="fine")
    world.put(user, "mood", A, {"when": WHEN_TEXT, "ref": mood})
    before = world.contents(user)
    world.wipe(user)
    report = world.restore(user)
    assert report.wrong_shaped == 1
    assert world.contents(user) == before
    assert totals(world.sync(user)) == {"updated": 1}
    assert world.records(user, "mood")[A]["mood"] == "fine"


def test_a_record_that_has_got_its_name_since_can_be_replaced_by_what_it_was(world: Guarded) -> None:
    """PLAN-6, GUARD-7: it is the same document's under the same key, although the older one did not say so."""
    user = world.user()
    world.add("kidlisp", user, code="cow", source="(wipe blue)")
    world.put(user, "kidlisp", A, {"code": "cow", "source": "(wipe blue)", "when": WHEN_TEXT})
    before = world.contents(user)
    taken = take_snapshot(world.vault, user, MEDIA_TYPES)
    assert world.sync(user).types["kidlisp"].updated == 1
    assert "--overwrite" in held(world.restore(user, source=taken.id))[A]
    assert world.restore(user, source=taken.id, overwrite=True).restored == {"kidlisp": 1}
    assert world.contents(user) == before


def test_a_document_that_changed_since_gets_its_own_media_from_the_next_sync(world: Guarded) -> None:
    """WRITE-10: the renditions that the ledger knows are those of the document as it was."""
    user, ids, before = wiped(world)
    world.change("painting", ids["painting"], code="new")
    world.restore(user, "painting")
    key = str(world.entry("painting", ids["painting"]).rkey)
    asked = len(world.renderer.derived)
    world.sync(user, types=["painting"])
    assert world.renderer.derived[asked:] == [ids["painting"]]
    assert world.records(user, "painting")[key]["code"] == "new"
    assert f"computer.aesthetic.painting/{key}" in before


def test_a_document_that_changed_before_the_wipe_gets_its_own_media_afterwards(world: Guarded) -> None:
    """WRITE-10: a wipe does not make old renditions pass for those of the new document."""
    user = world.user()
    ids = world.one_of_each(user)
    world.change("painting", ids["painting"], slug="2026.01.01.00.00.00.000")
    world.wipe(user)
    asked = len(world.renderer.derived)
    world.restore(user, source="mongo")
    assert ids["painting"] in world.renderer.derived[asked:]


def test_a_snapshot_of_some_types_restores_only_those(world: Guarded) -> None:
    """PLAN-5, PLAN-6."""
    user = world.user()
    world.one_of_each(user)
    taken = take_snapshot(world.vault, user, medias(["mood"]))
    before = world.records(user, "mood")
    world.wipe(user)
    with pytest.raises(Misconfigured, match="none of the chosen"):
        world.restore(user, "tape", source=taken.id)
    assert world.restore(user, source=taken.id).restored == {"mood": 1}
    assert world.records(user, "mood") == before
    assert world.holds(user) == {"painting", "piece", "kidlisp", "tape"}


# ------------------------------------------------------------------------------------------ from Mongo


def test_from_mongo_the_same_keys_come_back_and_nothing_removed(world: Guarded) -> None:
    """PLAN-6: deterministic keys, removals included, no duplicates; then nothing is left to do."""
    user, ids, before = wiped(world)
    world.change("kidlisp", ids["kidlisp"], deleted=True)
    report = world.restore(user, source="mongo", why="asked")
    assert report.clean
    assert report.restored == dict.fromkeys(["painting", "mood", "piece", "tape"], 1)
    assert {path: cid for path, cid in before.items() if "kidlisp" not in path} == world.contents(user)
    assert world.holds(user) == set()
    settled(world, user)
    assert [(line.action, line.why, line.outcome) for line in world.audit.lines[-2:]] == [
        ("restore", "asked", "started"),
        ("restore", "asked", "done"),
    ]


def test_from_mongo_after_a_wipe_that_was_killed_everything_is_there_once(world: Guarded) -> None:
    """PLAN-5, PLAN-6: and the next wipe is one of its own."""
    user = world.user()
    world.moods(user, 450)
    world.sync(user)
    before = world.contents(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    world.wipe(user)
    assert len(world.contents(user)) == 250
    assert world.restore(user, source="mongo").clean
    assert world.contents(user) == before
    assert not any(snapshot.open for snapshot in world.snapshots())
    report = world.wipe(user)
    assert len(report.snapshots) == 1
    assert len(world.snapshots()) == 2


# ------------------------------------------------------------------------------------------ any selection

_RECORD = st.tuples(
    st.sampled_from(["mood", "piece", "kidlisp", "painting", "tape"]),
    st.sampled_from(["synced", "drifted", "nameless", "keyed", "legacy", "equal"]),
)


@settings(max_examples=60)
@given(st.lists(_RECORD, max_size=12), st.sets(st.sampled_from([media.name for media in MEDIA_TYPES])), st.booleans())
def test_a_wipe_and_a_restore_are_no_change(
    kinds: list[tuple[str, str]], types: set[str], restored_types: bool
) -> None:
    """PLAN-5, PLAN-6: for any records and any types, the repository is what it was, path by path, CID by CID."""
    world = Guarded()
    user = world.user()
    for number, (type, kind) in enumerate(kinds):
        key = f"3jzfcijpj2z2{'abcdefghijkl'[number]}"
        if kind == "synced":
            world.add(type, user, code=f"code{number}", when=None)
        elif kind == "nameless":
            world.put(user, type, key, {"note": number})
        elif kind == "equal":
            world.put(user, type, key, {"note": "equal"})
        else:
            id = world.add(type, user, code=f"code{number}")
            ref = {"drifted": {"ref": id}, "legacy": {"mongoId": id}, "keyed": {}}[kind]
            if kind == "keyed":
                world.change(type, id, atproto={"rkey": key})
            world.put(user, type, key, {"note": number, **ref})
    if "synced" in {kind for _, kind in kinds}:
        world.sync(user)
    before = world.contents(user)

    report = world.wipe(user, *types)

    assert report.clean
    chosen = {media.nsid for media in medias(sorted(types))}
    assert world.contents(user) == {path: cid for path, cid in before.items() if path.split("/")[0] not in chosen}
    back = world.restore(user, *(types if restored_types else ())) if world.snapshots() else None
    assert back is None or back.clean
    assert world.contents(user) == before
    world.restore(user, source="mongo")
    settled(world, user)
