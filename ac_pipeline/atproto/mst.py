"""The blocks of a repository and the tree in them: CAR framing, hashes, and the walk of the Merkle search tree.

Reading bytes into verified keys and CIDs belongs here; what a repository is to the pipeline is `repository.py`.
libipld decodes the blocks. It does not compare a block with its CID and hands out decoded values only, so the framing,
a few bytes per block, is read here and every hash is checked before anything is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, TypeGuard

import libipld

from ac_pipeline.atproto.syntax import DAG_CBOR_CID, RAW_CID, cid_text
from ac_pipeline.errors import RepositoryUnreadable

_CID_LENGTH: Final = 36
_KNOWN_CIDS: Final = (DAG_CBOR_CID, RAW_CID)
_NODE_KEYS: Final = frozenset({"l", "e"})
_ENTRY_KEYS: Final = frozenset({"p", "k", "v", "t"})
_KEY: Final = re.compile(rb"[A-Za-z][A-Za-z0-9.-]{1,316}/(?!\.{1,2}\Z)[A-Za-z0-9._:~-]{1,512}")


def read_car(car: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Split a CAR into its root and its blocks, each verified against its CID; order and repetition do not matter.

    Returns:
        The root's binary CID and binary CID -> bytes.

    Raises:
        RepositoryUnreadable: Not a CAR of version 1 with one root, cut short, or a block that is not what its CID says.
    """
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
    """Decode a block of the repository's own structure.

    Raises:
        RepositoryUnreadable: It is not strict DAG-CBOR.
    """
    try:
        return libipld.decode_dag_cbor(data)
    except (ValueError, RecursionError) as error:
        raise RepositoryUnreadable(f"{name} is not valid DAG-CBOR: {error}") from error


def is_dag_cbor(cid: object) -> TypeGuard[bytes]:
    """Whether a decoded value is the binary CID of a DAG-CBOR block."""
    return type(cid) is bytes and len(cid) == _CID_LENGTH and cid[:4] == DAG_CBOR_CID


def key_depth(key: bytes) -> int:
    """Layer of a key in the tree: half the number of leading zero bits of its sha-256."""
    return (256 - int.from_bytes(sha256(key).digest(), "big").bit_length()) // 2


def read_tree(root: bytes, blocks: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Every record of a tree, with the shape of the whole tree checked.

    Nodes have exactly their fields; keys are compressed against their predecessor, well formed and in strictly rising
    order over the whole tree; each key lies in the layer that its hash says and each child one layer below its parent,
    so that nothing can contain itself; only an empty repository has an empty leaf or a root without records; every node
    and every record is present.

    Returns:
        `collection/rkey` -> binary CID of the record, in the order of the keys.

    Raises:
        RepositoryUnreadable: One of these does not hold.
    """
    tree = _Tree(blocks)
    left, entries = tree.node(root)
    if entries:
        tree.visit(root, key_depth(tree.key(b"", entries[0])))
    elif left is not None:
        raise RepositoryUnreadable("the root of the tree holds no record")
    return tree.records


class _Tree:
    """One walk: the blocks, what was found, and the last key."""

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
        """Left child and entries of a node."""
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
