"""Bodies of `applyWrites`: what they hold, how large they are, what they cost."""

from __future__ import annotations

import json

import pytest

from ac_pipeline.atproto.types import ENVELOPE_BYTES, Write, encode_body, points, request_bytes
from ac_pipeline.errors import InvalidRecord

MOOD = "computer.aesthetic.mood"
DID = "did:plc:zlow6guxcuuwiobkzuuygkdo"
HEAD = "bafyreidlnubb7khzevumufw3ktlidl67pv2qvvyewfsaqzezdi5qsxv5yy"


def test_a_body_says_what_to_do_and_leaves_validation_to_us() -> None:
    """REC-1: `validate` stays unset, as the PDS does not know these lexicons."""
    writes = [
        Write("create", MOOD, "a", {"$type": MOOD, "mood": "glad"}),
        Write("update", MOOD, "b", {"$type": MOOD, "mood": "\u00e4\U0001f600"}),
        Write("delete", MOOD, "c"),
    ]

    assert json.loads(encode_body(DID, writes, HEAD)) == {
        "repo": DID,
        "swapCommit": HEAD,
        "writes": [
            {
                "$type": "com.atproto.repo.applyWrites#create",
                "collection": MOOD,
                "rkey": "a",
                "value": {"$type": MOOD, "mood": "glad"},
            },
            {
                "$type": "com.atproto.repo.applyWrites#update",
                "collection": MOOD,
                "rkey": "b",
                "value": {"$type": MOOD, "mood": "\u00e4\U0001f600"},
            },
            {"$type": "com.atproto.repo.applyWrites#delete", "collection": MOOD, "rkey": "c"},
        ],
    }


def test_without_a_known_head_none_is_named() -> None:
    assert "swapCommit" not in json.loads(encode_body(DID, [Write("delete", MOOD, "c")], None))


@pytest.mark.parametrize("swap", [None, HEAD])
@pytest.mark.parametrize("count", [1, 2, 200])
@pytest.mark.parametrize("did", [DID, "did:web:" + "a" * 245])
def test_the_sizes_of_the_parts_bound_the_size_of_the_body(did: str, count: int, swap: str | None) -> None:
    """WRITE-4: batches are packed under the request-byte cap, counted in UTF-8."""
    writes = [Write("create", MOOD, f"k{n}", {"$type": MOOD, "mood": "\U0001f600" * n}) for n in range(count)]

    body = len(encode_body(did, writes, swap))
    parts = sum(map(request_bytes, writes))

    assert body <= ENVELOPE_BYTES + parts
    assert body > parts - 1


def test_points_are_those_of_the_reference_pds() -> None:
    """LIMIT-5: create 3, update 2, delete 1."""
    writes = [Write("create", MOOD, "a", {}), Write("update", MOOD, "b", {}), Write("delete", MOOD, "c")]

    assert [points([write]) for write in writes] == [3, 2, 1]
    assert points(writes) == 6


@pytest.mark.parametrize("value", [{"n": float("nan")}, {"n": object()}, {"text": "\ud800"}])
def test_what_json_cannot_carry_is_refused_with_the_name_of_the_record(value: dict[str, object]) -> None:
    """REC-1: it never leaves our side."""
    with pytest.raises(InvalidRecord, match=f"{MOOD}/a"):
        encode_body(DID, [Write("create", MOOD, "a", value)], None)
