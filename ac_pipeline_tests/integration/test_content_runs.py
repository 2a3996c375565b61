"""From a change in MongoDB to the PDS and back to quiet: the real sensor, the runs it asks for, and real services."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import USERS, records_key
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.sensors.content import NEW_CONTENT_SENSOR, Memory
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.registry import media_type
from ac_pipeline.wiring import Pipeline
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import USER_BUCKET, Slice

MOODS = records_key(media_type("mood"))
SLUG = "2025.1.2.3.4.5.678"


@pytest.fixture
def site(slice_: Slice) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(slice_, instance)


@pytest.fixture
def stored_site(slice_: Slice, tmp_path: Path) -> Iterator[Site]:
    """On disk, for runs in several threads."""
    with open_instance(tmp_path) as instance:
        yield Site(slice_, instance)


class Site:
    """Ticks of the sensor one after another, each with a pipeline of its own as in production, and the runs of its
    requests carried out at once."""

    def __init__(self, slice_: Slice, instance: dg.DagsterInstance) -> None:
        self.slice, self.instance = slice_, instance
        self.repository = build_defs().get_repository_def()
        self.cursor: str | None = None

    def tick(self) -> Any:
        accounts = self.slice.pipeline.accounts.all()
        self.instance.add_dynamic_partitions(USERS, [account.key for account in accounts])
        with PipelineResource(lambda: self.slice.pipeline.settings) as mirror:
            context = dg.build_sensor_context(
                instance=self.instance,
                cursor=self.cursor,
                repository_def=self.repository,
                resources={"pipeline": mirror},
                sensor_name=NEW_CONTENT_SENSOR,
            )
            with context, dg.partition_loading_context(dynamic_partitions_store=self.instance):
                result = self.repository.get_sensor_def(NEW_CONTENT_SENSOR).evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def carry_out(self) -> list[dg.ExecuteInProcessResult]:
        """One tick, and the runs it asks for, with definitions that have an account list of their own."""
        return [self.run(request.job_name, request.run_config, request.tags) for request in self.tick().run_requests]

    def run(
        self, job: str, config: Any, tags: Any, door: type[PipelineResource] = PipelineResource
    ) -> dg.ExecuteInProcessResult:
        with door(lambda: self.slice.pipeline.settings) as mirror:
            definitions = build_defs({"pipeline": mirror}, retry_seconds=0)
            return definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance, run_config=config, tags=dict(tags), raise_on_error=False
            )

    def quiet(self) -> bool:
        """Whether several ticks, one of which compares everything, ask for nothing."""
        asked = [request for _ in range(2) for request in self.tick().run_requests]
        self.cursor = replace(Memory.of(self.cursor), position="").to_text()
        return not [*asked, *self.tick().run_requests]


def test_what_users_do_reaches_the_pds_by_itself_and_then_nothing_is_asked_for(site: Site, object_server: Any) -> None:
    """DEL-1, DEL-2, RUN-10, WRITE-1, WRITE-10: made, edited, removed and brought back, by one user and by several."""
    slice_ = site.slice
    ada, bea = slice_.user("ada"), slice_.user("bea")
    assert site.quiet()
    first, other = slice_.add("mood", ada, mood="one"), slice_.add("mood", bea, mood="of bea")
    painting = slice_.add("painting", ada, code="abc", slug=SLUG, bucket=USER_BUCKET)
    object_server.put(USER_BUCKET, f"{ada.id}/painting/{SLUG}.png", pixel_art(24, 16))
    (together,) = site.carry_out()
    assert (together.success, together.job_def.name) == (True, SYNC_CHANGED_USERS)
    assert [value["mood"] for value in slice_.records(ada, "mood").values()] == ["one"]
    assert list(slice_.records(bea, "mood")) == [slice_.entry("mood", other).rkey]
    assert slice_.entry("painting", painting).state is State.WRITTEN
    assert set(site.instance.get_materialized_partitions(MOODS)) == {"ada", "bea"}
    assert site.quiet()

    rkey = slice_.entry("mood", first).rkey
    slice_.change("mood", first, mood="two")
    (alone,) = site.carry_out()
    assert (alone.success, alone.job_def.name) == (True, SYNC_USERS)
    assert [value["mood"] for value in slice_.records(ada, "mood").values()] == ["two"]
    for removed, records in ((True, []), (False, [rkey])):
        slice_.change("mood", first, deleted=removed)
        assert [run.success for run in site.carry_out()] == [True]
        assert list(slice_.records(ada, "mood")) == records
    slice_.database["moods"].delete_one({"_id": ObjectId(first)})
    assert [run.success for run in site.carry_out()] == [True]
    assert not slice_.records(ada, "mood")
    assert site.quiet()


def test_items_that_no_run_can_help_do_not_cause_endless_requests(site: Site) -> None:
    """OPS-3, SRC-2, SRC-7, SRC-8, MEDIA-4, DEL-10, RUN-10: each stage at which the engine gives up for good."""
    slice_ = site.slice
    ada = slice_.user("ada")
    guest = slice_.user(id="art-guest")
    made = {
        "source-missing": slice_.add("painting", ada, code="abc", slug=SLUG, bucket=USER_BUCKET),
        "invalid-document": slice_.add("mood", ada, text=""),
        "invalid-record": slice_.add("mood", ada, mood="ä" * 2_600),
        "held-back": slice_.add(
            "kidlisp", guest, code="abc", source="(ink)", atproto={"rkey": "3kaaaaaaaaa2a", "did": "did:plc:gone"}
        ),
    }
    (run,) = site.carry_out()
    assert run.success
    types = {"source-missing": "painting", "held-back": "kidlisp"}
    for error_class, id in made.items():
        entry = slice_.entry(types.get(error_class, "mood"), id)
        assert (entry.state, entry.failure.error_class if entry.failure else "") == (State.QUARANTINED, error_class)
    assert site.quiet()
    slice_.change("mood", made["invalid-document"], mood="a text at last")
    assert [run.success for run in site.carry_out()] == [True]
    assert site.quiet()


def test_a_blocked_account_is_named_once_and_picked_up_when_its_credentials_appear(site: Site) -> None:
    """ACCT-1, RUN-7."""
    slice_ = site.slice
    ready = slice_.user("ada")
    users = slice_.database["users"]
    credentials = users.find_one({"_id": ready.id})["atproto"]
    users.update_one({"_id": ready.id}, {"$unset": {"atproto": ""}})
    mood = slice_.add("mood", ready, mood="one")
    assert [run.success for run in site.carry_out()] == [True]
    assert slice_.entry("mood", mood).state is State.BLOCKED
    slice_.add("mood", ready, mood="another")
    assert site.quiet()
    users.update_one({"_id": ready.id}, {"$set": {"atproto": credentials}})
    assert [run.success for run in site.carry_out()] == [True]
    assert len(slice_.records(ready, "mood")) == 2
    assert site.quiet()


def test_an_account_that_is_being_deleted_is_emptied_by_itself(site: Site) -> None:
    """DEL-9, DEL-7."""
    slice_ = site.slice
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="one")
    assert [run.success for run in site.carry_out()] == [True]
    slice_.database["account-deletions"].insert_one({"_id": ada.id, "state": "scheduled"})
    assert [run.success for run in site.carry_out()] == [True]
    assert not slice_.records(ada, "mood")
    assert site.quiet()


def test_two_runs_of_different_kinds_on_one_user_at_once_both_succeed_and_write_everything_once(
    stored_site: Site,
) -> None:
    """WRITE-12: the second one waits for the lease; overlap turns nobody red."""
    site = stored_site
    slice_ = site.slice
    ada = slice_.user("ada")
    for number in range(250):
        slice_.add("mood", ada, mood=f"mood {number}")
    site.tick()
    both, begun = threading.Barrier(2, timeout=120), threading.Event()

    class Door(PipelineResource):
        """Opens when both runs are at their step. Dagster sets up its log anew for each run: two runs of one process
        block each other when one of them logs meanwhile, which runs of their own processes never do."""

        waited = False

        def open(self) -> Pipeline:
            if not self.waited:
                self.waited = True
                begun.set()
                both.wait()
            return super().open()

    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(site.run, SYNC_USERS, {}, {"dagster/partition": "ada"}, Door)
        assert begun.wait(120)
        together = pool.submit(site.run, SYNC_CHANGED_USERS, run_config(["ada"]), {}, Door)
        runs = [alone.result(), together.result()]
    assert [run.success for run in runs] == [True, True]
    assert len(slice_.records(ada, "mood")) == 250
    created = [made.metadata["created"].value for run in runs for made in _made(run, MOODS)]
    assert sorted(created) == [0, 250]


def _made(run: dg.ExecuteInProcessResult, asset: dg.AssetKey) -> list[dg.AssetMaterialization]:
    return [
        event.step_materialization_data.materialization
        for event in run.all_events
        if event.is_step_materialization and event.asset_key == asset
    ]


def test_a_lease_that_another_run_holds_is_waited_for(stored_site: Site) -> None:
    """WRITE-12: held while the run is being started, given back while it waits."""
    site = stored_site
    slice_ = site.slice
    ada: Account = slice_.user("ada")
    slice_.add("mood", ada, mood="one")
    site.tick()
    leases = slice_.database.client[slice_.pipeline.settings.ac_ledger_database]["leases"]
    with ThreadPoolExecutor(1) as pool:
        with slice_.pipeline.ledger.lease(str(ada.did), "another run"):
            run = pool.submit(site.run, SYNC_CHANGED_USERS, run_config(["ada"]), {})
            assert leases.find_one({"_id": ada.did})["holder"] == "another run"
            assert not slice_.records(ada, "mood")
        assert run.result().success
    assert len(slice_.records(ada, "mood")) == 1
