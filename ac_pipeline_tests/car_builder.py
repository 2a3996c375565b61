"""Builds small repositories as CARs, right ones and wrong ones, to hold the reader to.

Written from the Repository specification without the package's own MST and CAR code, so that the two can be compared.
The signature is 64 zero bytes: nothing here checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import libipld

from ac_pipeline.atproto.repository import Repository, read_repository
from ac_pipeline.atproto.syntax import encode_record
from ac_pipeline.items import Record

DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
REV = "3kaaaaaaaaaa2"

Blocks = dict[bytes, bytes]


def cid_of(data: bytes) -> bytes:
    """Binary CID of a DAG-CBOR block."""
    return b"\x01\x71\x12\x20" + sha256(data).digest()


def layer_of(key: str) -> int:
    """Leading zero bits of the key's sha-256, counted in pairs."""
    bits = "".join(f"{byte:08b}" for byte in sha256(key.encode()).digest())
    return (len(bits) - len(bits.lstrip("0"))) // 2


@dataclass(frozen=True, slots=True)
class Node:
    """A node before it is encoded: children and (key, record CID) pairs, in order, child first."""

    left: Node | None = None
    entries: tuple[tuple[str, bytes, Node | None], ...] = ()


def plant(entries: Sequence[tuple[str, bytes]], layer: int, layers: Callable[[str], int] = layer_of) -> Node | None:
    """The tree over sorted entries: those of `layer` are the node's own, the rest lies between, one layer down."""
    if not entries:
        return None
    if layer < 0:
        raise ValueError(f"{entries[0][0]} has no layer")
    own = [index for index, (key, _) in enumerate(entries) if layers(key) == layer]
    bounds = [*own, len(entries)]
    left = plant(entries[: bounds[0]], layer - 1, layers)
    return Node(
        left,
        tuple(
            (*entries[index], plant(entries[index + 1 : after], layer - 1, layers))
            for index, after in zip(own, bounds[1:], strict=True)
        ),
    )


def encode_node(node: Node, blocks: Blocks) -> bytes:
    """Add a node and all below it to `blocks`; returns its binary CID."""
    entries: list[dict[str, Any]] = []
    previous = b""
    for key, value, right in node.entries:
        raw = key.encode()
        shared = 0
        while shared < min(len(raw), len(previous)) and raw[shared] == previous[shared]:
            shared += 1
        entries.append({"p": shared, "k": raw[shared:], "v": value, "t": encode_node(right, blocks) if right else None})
        previous = raw
    data = libipld.encode_dag_cbor({"l": encode_node(node.left, blocks) if node.left else None, "e": entries})
    blocks[cid_of(data)] = data
    return cid_of(data)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def frame(header: Mapping[str, Any], blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A CAR of a header and of (binary CID, bytes) pairs, in this order."""
    first = libipld.encode_dag_cbor(header)
    sections = [first, *(cid + data for cid, data in blocks)]
    return b"".join(varint(len(section)) + section for section in sections)


@dataclass(slots=True)
class CarBuilder:
    """The parts of one repository; change any of them before `car`.

    Args:
        records: `collection/rkey` -> record in JSON form, or the bytes of its block, whatever they are.
        layers: Layer of a key; another function makes a wrong tree.
    """

    records: Mapping[str, Record | bytes]
    did: str = DID
    rev: str = REV
    layers: Callable[[str], int] = layer_of
    commit: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    def tree(self, blocks: Blocks) -> Node:
        """The tree over all records, which are added to `blocks`."""
        entries: list[tuple[str, bytes]] = []
        for path in sorted(self.records):
            record = self.records[path]
            data = record if isinstance(record, bytes) else encode_record(record)
            blocks[cid_of(data)] = data
            entries.append((path, cid_of(data)))
        return plant(entries, max((self.layers(path) for path in self.records), default=0), self.layers) or Node()

    def parts(self, tree: Node | None = None) -> tuple[bytes, Blocks]:
        """Binary CID of the commit and all blocks in no useful order; `tree` replaces the right one."""
        blocks: Blocks = {}
        right = self.tree(blocks)
        data = encode_node(tree or right, blocks)
        fields = {"did": self.did, "version": 3, "data": data, "rev": self.rev, "prev": None, "sig": bytes(64)}
        fields.update(self.commit)
        commit = libipld.encode_dag_cbor({name: value for name, value in fields.items() if value is not ...})
        blocks[cid_of(commit)] = commit
        return cid_of(commit), blocks

    def car(self, tree: Node | None = None) -> bytes:
        root, blocks = self.parts(tree)
        return self.framed(root, blocks.items())

    def framed(self, root: bytes, blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
        return frame({"version": 1, "roots": [root], **self.header}, blocks)


def build_car(records: Mapping[str, Record | bytes], *, did: str = DID, rev: str = REV) -> bytes:
    """A right CAR of a whole repository: `collection/rkey` -> record."""
    return CarBuilder(records, did=did, rev=rev).car()


def build_repository(records: Mapping[str, Record | bytes], *, did: str = DID, rev: str = REV) -> Repository:
    """The same, read."""
    return read_repository(build_car(records, did=did, rev=rev))
