"""New content in Dagster: what the sensor asks for, and the run over several users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import PARTITION, POOL_LIMITS, RANGE_END, RANGE_START, USERS, records_key, users
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.checks import NO_QUARANTINED_ITEMS, record_checks
from ac_pipeline.defs.jobs import SYNC_USERS, USERS_A_RUN
from ac_pipeline.defs.sensors.content import NEW_CONTENT_SENSOR
from ac_pipeline.errors import ServerFailed, ServiceUnreachable
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.changes.pending import Cause, Work
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import cells_of
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

KEYS = ["ada", "art-guest", "bea", "cyd"]
RECORDS = [records_key(media) for media in MEDIA_TYPES]
MOODS = records_key(media_type("mood"))


def work(key: str, item: str = "1") -> Work:
    return Work(key, f"mood:{key}-{item}", Cause.NEW, "mark")


class Site:
    """An instance with keys, a scripted pipeline, and ticks of the sensor one after another."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.mirror = instance, ScriptedMirror(*KEYS)
        instance.add_dynamic_partitions(USERS, KEYS)
        self.definitions = build_defs({"pipeline": self.mirror}, retry_seconds=0)
        self.sensor = self.definitions.get_repository_def().get_sensor_def(NEW_CONTENT_SENSOR)
        self.cursor: str | None = None

    def tick(self, *works: Work) -> Any:
        """What Dagster's daemon gets to see: run requests that it accepts, a reason, a cursor."""
        self.mirror.works = list(works)
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
            resources={"pipeline": self.mirror},
            sensor_name=NEW_CONTENT_SENSOR,
        )
        with context, dg.partition_loading_context(dynamic_partitions_store=self.instance):
            result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def queue(self, request: Any, job: str = SYNC_USERS) -> dg.DagsterRun:
        """The run of a request, as the daemon makes it, not started yet."""
        return self.instance.create_run_for_job(
            self.definitions.resolve_job_def(request.job_name or job),
            run_config=request.run_config,
            tags={**request.tags, "dagster/sensor_name": NEW_CONTENT_SENSOR},
        )

    def run(self, *keys: str) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(SYNC_CHANGED_USERS)
        return job.execute_in_process(instance=self.instance, run_config=run_config(list(keys)), raise_on_error=False)

    def run_alone(self, key: str) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(SYNC_USERS)
        return job.execute_in_process(instance=self.instance, partition_key=key, raise_on_error=False)

    def made(self, asset: dg.AssetKey = MOODS) -> set[str]:
        return set(self.instance.get_materialized_partitions(asset))

    def statuses(self, asset: dg.AssetKey = MOODS) -> dict[str, str]:
        found = self.instance.get_status_by_partition(asset, KEYS, users) or {}
        return {key: status.value for key, status in found.items() if status is not None}


@pytest.fixture
def site() -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance)


def test_nothing_to_do_asks_for_nothing_and_goes_on_from_its_place(site: Site) -> None:
    """RUN-10."""
    assert not site.tick().run_requests
    result = site.tick()
    assert (result.run_requests, result.skip_message) == ([], "No user has new work.")
    assert '"position":"2"' in result.cursor


def test_one_changed_user_gets_an_urgent_run_of_the_partition_without_a_run_key(site: Site) -> None:
    """RUN-10: a run key would keep the second change of the same user from ever being carried out."""
    (request,) = site.tick(work("bea"), work("bea", "2")).run_requests
    assert (request.job_name, request.partition_key, request.run_key) == (SYNC_USERS, "bea", None)
    assert (request.tags["dagster/priority"], request.tags["ac_pipeline/reason"]) == ("10", "new content")


def test_several_changed_users_get_one_run_that_names_them(site: Site) -> None:
    (request,) = site.tick(work("bea"), work("ada"), work("art-guest")).run_requests
    assert request.job_name == SYNC_CHANGED_USERS
    assert request.run_config == run_config(["bea", "ada", "art-guest"])
    assert (request.tags["dagster/priority"], request.run_key) == ("10", None)


def test_users_whose_run_is_not_done_are_not_asked_for_again_whatever_kind_of_run_it_is(site: Site) -> None:
    (alone,) = site.tick(work("ada")).run_requests
    site.queue(alone)
    (group,) = site.tick(work("ada"), work("bea"), work("cyd")).run_requests
    assert group.run_config == run_config(["bea", "cyd"])
    run = site.queue(group)
    result = site.tick(work("ada"), work("bea"))
    assert not result.run_requests
    assert result.skip_message == "No run to ask for: 2 are being synchronised."
    site.instance.report_run_canceled(run)
    assert [request.partition_key for request in site.tick(work("ada"), work("bea")).run_requests] == ["bea"]


def test_a_user_whose_turn_is_over_need_not_wait_for_the_others_of_the_run(site: Site) -> None:
    """DEL-1: a tape takes its minute, and somebody else's nuke comes meanwhile."""
    (group,) = site.tick(work("ada"), work("bea")).run_requests
    run = site.queue(group)
    for number, asset in enumerate(RECORDS, start=1):
        _log_materialization(site.instance, run, asset, "bea")
        requests = site.tick(work("ada"), work("bea", "2")).run_requests
        assert [request.partition_key for request in requests] == (["bea"] if number == len(RECORDS) else [])


def _log_materialization(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: dg.AssetKey, key: str) -> None:
    """An event of a run, as its process logs it."""

    @dg.op(name="changed_users_records")
    def log(context) -> None:  # type: ignore[no-untyped-def]  # an annotation would be a text here
        context.log_event(dg.AssetMaterialization(asset, partition=key))

    @dg.job(name=run.job_name)
    def job() -> None:
        log()

    with open_instance() as other:
        result = job.execute_in_process(instance=other, run_id=run.run_id)
        for record in other.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            instance.store_event(record)


def test_users_in_a_range_of_another_run_wait_for_it(site: Site) -> None:
    job = site.definitions.resolve_job_def(SYNC_USERS)
    tags = {RANGE_START: "ada", RANGE_END: "bea"}
    run = site.instance.create_run_for_job(job, tags=tags)
    (request,) = site.tick(*(work(key) for key in KEYS)).run_requests
    assert request.run_config == run_config(["cyd"])
    site.instance.report_run_canceled(run)


def test_users_without_a_key_are_left_to_the_users_sensor(site: Site) -> None:
    """RUN-11."""
    site.mirror.known["new"] = Account("auth0|new", "new")
    result = site.tick(work("new"))
    assert not result.run_requests
    assert "1 have no partition yet" in str(result.skip_message)
    site.instance.add_dynamic_partitions(USERS, ["new"])
    assert [request.partition_key for request in site.tick(work("new")).run_requests] == ["new"]
    assert site.mirror.looks[-1] == {"mood:new-1"}


def test_hundreds_of_changed_users_get_a_few_runs_and_the_rest_is_told_to_wait(site: Site) -> None:
    """RUN-10, RUN-12: and a compare that replaces lost events is said in the same place."""
    many = [f"u{number:03}" for number in range(700)]
    site.instance.add_dynamic_partitions(USERS, many)
    requests = site.tick(*(work(key) for key in many)).run_requests
    assert [len(request.run_config["ops"]["changed_users_records"]["config"]["users"]) for request in requests] == [
        USERS_A_RUN,
        USERS_A_RUN,
    ]
    for request in requests:
        site.queue(request)
    for request in site.tick(*(work(key) for key in many)).run_requests:
        site.queue(request)
    site.mirror.fallback = "MongoDB refuses our place in the change stream (code 286)"
    result = site.tick(*(work(key) for key in many))
    assert not result.run_requests
    assert "520 users wait for the next ticks" in str(result.skip_message)
    assert "a backfill of the atproto assets is the right tool" in str(result.skip_message)
    assert "Everything is compared, because MongoDB refuses our place" in str(result.skip_message)


def test_work_that_a_run_did_not_help_gets_one_of_its_own_and_then_rests(site: Site) -> None:
    requests = [len(site.tick(work("ada"), work("bea")).run_requests) for _ in range(5)]
    assert requests == [1, 2, 0, 0, 0]


def test_a_failed_read_fails_the_tick_and_leaves_its_place(site: Site) -> None:
    """DEL-5, WRITE-14."""
    site.tick()
    site.mirror.broken = ServiceUnreachable("MongoDB does not answer")
    with pytest.raises(ServiceUnreachable):
        site.tick(work("ada"))
    assert '"position":"1"' in str(site.cursor)


def test_a_run_over_several_users_says_of_each_what_the_partition_s_own_run_says(site: Site) -> None:
    """RUN-7, VERIFY-1."""
    result = site.run("cyd", "ada", "cyd")
    assert result.success
    assert sorted(site.mirror.turns) == ["ada", "cyd"]
    assert site.mirror.types == [("painting", "mood", "piece", "kidlisp", "tape")]
    assert all(site.made(asset) == {"ada", "cyd"} for asset in RECORDS)
    assert site.run_alone("bea").success
    found = {
        key: site.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=MOODS, asset_partitions=[key]), limit=1
        ).records[0].asset_materialization
        for key in ("ada", "bea")
    }  # fmt: skip
    said = {key: {n: v.value for n, v in made.metadata.items()} for key, made in found.items() if made is not None}
    assert said["ada"] == {**said["bea"], "seconds": said["ada"]["seconds"]}


def test_a_run_over_several_users_evaluates_the_checks(site: Site) -> None:
    """VERIFY-12, OPS-1."""
    item = site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    result = site.run("ada", "bea")
    assert result.success
    evaluated = {
        each.asset_key: each for each in result.get_asset_check_evaluations() if each.check_name == NO_QUARANTINED_ITEMS
    }
    paintings = records_key(media_type("painting"))
    assert {key: each.passed for key, each in evaluated.items()} == {key: key != paintings for key in RECORDS}
    (row,) = cells_of(evaluated[paintings].metadata["items"])
    assert (row["item"], row["user"]) == (item, "bea")
    names = {each.check_name for each in result.get_asset_check_evaluations()}
    assert names == {spec.name for spec in record_checks()}


def test_one_bad_user_of_several_is_observed_and_named_and_turns_red_by_a_run_of_its_own(site: Site) -> None:
    """RUN-1, RUN-5, OPS-1."""
    site.mirror.trouble("bea", *[ServerFailed("the PDS answered 502") for _ in range(4)])
    result = site.run("ada", "bea", "cyd")
    assert not result.success
    assert (site.mirror.turns.count("bea"), len(site.mirror.turns)) == (4, 6)
    assert site.made() == {"ada", "cyd"}
    assert site.statuses() == {"ada": "MATERIALIZED", "cyd": "MATERIALIZED"}
    observed = site.instance.fetch_observations(dg.AssetRecordsFilter(asset_key=MOODS), limit=9).records
    seen = [record.asset_observation for record in observed]
    assert {each.partition for each in seen if each is not None} == {"bea"}
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "1 of 3 users have to be run again (server-failed 1). bea: the PDS answered 502" in str(
        failure.user_failure_data.description
    )
    site.mirror.trouble("bea", *[ServerFailed("the PDS answered 502") for _ in range(4)])
    assert not site.run_alone("bea").success
    assert site.statuses()["bea"] == "FAILED"


def test_what_a_run_over_several_users_needs_is_a_pool_that_backfills_do_not_fill(site: Site) -> None:
    job = site.definitions.resolve_job_def(SYNC_CHANGED_USERS)
    (pool,) = {node.definition.pool for node in job.graph.nodes if isinstance(node.definition, dg.OpDefinition)}
    others = {each.op.pool for each in site.definitions.assets or () if isinstance(each, dg.AssetsDefinition)}
    assert pool is not None
    assert pool in POOL_LIMITS
    assert pool not in others


def test_a_run_that_names_a_user_who_is_gone_harms_nobody(site: Site) -> None:
    """RUN-4."""
    del site.mirror.known["bea"]
    assert site.run("ada", "bea").success
    assert site.made() == {"ada", "bea"}


def test_tags_of_runs_name_their_users_to_other_sensors(site: Site) -> None:
    request = site.tick(work("ada")).run_requests[0]
    assert request.tags[PARTITION] == "ada"
