"""Renditions that nothing needs, on real services: a folder, and a bucket of an S3 server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.errors import HeldBack, RepositoryUnreadable
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.declare import Declaration, Report, Work
from ac_pipeline.operations.removal.renditions import RENDITIONS
from ac_pipeline.operations.removal.restore import RESTORE
from ac_pipeline.operations.removal.wipe import WIPE
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.dagster_rows import plain
from ac_pipeline_tests.harness import USER_BUCKET, Slice, open_slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

PAINTING = media_type("painting")


@pytest.fixture(params=["folder", "s3"])
def place(
    request: pytest.FixtureRequest, mongo_database: Any, pds: Any, object_server: Any, tmp_path: Path
) -> Iterator[Slice]:
    more = {} if request.param == "folder" else {"ac_renditions_url": request.getfixturevalue("s3_url")}
    uri = request.getfixturevalue("mongo_server").uri
    with open_slice(mongo_database, uri, pds, object_server.url_template, tmp_path, **more) as opened:
        yield opened


def done(slice_: Slice, operation: Declaration[Any], **given: Any) -> Report:
    return operation.run(Work(slice_.pipeline, "run", lambda *_: None, lambda _: None), operation.parse(given))


def prune(slice_: Slice, *, later: timedelta = timedelta(days=8), **given: Any) -> Report:
    """What the operation answers so much later."""
    slice_.pipeline.engine.now = lambda: datetime.now(UTC) + later
    return done(slice_, RENDITIONS, prune=True, **given)


def numbers(report: Report) -> dict[str, int]:
    assert isinstance(report.json, dict)
    return dict(report.json["number"])


def painting(slice_: Slice, objects: ObjectServer, user: Account, name: str, seed: int) -> str:
    objects.put(USER_BUCKET, f"{user.id}/painting/{name}.png", pixel_art(24, 16, seed=seed))
    return slice_.add("painting", user, code=name[:3], slug=name)


def rendition_of(slice_: Slice, id: str) -> str:
    derived = slice_.entry("painting", id).derived
    assert derived is not None
    return derived.renditions["thumbnail"].blob.cid


def test_only_what_nothing_needs_goes(place: Slice, object_server: ObjectServer) -> None:
    """MEDIA-2, PROD-2, PROD-4: what a record, a pending or a wiped item has stays, also when the ledger is lost."""
    ada, store = place.user("ada"), place.pipeline.store
    published = painting(place, object_server, ada, "published", 1)
    edited = painting(place, object_server, ada, "edited", 2)
    wiped = painting(place, object_server, ada, "wiped", 3)
    place.sync(ada)
    former, kept = rendition_of(place, edited), rendition_of(place, published)
    object_server.put(USER_BUCKET, f"{ada.id}/painting/edited.png", pixel_art(24, 16, seed=4))
    place.sync(ada, Selection(renditions=True))
    newer = rendition_of(place, edited)
    assert newer != former
    gone = place.entry("painting", wiped).with_(state=State.DELETED)
    place.pipeline.ledger.save([gone])
    pending = painting(place, object_server, ada, "pending", 5)
    place.pipeline.engine.render(ada, PAINTING, Selection(types=(PAINTING,)), "run")
    waiting = rendition_of(place, pending)
    assert place.entry("painting", pending).state is State.PENDING
    stray = store.put(pixel_art(16, 16, seed=9), "image/png").cid
    store.write_file("blobs/read-me.txt", b"somebody else's")

    assert numbers(prune(place, later=timedelta(days=6))) == {"needed": 4, "young": 2, "unneeded": 0}
    seen = prune(place)
    assert (numbers(seen), seen.confirm, seen.exit_code) == ({"needed": 4, "young": 0, "unneeded": 2}, 2, 2)
    assert numbers(prune(place, confirm=1)) == numbers(seen), "another number deletes nothing"
    assert numbers(prune(place, confirm=2)) == numbers(seen)
    assert [store.has(cid) for cid in (former, stray)] == [False, False]
    assert all(store.has(cid) for cid in (kept, newer, waiting, rendition_of(place, wiped)))
    assert store.read_file("blobs/read-me.txt") == b"somebody else's"
    assert len(list(store.listed("index"))) == 4, "nothing is remembered of what went"
    (audited,) = place.pipeline.audit.entries(action="prune-renditions")
    assert (audited.outcome, audited.counts) == ("done", {"renditions": 2})
    assert numbers(prune(place)) == {"needed": 4, "young": 0, "unneeded": 0}

    ledger = place.database.client[place.pipeline.settings.ac_ledger_database]
    ledger["items"].delete_many({})
    with pytest.raises(HeldBack, match=r"paintings with neither a record nor an entry in the ledger \(1\)"):
        prune(place)
    place.database["paintings"].delete_one({"slug": "pending"})
    place.database["paintings"].delete_one({"slug": "wiped"})
    assert numbers(prune(place))["needed"] == 3, "of records that are on the PDS"


def test_what_an_item_came_to_need_meanwhile_stays(place: Slice, object_server: ObjectServer) -> None:
    """PROD-2: between the look and the deletion a run on another machine may have recorded it."""
    ada, store = place.user("ada"), place.pipeline.store
    id = painting(place, object_server, ada, "one", 1)
    place.sync(ada)
    known, cid = place.entry("painting", id), rendition_of(place, id)
    blob = store.put(pixel_art(16, 16, seed=9), "image/png")
    place.pipeline.engine.now = lambda: datetime.now(UTC) + timedelta(days=8)
    assert known.derived is not None
    other = known.derived.renditions["thumbnail"]

    def record(what: str, done: int, total: int) -> None:
        if (what, done) == ("Deleting", 0):
            made = {"thumbnail": type(other)(blob, other.source, other.spec)}
            changed = type(known.derived)(made)  # type: ignore[misc]
            place.pipeline.ledger.save([known.with_(derived=changed)])

    work = Work(place.pipeline, "run", record, lambda _: None)
    report = RENDITIONS.run(work, RENDITIONS.parse({"prune": True, "confirm": 1}))
    assert report.headline == "0 renditions were deleted."
    assert store.has(blob.cid)
    assert store.has(cid)


def test_a_snapshot_there_brings_everything_back_and_is_never_pruned(place: Slice, object_server: ObjectServer) -> None:
    """PLAN-5, PROD-2: records and blobs as they were, from a bucket as from a folder."""
    ada = place.user("ada")
    painting(place, object_server, ada, "one", 1)
    place.sync(ada)
    before, seen = place.listed(ada, "painting"), done(place, WIPE, user="ada")
    assert seen.confirm == 1
    done(place, WIPE, user="ada", confirm=1)
    assert place.listed(ada, "painting") == {}
    place.pipeline.store.put(pixel_art(16, 16, seed=9), "image/png")
    assert numbers(prune(place, confirm=1))["unneeded"] == 1
    done(place, RESTORE, user="ada", source="latest")
    assert place.listed(ada, "painting") == before


def test_nothing_goes_while_a_repository_cannot_be_read(slice_: Slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL-5: what cannot be seen is not taken for absent; what the PDS does not host holds nothing."""
    slice_.user("ada")
    unknown = slice_.user("bob")
    slice_.database["users"].update_one({"_id": unknown.id}, {"$set": {"atproto.did": "did:plc:" + "a" * 24}})
    slice_.pipeline.store.put(pixel_art(16, 16, seed=9), "image/png")
    assert numbers(prune(slice_))["unneeded"] == 1

    def damaged(did: str) -> Repository:
        raise RepositoryUnreadable(f"the repository of {did} is damaged")

    monkeypatch.setattr(slice_.pipeline.server, "read_repository", damaged)
    with pytest.raises(HeldBack, match="ada needs is not known, so none can go: the repository of did:"):
        prune(slice_)


def test_the_command_and_the_job_say_and_do_the_same(
    cli: Run, slice_: Slice, instance: dg.DagsterInstance, object_server: ObjectServer
) -> None:
    """PLAN-5, VERIFY-12: a look first, then by its number."""
    ada, store = slice_.user("ada"), slice_.pipeline.store
    painting(slice_, object_server, ada, "one", 1)
    slice_.sync(ada)
    strays = [store.put(pixel_art(16, 16, seed=seed), "image/png").cid for seed in (8, 9)]
    old = time.time() - 30 * 86_400
    for cid in strays:
        os.utime(Path(slice_.pipeline.settings.ac_renditions_url, "blobs", cid), (old, old))

    def launch(**config: Any) -> dg.ExecuteInProcessResult:
        with PipelineResource(lambda: slice_.pipeline.settings) as pipeline:
            job = build_defs({"pipeline": pipeline}).resolve_job_def("prune_renditions")
            run_config = {"ops": {"prune_some_renditions": {"config": config}}}
            return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)

    code, out = cli("renditions", "--json")
    assert (code, json.loads(out)["number"]) == (0, {"needed": 1, "young": 0, "unneeded": 2})
    assert cli("renditions", "--confirm", "2")[0] == 2
    code, out = cli("renditions", "--prune")
    assert code == 2
    assert "ac-pipeline renditions --prune --confirm 2" in out
    assert launch(prune=True).success
    assert not launch(prune=True, confirm=3).success
    assert all(store.has(cid) for cid in strays)
    deleted = launch(prune=True, confirm=2, why="too many")
    assert deleted.success
    (shown,) = [event for event in deleted.all_events if event.is_step_materialization]
    materialisation = shown.step_materialization_data.materialization
    assert materialisation.asset_key == dg.AssetKey(["operations", "prune_renditions"])
    assert plain(materialisation.metadata)["answer"].startswith("2 renditions were deleted")
    assert not any(store.has(cid) for cid in strays)
    assert json.loads(cli("audit", "--json", "--action", "prune-renditions")[1])[0]["why"] == "too many"
