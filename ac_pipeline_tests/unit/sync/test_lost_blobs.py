"""Blobs the PDS has lost: they are found when asked for, and it gets them back, whatever it takes (VERIFY-5)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import RateLimited, ServiceUnreachable, SourceMissing, WrongPassword
from ac_pipeline.items import State
from ac_pipeline.sync.verify import verify
from ac_pipeline.sync.writing.blob_repair import PADDING
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.sync.world import World, chosen, totals

Lose = Callable[[World, Account, str], None]


def forget(world: World, user: Account, cid: str) -> None:
    world.pds.lose_blob(user, cid)


def lose_bytes(world: World, user: Account, cid: str) -> None:
    world.pds.lose_bytes(user, cid)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def user(world: World) -> Account:
    return world.user()


def blob_of(world: World, user: Account, type: str, document: str, field: str) -> str:
    (key,) = world.by_ref(user, type)[document]
    return str(world.records(user, type)[key][field]["ref"]["$link"])


def paintings(world: World, user: Account, count: int) -> list[str]:
    return [
        world.add("painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
        for number in range(count)
    ]


def states_of(world: World, user: Account) -> list[str]:
    return [finding.state for finding in verify(world.engine, user, chosen()).items]


@pytest.mark.parametrize(
    ("lose", "expected"),
    [(forget, {"unchanged": 3, "healed": 2}), (lose_bytes, {"updated": 2, "unchanged": 1, "healed": 2})],
)
def test_lost_blobs_are_uploaded_again_and_counted_as_healed(
    world: World, user: Account, lose: Lose, expected: dict[str, int]
) -> None:
    """VERIFY-5: of some of a user's paintings; the records end as they were, and a second run has nothing to do."""
    documents = paintings(world, user, 3)
    world.sync(user)
    before = world.pds.records(user)
    for document in documents[:2]:
        lose(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    assert states_of(world, user) == ["blob-missing"] * 2
    report = world.sync(user, blobs=True)
    counted = totals(report, "painting") | {}
    counted.pop("companions_missing")
    assert (counted, report.error, report.failures) == (expected, None, [])
    assert world.pds.records(user) == before
    assert states_of(world, user) == []
    with world.quiet():
        assert world.sync(user, blobs=True).types["painting"].healed == 0


def test_nobody_asks_for_blobs_unless_told_to(world: World, user: Account) -> None:
    """VERIFY-5: every blob is one request."""
    (document,) = paintings(world, user, 1)
    world.sync(user)
    forget(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    world.sync(user, full=True)
    assert world.pds.count("has_blob") == 0


def test_each_blob_is_asked_for_once_and_only_where_that_is_wanted(world: World, user: Account) -> None:
    documents = paintings(world, user, 4)
    world.renderer.same = dict.fromkeys(documents[:3], "one picture")
    world.sync(user)
    assert world.pds.count("has_blob") == 0
    world.sync(user, blobs=True)
    assert world.pds.count("has_blob") == 2


def test_all_records_that_share_a_lost_blob_let_go_of_it_together(world: World, user: Account) -> None:
    """VERIFY-5, MEDIA-6: the PDS forgets the blob with the last of them; three items, one upload each way."""
    documents = paintings(world, user, 3)
    world.renderer.same = dict.fromkeys(documents, "one picture")
    world.sync(user)
    before = world.pds.records(user)
    lose_bytes(world, user, blob_of(world, user, "painting", documents[0], "thumbnail"))
    report = world.sync(user, blobs=True)
    assert (report.types["painting"].healed, report.types["painting"].updated) == (3, 3)
    assert world.pds.records(user) == before
    assert states_of(world, user) == []


def test_a_tape_keeps_a_video_in_every_commit(world: World, user: Account) -> None:
    """MEDIA-7, REC-1, VERIFY-5: a copy that plays the same stands in while the PDS forgets the lost one."""
    document = world.add("tape", user)
    world.sync(user)
    before = world.pds.records(user)
    cid = blob_of(world, user, "tape", document, "video")
    data = world.renderer.store[cid]
    lose_bytes(world, user, cid)
    sent = len(world.pds.batches(user))
    report = world.sync(user, blobs=True)
    assert (totals(report, "tape"), report.failures) == ({"updated": 1, "healed": 1}, [])
    between, after = (batch for batch in world.pds.batches(user)[sent:])
    (write,) = between
    assert write.value is not None
    copy = write.value["video"]
    assert copy["ref"]["$link"] == blob_cid(data + PADDING["video/mp4"])
    assert copy["size"] == len(data) + 8
    assert {n: v for n, v in write.value.items() if n != "video"} == {
        n: v for n, v in next(iter(before.values())).items() if n != "video"
    }
    assert [write.action for write in after] == ["update"]
    assert world.pds.records(user) == before
    entry = world.entry("tape", document)
    assert entry.derived is not None
    assert entry.derived.renditions["video"].blob.cid == cid
    with world.quiet():
        world.sync(user, blobs=True)


def test_what_the_store_has_lost_too_is_made_anew(world: World, user: Account) -> None:
    """VERIFY-5: from its source, as in a write."""
    (document,) = paintings(world, user, 1)
    world.sync(user)
    forget(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    world.renderer.store.clear()
    report = world.sync(user, blobs=True)
    assert (report.types["painting"].unchanged, report.types["painting"].healed) == (1, 1)
    assert states_of(world, user) == []


@pytest.mark.parametrize("lose", [forget, lose_bytes])
def test_what_another_encoder_makes_anew_becomes_the_record_s_blob(world: World, user: Account, lose: Lose) -> None:
    """VERIFY-5, WRITE-10: the old bytes exist nowhere any more; the record is updated in place."""
    (document,) = paintings(world, user, 1)
    world.sync(user)
    old = blob_of(world, user, "painting", document, "thumbnail")
    lose(world, user, old)
    world.renderer.store.clear()
    world.renderer.version = "2"
    report = world.sync(user, blobs=True)
    assert (report.types["painting"].updated, report.failures) == (1, [])
    assert blob_of(world, user, "painting", document, "thumbnail") != old
    assert states_of(world, user) == []
    with world.quiet():
        world.sync(user, blobs=True)


def test_a_blob_that_nobody_can_make_any_more_is_quarantined_and_its_record_stays(world: World, user: Account) -> None:
    """VERIFY-5, MEDIA-4, OPS-4: named, and not tried again by itself."""
    lost, fine = paintings(world, user, 2)
    world.sync(user)
    before = world.pds.records(user)
    forget(world, user, blob_of(world, user, "painting", lost, "thumbnail"))
    world.renderer.store.clear()
    world.renderer.failures[lost] = SourceMissing("no candidate left")
    report = world.sync(user, blobs=True)
    assert [(failure.item, failure.error_class) for failure in report.failures] == [
        (f"painting:{lost}", "source-missing")
    ]
    assert (report.types["painting"].quarantined, report.types["painting"].unchanged) == (1, 1)
    assert world.pds.records(user) == before
    assert world.entry("painting", lost).state is State.QUARANTINED
    with world.quiet():
        assert world.sync(user).types["painting"].quarantined == 1
    world.renderer.failures.clear()
    assert world.sync(user, retry=True).types["painting"].healed == 1, "asked for because its last upload had failed"
    assert (states_of(world, user), world.entry("painting", lost).state) == ([], State.UNCHANGED)
    assert world.entry("painting", fine).state is State.WRITTEN


def test_a_blob_that_another_record_refers_to_is_not_given_up_on_silently(world: World, user: Account) -> None:
    """VERIFY-5: a post with the same picture is not the mirror's to change."""
    (document,) = paintings(world, user, 1)
    world.sync(user)
    cid = blob_of(world, user, "painting", document, "thumbnail")
    (record,) = world.records(user, "painting").values()
    post = {"$type": "app.example.post", "embed": [{"image": record["thumbnail"]}]}
    MemoryPds.apply_writes(world.pds, user, [Write("create", "app.example.post", "a", post)], swap_commit=None)
    lose_bytes(world, user, cid)
    before = world.pds.records(user)
    report = world.sync(user, blobs=True)
    assert [failure.error_class for failure in report.failures] == ["blob-missing"]
    assert "app.example.post/a" in report.failures[0].message
    assert world.pds.records(user) == before


def test_a_run_that_dies_between_letting_go_and_writing_again_is_healed_by_the_next(
    world: World, user: Account
) -> None:
    """VERIFY-5, WRITE-13: an ordinary run finds a record that lacks its blob, and writes it."""
    (document,) = paintings(world, user, 1)
    tape = world.add("tape", user)
    world.sync(user)
    before = world.pds.records(user)
    for type, each, field in (("painting", document, "thumbnail"), ("tape", tape, "video")):
        lose_bytes(world, user, blob_of(world, user, type, each, field))
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    report = world.sync(user, blobs=True)
    assert isinstance(report.error, ServiceUnreachable)
    assert [report.types[type].deferred for type in ("painting", "tape")] == [1, 1]
    assert world.pds.records(user) != before
    assert world.sync(user).types["tape"].updated == 1
    assert world.pds.records(user) == before
    assert states_of(world, user) == []


def test_a_limit_that_is_reached_while_records_let_go_leaves_none_of_them_behind(world: World, user: Account) -> None:
    """VERIFY-1, LIMIT-1: all that wait for their blob are deferred, and an ordinary run gives it to them."""
    documents = [
        world.add("painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
        for number in range(250)
    ]
    world.sync(user)
    before = world.pds.records(user)
    for document in documents:
        lose_bytes(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    world.pds.fail("apply_writes", RateLimited("429", status=429, retry_after=60), call=2)
    report = world.sync(user, blobs=True)
    assert (report.error, report.types["painting"].deferred) == (None, 250)
    report = world.sync(user)
    assert (report.types["painting"].updated, report.types["painting"].healed) == (250, 50)
    assert world.pds.records(user) == before
    assert states_of(world, user) == []


def test_a_spent_limit_defers_what_is_left(world: World, user: Account) -> None:
    """LIMIT-6: with the time from which it fits; an ordinary run afterwards asks for these and mends them."""
    documents = paintings(world, user, 5)
    world.sync(user)
    for document in documents:
        forget(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    world.pds.fail("upload_blob", RateLimited("429", status=429, retry_after=60), call=3)
    sent = world.pds.count("upload_blob")
    report = world.sync(user, blobs=True)
    assert world.pds.count("upload_blob") == sent + 3
    assert (report.error, report.types["painting"].deferred, report.types["painting"].healed) == (None, 3, 2)
    assert sum(world.entry("painting", document).deferred_until is not None for document in documents) == 3
    report = world.sync(user)
    assert (report.types["painting"].unchanged, report.types["painting"].healed) == (5, 3)
    assert states_of(world, user) == []


def test_a_wrong_password_is_found_when_a_blob_has_to_be_uploaded(world: World, user: Account) -> None:
    """ACCT-2."""
    (document,) = paintings(world, user, 1)
    world.sync(user)
    forget(world, user, blob_of(world, user, "painting", document, "thumbnail"))
    world.pds.fail("upload_blob", WrongPassword("no", status=401))
    report = world.sync(user, blobs=True)
    assert isinstance(report.blocked, WrongPassword)
    assert report.types["painting"].planned == 1


def test_a_failed_question_is_no_missing_blob(world: World, user: Account) -> None:
    """DEL-5: nothing is uploaded or changed for it."""
    paintings(world, user, 3)
    world.sync(user)
    world.pds.fail("has_blob", ServiceUnreachable("down"), call=2)
    sent = json.dumps([call.method for call in world.pds.calls]).count("upload_blob")
    report = world.sync(user, blobs=True)
    assert isinstance(report.error, ServiceUnreachable)
    assert world.pds.count("upload_blob") == sent
    assert report.types["painting"].unchanged == 3
