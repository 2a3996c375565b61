"""A repository as the pipeline sees it: who it belongs to, its head, and its records with their CIDs.

An immutable value read from one verified CAR (`com.atproto.sync.getRepo`), and the same value after an acknowledged
batch. Blocks and the tree are `mst.py`; fetching a CAR is `client.py`. The signature of the commit is not checked: the
CAR comes from the PDS that holds the signing key, over TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from ac_pipeline.atproto.lexicon_formats import is_did
from ac_pipeline.atproto.messages import Commit, Write
from ac_pipeline.atproto.mst import decode_block, is_dag_cbor, read_car, read_tree
from ac_pipeline.atproto.syntax import DAG_CBOR_CID, RAW_CID, cid_text, decode_record, encode_record, is_tid
from ac_pipeline.errors import RepositoryMoved, RepositoryUnreadable
from ac_pipeline.items import Record

_COMMIT_KEYS: Final = frozenset({"did", "version", "data", "rev", "prev", "sig"})
_BLOB_TEXT: Final = b"\x64blob"  # how DAG-CBOR writes the text "blob": without it, a record has no blob
_BLOB_REF: Final = re.compile(
    re.escape(b"\x63ref\xd8\x2a\x58\x25\x00") + b"(" + re.escape(RAW_CID) + b".{32})", re.DOTALL
)
"""How DAG-CBOR writes the field `ref` of a blob: a link (tag 42) to a raw CID."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository at one commit. Made by `read_repository` and `with_writes`.

    Args:
        did: Its owner.
        rev: TID of the commit; rises with every commit.
        commit: CID of the commit: the head, what `swapCommit` names.
        data: CID of the tree, or None after `with_writes`, which does not rebuild it.
        records: `collection/rkey` -> CID of the record.
    """

    did: str
    rev: str
    commit: str
    data: str | None
    records: Mapping[str, str]
    _encoded: Mapping[str, bytes] = field(repr=False, compare=False)

    def value(self, path: str) -> Record:
        """The record at `collection/rkey`, decoded on every call: the caller's own.

        Raises:
            KeyError: There is no such record.
            InvalidRecord: The PDS holds something that has no JSON form.
        """
        return decode_record(self._encoded[self.records[path]])

    def collection(self, nsid: str) -> Iterator[tuple[str, str]]:
        """Record key and CID of every record of a collection, sorted by key."""
        prefix = f"{nsid}/"
        for path in sorted(path for path in self.records if path.startswith(prefix)):
            yield path[len(prefix) :], self.records[path]

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
        """This repository after a batch that the PDS has acknowledged, so that it need not be read again.

        Args:
            commit: The answer; `cids` in the order of `writes`.
            writes: The batch.

        Raises:
            RepositoryMoved: The answer does not fit this repository and the batch (another content's CID, a create
                on an existing key, an update or delete of a missing one): what is known here is wrong, read it again.
            InvalidRecord: A record of the batch cannot be encoded.
        """
        if len(commit.cids) != len(writes):
            raise RepositoryMoved(
                f"{self.did}: {len(writes)} writes were answered with {len(commit.cids)} CIDs; read it again"
            )
        records, encoded = dict(self.records), dict(self._encoded)
        for write, acknowledged in zip(writes, commit.cids, strict=True):
            path = f"{write.collection}/{write.rkey}"
            if (path in records) is (write.action == "create"):
                known = "exists already" if path in records else "is not known"
                raise RepositoryMoved(f"{self.did}: {write.action} of {path}, which {known}; read it again")
            if write.action == "delete":
                del records[path]
                continue
            data = encode_record(write.value or {})
            cid = cid_text(DAG_CBOR_CID + sha256(data).digest())
            if acknowledged != cid:
                raise RepositoryMoved(
                    f"{self.did}: {path} was acknowledged as {acknowledged}, its content is {cid}; read it again"
                )
            records[path] = cid
            encoded[cid] = data
        return Repository(did=self.did, rev=commit.rev, commit=commit.cid, data=None, records=records, _encoded=encoded)


def read_repository(car: bytes) -> Repository:
    """Read and verify a whole repository: blocks, commit and tree (VERIFY-4).

    Args:
        car: The answer to `com.atproto.sync.getRepo` without `since`.

    Raises:
        RepositoryUnreadable: Anything is missing, cut or not what its CID says; a failed read is never an empty one.
    """
    root, blocks = read_car(car)
    if root not in blocks:
        raise RepositoryUnreadable("the commit is missing from the CAR")
    commit = _read_commit(blocks[root])
    tree = read_tree(commit["data"], blocks)
    records = {path: cid_text(cid) for path, cid in tree.items()}
    return Repository(
        did=commit["did"],
        rev=commit["rev"],
        commit=cid_text(root),
        data=cid_text(commit["data"]),
        records=records,
        _encoded={records[path]: blocks[cid] for path, cid in tree.items()},
    )


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
