"""What others do to repositories is put right, and what failed is run again: real sensors, runs and services."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, USERS, records_key
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.schedules import INCREMENTAL_SYNC, NIGHTLY_RECONCILE
from ac_pipeline.defs.user_jobs import RETRY_ITEMS, RETRY_STEP
from ac_pipeline.errors import ServerFailed
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.removal.restore import Restore, find_snapshot, restore_from_mongo
from ac_pipeline.operations.removal.snapshot import open_vault
from ac_pipeline.operations.removal.wipe import Wipe
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import USER_BUCKET, Slice

SENSOR = "drift_sensor"
PAINTINGS, MOODS = records_key(media_type("painting")), records_key(media_type("mood"))
SLUG = "2025.1.2.3.4.5.678"


class Site:
    """A Dagster with the keys of all accounts; each tick and run has a pipeline of its own, as in production."""

    def __init__(self, slice_: Slice, instance: dg.DagsterInstance) -> None:
        self.slice, self.instance, self.cursor = slice_, instance, None
        accounts = slice_.pipeline.accounts.all()
        instance.add_dynamic_partitions(USERS, [account.key for account in accounts])

    def tick(self) -> Any:
        """One look of the drift sensor."""
        with PipelineResource(lambda: self.slice.pipeline.settings) as mirror:
            repository = build_defs({"pipeline": mirror}).get_repository_def()
            context = dg.build_sensor_context(
                instance=self.instance,
                cursor=self.cursor,
                repository_def=repository,
                resources={"pipeline": mirror},
                sensor_name=SENSOR,
            )
            with context, dg.partition_loading_context(dynamic_partitions_store=self.instance):
                result = repository.get_sensor_def(SENSOR).evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def run(self, job: str, config: Any = None, tags: Any = None) -> dg.ExecuteInProcessResult:
        with PipelineResource(lambda: self.slice.pipeline.settings) as mirror:
            definitions = build_defs({"pipeline": mirror}, retry_seconds=0)
            return definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance, run_config=config, tags=tags, raise_on_error=False
            )

    def sync_all(self) -> dg.ExecuteInProcessResult:
        keys = self.instance.get_dynamic_partitions(USERS)
        return self.run(SYNC_USERS, tags={RANGE_START: keys[0], RANGE_END: keys[-1]})

    def hour(self, schedule: str) -> list[dg.RunRequest]:
        """What a tick of a schedule asks for."""
        with PipelineResource(lambda: self.slice.pipeline.settings) as mirror:
            repository = build_defs({"pipeline": mirror}).get_repository_def()
            now = datetime(2026, 1, 2, 3, 30, tzinfo=UTC)
            with dg.build_schedule_context(
                instance=self.instance,
                repository_def=repository,
                scheduled_execution_time=now,
                resources={"pipeline": mirror},
            ) as context:
                return list(repository.get_schedule_def(schedule).evaluate_tick(context).run_requests or ())

    def retry(self, **config: Any) -> dg.ExecuteInProcessResult:
        return self.run(RETRY_ITEMS, {"ops": {RETRY_STEP: {"config": config}}})

    def delete(self, account: Account, type: str, rkey: str) -> None:
        """Another client of the user's deletes a record."""
        body = {"repo": account.did, "collection": media_type(type).nsid, "rkey": rkey}
        self.slice.call(account, "com.atproto.repo.deleteRecord", body)

    def post(self, account: Account) -> None:
        """Another client of the user's writes something that is none of our business."""
        record = {"$type": "app.bsky.feed.post", "text": "hello", "createdAt": "2026-01-02T03:04:05.678Z"}
        body = {"repo": account.did, "collection": "app.bsky.feed.post", "record": record}
        self.slice.call(account, "com.atproto.repo.createRecord", body)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as made:
        yield made


def requests(result: Any) -> list[dg.RunRequest]:
    return list(result.run_requests or ())


def users(request: dg.RunRequest) -> list[str]:
    """Whom a request is about."""
    if request.partition_key is not None:
        return [request.partition_key]
    if "dagster/partition" in request.tags:
        return [request.tags["dagster/partition"]]
    return [key for op in request.run_config["ops"].values() for key in op["config"]["users"]]


def test_a_record_that_another_client_deleted_is_back_after_one_tick_and_its_run(
    slice_: Slice, instance: dg.DagsterInstance
) -> None:
    """VERIFY-9: found by the repository's revision alone, without any event; nobody else is run."""
    people = [slice_.user(name) for name in ("ada", "bea", "cyd")]
    for person in people:
        slice_.add("mood", person, mood=f"a mood of {person.key}")
    site = Site(slice_, instance)
    assert site.sync_all().success
    assert requests(site.tick()) == []
    ada, bea, cyd = people
    before = {person.key: slice_.listed(person, "mood") for person in people}
    site.delete(ada, "mood", next(iter(before["ada"])))
    assert slice_.listed(ada, "mood") == {}
    slice_.call(cyd, "com.atproto.server.deactivateAccount", {})

    (request,) = requests(site.tick())
    assert users(request) == ["ada"]
    assert site.run(str(request.job_name), request.run_config, request.tags).success
    assert slice_.listed(ada, "mood") == before["ada"]
    assert slice_.listed(bea, "mood") == before["bea"]
    assert requests(site.tick()) == []


def test_several_users_who_drifted_share_one_run_after_which_all_is_quiet(
    slice_: Slice, instance: dg.DagsterInstance
) -> None:
    """VERIFY-9: what others write beside our records is left as it is, and does not count as drift again."""
    people = [slice_.user(name) for name in ("ada", "bea", "cyd")]
    site = Site(slice_, instance)
    assert site.sync_all().success
    for person in people[::2]:
        site.post(person)
    (request,) = requests(site.tick())
    assert users(request) == ["ada", "cyd"]
    assert site.run(str(request.job_name), request.run_config, request.tags).success
    quiet = site.tick()
    assert requests(quiet) == []
    assert "as their last sync left them" in quiet.skip_message


def test_what_operators_of_ours_do_is_no_drift(slice_: Slice, instance: dg.DagsterInstance) -> None:
    """GUARD-5: wipes and restores from both places, as the PDS itself counts revisions."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="a mood")
    slice_.add("piece", ada, slug="wand")
    site, vault = Site(slice_, instance), open_vault(slice_.pipeline)
    assert site.sync_all().success
    moods, did, revs = (media_type("mood"),), str(ada.did), []

    def left() -> None:
        assert requests(site.tick()) == []
        revs.append(slice_.pipeline.server.latest_commit(did).rev)

    for types in (moods, MEDIA_TYPES):
        Wipe(vault, ada, types, "w", confirm=Wipe(vault, ada, types).plan().total).run()
        left()
        snapshot = find_snapshot(vault, ada, types, "latest")
        assert Restore(vault, ada, types, "r", snapshot=snapshot).run().clean
        left()
    Wipe(vault, ada, moods, "w", confirm=1).run()
    assert restore_from_mongo(vault, ada, moods, run_id="r").clean
    left()
    assert len(set(revs)) == len(revs)


def test_users_who_were_never_synchronised_are_no_drift(slice_: Slice, instance: dg.DagsterInstance) -> None:
    ada = slice_.user("ada")
    site = Site(slice_, instance)
    site.post(ada)
    assert requests(site.tick()) == []


def test_the_nightly_compare_finds_what_a_wrong_mark_hides_from_the_hourly_one(
    slice_: Slice, instance: dg.DagsterInstance
) -> None:
    """VERIFY-10, VERIFY-11: the short cut is backed by a full compare."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="a mood")
    site = Site(slice_, instance)
    assert site.sync_all().success
    before, did, ledger = slice_.listed(ada, "mood"), str(ada.did), slice_.pipeline.ledger
    site.delete(ada, "mood", next(iter(before)))
    mark = ledger.checkpoint(did)
    assert mark is not None
    ledger.keep_checkpoint(replace(mark, rev=slice_.pipeline.server.latest_commit(did).rev))

    assert site.hour(INCREMENTAL_SYNC) == []
    assert slice_.listed(ada, "mood") == {}
    (request,) = site.hour(NIGHTLY_RECONCILE)
    assert site.run(SYNC_USERS, request.run_config, request.tags).success
    assert slice_.listed(ada, "mood") == before


def test_an_hour_finds_who_was_never_synchronised_who_drifted_and_what_is_new_and_then_rests(
    slice_: Slice, instance: dg.DagsterInstance
) -> None:
    """VERIFY-9, VERIFY-10, RUN-10: one run about all who have work; nobody is asked for when nothing changed."""
    ada, bea, cyd, dan = (slice_.user(name) for name in ("ada", "bea", "cyd", "dan"))
    for person in (ada, bea, cyd):
        slice_.add("mood", person, mood=f"a mood of {person.key}")
    site = Site(slice_, instance)

    def hour() -> list[str]:
        asked = site.hour(INCREMENTAL_SYNC)
        for request in asked:
            assert site.run(SYNC_CHANGED_USERS, request.run_config, request.tags).success
        return [key for request in asked for key in users(request)]

    assert hour() == ["ada", "bea", "cyd"]
    assert hour() == []
    before = slice_.listed(bea, "mood")
    site.delete(bea, "mood", next(iter(before)))
    slice_.add("mood", dan, mood="the first of all")
    assert hour() == ["bea", "dan"]
    assert (slice_.listed(bea, "mood"), len(slice_.listed(dan, "mood"))) == (before, 1)
    assert hour() == []


def test_a_repaired_item_is_run_alone_and_its_partition_is_proven(
    slice_: Slice, instance: dg.DagsterInstance, object_server: Any
) -> None:
    """OPS-3, RUN-7: its user's new mood is not written by the retry, so moods are not claimed to be in order."""
    ada = slice_.user("ada")
    slice_.add("painting", ada, code="abc", slug=SLUG, bucket=USER_BUCKET)
    site = Site(slice_, instance)
    assert site.sync_all().success
    slice_.add("mood", ada, mood="not part of the retry")
    object_server.put(USER_BUCKET, f"{ada.id}/painting/{SLUG}.png", pixel_art(24, 16))

    result = site.retry(items=["painting:abc"])
    assert result.success
    assert len(slice_.records(ada, "painting")) == 1
    assert slice_.records(ada, "mood") == {}
    made = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    assert [(each.asset_key, each.partition_key) for each in made] == [(PAINTINGS, "ada")]
    assert made[0].asset_materialization is not None
    said = {name: value.value for name, value in made[0].asset_materialization.metadata.items()}
    assert (said["documents"], said["unchanged"], said["quarantined"], said["retried"]) == (1, 1, 0, 1)


def test_a_deferred_item_of_a_red_partition_turns_it_green(
    slice_: Slice, instance: dg.DagsterInstance, object_server: Any
) -> None:
    """OPS-3, RUN-5: storage was down; only the item that is missing is asked for, and written."""
    ada = slice_.user("ada")
    for number in range(2):
        slug = f"2025.1.2.3.4.5.{number}"
        slice_.add("painting", ada, code=f"abc{number}", slug=slug, bucket=USER_BUCKET)
        object_server.put(USER_BUCKET, f"{ada.id}/painting/{slug}.png", pixel_art(24, 16 + number))
    key = f"{ada.id}/painting/2025.1.2.3.4.5.1.png"
    object_server.fail(USER_BUCKET, key, 503)
    site = Site(slice_, instance)
    assert not site.sync_all().success
    assert "ada" not in instance.get_materialized_partitions(PAINTINGS)
    (written,) = slice_.listed(ada, "painting").items()

    object_server.heal(USER_BUCKET, key)
    asked = len(object_server.requests)
    assert site.retry(error_class=ServerFailed.code, types=["painting"]).success
    assert {each.key.rpartition(".")[0].rpartition("/")[2] for each in object_server.requests[asked:]} == {
        "2025.1.2.3.4.5.1"
    }
    listed = slice_.listed(ada, "painting")
    assert len(listed) == 2
    assert written in listed.items()
    assert "ada" in instance.get_materialized_partitions(PAINTINGS)
