"""Items with media: what is made, uploaded and written together, and what one missing blob costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import (
    BlobMissing,
    EncoderTimedOut,
    EncodingFailed,
    NoCredentials,
    PipelineError,
    RateLimited,
    ServerFailed,
    ServiceUnreachable,
    SourceMissing,
    TooLarge,
)
from ac_pipeline.items import Derived, Stage, State
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.ledger.receipts import Aspect
from ac_pipeline.operations.inspection.verification import take_receipt
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.unit.sync.world import WHEN, World, at_second, totals

KEYS = ["3jzfcijpj2z2a", "3jzfcijpj2z2b"]


@pytest.fixture
def world() -> World:
    return World()


def paintings(world: World, user: Account, count: int) -> list[str]:
    """A second apart, each with a picture of its own."""
    return [
        world.add(
            "painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}", when=at_second(number)
        )
        for number in range(count)
    ]


def test_no_blob_is_uploaded_for_a_commit_that_would_have_to_wait(world: World) -> None:
    """LIMIT-9: a PDS has no clean-up of blobs that nothing refers to, and a day has 1,000 uploads."""
    user = world.user()
    documents = paintings(world, user, 3)
    world.pds.fail("reserve_commit", RateLimited("the relay's hour is spent", retry_after=1_800))
    assert totals(world.sync(user), "painting")["deferred"] == 3
    assert (world.pds.count("upload_blob"), world.pds.count("apply_writes")) == (0, 0)
    until = world.clock.now + timedelta(seconds=1_800)
    assert {world.entry("painting", each).deferred_until for each in documents} == {until}
    assert totals(world.sync(user), "painting")["created"] == 3
    assert world.pds.count("upload_blob") == 3


@pytest.mark.parametrize("error", [RateLimited("a day's uploads are spent", retry_after=9.0), NoCredentials("none")])
def test_a_commit_that_is_reserved_for_uploads_that_fail_is_given_back(world: World, error: PipelineError) -> None:
    """LIMIT-6, LIMIT-9: the relay's hour is left to those who have something to write."""
    user = world.user()
    paintings(world, user, 1)
    world.pds.fail("upload_blob", error)
    assert totals(world.sync(user), "painting").keys() & {"created", "updated"} == set()
    assert (world.pds.count("reserve_commit"), world.pds.count("apply_writes")) == (1, 0)
    assert world.pds.reserved == set()


def test_a_painting_without_source_is_counted_and_never_looped(world: World) -> None:
    """MEDIA-4, OPS-4: class source-missing, no second attempt, nothing written; a person may ask for one."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("none of 2 objects exists", status=404, answer="NoSuchKey")
    report = world.sync(user)
    assert totals(report, "painting") == {"quarantined": 1}
    assert not report.run_again
    (failure,) = report.failures
    assert (failure.error_class, failure.stage, failure.code) == ("source-missing", Stage.RENDITION, "abc")
    assert world.records(user, "painting") == {}
    with world.quiet():
        assert totals(world.sync(user), "painting") == {"quarantined": 1}
    assert world.renderer.derived == [document]
    world.renderer.failures.clear()
    assert totals(world.sync(user, retry=True), "painting")["created"] == 1


def test_a_tape_is_never_written_without_its_video(world: World) -> None:
    """MEDIA-7: the tail of ffmpeg's output is kept; an existing record keeps its video."""
    user = world.user()
    bad, good = world.add("tape", user, code="bad"), world.add("tape", user, code="good")
    world.sync(user)
    before = world.records(user, "tape")
    world.change("tape", bad, bucket="art-aesthetic-computer")
    fresh = world.add("tape", user, code="new")
    for document in (bad, fresh):
        world.renderer.failures[document] = EncodingFailed("ffmpeg: frame 3 is broken")
    assert totals(world.sync(user), "tape") == {"unchanged": 1, "quarantined": 2}
    assert world.records(user, "tape") == before
    assert world.by_ref(user, "tape").keys() == {bad, good}
    entry = world.entry("tape", fresh)
    assert entry.failure is not None
    assert "frame 3 is broken" in entry.failure.message
    assert all("video" in record for record in world.records(user, "tape").values())


def test_one_failing_source_fails_one_item(world: World) -> None:
    """MEDIA-16, MEDIA-6: not the run, not the other types, not the item with the same picture."""
    user = world.user()
    documents = paintings(world, user, 5)
    world.renderer.same = {documents[1]: "one picture", documents[2]: "one picture"}
    world.renderer.failures[documents[1]] = SourceMissing("gone")
    world.add("mood", user)
    report = world.sync(user)
    assert (report.types["painting"].created, report.types["painting"].quarantined) == (4, 1)
    assert report.types["mood"].created == 1
    assert world.by_ref(user, "painting").keys() == set(documents) - {documents[1]}


def test_a_source_that_does_not_answer_defers_its_item_and_the_account_is_run_again(world: World) -> None:
    """MEDIA-3, OPS-3: deferred, tried again by the next run, each attempt on record."""
    user = world.user()
    document, other = paintings(world, user, 2)
    world.renderer.failures[document] = ServiceUnreachable("storage does not answer")
    report = world.sync(user)
    assert totals(report, "painting") == {"created": 1, "deferred": 1, "companions_missing": 1}
    assert report.run_again
    world.sync(user)
    entry = world.entry("painting", document)
    assert (entry.state, entry.attempts) == (State.DEFERRED, 2)
    assert world.renderer.derived.count(document) == 2
    assert world.renderer.derived.count(other) == 1
    world.renderer.failures.clear()
    assert world.sync(user).types["painting"].created == 1
    assert world.entry("painting", document).failure is None


def test_a_blob_is_uploaded_before_the_batch_that_refers_to_it(world: World) -> None:
    """MEDIA-15: batch by batch, so that no blob waits longer than its own batch."""
    user = world.user()
    paintings(world, user, 250)
    assert world.sync(user).types["painting"].created == 250
    order = [call.method for call in world.pds.calls if call.method in {"upload_blob", "apply_writes"}]
    assert order == ["upload_blob"] * 200 + ["apply_writes"] + ["upload_blob"] * 50 + ["apply_writes"]


def test_a_blob_that_the_pds_lacks_is_uploaded_once_more(world: World) -> None:
    """MEDIA-15: only the one it names, and only once."""
    user = world.user()
    document, *_ = paintings(world, user, 5)
    lost = world.renderer.derive(PAINTING, world.document("painting", document), None).renditions["thumbnail"].blob.cid
    world.pds.fail(
        "apply_writes",
        BlobMissing("lost", status=400, answer=f"BlobNotFound: Could not find blob: {lost}"),
    )
    report = world.sync(user)
    assert report.types["painting"].created == 5
    uploads = [call.cid for call in world.pds.calls if call.method == "upload_blob"]
    assert len(uploads) == 6
    assert uploads.count(lost) == 2


def test_a_blob_that_stays_missing_quarantines_its_item_alone(world: World) -> None:
    """MEDIA-15, MEDIA-16: two uploads of it in all, the others of one batch are written."""
    user = world.user()
    documents = paintings(world, user, 20)
    world.add("mood", user)
    lost = (
        world.renderer.derive(PAINTING, world.document("painting", documents[7]), None).renditions["thumbnail"].blob.cid
    )
    upload = world.pds.upload_blob

    def forgetful(*args: object) -> object:
        reference = upload(*args)  # type: ignore[arg-type]
        if reference.cid == lost:
            world.pds.lose_blob(user, lost)
        return reference

    world.pds.upload_blob = forgetful  # type: ignore[assignment,method-assign]
    report = world.sync(user)
    assert (report.types["painting"].created, report.types["painting"].quarantined) == (19, 1)
    assert report.types["mood"].created == 1
    (failure,) = report.failures
    assert (failure.item, failure.error_class) == (f"painting:{documents[7]}", "blob-missing")
    uploads = [call.cid for call in world.pds.calls if call.method == "upload_blob"]
    assert uploads.count(lost) == 2
    assert len(uploads) == 21


@pytest.mark.parametrize(
    ("error", "state", "again"),
    [
        (TooLarge("over the PDS's limit"), State.QUARANTINED, False),
        (ServerFailed("502", status=502), State.DEFERRED, True),
    ],
)
def test_a_blob_that_cannot_be_uploaded_fails_its_item_alone(
    world: World, error: ServerFailed, state: State, again: bool
) -> None:
    """MEDIA-16."""
    user = world.user()
    documents = paintings(world, user, 3)
    world.pds.fail("upload_blob", error, call=2)
    report = world.sync(user)
    assert report.types["painting"].created == 2
    assert report.run_again == again
    (failure,) = report.failures
    assert (failure.state, failure.stage) == (state, Stage.UPLOAD)
    assert world.entry("painting", failure.item.partition(":")[2]).state is state
    assert len(world.by_ref(user, "painting").keys() & set(documents)) == 2


def test_when_the_limit_of_blobs_is_spent_texts_go_on(world: World) -> None:
    """LIMIT-6: media items wait until the reset, without a request each; the account is not to be run again at once."""
    user = world.user()
    documents = paintings(world, user, 60)
    world.moods(user, 3)
    limited = RateLimited("uploads spent", status=429, answer="RateLimitExceeded", retry_after=7200)
    world.pds.fail("upload_blob", limited)
    report = world.sync(user)
    assert report.types["mood"].created == 3
    assert (report.types["painting"].deferred, world.pds.count("upload_blob")) == (60, 1)
    assert not report.run_again
    waiting = [world.entry("painting", document) for document in documents]
    waiting = [entry for entry in waiting if entry.state is State.DEFERRED]
    assert {entry.deferred_until for entry in waiting} == {world.clock.now + timedelta(seconds=7200)}
    assert "what is deferred waits until 2026-01-02 05:04:05 UTC" in report.notes[0]
    assert world.sync(user).types["painting"].created == len(waiting)


def test_known_renditions_are_not_made_again(world: World) -> None:
    """WRITE-1, REC-3: another encoder changes nothing that is published."""
    user = world.user()
    documents = paintings(world, user, 3)
    world.sync(user)
    world.renderer.version = "2"
    world.clock.advance(-30 * 86400)
    with world.quiet():
        world.sync(user)
    assert sorted(world.renderer.derived) == sorted(documents)


@pytest.mark.parametrize(("days", "asked"), [(6.9, True), (7, False)])
def test_a_recording_is_waited_for_a_week(world: World, days: float, asked: bool) -> None:
    """MEDIA-5, OPS-4: it is uploaded beside its painting, perhaps a little later; its absence is counted."""
    user = world.user()
    document = world.add("painting", user, when=world.clock.now)
    assert world.sync(user).types["painting"].companions_missing == 1
    world.clock.advance(days * 86400)
    world.renderer.found[document] = frozenset({"recording"})
    report = world.sync(user)
    assert (report.types["painting"].updated, report.types["painting"].unchanged) == (int(asked), int(not asked))
    assert report.types["painting"].companions_missing == int(not asked)
    (record,) = world.records(user, "painting").values()
    assert ("recordingUrl" in record) == asked


@pytest.mark.parametrize("there", [True, False])
def test_a_recording_that_comes_or_goes_later_is_noticed_by_a_full_look_and_by_verify(
    world: World, there: bool
) -> None:
    """MEDIA-22: one wrong answer of storage at the first look is not for ever."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.found[document] = frozenset() if there else frozenset({"recording"})
    world.sync(user)
    world.renderer.found[document] = frozenset({"recording"}) if there else frozenset()
    world.clock.advance(30 * 86400)
    with world.quiet():
        assert world.sync(user).types["painting"].unchanged == 1
    assert verify(world.engine, user, Selection()).different == 1
    receipt = take_receipt(world.engine, user, [PAINTING], blobs=False, run_id="r", now=world.clock.now)
    assert receipt.parts["painting", Aspect.RECORDS].wrong
    assert world.sync(user, full=True).types["painting"].updated == 1
    (record,) = world.records(user, "painting").values()
    assert ("recordingUrl" in record) == there
    assert verify(world.engine, user, Selection()).complete
    with world.quiet():
        assert world.sync(user).types["painting"].unchanged == 1


def test_a_painting_that_cannot_be_published_stops_no_verification(world: World) -> None:
    """SRC-6, MEDIA-22: work in progress and slugs that nobody can read have no companions to ask for."""
    user = world.user()
    world.add("painting", user)
    world.sync(user)
    world.add("painting", user, slug="wip/x", status="wip")
    world.add("painting", user, slug="a/../b")
    found = verify(world.engine, user, Selection())
    assert (found.complete, found.verified, found.quarantined) == (True, 1, 1)


def test_a_storage_that_does_not_answer_a_full_look_changes_nothing(world: World) -> None:
    """MEDIA-22, MEDIA-5: the item waits, its record stays, and verify says nothing of it."""

    def down(*asked: object) -> frozenset[str]:
        raise ServerFailed("503")

    user = world.user()
    world.add("painting", user)
    world.sync(user)
    before = world.records(user, "painting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.renderer, "companions", down)
        assert world.sync(user, full=True).types["painting"].deferred == 1
        with pytest.raises(ServerFailed):
            verify(world.engine, user, Selection())
    assert world.records(user, "painting") == before
    assert world.sync(user).types["painting"].unchanged == 1
    assert len(world.renderer.derived) == 2, "only a full look asks again"


def test_a_source_that_storage_denied_once_is_found_by_the_next_full_look(world: World) -> None:
    """MEDIA-22: until then nothing is asked again, and nobody has to ask for a retry."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("403")
    assert world.sync(user).types["painting"].quarantined == 1
    del world.renderer.failures[document]
    assert world.sync(user).types["painting"].quarantined == 1
    assert world.sync(user, full=True).types["painting"].created == 1


def test_bytes_the_store_has_lost_are_made_again(world: World) -> None:
    """MEDIA-16: from the source, within the same sync."""
    user = world.user()
    document = world.add("painting", user)
    world.engine.render(user, PAINTING, Selection(), "run-0")
    world.renderer.store.clear()
    assert world.sync(user).types["painting"].created == 1
    assert world.renderer.derived == [document, document]


def test_bytes_that_are_made_again_by_another_encoder_are_written_as_they_are(world: World) -> None:
    """MEDIA-2, VERIFY-1: the record is planned anew with the new CID, once, and the ledger knows it."""
    user = world.user()
    document, other = paintings(world, user, 2)
    world.engine.render(user, PAINTING, Selection(), "run-0")
    world.renderer.store.clear()
    world.renderer.version = "2"
    report = world.sync(user)
    assert totals(report, "painting") == {"created": 2, "companions_missing": 2}
    for id in (document, other):
        (key,) = world.by_ref(user, "painting")[id]
        derived = world.entry("painting", id).derived
        assert derived is not None
        assert world.records(user, "painting")[key]["thumbnail"]["ref"]["$link"] in world.renderer.store
        assert derived.renditions["thumbnail"].spec == "2"
    with world.quiet():
        world.sync(user)


def test_a_blob_of_a_record_that_goes_is_uploaded_for_the_one_that_needs_it(world: World) -> None:
    """MEDIA-15, MEDIA-6: a blob goes with its last record, so only records that stay save an upload."""
    user = world.user()
    gone, new = paintings(world, user, 2)
    world.renderer.same = {gone: "one picture", new: "one picture"}
    world.change("painting", new, draft=True)
    world.sync(user)
    world.change("painting", gone, nuked=True)
    world.change("painting", new, draft=False)
    uploads = world.pds.count("upload_blob")
    assert totals(world.sync(user), "painting") == {"created": 1, "deleted": 1, "companions_missing": 1}
    assert world.pds.count("upload_blob") == uploads + 1
    assert world.by_ref(user, "painting").keys() == {new}


def test_a_blob_of_a_duplicate_is_not_uploaded_again(world: World) -> None:
    """LINK-7, LINK-11, LIMIT-6: the duplicate goes only after the record that stays has taken it over."""
    user = world.user()
    document = world.add("painting", user)
    world.sync(user)
    (key,) = world.records(user, "painting")
    value = world.records(user, "painting")[key]
    world.put(user, "painting", KEYS[1], {name: part for name, part in value.items() if name != "thumbnail"})
    world.change("painting", document, atproto={"rkey": KEYS[1], "did": user.did})
    report = world.sync(user)
    assert totals(report, "painting") == {"updated": 1, "duplicates_removed": 1, "companions_missing": 1}
    assert world.records(user, "painting") == {KEYS[1]: value}
    assert world.pds.count("upload_blob") == 1


def test_an_update_that_keeps_its_blob_uploads_nothing(world: World) -> None:
    """WRITE-10, LIMIT-6: uploads are scarce; the record refers to it before and after."""
    user = world.user()
    document = world.add("painting", user)
    world.sync(user)
    world.renderer.found[document] = frozenset({"recording"})
    world.change("painting", document, code="new")
    uploads = world.pds.count("upload_blob")
    assert world.sync(user).types["painting"].updated == 1
    assert world.pds.count("upload_blob") == uploads


def test_renditions_are_made_ahead_and_used_by_the_sync(world: World) -> None:
    """MEDIA-4, OPS-4: a failed one is not tried twice, by whichever stage it was made."""
    user = world.user()
    good, bad = paintings(world, user, 2)
    world.renderer.failures[bad] = SourceMissing("gone")
    media = PAINTING
    first = world.engine.render(user, media, Selection(), "run-0")
    assert (first.types["painting"].pending, first.types["painting"].quarantined) == (1, 1)
    assert world.entry("painting", good).state is State.PENDING
    with world.quiet():
        second = world.engine.render(user, media, Selection(), "run-0")
    assert (second.types["painting"].unchanged, second.types["painting"].quarantined) == (1, 1)
    report = world.sync(user)
    assert (report.types["painting"].created, report.types["painting"].quarantined) == (1, 1)
    assert sorted(world.renderer.derived) == sorted([good, bad])


def test_no_lease_is_held_while_something_is_rendered(world: World) -> None:
    """MEDIA-23, WRITE-12: another sync of the user goes through meanwhile, and each item gets one record."""
    user = world.user()
    world.moods(user, 2)
    tapes = [world.add("tape", user, code=f"tp{n}") for n in range(2)]
    others: list[AccountReport] = []
    derive = world.renderer.derive

    def slow(media: MediaType, document: Document, known: Derived | None, **how: bool) -> Derived:
        assert world.ledger.leases == {}
        if not others:
            others.append(world.sync(user, types=["mood"]))
        return derive(media, document, known, **how)

    world.renderer.derive = slow  # type: ignore[method-assign]
    report = world.sync(user)
    assert others[0].types["mood"].created == 2
    assert (report.types["mood"].unchanged, report.types["tape"].created) == (2, 2)
    assert sorted(world.renderer.derived) == sorted(tapes), "each is rendered once"
    world.change("tape", tapes[0], bucket="art-aesthetic-computer")
    world.ledger.before["lease"] = lambda: world.change("tape", tapes[1], bucket="art-aesthetic-computer")
    assert world.sync(user).types["tape"].unchanged == 2
    assert world.renderer.derived[2:] == tapes, "what changes while it waits for the lease is rendered without it, too"
    with world.quiet():
        world.sync(user)


def test_what_is_on_hold_is_not_rendered_for_a_sync(world: World) -> None:
    user = world.user()
    world.add("tape", user)
    world.ledger.hold(user, [media_type("tape")], "no")
    assert world.sync(user).types["tape"].blocked == 1
    assert world.renderer.derived == []


@pytest.mark.parametrize("ahead", [False, True])
def test_an_encoding_that_exceeds_its_time_twice_is_quarantined_with_the_limit(world: World, ahead: bool) -> None:
    """MEDIA-23: deferred once, whichever stage rendered it; never again by itself, at once when a person asks."""
    user = world.user()
    document = world.add("tape", user)
    world.renderer.failures[document] = EncoderTimedOut("ffmpeg took longer than 600 s and was ended (AC_LIMIT)")
    first = world.engine.render(user, media_type("tape"), Selection(), "run-0") if ahead else world.sync(user)
    assert (first.types["tape"].deferred, first.run_again) == (1, True)
    second = world.sync(user)
    assert (second.types["tape"].quarantined, second.run_again) == (1, False)
    entry = world.entry("tape", document)
    assert entry.failure is not None
    assert entry.failure.error_class == "encoding-failed"
    assert "longer than 600 s" in entry.failure.message
    assert "AC_LIMIT" in entry.failure.message
    assert world.sync(user).types["tape"].quarantined == 1
    assert world.renderer.derived == [document] * 2
    world.renderer.failures.clear()
    assert world.sync(user, retry=True).types["tape"].created == 1


def test_an_encoding_of_another_document_has_its_own_second_try(world: World) -> None:
    """MEDIA-23."""
    user = world.user()
    document = world.add("tape", user)
    world.renderer.failures[document] = EncoderTimedOut("too slow")
    world.sync(user)
    world.change("tape", document, bucket="art-aesthetic-computer")
    assert world.sync(user).types["tape"].deferred == 1


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_a_tape_that_is_being_baked_waits_for_its_grace(world: World, status: str) -> None:
    """GUARD-6: deferred with its time, no failure, nobody is to run again; then converted, with one record."""
    user = world.user()
    document = world.add("tape", user, when=world.clock.now, mp4Status=status)
    until = world.clock.now + timedelta(seconds=600)
    _, foreseen = world.survey(user)
    for report in (foreseen, world.sync(user), world.engine.render(user, media_type("tape"), Selection(), "run-0")):
        assert (report.types["tape"].deferred, report.failures, report.run_again) == (1, [], False)
        assert f"from {until:%Y-%m-%d %H:%M:%S} UTC on" in report.notes[0]
    entry = world.entry("tape", document)
    assert (entry.state, entry.deferred_until) == (State.DEFERRED, until)
    assert (world.renderer.derived, len(entry.history)) == ([], 1)
    assert verify(world.engine, user, Selection()).complete
    world.clock.advance(599)
    with world.quiet():
        world.sync(user)
    world.clock.advance(1)
    assert world.sync(user).types["tape"].created == 1
    assert world.entry("tape", document).deferred_until is None
    assert len(world.records(user, "tape")) == 1


def test_a_baking_that_began_later_has_its_whole_grace(world: World) -> None:
    """GUARD-6."""
    user = world.user()
    started = world.clock.now + timedelta(seconds=300)
    document = world.add("tape", user, when=world.clock.now, mp4Status="processing", mp4StartedAt=started)
    assert world.sync(user).types["tape"].deferred == 1
    assert world.entry("tape", document).deferred_until == started + timedelta(seconds=600)


@pytest.mark.parametrize(
    "fields",
    [
        {"mp4Status": "failed"},
        {"mp4Status": "oven-failed"},
        {"mp4Status": None},
        {"mp4Status": "pending", "kind": "mp4"},
        {"mp4Status": "pending", "when": WHEN},
        {"mp4Status": "pending", "when": datetime(2090, 1, 1, tzinfo=UTC)},
    ],
)
def test_only_a_baking_that_may_still_end_is_waited_for(world: World, fields: dict[str, Any]) -> None:
    """GUARD-6: a time that lies in the future is not believed."""
    user = world.user()
    world.add("tape", user, **{"when": world.clock.now, **fields})
    assert world.sync(user).types["tape"].created == 1


def test_without_a_grace_nothing_is_waited_for(world: World) -> None:
    """GUARD-6."""
    user = world.user()
    world.engine = replace(world.engine, grace=0)
    world.add("tape", user, when=world.clock.now, mp4Status="pending")
    assert world.sync(user).types["tape"].created == 1


@pytest.mark.parametrize("theirs", [False, True])
def test_a_tape_that_is_done_within_its_grace_is_taken_at_once(world: World, theirs: bool) -> None:
    """GUARD-6, LINK-2: also where the oven has made a record of its own, which is adopted."""
    user = world.user()
    document = world.add("tape", user, when=world.clock.now, mp4Status="pending")
    world.sync(user)
    if theirs:
        world.put(
            user, "tape", KEYS[1], {"ref": document, "slug": "x", "code": "xyz", "when": "2026-01-02T03:04:05.000Z"}
        )
    world.change("tape", document, mp4Status="complete", mp4Url="https://art.aesthetic.computer/x.mp4")
    report = world.sync(user)
    assert report.types["tape"].created + report.types["tape"].updated == 1
    assert list(world.records(user, "tape")) == ([KEYS[1]] if theirs else world.by_ref(user, "tape")[document])


def test_a_record_that_exists_is_not_touched_by_another_baking(world: World) -> None:
    """GUARD-6."""
    user = world.user()
    document = world.add("tape", user, when=world.clock.now)
    world.sync(user)
    before = world.records(user, "tape")
    world.change("tape", document, mp4Status="processing", mp4StartedAt=world.clock.now)
    assert world.sync(user).types["tape"].unchanged == 1
    assert world.records(user, "tape") == before
    assert world.renderer.derived == [document], "its ZIP is not converted instead of the MP4 that it has"


def test_media_that_was_replaced_in_storage_is_rendered_anew_at_a_full_look(world: World) -> None:
    """MEDIA-21: its record is updated, once; others stay."""
    user = world.user()
    document, *_ = documents = paintings(world, user, 3)
    world.renderer.stamps = dict.fromkeys(documents, "one")
    world.sync(user)
    world.renderer.stamps[document], world.renderer.same[document] = "two", "another picture"
    assert world.sync(user).types["painting"].updated == 0
    assert world.sync(user, full=True).types["painting"].updated == 1
    assert world.sync(user, full=True).types["painting"].updated == 0


def test_renditions_are_made_again_on_demand(world: World) -> None:
    """MEDIA-21: a plan says of which, an ordinary sync makes none."""
    user = world.user()
    paintings(world, user, 3)
    world.sync(user)
    world.renderer.version = "2"
    assert world.sync(user, full=True).types["painting"].updated == 0
    _, report = world.engine.survey(user, Selection(renditions=True))
    assert report.types["painting"].pending == 3
    assert world.sync(user, renditions=True).types["painting"].updated == 3
