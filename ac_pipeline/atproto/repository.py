"""A repository as the pipeline sees it: who it belongs to, its head, and its records with their CIDs.

An immutable value read from one verified CAR (`com.atproto.sync.getRepo`) with its blocks and tree (MST), and the same
value after an acknowledged batch. The signature of the commit is not checked: the CAR comes from the PDS that holds the
signing key, over TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, TypeGuard

import libipld

from ac_pipeline.atproto.syntax import DAG_CBOR_CID, RAW_CID, cid_text, decode_record, encode_record, is_did, is_tid
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.errors import RepositoryMoved, RepositoryUnreadable
from ac_pipeline.items import Record

_CID_LENGTH: Final = 36
_KNOWN_CIDS: Final = (DAG_CBOR_CID, RAW_CID)
_NODE_KEYS: Final = frozenset({"l", "e"})
_ENTRY_KEYS: Final = frozenset({"p", "k", "v", "t"})
_KEY: Final = re.compile(rb"[A-Za-z][A-Za-z0-9.-]{1,316}/(?!\.{1,2}\Z)[A-Za-z0-9._:~-]{1,512}")


def read_car(car: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Split a CAR into its root (binary CID) and its blocks by binary CID, each verified against it; order and
    repetition do not matter. Raises RepositoryUnreadable: not a CAR of version 1 with one root, cut short, or a block
    that is not what its CID says."""
    start, size = _varint(car, 0)
    end = start + size
    if not 0 < size <= len(car) - start:
        raise RepositoryUnreadable("the CAR ends within its header")
    header = decode_block(car[start:end], "the header of the CAR")
    if not isinstance(header, dict) or header.get("version") != 1:
        raise RepositoryUnreadable("the answer is not a CAR of version 1")
    roots = header.get("roots")
    if not isinstance(roots, list) or len(roots) != 1 or not is_dag_cbor(roots[0]):
        raise RepositoryUnreadable("the CAR does not have exactly one root that is a commit")
    return roots[0], _read_blocks(car, end)


def _read_blocks(car: bytes, position: int) -> dict[bytes, bytes]:
    blocks: dict[bytes, bytes] = {}
    total = len(car)
    while position < total:
        size = car[position]
        if size < 0x80:
            start = position + 1
        else:
            start, size = _varint(car, position)
        position = start + size
        body = start + _CID_LENGTH
        if position > total or size < _CID_LENGTH:
            raise RepositoryUnreadable(f"the CAR is cut or garbled at byte {start} of {total}")
        cid, data = car[start:body], car[body:position]
        if cid[:4] not in _KNOWN_CIDS:
            raise RepositoryUnreadable(f"the CAR holds a block whose CID is of an unknown kind, at byte {start}")
        if sha256(data).digest() != cid[4:]:
            raise RepositoryUnreadable(f"block {cid_text(cid)} does not hold what its CID says")
        blocks[cid] = data
    return blocks


def _varint(car: bytes, position: int) -> tuple[int, int]:
    """The position behind an unsigned varint, and its value."""
    value = shift = 0
    for byte in car[position : position + 9]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                break
            return position, value
        shift += 7
    raise RepositoryUnreadable(f"the CAR is cut or garbled at byte {position} of {len(car)}")


def decode_block(data: bytes, name: str) -> Any:
    """Decode a block of the repository's own structure; raises RepositoryUnreadable if it is not strict DAG-CBOR."""
    try:
        return libipld.decode_dag_cbor(data)
    except (ValueError, RecursionError) as error:
        raise RepositoryUnreadable(f"{name} is not valid DAG-CBOR: {error}") from error


def is_dag_cbor(cid: object) -> TypeGuard[bytes]:
    return type(cid) is bytes and len(cid) == _CID_LENGTH and cid[:4] == DAG_CBOR_CID


def key_depth(key: bytes) -> int:
    """Layer of a key in the tree: half the number of leading zero bits of its sha-256."""
    return (256 - int.from_bytes(sha256(key).digest(), "big").bit_length()) // 2


def read_tree(root: bytes, blocks: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Every record of a tree, its shape checked as a whole: `collection/rkey` -> binary CID, in the order of the keys.

    Nodes have exactly their fields; keys are compressed against their predecessor, well formed and in strictly rising
    order over the whole tree; each key lies in the layer that its hash says and each child one layer below its parent,
    so that nothing can contain itself; only an empty repository has an empty leaf or a root without records; every node
    and every record is present. Raises RepositoryUnreadable (one of these does not hold).
    """
    tree = _Tree(blocks)
    left, entries = tree.node(root)
    if entries:
        tree.visit(root, key_depth(tree.key(b"", entries[0])))
    elif left is not None:
        raise RepositoryUnreadable("the root of the tree holds no record")
    return tree.records


class _Tree:
    def __init__(self, blocks: Mapping[bytes, bytes]) -> None:
        self.records: dict[str, bytes] = {}
        self._blocks = blocks
        self._last = b""

    def visit(self, cid: bytes, layer: int) -> None:
        """Collect the records of a node of `layer` and of everything below it, in order."""
        left, entries = self.node(cid)
        if layer < 0 or (left is None and not entries):
            raise RepositoryUnreadable(f"the tree has a node without records, {cid_text(cid)}")
        if left is not None:
            self.visit(left, layer - 1)
        key = b""
        for entry in entries:
            key = self.key(key, entry)
            if key <= self._last:
                raise RepositoryUnreadable(f"the keys of the tree are out of order at {key!r}")
            if key_depth(key) != layer:
                raise RepositoryUnreadable(f"{key!r} lies in layer {layer} of the tree, not in {key_depth(key)}")
            self._last = key
            value, right = entry["v"], entry["t"]
            if not is_dag_cbor(value) or value not in self._blocks:
                raise RepositoryUnreadable(f"the record {key!r} is missing from the CAR")
            self.records[key.decode("ascii")] = value
            if right is not None:
                self.visit(right, layer - 1)

    def node(self, cid: object) -> tuple[bytes | None, list[dict[str, Any]]]:
        data = self._blocks.get(cid) if is_dag_cbor(cid) else None
        if data is None:
            raise RepositoryUnreadable("a node of the tree is missing from the CAR")
        node = decode_block(data, "a node of the tree")
        if type(node) is not dict or node.keys() != _NODE_KEYS or type(node["e"]) is not list:
            raise RepositoryUnreadable("a block that should be a node of the tree does not have the fields e and l")
        return node["l"], node["e"]

    @staticmethod
    def key(previous: bytes, entry: object) -> bytes:
        """The full key of an entry, whose first `p` bytes are those of the key before it in the same node."""
        if type(entry) is not dict or entry.keys() != _ENTRY_KEYS:
            raise RepositoryUnreadable("an entry of the tree does not have the fields k, p, t and v")
        shared, rest = entry["p"], entry["k"]
        if type(shared) is not int or type(rest) is not bytes or not 0 <= shared <= len(previous):
            raise RepositoryUnreadable(f"an entry of the tree does not complete the key {previous!r}")
        if previous[shared : shared + 1] == rest[:1]:
            raise RepositoryUnreadable(f"an entry of the tree repeats what it shares with the key {previous!r}")
        key = previous[:shared] + rest
        if _KEY.fullmatch(key) is None:
            raise RepositoryUnreadable(f"{key[:80]!r} is not a collection and a record key")
        return key


_COMMIT_KEYS: Final = frozenset({"did", "version", "data", "rev", "prev", "sig"})
_BLOB_TEXT: Final = b"\x64blob"  # How DAG-CBOR writes the text "blob": without it, a record has no blob
# How DAG-CBOR writes the field `ref` of a blob: a link (tag 42) to a raw CID
_BLOB_REF: Final = re.compile(re.escape(b"\x63ref\xd8\x2a\x58\x25\x00") + b"(" + re.escape(RAW_CID) + b".{32})", re.S)


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository at one commit. Made by `read_repository` and `with_writes`."""

    did: str  # Its owner
    rev: str  # TID of the commit; rises with every commit
    commit: str  # CID of the commit: the head, what `swapCommit` names
    data: str | None  # CID of the tree, or None after `with_writes`, which does not rebuild it
    records: Mapping[str, str]  # `collection/rkey` -> CID of the record
    _encoded: Mapping[str, bytes] = field(repr=False, compare=False)

    def value(self, path: str) -> Record:
        """The record at `collection/rkey`, decoded on every call: the caller's own. Raises KeyError (there is no such
        record), InvalidRecord (the PDS holds something that has no JSON form)."""
        return decode_record(self._encoded[self.records[path]])

    def collection(self, nsid: str) -> Iterator[tuple[str, str]]:
        """Record key and CID of every record of a collection, sorted by key."""
        prefix = f"{nsid}/"
        for path in sorted(path for path in self.records if path.startswith(prefix)):
            yield path[len(prefix) :], self.records[path]

    def count(self, nsid: str) -> int:
        """How many records a collection holds; asked after every batch, so nothing is sorted for it."""
        prefix = f"{nsid}/"
        return sum(path.startswith(prefix) for path in self.records)

    def blob_references(self) -> Iterator[tuple[str, str]]:
        """Path of every record, whoever wrote it, with the CID of each blob it refers to.

        Found in the bytes: a record of another app need not be decodable to keep a blob.
        """
        for path, cid in self.records.items():
            encoded = self._encoded[cid]
            if _BLOB_TEXT in encoded:
                for found in _BLOB_REF.finditer(encoded):
                    yield path, cid_text(found[1])

    def blobs(self) -> set[str]:
        """CIDs of all blobs that any record refers to; looks into every record on every call."""
        return {cid for _, cid in self.blob_references()}

    def with_writes(self, commit: Commit, writes: Sequence[Write]) -> Repository:
        """This repository after a batch that the PDS has acknowledged with `commit`, so that it need not be read again.
        Raises RepositoryMoved (the answer does not fit this repository and the batch (another content's CID, a create
        on an existing key, an update or delete of a missing one): what is known here is wrong, read it again),
        InvalidRecord (a record of the batch cannot be encoded)."""
        if len(commit.cids) != len(writes):
            raise self._moved(f"{len(writes)} writes were answered with {len(commit.cids)} CIDs")
        records, encoded = dict(self.records), dict(self._encoded)
        for write, acknowledged in zip(writes, commit.cids, strict=True):
            path = f"{write.collection}/{write.rkey}"
            if (path in records) is (write.action == "create"):
                known = "exists already" if path in records else "is not known"
                raise self._moved(f"{write.action} of {path}, which {known}")
            if write.action == "delete":
                del records[path]
                continue
            data = encode_record(write.value or {})
            cid = cid_text(DAG_CBOR_CID + sha256(data).digest())
            if acknowledged != cid:
                raise self._moved(f"{path} was acknowledged as {acknowledged}, its content is {cid}")
            records[path] = cid
            encoded[cid] = data
        return replace(self, rev=commit.rev, commit=commit.cid, data=None, records=records, _encoded=encoded)

    def _moved(self, what: str) -> RepositoryMoved:
        return RepositoryMoved(f"{self.did}: {what}; read it again")


def read_repository(car: bytes) -> Repository:
    """Read and verify a whole repository: blocks, commit and tree (VERIFY-4). `car`: the answer to
    `com.atproto.sync.getRepo` without `since`. Raises RepositoryUnreadable if anything is missing, cut or not what its
    CID says; a failed read is never an empty one."""
    root, blocks = read_car(car)
    if root not in blocks:
        raise RepositoryUnreadable("the commit is missing from the CAR")
    commit = _read_commit(blocks[root])
    tree = read_tree(commit["data"], blocks)
    records = {path: cid_text(cid) for path, cid in tree.items()}
    encoded = {records[path]: blocks[cid] for path, cid in tree.items()}
    return Repository(commit["did"], commit["rev"], cid_text(root), cid_text(commit["data"]), records, encoded)


def _read_commit(block: bytes) -> dict[str, Any]:
    commit = decode_block(block, "the commit")
    if not isinstance(commit, dict) or not commit.keys() >= _COMMIT_KEYS or commit["version"] != 3:
        raise RepositoryUnreadable("the root of the CAR is not a commit of version 3")
    did, rev, prev, sig = commit["did"], commit["rev"], commit["prev"], commit["sig"]
    if not (isinstance(did, str) and is_did(did)) or not (isinstance(rev, str) and is_tid(rev)):
        raise RepositoryUnreadable("the commit does not name its repository and its rev")
    if not is_dag_cbor(commit["data"]) or not (prev is None or is_dag_cbor(prev)):
        raise RepositoryUnreadable(f"the commit of {did} does not name its tree")
    if not isinstance(sig, bytes) or not sig:
        raise RepositoryUnreadable(f"the commit of {did} is not signed")
    return commit
