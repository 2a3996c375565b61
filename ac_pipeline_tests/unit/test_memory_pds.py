"""The scripts of the PDS in memory, which tests of the engine rely on. Its rules: `contract/test_data_server.py`."""

from __future__ import annotations

import pytest

from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import BlobMissing, OutcomeUnknown, RecordRefused
from ac_pipeline_tests.memory_pds import Called, MemoryPds

MOOD = "computer.aesthetic.mood"


def create(rkey: str, **fields: object) -> Write:
    return Write("create", MOOD, rkey, {"$type": MOOD, "mood": "glad", **fields})


@pytest.mark.parametrize(("after", "applied"), [(False, ["first", "third"]), (True, ["first", "second", "third"])])
def test_the_nth_call_fails_before_or_after_it_took_effect(after: bool, applied: list[str]) -> None:
    pds = MemoryPds()
    account = pds.create_account()
    lost = OutcomeUnknown("the answer was lost")
    pds.fail("apply_writes", lost, call=2, after=after)

    pds.apply_writes(account, [create("first")], swap_commit=None)
    with pytest.raises(OutcomeUnknown) as caught:
        pds.apply_writes(account, [create("second")], swap_commit=None)
    pds.apply_writes(account, [create("third")], swap_commit=None)

    assert caught.value is lost
    assert sorted(pds.records(account)) == sorted(f"{MOOD}/{rkey}" for rkey in applied)
    assert pds.count("apply_writes") == 3


def test_a_record_can_be_refused_wherever_it_stands() -> None:
    pds = MemoryPds()
    account = pds.create_account()
    pds.refuse(MOOD, "bad", RecordRefused("slur", status=400))

    with pytest.raises(RecordRefused):
        pds.apply_writes(account, [create("good"), create("bad")], swap_commit=None)
    pds.apply_writes(account, [create("good")], swap_commit=None)

    assert [[write.rkey for write in batch] for batch in pds.batches(account)] == [["good", "bad"], ["good"]]


def test_a_lost_blob_is_missed_and_can_be_uploaded_again() -> None:
    pds = MemoryPds()
    account = pds.create_account()
    blob = pds.upload_blob(account, b"data", "video/mp4")
    pds.apply_writes(account, [create("a", video=blob.to_json())], swap_commit=None)
    did = str(account.did)
    assert pds.get_blob(did, blob.cid) == b"data"

    pds.lose_blob(account, blob.cid)
    assert pds.has_blob(did, blob.cid) is False
    with pytest.raises(BlobMissing):
        pds.get_blob(did, blob.cid)

    pds.upload_blob(account, b"data", "video/mp4")
    assert pds.has_blob(did, blob.cid) is True
    assert pds.calls[-1] == Called("has_blob", did, cid=blob.cid)


def test_what_a_test_is_handed_is_its_own() -> None:
    pds = MemoryPds()
    account = pds.create_account()
    write = create("a")
    pds.apply_writes(account, [write], swap_commit=None)
    assert write.value is not None

    write.value["mood"] = "changed"
    pds.records(account)[f"{MOOD}/a"]["mood"] = "changed"

    assert pds.records(account)[f"{MOOD}/a"]["mood"] == "glad"
