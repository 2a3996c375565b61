"""The files of snapshots, on a folder, in memory and on an S3 server: nothing comes out that did not go in."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import InvalidRecord, ServiceUnreachable, SourceMissing
from ac_pipeline.renditions.store import RenditionStore, SnapshotFiles

DATA = b"\x89PNG\r\n\x1a\n one"
CID = blob_cid(DATA)


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RenditionStore:
    if request.param == "s3":
        return RenditionStore(request.getfixturevalue("s3_url"))
    return RenditionStore(str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def files(store: RenditionStore) -> SnapshotFiles:
    return SnapshotFiles(store)


def test_what_is_kept_comes_back(files: SnapshotFiles) -> None:
    """PLAN-5: also when it is kept twice."""
    for _ in range(2):
        files.put_blob(CID, DATA)
        digest = files.put_repository(b"car")
        files.put_manifest("20260102T030405-abc", {"user": "ada"})
    assert files.blob(CID) == DATA
    assert files.repository(digest) == b"car"
    assert files.manifest("20260102T030405-abc") == {"user": "ada"}


def test_bytes_that_are_not_those_of_their_cid_are_not_kept(files: SnapshotFiles) -> None:
    with pytest.raises(InvalidRecord):
        files.put_blob(CID, b"other")
    with pytest.raises(SourceMissing, match="gone"):
        files.blob(CID)


def test_what_is_gone_or_damaged_is_told(files: SnapshotFiles, store: RenditionStore) -> None:
    """PLAN-5: damaged bytes never pass for a snapshot, and are written anew when they come again."""
    digest = files.put_repository(b"car")
    files.put_blob(CID, DATA)
    store.write_file(f"snapshots/blobs/{CID}", b"rot")
    store.write_file(f"snapshots/repositories/{digest}.car", b"rot")
    store.write_file("snapshots/manifests/m.json", b"rot")
    for read in (lambda: files.blob(CID), lambda: files.repository(digest), lambda: files.manifest("m")):
        with pytest.raises(SourceMissing, match="damaged"):
            read()
    with pytest.raises(SourceMissing, match="gone"):
        files.manifest("other")
    files.put_blob(CID, DATA)
    assert files.blob(CID) == DATA


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a.b"])
def test_a_name_never_leads_elsewhere(files: SnapshotFiles, name: str) -> None:
    with pytest.raises(SourceMissing):
        files.manifest(name)


def test_a_store_that_loses_what_it_takes_is_noticed(
    files: SnapshotFiles, store: RenditionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PLAN-5: every file is read back at once."""
    monkeypatch.setattr(store, "write_file", lambda name, data: None)
    with pytest.raises(ServiceUnreachable, match="other bytes"):
        files.put_blob(CID, DATA)


def test_what_is_removed_is_gone_and_may_be_removed_again(files: SnapshotFiles) -> None:
    """DEL-7."""
    files.put_blob(CID, DATA)
    digest = files.put_repository(b"car")
    files.put_manifest("m", {"user": "ada"})
    for _ in range(2):
        files.remove("blobs", CID)
        files.remove("repositories", digest)
        files.remove("manifests", "m")
    for read in (lambda: files.blob(CID), lambda: files.repository(digest), lambda: files.manifest("m")):
        with pytest.raises(SourceMissing, match="gone"):
            read()
