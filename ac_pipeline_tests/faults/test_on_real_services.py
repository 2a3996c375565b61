"""Faults on a real PDS: another writer, lost answers, a killed server, and keys it will not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import document_tid
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.errors import OutcomeUnknown
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.mood import MOOD
from ac_pipeline.sync.planning.plan import new_key
from ac_pipeline_tests.harness import USER_BUCKET, WHEN, Slice, open_slice
from ac_pipeline_tests.sample_records import tid_time
from ac_pipeline_tests.scripted_storage import ObjectServer

KEY = "3jzfcijpj2z2a"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
SLUG = "2025.10.15.12.30.45.123"
REFUSED_LETTERS = "3mnlqqer"
"""First letters of a key that the list of the reference PDS takes for a slur, and with them a moment of 33 ms."""


@pytest.fixture
def slice_(mongo_database: Any, mongo_server: Any, pds: Any, object_server: Any, tmp_path: Path) -> Iterator[Slice]:
    with open_slice(mongo_database, mongo_server.uri, pds, object_server.url_template, tmp_path) as opened:
        yield opened


class Interposed:
    """The PDS of a slice, with something happening around its first batch."""

    def __init__(
        self,
        slice_: Slice,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        self._server = slice_.pipeline.engine.server
        self._before, self._after = before, after
        slice_.pipeline.engine.server = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        before, self._before = self._before, None
        after, self._after = self._after, None
        if before is not None:
            before()
        commit = self._server.apply_writes(account, writes, swap_commit=swap_commit)
        if after is not None:
            after()
        return commit


@pytest.mark.parametrize("same_key", [True, False])
def test_the_real_time_writer_and_a_batch_on_one_item_make_one_record(slice_: Slice, same_key: bool) -> None:
    """WRITE-7, WRITE-9, REC-7: it commits between our read and our write."""
    user = slice_.user("ada")
    documents = [slice_.add("mood", user, mood=f"mood {number}") for number in range(20)]
    ms = int(WHEN.timestamp() * 1000)
    key = document_tid(MOOD.nsid, documents[7], ms) if same_key else KEY
    value = {"mood": "mood 7", "when": "2025-10-15T12:30:45.128Z", "ref": documents[7]}
    Interposed(slice_, before=lambda: slice_.put(user, "mood", value, key))
    tally = slice_.sync(user).types["mood"]
    assert (tally.created, tally.unchanged, tally.planned) == (19, 1, 20)
    records = slice_.records(user, "mood")
    assert sorted(record["ref"] for record in records.values()) == sorted(documents)
    assert records[key]["when"] == value["when"]
    link = slice_.link("mood", documents[7])
    assert link is not None
    assert (link.rkey, link.did) == (key, user.did)
    assert slice_.sync(user).types["mood"].unchanged == 20


def test_the_real_time_writer_may_delete_what_we_are_about_to_delete(slice_: Slice) -> None:
    """WRITE-7, DEL-1: a nuke on the platform and ours meet; the rest of the batch goes through."""
    user = slice_.user("ada")
    gone, changed = slice_.add("mood", user, mood="gone"), slice_.add("mood", user, mood="old")
    slice_.sync(user)
    keys = {record["ref"]: rkey for rkey, record in slice_.records(user, "mood").items()}
    slice_.change("mood", gone, deleted=True)
    slice_.change("mood", changed, mood="new")
    body = {"repo": user.did, "collection": MOOD.nsid, "rkey": keys[gone]}
    Interposed(slice_, before=lambda: slice_.call(user, "com.atproto.repo.deleteRecord", body))
    tally = slice_.sync(user).types["mood"]
    assert (tally.deleted, tally.updated, tally.planned) == (1, 1, 2)
    assert {record["mood"] for record in slice_.records(user, "mood").values()} == {"new"}
    assert slice_.link("mood", gone) is None


def test_an_answer_lost_after_the_commit_is_read_back(slice_: Slice) -> None:
    """WRITE-8: no second batch for what is there already."""
    user = slice_.user("ada")
    documents = [slice_.add("mood", user, mood=f"mood {number}") for number in range(250)]

    def lose() -> None:
        raise OutcomeUnknown("the connection broke")

    Interposed(slice_, after=lose)
    before = slice_.pipeline.server.usage()
    assert slice_.sync(user).types["mood"].created == 250
    assert (slice_.pipeline.server.usage() - before).requests["apply_writes"] == 2
    assert len(slice_.records(user, "mood")) == 250
    assert {slice_.entry("mood", document).state for document in documents} == {State.WRITTEN}


def test_a_server_that_is_killed_in_the_middle_loses_and_doubles_nothing(slice_: Slice, pds: Any) -> None:
    """WRITE-8, WRITE-13: killed after a commit, before its answer; the next run writes only the rest."""
    user = slice_.user("ada")
    documents = [slice_.add("mood", user, mood=f"mood {number}") for number in range(450)]

    def die() -> None:
        pds.kill()
        raise OutcomeUnknown("the connection broke")

    Interposed(slice_, after=die)
    try:
        report = slice_.sync(user)
    finally:
        pds.start()
    assert report.run_again
    assert (report.types["mood"].deferred, report.types["mood"].planned) == (450, 450)
    again = slice_.sync(user).types["mood"]
    assert (again.unchanged, again.created, again.planned) == (200, 250, 450)
    assert sorted(record["ref"] for record in slice_.records(user, "mood").values()) == sorted(documents)


def test_a_key_on_the_list_of_the_pds_gives_way(slice_: Slice) -> None:
    """WRITE-3: the letters of its very millisecond are refused, so that only a later one helps."""
    user = slice_.user("ada")
    start = tid_time(f"{REFUSED_LETTERS}22222") // 1000
    when = datetime.fromtimestamp((start + 10) / 1000, UTC)
    document = slice_.add("mood", user, mood="unlucky", when=when)
    others = [slice_.add("mood", user, mood=f"mood {number}") for number in range(10)]
    read = next(each for each in slice_.pipeline.documents.stream(user, MOOD) if each.id == document)
    assert [new_key(MOOD, read, salt)[:8] for salt in range(4)] == [REFUSED_LETTERS] * 4
    report = slice_.sync(user)
    assert report.failures == []
    assert report.types["mood"].created == 11
    keys = {record["ref"]: rkey for rkey, record in slice_.records(user, "mood").items()}
    assert keys[document] == new_key(MOOD, read, 4)
    assert set(keys) == {document, *others}
    assert slice_.sync(user).types["mood"].unchanged == 11


def test_a_duplicate_that_holds_the_only_copy_of_a_picture_may_go(slice_: Slice, object_server: ObjectServer) -> None:
    """LINK-7, LINK-11, MEDIA-15: the linked record gets the picture although the PDS drops it with the duplicate."""
    user = slice_.user("ada")
    object_server.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.png", pixel_art(40, 40))
    document = slice_.add("painting", user, code="abc", slug=SLUG)
    slice_.sync(user)
    ((whole, (_, value)),) = slice_.listed(user, "painting").items()
    bare = {name: part for name, part in value.items() if name != "thumbnail"}
    slice_.put(user, "painting", bare, KEY)
    slice_.change("painting", document, atproto={"rkey": KEY, "did": user.did})
    tally = slice_.sync(user).types["painting"]
    assert (tally.updated, tally.duplicates_removed, tally.quarantined) == (1, 1, 0)
    ((key, (_, record)),) = slice_.listed(user, "painting").items()
    assert (key, record["thumbnail"]) == (KEY, value["thumbnail"])
    assert whole != key
    assert slice_.pipeline.server.has_blob(str(user.did), record["thumbnail"]["ref"]["$link"])


@pytest.mark.parametrize("keys", [("3jzfcijpj2z2a", "3jzfcijpj2z2b"), ("3jzfcijpj2z2b", "3jzfcijpj2z2a")])
def test_a_copy_made_equal_to_its_duplicate_does_not_break_the_repository(slice_: Slice, keys: tuple[str, str]) -> None:
    """LINK-7, LINK-8, LINK-10: the PDS loses the block of a record that one commit both makes and deletes.

    The text-less moods of the original's bulk restore are such copies: the linked one gets its text, which makes it
    byte for byte the record that the duplicate is.
    """
    user = slice_.user("ada")
    documents = [slice_.add("mood", user, mood=f"mood {number}") for number in range(30)]
    slice_.sync(user)
    document, (linked, copy) = documents[11], keys
    ((old, record),) = [each for each in slice_.records(user, "mood").items() if each[1]["ref"] == document]
    slice_.call(user, "com.atproto.repo.deleteRecord", {"repo": user.did, "collection": MOOD.nsid, "rkey": old})
    slice_.put(user, "mood", {name: part for name, part in record.items() if name != "mood"}, linked)
    slice_.put(user, "mood", record, copy)
    slice_.change("mood", document, atproto={"rkey": linked, "did": user.did})
    tally = slice_.sync(user).types["mood"]
    assert (tally.updated, tally.duplicates_removed, tally.unchanged) == (1, 1, 29)
    records = slice_.records(user, "mood")
    assert records[linked] == record
    assert sorted(each["ref"] for each in records.values()) == sorted(documents)
    assert slice_.sync(user).types["mood"].unchanged == 30


def test_one_dead_source_among_many_costs_one_item(slice_: Slice, object_server: ObjectServer) -> None:
    """MEDIA-3, MEDIA-4, MEDIA-16, OPS-2: absent is quarantined, unanswered is deferred and comes with the next run."""
    user = slice_.user("ada")
    slugs = {name: f"2025.10.15.12.30.45.{number}" for name, number in (("good", 100), ("absent", 200), ("busy", 300))}
    ids = {name: slice_.add("painting", user, code=name, slug=slug) for name, slug in slugs.items()}
    for seed, name in enumerate(("good", "busy")):
        object_server.put(USER_BUCKET, f"{user.id}/painting/{slugs[name]}.png", pixel_art(30, 30, seed=seed))
    object_server.fail(USER_BUCKET, f"{user.id}/painting/{slugs['busy']}.png", 503)
    report = slice_.sync(user)
    tally = report.types["painting"]
    assert (tally.created, tally.quarantined, tally.deferred) == (1, 1, 1)
    assert report.run_again
    states = {failure.item: failure.state for failure in report.failures}
    assert states == {
        f"painting:{ids['absent']}": State.QUARANTINED,
        f"painting:{ids['busy']}": State.DEFERRED,
    }
    object_server.heal(USER_BUCKET, f"{user.id}/painting/{slugs['busy']}.png")
    again = slice_.sync(user)
    assert (again.types["painting"].created, again.types["painting"].quarantined) == (1, 1)
    assert not again.run_again
    entry = slice_.entry("painting", ids["absent"])
    assert entry.failure is not None
    assert (entry.state, entry.attempts) == (State.QUARANTINED, 1)
    assert slice_.entry("painting", ids["busy"]).attempts == 2
