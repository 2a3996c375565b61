"""The rendition store: derived media under their CIDs, and an index of what was made from which source.

A folder, closed to other users, or anything fsspec reaches. The cache is what keeps published bytes stable over encoder
upgrades (media facts, section 5). Making renditions is not done here.

    blobs/<cid>            the bytes
    index/<sha-256>.json   recipe, source and spec -> renditions and warnings
    snapshots/             the files of snapshots
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import InvalidRecord, Misconfigured, ServiceUnreachable, SourceMissing
from ac_pipeline.items import BlobRef, Rendition
from ac_pipeline.redaction import Redactor, url_secrets
from ac_pipeline.renditions.pictures import sniff

_TIMES: Final = ("LastModified", "mtime", "created")
"""Under which name drivers tell when a file was written: S3, a folder, memory."""
_READ_AT_ONCE: Final = 500
_CID: Final = re.compile(rb'"cid": ?"([a-z2-7]+)"')


@dataclass(frozen=True, slots=True)
class Kept:
    """What was made of one source: record field -> rendition, and the oddities met."""

    renditions: Mapping[str, Rendition]
    warnings: tuple[str, ...] = ()


class RenditionStore:
    """Derived media in one folder or bucket; any number of processes may share it. Everything raises ServiceUnreachable
    where the store does not answer, or does not do what it is told. `url`: a path, or any fsspec URL such as
    `s3://bucket/renditions` or `memory://renditions`; `options`: what its driver is told besides. Raises Misconfigured
    if the URL's kind is unknown, or its driver is not installed."""

    def __init__(self, url: str, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._redact = Redactor(url_secrets(url))
        try:
            # No listings are kept: what another machine has written since counts.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except (ImportError, ValueError, TypeError) as error:
            words = self._redact(f"AC_RENDITIONS_URL is {url!r}, which cannot be used: {error}")
            raise Misconfigured(words) from None  # the cause may show the credentials
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        if self._local:
            _tighten(Path(self._root))

    def put(self, data: bytes, mime_type: str) -> BlobRef:
        """Keep a blob under its CID; the same bytes twice are kept once. Raises InvalidRecord if the bytes are not of
        the declared type (MEDIA-2)."""
        actual = sniff(data)
        if actual != mime_type:
            raise InvalidRecord(f"The blob is declared {mime_type}, its bytes are {actual}")
        blob = BlobRef(blob_cid(data), mime_type, len(data))
        if not self._holds(blob):
            self.write_file(_blob(blob.cid), data)
        return blob

    def open(self, cid: str) -> bytes:
        """The bytes of a blob, hashed again on the way out. Raises SourceMissing if they are gone, or damaged; damaged
        ones are removed, so that they can be made again."""
        data = self.read_file(_blob(cid))
        if data is None:
            raise SourceMissing(f"The rendition store has no blob {cid}; derive it again")
        if blob_cid(data) != cid:
            self.remove(cid)
            raise SourceMissing(f"The rendition store's blob {cid} is damaged and was removed; derive it again")
        return data

    def has(self, cid: str) -> bool:
        """True if the blob is there; its bytes are not looked at."""
        with self._answering():
            return bool(self._fs.exists(f"{self._root}/{_blob(cid)}"))

    def lookup(self, recipe: str, source: str, spec: str) -> Kept | None:
        """What was made before from this source by this recipe, if all of its blobs are still here. `source`: sha-256
        (hex) of the source bytes; `spec`: everything else that decides the result: encoder, version, caps."""
        data = self.read_file(_index(recipe, source, spec))
        if data is None:
            return None
        try:
            value = json.loads(data)
            made = {name: _rendition(entry) for name, entry in value["renditions"].items()}
            kept = Kept(made, tuple(value["warnings"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # A damaged entry costs one encoding, which writes it anew.
        return kept if all(self._holds(rendition.blob) for rendition in kept.renditions.values()) else None

    def remember(
        self, recipe: str, source: str, spec: str, renditions: Mapping[str, Rendition], warnings: Sequence[str] = ()
    ) -> None:
        """Keep what was made, for `lookup`; arguments as there. Blobs are `put` first."""
        made = {name: _json(rendition) for name, rendition in renditions.items()}
        value = {"recipe": recipe, "source": source, "spec": spec, "renditions": made, "warnings": list(warnings)}
        self.write_file(_index(recipe, source, spec), _canonical(value))

    def remove(self, cid: str) -> None:
        """Delete a blob; one that is not there is gone already. What was remembered of it counts no longer."""
        self.remove_file(_blob(cid))

    def forget(self, recipe: str, source: str, spec: str) -> None:
        """Delete what `remember` has kept; arguments as for `lookup`. Its blobs stay."""
        self.remove_file(_index(recipe, source, spec))

    def read_file(self, name: str) -> bytes | None:
        """The bytes of a file, by its path below the store, of segments that the caller has chosen; None without it."""
        with self._answering(), suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        return None

    def write_file(self, name: str, data: bytes) -> None:
        """Keep a file, all or nothing: on disk by renaming a synced file; a bucket's PUT is atomic by itself."""
        path = f"{self._root}/{name}"
        with self._answering():
            folder = path.rsplit("/", 1)[0]
            if not self._local:
                if "s3" not in self._fs.protocol:  # which has no folders, and would make the bucket of a mistyped name
                    self._fs.makedirs(folder, exist_ok=True)
                self._fs.pipe_file(path, data)
                return
            _make_private(Path(folder))
            temporary = f"{folder}/.{uuid.uuid4().hex}.part"
            try:
                with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                if os.path.exists(temporary):
                    os.unlink(temporary)

    def remove_file(self, name: str) -> None:
        """Delete a file; one that is not there is gone already."""
        with self._answering(), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def listed(self, folder: str) -> Iterator[tuple[str, int, datetime | None]]:
        """Name, bytes and time of every file in a folder of the store; None where the store tells no time."""
        with self._answering():
            found = self._fs.find(f"{self._root}/{folder}", detail=True)
        for path, about in found.items():
            at = next((about[name] for name in _TIMES if name in about), None)
            at = datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else at
            yield path.rsplit("/", 1)[1], int(about["size"]), at if isinstance(at, datetime) else None

    def forget_blobs(self, cids: Collection[str]) -> None:
        """Delete everything that was remembered of these blobs, which are gone."""
        names = [f"{self._root}/index/{name}" for name, _, _ in self.listed("index")]
        for start in range(0, len(names), _READ_AT_ONCE):
            with self._answering():
                entries = self._fs.cat(names[start : start + _READ_AT_ONCE], on_error="omit")
            for path, data in entries.items():
                if any(match.decode() in cids for match in _CID.findall(data)):
                    self.remove_file(f"index/{path.rsplit('/', 1)[1]}")

    def _holds(self, blob: BlobRef) -> bool:
        """True if the blob is there in its full size; a torn one is written again."""
        with self._answering(), suppress(FileNotFoundError):
            return bool(self._fs.size(f"{self._root}/{_blob(blob.cid)}") == blob.size)
        return False

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Any error of the file system is one of the store; drivers of remote ones raise classes of their own."""
        try:
            yield
        except Exception as error:
            if self._local and not isinstance(error, OSError):
                raise
            words = f"The rendition store at {self._root} cannot be used ({error}); check AC_RENDITIONS_URL"
            raise ServiceUnreachable(self._redact(words)) from None


def _blob(cid: str) -> str:
    return f"blobs/{cid}"


def _index(recipe: str, source: str, spec: str) -> str:
    return f"index/{sha256(_canonical([recipe, source, spec])).hexdigest()}.json"


def _make_private(folder: Path) -> None:
    """Make a folder, and those above it, for this user alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def _tighten(root: Path) -> None:
    """Close an existing folder to other users, and what is in it: once, for the root is closed last."""
    try:
        if not root.is_dir() or not root.stat().st_mode & 0o077:
            return
        for folder, folders, files in os.walk(root):
            for name in folders:
                Path(folder, name).chmod(0o700)
            for name in files:
                Path(folder, name).chmod(0o600)
        root.chmod(0o700)
    except OSError:  # another user's, or a file system without modes: whoever made it has decided
        return


def _json(made: Rendition) -> dict[str, object]:
    blob = {"cid": made.blob.cid, "mimeType": made.blob.mime_type, "size": made.blob.size}
    return {"blob": blob, "source": made.source, "spec": made.spec, "details": dict(made.details)}


def _rendition(value: Mapping[str, Any]) -> Rendition:
    blob = value["blob"]
    kept = BlobRef(str(blob["cid"]), str(blob["mimeType"]), int(blob["size"]))
    return Rendition(kept, str(value["source"]), str(value["spec"]), dict(value["details"]))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


Kind = Literal["blobs", "repositories", "manifests"]
_ENDINGS: Final[Mapping[Kind, str]] = {"blobs": "", "repositories": ".car", "manifests": ".json"}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
"""What ids, digests and CIDs are made of; nothing else may become part of a path."""


class SnapshotFiles:
    """The files of all snapshots of one rendition store; any number of processes may share it. Everything raises
    ServiceUnreachable where the store does not answer, or gives other bytes back than it was given."""

    def __init__(self, store: RenditionStore) -> None:
        self._store = store

    def put_blob(self, cid: str, data: bytes) -> None:
        """Keep a blob; the same one twice is kept once. Raises InvalidRecord if the bytes are not those of `cid`."""
        if blob_cid(data) != cid:
            raise InvalidRecord(f"The bytes for blob {cid} are not what their CID says; it was not kept.")
        self._put(_path("blobs", cid), data)

    def blob(self, cid: str) -> bytes:
        """The bytes of a blob. Raises SourceMissing if they are gone or damaged: what needs them cannot be used."""
        return self._read(_path("blobs", cid), f"The snapshots' blob {cid}", lambda data: blob_cid(data) == cid)

    def put_repository(self, car: bytes) -> str:
        """Keep a repository; returns its sha-256 (hex)."""
        digest = sha256(car).hexdigest()
        self._put(_path("repositories", digest), car)
        return digest

    def repository(self, digest: str) -> bytes:
        """The CAR of this sha-256; errors as for `blob`."""
        name = f"The snapshots' repository {digest}"
        return self._read(_path("repositories", digest), name, lambda car: sha256(car).hexdigest() == digest)

    def put_manifest(self, id: str, manifest: Mapping[str, Any]) -> None:
        """Keep what belongs to a snapshot; values of JSON."""
        self._put(_path("manifests", id), json.dumps(manifest, sort_keys=True, indent=1).encode())

    def manifest(self, id: str) -> dict[str, Any]:
        """What belongs to a snapshot; errors as for `blob`."""
        data = self._read(_path("manifests", id), f"The manifest of snapshot {id}", _is_object)
        return dict(json.loads(data))

    def remove(self, kind: Kind, name: str) -> None:
        """Delete a blob, a repository or a manifest by its name; the caller knows that no snapshot needs it."""
        self._store.remove_file(_path(kind, name))

    def _read(self, path: str, name: str, fits: Callable[[bytes], bool]) -> bytes:
        data = self._store.read_file(path)
        if data is None or not fits(data):
            raise SourceMissing(f"{name} is {'gone' if data is None else 'damaged'}.")
        return data

    def _put(self, path: str, data: bytes) -> None:
        """Write unless it is there as it should be, and read it back."""
        if self._store.read_file(path) == data:
            return
        self._store.write_file(path, data)
        if self._store.read_file(path) != data:
            raise ServiceUnreachable(f"The rendition store gives other bytes back for {path} than it was given.")


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _path(kind: Kind, name: str) -> str:
    if _SEGMENT.fullmatch(name) is None:
        raise SourceMissing(f"{name[:100]!r} is no name of a snapshot's file.")
    return f"snapshots/{kind}/{name}{_ENDINGS[kind]}"
