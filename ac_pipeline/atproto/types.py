"""What a PDS is asked to do, in which batches, and what it answers, as plain values; no protocol and no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Record


@dataclass(frozen=True, slots=True)
class Write:
    """One operation of a batch. `value` is the record for create and update, None for delete; `unchecked`: the PDS is
    not to hold it to a lexicon that it may know."""

    action: Literal["create", "update", "delete"]
    collection: str
    rkey: str
    value: Record | None = None
    unchecked: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer to a batch: the repository's new head and the record CID of each write (None for a delete)."""

    cid: str
    rev: str
    cids: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """A repository, its head, and whether its account is active: one line of `com.atproto.sync.listRepos`. One from
    `com.atproto.sync.getLatestCommit` is always active, for it answers for active accounts only."""

    did: str
    head: str
    rev: str
    active: bool
    status: str | None


MAX_OPERATIONS: Final = 200  # Operations in one `applyWrites` (atproto facts, Writing)

# Upper bound of everything in a body that is not an operation: repository, `swapCommit`, brackets. A DID is at most 253
# bytes for `did:web` and 32 for `did:plc`, a commit CID 59, the fixed text 41.
ENVELOPE_BYTES: Final = 512

POINTS: Final = {"create": 3, "update": 2, "delete": 1}  # Write points of one operation (atproto facts, Limits)

_TYPE: Final = "com.atproto.repo.applyWrites#"
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def points(writes: Iterable[Write]) -> int:
    """Write points that a batch costs its DID; a refused batch costs the same."""
    return sum(POINTS[write.action] for write in writes)


def erases(writes: Iterable[Write]) -> bool:
    """True if a batch deletes something. Such a commit counts and is never held back: erasure does not wait for us."""
    return any(write.action == "delete" for write in writes)


def request_bytes(write: Write) -> int:
    """Bytes that one operation adds to a body, besides `ENVELOPE_BYTES`: its JSON in UTF-8 and the comma; raises as
    `encode_body`. To encode again to send costs 3 microseconds, less than a hundredth of what the PDS spends on it."""
    return len(_encode(write)) + 1


def encode_body(did: str, writes: Sequence[Write], swap_commit: str | None) -> bytes:
    """The JSON body of a batch. `validate` is left out: the PDS does not know these lexicons (atproto facts, Writing).
    It is false where another app's record is put back as it was. Raises InvalidRecord if a record holds something JSON
    or UTF-8 cannot carry."""
    head = f'{{"repo":{json.dumps(did)},'
    if swap_commit is not None:
        head += f'"swapCommit":{json.dumps(swap_commit)},'
    if any(write.unchecked for write in writes):
        head += '"validate":false,'
    return b"".join((head.encode(), b'"writes":[', b",".join(map(_encode, writes)), b"]}"))


def _encode(write: Write) -> bytes:
    operation: dict[str, object] = {"$type": _TYPE + write.action, "collection": write.collection, "rkey": write.rkey}
    if write.action != "delete":
        operation["value"] = write.value
    try:
        return _JSON.encode(operation).encode()
    except (TypeError, ValueError, RecursionError) as error:
        place = f"{write.collection}/{write.rkey}"
        raise InvalidRecord(f"{place}: the record cannot be sent as JSON: {type(error).__name__}: {error}") from error
