"""The body of `com.atproto.repo.applyWrites`: its JSON, its size in bytes, and what it costs in write points.

Pure, so that whoever packs batches counts the same bytes that are sent. Sending them is `client.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from ac_pipeline.atproto.messages import Write
from ac_pipeline.errors import InvalidRecord

MAX_OPERATIONS: Final = 200
"""Operations in one `applyWrites` (atproto facts, Writing)."""

ENVELOPE_BYTES: Final = 512
"""Upper bound of everything in a body that is not an operation: repository, `swapCommit`, brackets.

A DID is at most 253 bytes for `did:web` and 32 for `did:plc`, a commit CID 59, the fixed text 41.
"""

POINTS: Final = {"create": 3, "update": 2, "delete": 1}
"""Write points of one operation (atproto facts, Limits)."""

_TYPE: Final = "com.atproto.repo.applyWrites#"
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def points(writes: Iterable[Write]) -> int:
    """Write points that a batch costs its DID; a refused batch costs the same."""
    return sum(POINTS[write.action] for write in writes)


def request_bytes(write: Write) -> int:
    """Bytes that one operation adds to a body: its JSON in UTF-8 and the comma.

    Encoding again to send costs 3 microseconds a record, less than a hundredth of what the PDS spends on it.
    A body of `writes` has at most `ENVELOPE_BYTES + sum(map(request_bytes, writes))` bytes.

    Raises:
        InvalidRecord: As `encode_body`.
    """
    return len(_encode(write)) + 1


def encode_body(did: str, writes: Sequence[Write], swap_commit: str | None) -> bytes:
    """The JSON body of a batch. `validate` is left out: the PDS does not know these lexicons (atproto facts, Writing).
    It is false where another app's record is put back as it was.

    Raises:
        InvalidRecord: A record holds something JSON or UTF-8 cannot carry.
    """
    head = f'{{"repo":{json.dumps(did)},'
    if swap_commit is not None:
        head += f'"swapCommit":{json.dumps(swap_commit)},'
    if any(write.unchecked for write in writes):
        head += '"validate":false,'
    return b"".join((head.encode(), b'"writes":[', b",".join(map(_encode, writes)), b"]}"))


def _encode(write: Write) -> bytes:
    operation: dict[str, object] = {
        "$type": _TYPE + write.action,
        "collection": write.collection,
        "rkey": write.rkey,
    }
    if write.action != "delete":
        operation["value"] = write.value
    try:
        return _JSON.encode(operation).encode()
    except (TypeError, ValueError, RecursionError) as error:
        place = f"{write.collection}/{write.rkey}"
        raise InvalidRecord(f"{place}: the record cannot be sent as JSON: {type(error).__name__}: {error}") from error
