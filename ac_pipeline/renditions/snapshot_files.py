"""The files of snapshots: repositories and blobs under their hashes, and a manifest each, in the rendition store.

    snapshots/repositories/<sha-256>.car   a repository as the PDS sent it
    snapshots/blobs/<cid>                  a blob that a record of some snapshot refers to
    snapshots/manifests/<id>.json          what belongs to a snapshot, should the index in the ledger be lost

Everything is hashed on its way in, read back at once, and hashed again on its way out. Blobs are copies of their own:
what happens to a rendition never touches a snapshot. What a snapshot is for belongs to `operations/snapshot.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import InvalidRecord, ServiceUnreachable, SourceMissing
from ac_pipeline.renditions.store import RenditionStore

_FOLDER: Final = "snapshots"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
"""What ids, digests and CIDs are made of; nothing else may become part of a path."""


class SnapshotFiles:
    """The files of all snapshots of one rendition store; any number of processes may share it."""

    def __init__(self, store: RenditionStore) -> None:
        self._store = store

    def put_blob(self, cid: str, data: bytes) -> None:
        """Keep a blob; the same one twice is kept once.

        Raises:
            InvalidRecord: The bytes are not those of `cid`.
            ServiceUnreachable: The store does not take it, or gives other bytes back.
        """
        if blob_cid(data) != cid:
            raise InvalidRecord(f"The bytes for blob {cid} are not what their CID says; it was not kept.")
        self._put(_path("blobs", cid), data)

    def blob(self, cid: str) -> bytes:
        """The bytes of a blob.

        Raises:
            SourceMissing: They are gone or damaged: no snapshot that needs them can be used.
            ServiceUnreachable: The store did not answer.
        """
        data = self._store.read_file(_path("blobs", cid))
        if data is None or blob_cid(data) != cid:
            raise SourceMissing(f"The snapshots' blob {cid} is {'gone' if data is None else 'damaged'}.")
        return data

    def put_repository(self, car: bytes) -> str:
        """Keep a repository; returns its sha-256 (hex).

        Raises:
            ServiceUnreachable: As for `put_blob`.
        """
        digest = sha256(car).hexdigest()
        self._put(_path("repositories", digest, ".car"), car)
        return digest

    def repository(self, digest: str) -> bytes:
        """The CAR of this sha-256; errors as for `blob`."""
        car = self._store.read_file(_path("repositories", digest, ".car"))
        if car is None or sha256(car).hexdigest() != digest:
            raise SourceMissing(f"The snapshots' repository {digest} is {'gone' if car is None else 'damaged'}.")
        return car

    def put_manifest(self, id: str, manifest: Mapping[str, Any]) -> None:
        """Keep what belongs to a snapshot; values of JSON."""
        self._put(_path("manifests", id, ".json"), json.dumps(manifest, sort_keys=True, indent=1).encode())

    def manifest(self, id: str) -> dict[str, Any]:
        """What belongs to a snapshot; errors as for `blob`."""
        data = self._store.read_file(_path("manifests", id, ".json"))
        try:
            manifest = json.loads(data or b"")
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise SourceMissing(f"The manifest of snapshot {id} is {'gone' if data is None else 'damaged'}.")
        return manifest

    def remove_blob(self, cid: str) -> None:
        """Delete a blob; the caller knows that no snapshot needs it.

        Raises:
            ServiceUnreachable: The store did not answer, or keeps it.
        """
        self._store.remove_file(_path("blobs", cid))

    def remove_repository(self, digest: str) -> None:
        """Delete the CAR of this sha-256; as for `remove_blob`."""
        self._store.remove_file(_path("repositories", digest, ".car"))

    def remove_manifest(self, id: str) -> None:
        """Delete the manifest of a snapshot; as for `remove_blob`."""
        self._store.remove_file(_path("manifests", id, ".json"))

    def _put(self, path: str, data: bytes) -> None:
        """Write unless it is there as it should be, and read it back."""
        if self._store.read_file(path) == data:
            return
        self._store.write_file(path, data)
        if self._store.read_file(path) != data:
            raise ServiceUnreachable(f"The rendition store gives other bytes back for {path} than it was given.")


def _path(folder: str, name: str, ending: str = "") -> str:
    if _SEGMENT.fullmatch(name) is None:
        raise SourceMissing(f"{name[:100]!r} is no name of a snapshot's file.")
    return f"{_FOLDER}/{folder}/{name}{ending}"
