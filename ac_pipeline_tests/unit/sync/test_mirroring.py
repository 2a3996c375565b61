"""From documents to records: what is written, what is updated in place, and what is left alone."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.atproto.lexicon import compile_lexicons
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import RecordRefused, RepositoryMoved
from ac_pipeline.items import Stage, State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.media.times import format_when
from ac_pipeline.sync.planning.plan import Kind
from ac_pipeline_tests.unit.sync.world import LEXICONS, WHEN, World, totals

KEY = "3jzfcijpj2z2a"
MS = int(WHEN.timestamp() * 1000)


@pytest.fixture
def world() -> World:
    return World()


def test_a_second_sync_over_unchanged_data_stores_and_sends_nothing(world: World) -> None:
    """WRITE-1: no write, no upload, no link, no ledger entry, of any type."""
    user = world.user()
    for media in MEDIA_TYPES:
        world.add(media.name, user)
    world.sync(user)
    with world.quiet():
        report = world.sync(user)
    assert {name: tally.unchanged for name, tally in report.types.items()} == {media.name: 1 for media in MEDIA_TYPES}
    assert not report.failures
    assert not report.run_again


def test_a_thousand_items_need_five_batches(world: World) -> None:
    """WRITE-4: under 200 operations each, sorted by key."""
    user = world.user()
    world.moods(user, 1000)
    assert totals(world.sync(user)) == {"created": 1000}
    batches = world.pds.batches(user)
    assert [len(batch) for batch in batches] == [200] * 5
    keys = [write.rkey for batch in batches for write in batch]
    assert keys == sorted(keys)
    assert world.pds.count("read_repository") == 1


@pytest.mark.parametrize(("size", "batches"), [(20_000, 2), (4_000, 1)])
def test_a_batch_ends_where_its_bytes_do(world: World, size: int, batches: int) -> None:
    """WRITE-4: 1,000,000 bytes of request; 70 programs of 20,000 bytes need two, of 4,000 one."""
    user = world.user()
    for number in range(70):
        world.add("kidlisp", user, code=f"c{number:03}", source="x" * size)
    world.sync(user)
    assert len(world.pds.batches(user)) == batches
    assert len(world.records(user, "kidlisp")) == 70


def test_a_changed_document_updates_its_record_under_the_same_key(world: World) -> None:
    """WRITE-10."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    (key,) = world.records(user, "mood")
    world.change("mood", document, mood="better")
    assert totals(world.sync(user)) == {"updated": 1}
    assert {key: record["mood"] for key, record in world.records(user, "mood").items()} == {key: "better"}
    link = world.link("mood", document)
    assert link is not None
    assert link.cid == record_cid(world.records(user, "mood")[key])


def test_records_of_an_older_mapping_are_updated_in_place(world: World) -> None:
    """WRITE-11, REC-4: historical URLs and extra fields are drift of the same item, never a reason to delete."""
    user = world.user()
    old = {
        "painting": {"imageUrl": "https://aesthetic.computer/media/@u1/painting/x.png", "slug": "x", "code": "abc"},
        "kidlisp": {"acUrl": "https://aesthetic.computer/old", "zipUrl": "https://example.com/x.zip"},
    }
    documents = {type: world.add(type, user) for type in old}
    for type, document in documents.items():
        world.put(user, type, KEY, {**old[type], "when": "2025-10-15T12:30:45.123Z", "ref": document})
    sent = len(world.pds.batches(user))
    report = world.sync(user)
    for type in documents:
        assert report.types[type].updated == report.types[type].planned == 1
        assert list(world.records(user, type)) == [KEY]
    assert "zipUrl" not in world.records(user, "kidlisp")[KEY]
    assert world.records(user, "painting")[KEY]["imageUrl"] == "https://aesthetic.computer/media/paintings/abc"
    assert {write.action for batch in world.pds.batches(user)[sent:] for write in batch} == {"update"}


def test_work_in_progress_appears_once_it_is_sealed(world: World) -> None:
    """SRC-6."""
    user = world.user()
    document = world.add("painting", user, slug="wip/abc", status="wip")
    report = world.sync(user)
    assert report.types["painting"].withdrawn == 1
    assert report.types["painting"].planned == 0
    assert world.pds.count("apply_writes") == 0
    world.change("painting", document, status="done", slug="2025.10.15.12.30.45.123")
    assert world.sync(user).types["painting"].created == 1
    assert world.sync(user).types["painting"].unchanged == 1
    assert list(world.by_ref(user, "painting")) == [document]


@pytest.mark.parametrize(
    ("type", "field", "limit"), [("mood", "mood", 5_000), ("kidlisp", "source", 50_000)], ids=["mood", "kidlisp"]
)
@pytest.mark.parametrize("over", [0, 1])
def test_text_over_its_bytes_is_quarantined_before_any_request(
    world: World, type: str, field: str, limit: int, over: int
) -> None:
    """SRC-8: two bytes a letter; at the limit it is written, one byte more and nothing is sent."""
    user = world.user()
    document = world.add(type, user, **{field: "é" * (limit // 2) + "x" * over})
    report = world.sync(user)
    assert (report.types[type].created, report.types[type].quarantined) == (1 - over, over)
    assert world.pds.count("apply_writes") == 1 - over
    if over:
        entry = world.entry(type, document)
        assert entry.failure is not None
        assert (entry.failure.stage, entry.failure.error_class) == (Stage.RECORD, "invalid-record")
        assert f"at most {limit:,}" in entry.failure.message


@pytest.mark.parametrize("fields", [{"hits": 5}, {"lastAccessed": WHEN}, {"hits": 9, "kept": {"at": WHEN}}])
def test_views_of_a_program_change_nothing(world: World, fields: dict[str, Any]) -> None:
    """SRC-9."""
    user = world.user()
    document = world.add("kidlisp", user)
    world.sync(user)
    world.change("kidlisp", document, **fields)
    with world.quiet():
        assert world.sync(user).types["kidlisp"].unchanged == 1


def test_the_same_code_in_two_types_and_in_two_cases_is_never_mixed_up(world: World) -> None:
    """SRC-10."""
    user = world.user()
    ids = {
        ("painting", "abc"): world.add("painting", user, code="abc"),
        ("painting", "ABC"): world.add("painting", user, code="ABC"),
        ("kidlisp", "abc"): world.add("kidlisp", user, code="abc", source="(a)"),
        ("kidlisp", "ABC"): world.add("kidlisp", user, code="ABC", source="(b)"),
    }
    report = world.sync(user, items=frozenset({("kidlisp", "ABC")}))
    assert report.types["kidlisp"].created == 1
    assert report.types["painting"].planned == 0
    assert world.by_ref(user, "kidlisp").keys() == {ids["kidlisp", "ABC"]}
    world.sync(user)
    for (type, code), id in ids.items():
        (key,) = world.by_ref(user, type)[id]
        assert world.records(user, type)[key]["code"] == code


def test_a_record_that_breaks_its_lexicon_never_leaves(world: World) -> None:
    """REC-1: the code is one letter too long; its sound neighbour goes."""
    user = world.user()
    world.add("kidlisp", user, code="elevenchars", source="(a)")
    world.add("kidlisp", user, code="tenletters", source="(b)")
    report = world.sync(user)
    assert (report.types["kidlisp"].created, report.types["kidlisp"].quarantined) == (1, 1)
    assert [failure.error_class for failure in report.failures] == ["invalid-record"]
    (batch,) = world.pds.batches(user)
    assert [write.value["code"] for write in batch if write.value] == ["tenletters"]


def test_two_runs_anywhere_make_the_same_bytes() -> None:
    """REC-3: same document, same CID, in another process's world and with its fields in another order."""
    cids = []
    for order in (list, reversed):
        world = World()
        user = world.user()
        fields = {"_id": ObjectId("65f0c0ffee65f0c0ffee65f0"), "source": "(wipe blue)", "code": "cow"}
        world.add("kidlisp", user, **dict(order(list(fields.items()))))
        world.sync(user)
        cids.append([record_cid(record) for record in world.records(user, "kidlisp").values()])
    assert cids[0] == cids[1]


@pytest.mark.parametrize(("off", "drift"), [(999, False), (-999, False), (1000, True), (-1000, True)])
def test_milliseconds_between_two_clocks_are_no_drift(world: World, off: int, drift: bool) -> None:
    """REC-7: the real-time writer takes the clock twice."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", KEY, {"mood": "fine", "when": format_when(MS + off), "ref": document})
    assert totals(world.sync(user)) == ({"updated": 1} if drift else {"unchanged": 1, "healed": 1})
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 1}


def test_a_time_that_is_off_does_not_hide_another_difference(world: World) -> None:
    """REC-7: that alone is no drift; together with a changed text it is."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", KEY, {"mood": "old", "when": format_when(MS + 5), "ref": document})
    plan, _ = world.survey(user)
    assert [(op.kind, op.reason) for op in plan.operations()] == [(Kind.UPDATE, "differs in mood, when")]


def test_only_a_part_is_written_and_nothing_else_touched(world: World) -> None:
    """PLAN-2: by time, by number and by item; what is left out keeps its record, its link and its orphan."""
    user = world.user()
    first, second, third = world.moods(user, 3)
    world.put(user, "mood", KEY, {"mood": "x", "when": "2025-01-01T00:00:00.000Z", "ref": "f" * 24})
    since = int((WHEN + timedelta(seconds=2)).timestamp() * 1000)
    assert totals(world.sync(user, since=since)) == {"created": 1}
    assert totals(world.sync(user, limit=1)) == {"created": 1}
    assert world.by_ref(user, "mood").keys() == {first, third, "f" * 24}
    assert totals(world.sync(user, until=since)) == {"created": 1, "unchanged": 1}
    assert totals(world.sync(user, items=frozenset({("mood", second)}))) == {"unchanged": 1}
    assert totals(world.sync(user)) == {"unchanged": 3, "deleted": 1}


def test_a_refusal_that_is_about_no_item_quarantines_none(world: World) -> None:
    """WRITE-6, VERIFY-1: a quarantined item would not be tried again, and these have no fault of their own."""
    user = world.user()
    (mood,) = world.moods(user, 1)
    world.pds.fail("apply_writes", RepositoryMoved("somebody else"))
    world.pds.fail("read_repository", RecordRefused("no", status=400), call=2)
    report = world.sync(user)
    assert (report.tally("mood").deferred, type(report.error)) == (1, RecordRefused)
    assert world.entry("mood", mood).state is State.DEFERRED
    assert totals(world.sync(user)) == {"created": 1}


def test_a_quarantined_item_is_not_tried_again_until_its_document_changes(world: World) -> None:
    """OPS-3, SRC-8: but a person may ask for it."""
    user = world.user()
    document = world.add("kidlisp", user, code="elevenchars")
    world.sync(user)
    with world.quiet():
        assert world.sync(user).types["kidlisp"].quarantined == 1
    world.change("kidlisp", document, code="cow")
    assert world.sync(user).types["kidlisp"].created == 1
    assert world.entry("kidlisp", document).state is State.WRITTEN
    assert world.entry("kidlisp", document).failure is None


def test_a_quarantined_item_is_stored_with_the_reason_of_today(world: World) -> None:
    """OPS-2: another lexicon refuses the same document for another reason: the old words go, the timeline has both."""
    user = world.user()
    document = world.add("mood", user, mood="x" * 5_001)
    world.sync(user)
    before = world.entry("mood", document)
    shorter = deepcopy({**LEXICONS.documents})
    shorter[MOOD.nsid]["defs"]["main"]["record"]["properties"]["mood"]["maxLength"] = 4_000
    world.engine.lexicons = compile_lexicons(shorter)
    report = world.sync(user, full=True)
    (failure,) = report.failures
    after = world.entry("mood", document)
    assert before.failure is not None
    assert after.failure is not None
    assert "at most 5,000" in before.failure.message
    assert "at most 4,000" in failure.message
    assert after.failure.message == failure.message
    assert after.state is State.QUARANTINED
    assert [line.message for line in after.history] == [before.failure.message, failure.message]
    with world.quiet():
        world.sync(user, full=True)
