"""Records of other apps in a user's repository: only what is ours is judged, and nobody is stopped by them."""

from __future__ import annotations

import struct

import pytest

from ac_pipeline.atproto.syntax import RAW_CID, blob_cid, cid_bytes, encode_record
from ac_pipeline.operations.inspection.differences import find_differences
from ac_pipeline.operations.inspection.links import examine
from ac_pipeline.operations.plan import dry_run
from ac_pipeline.sync.costs import Limits
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify_accounts
from ac_pipeline_tests.car_builder import build_repository
from ac_pipeline_tests.unit.operations.guarded import Guarded

_BLOB = b"\x64blob"  # a record with this text is looked into
BLOCKS = {
    "keys out of order": b"\xa2\x65$type" + _BLOB + b"\x61a\x01",
    "a key twice": b"\xa2\x61a" + _BLOB + b"\x61a\x01",
    "NaN": b"\xa2\x61a" + _BLOB + b"\x61b\xfb\x7f\xf8" + bytes(6),
    "a float": b"\xa2\x61a" + _BLOB + b"\x61b\xfb" + struct.pack(">d", 1.5),
    "a short float": b"\xa2\x61a" + _BLOB + b"\x61b\xf9\x3c\x00",
    "an integer of 64 bits": b"\xa2\x61a" + _BLOB + b"\x61b\x1b" + b"\xff" * 8,
    "400 levels": b"\xa2\x61a" + _BLOB + b"\x61b" + b"\x81" * 400 + b"\x01",
    "100,000 levels": b"\xa2\x61a" + _BLOB + b"\x61b" + b"\x81" * 100_000 + b"\x01",
    "no length": b"\xbf\x61a" + _BLOB + b"\xff",
    "a length beyond its end": b"\xa2\x61a" + _BLOB + b"\x61b\x9b\x00\x00\x00\xff\xff\xff\xff\xff",
    "no map": _BLOB,
    "no CBOR": _BLOB + b"\xff\xff",
    "two megabytes": encode_record({"a": "blob", "b": "x" * 2_000_000}),
}


@pytest.mark.parametrize("place", ["org.example.app/self", "computer.aesthetic.mood/self", "site.standard.document/a"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_whatever_a_record_of_another_app_holds_nobody_is_stopped_by_it(block: bytes, place: str) -> None:
    """BORDER-2: plan, sync, verification, links, differences, snapshot, wipe and restore, of its owner and others."""
    world = Guarded()
    owner, other = world.user("owner"), world.user("other")
    for user in (owner, other):
        world.add("painting", user)
    world.pds.plant(owner, place, block)
    both = [owner, other]

    plan = dry_run(world.engine, both, Selection(), limits=Limits(), workers=1)
    assert (plan.counts["render"], plan.cost.blob_uploads, plan.blocked) == (2, 2, {})
    for user in both:
        report = world.sync(user, blobs=True)
        assert (report.error, report.blocked, report.tally("painting").created) == (None, None, 1)
    assert [found.verified for found in verify_accounts(world.engine, both, Selection(), 2)] == [1, 1]
    for user in both:
        assert not find_differences(world.engine, user, Selection())
        assert examine(world.engine, user, Selection()).total().total() >= 1
    assert world.wipe(owner, "painting").deleted == {"painting": 1}
    assert world.restore(owner, "painting").restored == {"painting": 1}


def test_a_blob_that_an_undecodable_record_keeps_is_seen() -> None:
    """BORDER-2, DEL-7: what is still used is not called erasable."""
    reference = b"\xa2\x65$type" + _BLOB + b"\x63ref\xd8\x2a\x58\x25\x00" + cid_bytes(blob_cid(b"kept"))
    assert cid_bytes(blob_cid(b"kept"))[:4] == RAW_CID
    repository = build_repository({"org.example.app/self": reference})
    assert list(repository.blob_references()) == [("org.example.app/self", blob_cid(b"kept"))]
