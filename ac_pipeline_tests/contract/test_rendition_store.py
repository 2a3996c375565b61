"""The rendition store, the same on a local folder, in memory and on an S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import InvalidRecord, Misconfigured, ServiceUnreachable, SourceMissing
from ac_pipeline.items import BlobRef, Rendition
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.renditions.store import RenditionStore
from ac_pipeline.settings import Settings
from ac_pipeline_tests.s3_server import S3Server

DATA = pixel_art(16, 16)
OTHER = pixel_art(16, 16, seed=5)
SOURCE = hashlib.sha256(b"source").hexdigest()


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "memory":
        yield str(tmp_path / "renditions") if request.param == "folder" else request.getfixturevalue("s3_url")
        return
    place = f"memory://renditions-{uuid.uuid4().hex}"
    yield place
    files, root = fsspec.core.url_to_fs(place)
    if files.exists(root):
        files.rm(root, recursive=True)


@pytest.fixture
def store(url: str) -> RenditionStore:
    return RenditionStore(url)


def files_of(url: str) -> tuple[Any, str]:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, str(root)


def rendition(blob: BlobRef) -> Rendition:
    return Rendition(blob, SOURCE, "thumbnail/1", {"width": 512, "encoding": "PNG", "finished": True, "seconds": 1.5})


def test_a_blob_is_kept_under_the_cid_that_the_pds_will_answer(store: RenditionStore, url: str) -> None:
    blob = store.put(DATA, "image/png")
    assert blob == BlobRef(blob_cid(DATA), "image/png", len(DATA))
    assert store.open(blob.cid) == DATA
    assert store.has(blob.cid)
    files, root = files_of(url)
    assert files.cat_file(f"{root}/blobs/{blob.cid}") == DATA


def test_the_same_bytes_are_kept_once(store: RenditionStore, url: str) -> None:
    assert store.put(DATA, "image/png") == store.put(DATA, "image/png")
    files, root = files_of(url)
    assert len(files.find(root)) == 1


def test_a_type_that_is_not_the_bytes_own_is_refused(store: RenditionStore) -> None:
    """MEDIA-2: a mismatch is an error, before anything is kept."""
    with pytest.raises(InvalidRecord, match=r"image/jpeg.*image/png"):
        store.put(DATA, "image/jpeg")
    assert not store.has(blob_cid(DATA))


def test_a_blob_that_is_not_there_is_missing(store: RenditionStore) -> None:
    assert not store.has(blob_cid(DATA))
    with pytest.raises(SourceMissing, match=blob_cid(DATA)):
        store.open(blob_cid(DATA))


@pytest.mark.parametrize("damage", [DATA[:-1], DATA[:-1] + b"?", b"", OTHER])
def test_damaged_bytes_are_never_handed_out_and_can_be_made_again(
    damage: bytes, store: RenditionStore, url: str
) -> None:
    blob = store.put(DATA, "image/png")
    store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(blob)})
    files, root = files_of(url)
    files.pipe_file(f"{root}/blobs/{blob.cid}", damage)
    with pytest.raises(SourceMissing, match="damaged"):
        store.open(blob.cid)
    assert store.lookup("thumbs", SOURCE, "1") is None, "so that it is rendered again"
    store.put(DATA, "image/png")
    assert store.open(blob.cid) == DATA
    assert store.lookup("thumbs", SOURCE, "1") is not None


def test_a_torn_blob_is_replaced_by_the_next_put(store: RenditionStore, url: str) -> None:
    blob = store.put(DATA, "image/png")
    files, root = files_of(url)
    files.pipe_file(f"{root}/blobs/{blob.cid}", DATA[:10])
    store.put(DATA, "image/png")
    assert store.open(blob.cid) == DATA


def test_what_was_made_is_found_again_by_another_process(store: RenditionStore, url: str) -> None:
    made = {"video": rendition(store.put(DATA, "image/png")), "thumbnail": rendition(store.put(OTHER, "image/png"))}
    store.remember("tapes", SOURCE, "spec 1", made, ["one frame is held"])
    kept = RenditionStore(url).lookup("tapes", SOURCE, "spec 1")
    assert kept is not None
    assert kept.renditions == made
    assert kept.warnings == ("one frame is held",)


@pytest.mark.parametrize(
    ("recipe", "source", "spec"),
    [("other", SOURCE, "1"), ("thumbs", SOURCE[::-1], "1"), ("thumbs", SOURCE, "2"), ("thumbs", SOURCE, "")],
)
def test_another_recipe_source_or_spec_is_another_entry(
    recipe: str, source: str, spec: str, store: RenditionStore
) -> None:
    store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(store.put(DATA, "image/png"))})
    assert store.lookup(recipe, source, spec) is None


def test_an_entry_whose_blob_is_gone_is_no_entry(store: RenditionStore, url: str) -> None:
    first, second = store.put(DATA, "image/png"), store.put(OTHER, "image/png")
    store.remember("tapes", SOURCE, "1", {"video": rendition(first), "thumbnail": rendition(second)})
    files, root = files_of(url)
    files.rm_file(f"{root}/blobs/{second.cid}")
    assert store.lookup("tapes", SOURCE, "1") is None


def test_what_is_given_up_leaves_no_file_and_can_be_made_again(store: RenditionStore, url: str) -> None:
    """DEL-7: the bytes and what was remembered of them; of another source nothing. Twice is the same as once."""
    blob, other = store.put(DATA, "image/png"), store.put(OTHER, "image/png")
    store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(blob)})
    store.remember("thumbs", SOURCE[::-1], "1", {"thumbnail": rendition(other)})
    for _ in range(2):
        store.remove(blob.cid)
        store.forget("thumbs", SOURCE, "1")
        assert not store.has(blob.cid)
        files, root = files_of(url)
        assert len(files.find(root)) == 2
    assert store.lookup("thumbs", SOURCE, "1") is None
    assert store.lookup("thumbs", SOURCE[::-1], "1") is not None
    assert store.put(DATA, "image/png") == blob
    assert store.open(blob.cid) == DATA


def test_a_store_that_keeps_what_it_shall_give_up_says_so(tmp_path: Path) -> None:
    """DEL-7: what is still there is never taken for gone."""
    (tmp_path / "blobs" / blob_cid(DATA)).mkdir(parents=True)
    with pytest.raises(ServiceUnreachable, match="AC_RENDITIONS_URL"):
        RenditionStore(str(tmp_path)).remove(blob_cid(DATA))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"renditions": {}}', b'{"renditions": {"a": 1}, "warnings": []}']
)
def test_a_damaged_entry_costs_one_rendering(damage: bytes, store: RenditionStore, url: str) -> None:
    made = {"thumbnail": rendition(store.put(DATA, "image/png"))}
    store.remember("thumbs", SOURCE, "1", made)
    files, root = files_of(url)
    (entry,) = files.find(f"{root}/index")
    files.pipe_file(entry, damage)
    assert store.lookup("thumbs", SOURCE, "1") is None
    store.remember("thumbs", SOURCE, "1", made)
    assert store.lookup("thumbs", SOURCE, "1") is not None


def test_an_entry_is_small_readable_json(store: RenditionStore, url: str) -> None:
    store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(store.put(DATA, "image/png"))}, ["odd"])
    files, root = files_of(url)
    (entry,) = files.find(f"{root}/index")
    value = json.loads(files.cat_file(entry))
    assert (value["recipe"], value["source"], value["spec"], value["warnings"]) == ("thumbs", SOURCE, "1", ["odd"])
    assert value["renditions"]["thumbnail"]["blob"]["cid"] == blob_cid(DATA)


def test_threads_that_keep_the_same_thing_at_once_all_succeed(store: RenditionStore) -> None:
    def work(_: int) -> bytes:
        blob = store.put(DATA, "image/png")
        store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(blob)})
        assert store.lookup("thumbs", SOURCE, "1") is not None
        return store.open(blob.cid)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) == {DATA}


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_processes_that_keep_the_same_thing_at_once_all_succeed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """PROD-2: two writers of one rendition meet on one object, whichever machine they are on."""
    place = str(tmp_path / "store") if kind == "folder" else request.getfixturevalue("s3_url")
    program = """
import sys
from ac_pipeline.items import Rendition
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.renditions.store import RenditionStore
store = RenditionStore(sys.argv[1])
for _ in range(40):
    blob = store.put(pixel_art(16, 16), "image/png")
    store.remember("thumbs", "00", "1", {"thumbnail": Rendition(blob, "00", "1", {})})
    store.open(blob.cid)
"""
    running = [subprocess.Popen([sys.executable, "-c", program, place]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    files, root = files_of(place)
    names = [path.removeprefix(f"{root}/").partition("/")[0] for path in files.find(root)]
    assert sorted(names) == ["blobs", "index"], "one blob, one entry and no temporary file"


def test_what_is_listed_is_what_is_there_now(store: RenditionStore, url: str) -> None:
    """PROD-2: what another writer has kept or removed since is seen."""
    assert list(store.listed("blobs")) == []
    blob = RenditionStore(url).put(DATA, "image/png")
    ((name, size, at),) = store.listed("blobs")
    assert (name, size) == (blob.cid, blob.size)
    assert at is not None
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert store.has(blob.cid)
    RenditionStore(url).remove(blob.cid)
    assert not store.has(blob.cid)
    assert list(store.listed("blobs")) == []


def test_of_blobs_that_went_nothing_is_remembered(store: RenditionStore) -> None:
    first, second = store.put(DATA, "image/png"), store.put(OTHER, "image/png")
    store.remember("tapes", SOURCE, "1", {"video": rendition(first), "thumbnail": rendition(second)})
    store.remember("thumbs", SOURCE, "1", {"thumbnail": rendition(second)})
    store.forget_blobs({first.cid})
    assert len(list(store.listed("index"))) == 1
    assert store.lookup("tapes", SOURCE, "1") is None
    assert store.lookup("thumbs", SOURCE, "1") is not None


@pytest.mark.parametrize("changed", [{}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}])
def test_a_bucket_that_cannot_be_used_is_one_clear_sentence(changed: dict[str, str], s3_server: S3Server) -> None:
    """ACCT-5, PROD-2: without the secret; and a mistyped bucket is not made."""
    given = {name.lower(): value for name, value in {**s3_server.settings, **changed}.items()}
    platform = {"mongodb_connection_string": "mongodb://127.0.0.1:1", "mongodb_name": "platform"}
    settings = Settings.model_validate({**platform, **given, "ac_renditions_url": "s3://mistyped/x"})
    store = RenditionStore(settings.ac_renditions_url, settings.renditions_options)
    with pytest.raises(ServiceUnreachable, match="AC_RENDITIONS_URL") as raised:
        store.put(DATA, "image/png")
    secret = s3_server.settings["AWS_SECRET_ACCESS_KEY"]
    assert secret in settings.secrets()
    assert secret not in str(raised.value)


def test_a_failed_write_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(ServiceUnreachable, match="AC_RENDITIONS_URL"):
        RenditionStore(str(tmp_path)).put(DATA, "image/png")


def test_a_store_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    """A failed read is never an empty read."""
    store = RenditionStore(str(tmp_path))
    (tmp_path / "blobs" / blob_cid(DATA)).mkdir(parents=True)
    with pytest.raises(ServiceUnreachable):
        store.open(blob_cid(DATA))


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s4://bucket"])
def test_an_unknown_kind_of_store_is_one_clear_sentence(url: str) -> None:
    with pytest.raises(Misconfigured, match="AC_RENDITIONS_URL"):
        RenditionStore(url)


def test_a_folder_is_this_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    """ANSWER-4: one that was made before, too."""
    root = tmp_path / "home" / "renditions"
    before = os.umask(0o022)
    try:
        RenditionStore(str(root)).put(DATA, "image/png")
        assert _modes(root.parent) == {0o700, 0o600}
        for path in (root.parent, *root.parent.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        store = RenditionStore(str(root))
        assert _modes(root) == {0o700, 0o600}
        store.write_file("snapshots/manifests/x.json", b"{}")
        assert _modes(root) == {0o700, 0o600}
    finally:
        os.umask(before)


def _modes(root: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
