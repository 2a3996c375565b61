"""What later runs save, find and give back on a real PDS: unchanged repositories, lost blobs, deleted accounts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests import pds_folder
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.scripted_storage import ObjectServer

SLUG = "2025.10.15.12.30.45.123"


def one_of_each(slice_: Slice, user: Account, object_server: ObjectServer) -> dict[str, str]:
    object_server.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.png", pixel_art(64, 48))
    object_server.put(USER_BUCKET, f"{user.id}/{SLUG}.zip", tape_zip(6, 32, 24))
    return {
        "painting": slice_.add("painting", user, code="abc", slug=SLUG),
        "mood": slice_.add("mood", user, mood="fine"),
        "piece": slice_.add("piece", user, slug="wand"),
        "kidlisp": slice_.add("kidlisp", user, code="abc", source="(wipe blue)"),
        "tape": slice_.add("tape", user, code="xyz", slug=SLUG),
    }


def requests(slice_: Slice, work: Callable[[], object]) -> dict[str, int]:
    """What some work asked of the PDS."""
    before = slice_.pipeline.server.usage()
    work()
    used = (slice_.pipeline.server.usage() - before).requests
    return {name: count for name, count in used.items() if count}


def test_an_unchanged_repository_costs_one_small_request(slice_: Slice, object_server: ObjectServer) -> None:
    """VERIFY-9, VERIFY-11: until a document, or somebody else's record, changes."""
    user = slice_.user("ada")
    ids = one_of_each(slice_, user, object_server)
    slice_.sync(user)
    before = slice_.everything()
    assert requests(slice_, lambda: slice_.sync(user)) == {"other": 1}
    assert slice_.everything() == before
    full = slice_.sync(user, Selection(full=True))
    assert slice_.sync(user).types == full.types
    slice_.put(user, "mood", {"mood": "from elsewhere", "when": "2025-10-15T12:30:45.123Z", "ref": ids["mood"]})
    assert slice_.sync(user).types["mood"].duplicates_removed == 1
    assert requests(slice_, lambda: slice_.sync(user)) == {"other": 1}
    slice_.change("piece", ids["piece"], slug="other")
    assert requests(slice_, lambda: slice_.sync(user)) == {"other": 1, "get_repo": 1, "apply_writes": 1}


@pytest.mark.parametrize("lose", [pds_folder.lose_bytes, pds_folder.forget_blob])
def test_lost_blobs_are_found_and_given_back(
    slice_: Slice, object_server: ObjectServer, lose: Callable[[Path, Account, str], None]
) -> None:
    """VERIFY-5: thumbnail, video and poster, whether the PDS has forgotten them or only lost the bytes."""
    user = slice_.user("ada")
    one_of_each(slice_, user, object_server)
    slice_.sync(user)
    before = {type: slice_.listed(user, type) for type in ("painting", "tape")}
    blobs = slice_.pipeline.server.read_repository(str(user.did)).blobs()
    assert len(blobs) == 3
    for cid in blobs:
        lose(slice_.pds.folder, user, cid)
    found = verify(slice_.pipeline.engine, user, Selection())
    assert (found.complete, found.blobs_verified) == (False, 0)
    report = slice_.sync(user, Selection(blobs=True))
    assert (report.error, report.failures) == (None, [])
    assert [report.types[type].healed for type in ("painting", "tape")] == [1, 1]
    found = verify(slice_.pipeline.engine, user, Selection())
    assert (found.complete, found.blobs_verified) == (True, 3)
    assert {type: slice_.listed(user, type) for type in before} == before
    for cid in blobs:
        assert slice_.pipeline.server.get_blob(str(user.did), cid)
    assert slice_.sync(user).types["tape"].unchanged == 1


def test_a_deleted_account_leaves_nothing_and_returns_as_it_was(slice_: Slice, object_server: ObjectServer) -> None:
    """DEL-7, DEL-9, DEL-2: records, links and blobs go in one run; cancelled, all return once under their keys."""
    user = slice_.user("ada")
    ids = one_of_each(slice_, user, object_server)
    key = slice_.put(user, "mood", {"mood": "posted", "when": "2025-10-15T12:30:45.123Z"}, rkey="3jzfcijpj2z2a")
    posted = slice_.add("mood", user, mood="posted", atproto={"rkey": key})
    slice_.sync(user)
    before = {type: slice_.listed(user, type) for type in ids}
    blobs = slice_.pipeline.server.read_repository(str(user.did)).blobs()
    assert key in before["mood"]
    slice_.database["account-deletions"].insert_one({"_id": user.id, "state": "scheduled"})
    leaving = slice_.account(user.id)
    report = slice_.sync(leaving)
    assert (report.blocked, report.error, report.failures) == (None, None, [])
    assert sum(tally.deleted for tally in report.types.values()) == 6
    assert dict(slice_.pipeline.server.read_repository(str(user.did)).records) == {}
    assert not any(slice_.pipeline.server.has_blob(str(user.did), cid) for cid in blobs)
    assert slice_.link("mood", posted) is None
    found = verify(slice_.pipeline.engine, leaving, Selection())
    assert (found.complete, found.expected, found.extra) == (True, 0, 0)
    assert requests(slice_, lambda: slice_.sync(leaving)) == {"other": 1}
    slice_.database["account-deletions"].update_one({"_id": user.id}, {"$set": {"state": "cancelled"}})
    report = slice_.sync(slice_.account(user.id))
    assert sum(tally.created for tally in report.types.values()) == 6
    assert {type: slice_.listed(user, type) for type in ids} == before
    assert slice_.entry("mood", posted).state is State.WRITTEN
    assert verify(slice_.pipeline.engine, user, Selection()).complete
