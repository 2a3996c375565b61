"""Which users the drift sensor asks for, and when again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.types import RepositoryStatus, Write
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.assets.records import changed_users_job
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.sensors.drift import ASK_AGAIN, MOST_REMEMBERED, DriftPlan, make_drift_sensor, plan_drift
from ac_pipeline.errors import NoCredentials, ServiceUnreachable
from ac_pipeline.items import RepositoryCheckpoint
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

NOW = 1_800_000_000.0
BEFORE = datetime.fromtimestamp(NOW - 60, UTC)


def account(key: str) -> Account:
    return Account(f"auth0|{key}", key, did=f"did:plc:{key}")


def hosted(key: str, rev: str, status: str | None = None) -> RepositoryStatus:
    return RepositoryStatus(f"did:plc:{key}", "bafyhead", rev, status is None, status)


def mark(key: str, rev: str, at: datetime = BEFORE) -> RepositoryCheckpoint:
    return RepositoryCheckpoint(f"did:plc:{key}", rev, at)


class World:
    """Some users, all synchronised at revision 1, and looks at them."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)
        self.accounts = {key: account(key) for key in keys}
        self.repositories = {key: hosted(key, "1") for key in keys}
        self.marks = {f"did:plc:{key}": mark(key, "1") for key in keys}
        self.busy: set[str] = set()
        self.cursor: str | None = None
        self.now = NOW

    def look(self, *, act: bool = True) -> DriftPlan:
        plan = plan_drift(
            self.accounts,
            self.keys,
            self.repositories.values(),
            marks=self.marks,
            busy=self.busy,
            cursor=self.cursor,
            now=self.now,
        )
        self.cursor = plan.cursor(plan.drifted if act else ())
        return plan

    def drifted(self) -> list[str]:
        return [each.key for each in self.look().drifted]

    def touch(self, key: str, rev: str) -> None:
        self.repositories[key] = hosted(key, rev)


@pytest.fixture
def world() -> World:
    return World("ada", "bea", "cyd")


@pytest.mark.parametrize("rev", ["2", "0"], ids=["another client wrote", "the PDS was restored"])
def test_only_a_repository_that_is_not_as_we_left_it_is_asked_for(world: World, rev: str) -> None:
    """VERIFY-9."""
    assert world.drifted() == []
    world.touch("bea", rev)
    (drift,) = world.look().drifted
    assert (drift.key, drift.did, drift.left, drift.found) == ("bea", "did:plc:bea", "1", rev)


def test_a_repository_that_was_never_synchronised_is_no_drift(world: World) -> None:
    world.touch("bea", "2")
    del world.marks["did:plc:bea"]
    assert world.drifted() == []


def test_strangers_blocked_accounts_and_users_without_a_key_are_left_alone(world: World) -> None:
    """RUN-11, ACCT-1."""
    for key in world.keys:
        world.touch(key, "2")
    del world.accounts["ada"]
    world.accounts["bea"] = replace(world.accounts["bea"], blocked=NoCredentials("no password"))
    world.keys.remove("cyd")
    assert world.drifted() == []


def test_accounts_the_pds_does_not_serve_are_told_apart_and_not_asked_for(world: World) -> None:
    """ACCT-2: a sync would only find them blocked."""
    world.repositories["ada"] = hosted("ada", "2", "takendown")
    del world.repositories["bea"]
    plan = world.look()
    assert (plan.drifted, plan.inactive, plan.gone) == ([], [("ada", "takendown")], ["bea"])


def test_a_busy_user_is_passed_over_and_seen_again_afterwards(world: World) -> None:
    world.touch("bea", "2")
    world.busy = {"bea"}
    plan = world.look()
    assert (plan.drifted, plan.busy) == ([], ["bea"])
    world.busy = set()
    assert world.drifted() == ["bea"]


@pytest.mark.parametrize(("seconds", "drifted"), [(-0.001, ["bea"]), (0.0, []), (1.0, [])])
def test_a_sync_that_ended_while_we_looked_is_no_drift(world: World, seconds: float, drifted: list[str]) -> None:
    """What we read of the PDS may be older than the mark."""
    world.marks["did:plc:bea"] = mark("bea", "2", datetime.fromtimestamp(NOW + seconds, UTC))
    assert world.drifted() == drifted


def test_a_run_that_does_not_help_is_not_requested_at_every_tick_but_again_after_an_hour(world: World) -> None:
    """RUN-10: nor does the time its run takes count as forgotten."""
    world.touch("bea", "2")
    assert world.drifted() == ["bea"]
    world.busy = {"bea"}
    assert world.look().busy == ["bea"]
    world.busy = set()
    assert world.look().asked == ["bea"]
    world.now = NOW + ASK_AGAIN - 1
    assert world.look().asked == ["bea"]
    world.now = NOW + ASK_AGAIN
    assert world.drifted() == ["bea"]
    assert world.drifted() == []


def test_another_change_to_the_same_repository_is_asked_for_at_once(world: World) -> None:
    world.touch("bea", "2")
    assert world.drifted() == ["bea"]
    world.touch("bea", "3")
    assert world.drifted() == ["bea"]


def test_what_was_not_requested_for_want_of_room_stays_asked_for(world: World) -> None:
    world.touch("bea", "2")
    assert world.look(act=False).drifted
    assert world.drifted() == ["bea"]


def test_what_is_remembered_is_bounded_small_and_forgotten_once_all_is_well() -> None:
    """RUN-10: 4,202 users in 40 kB, and never more than the bound."""
    world = World(*(f"user{number}" for number in range(MOST_REMEMBERED + 1)))
    for key in world.keys[:4_202]:
        world.touch(key, "2")
    assert len(world.drifted()) == 4_202
    assert world.cursor is not None
    assert len(world.cursor) < 40_000
    for key in world.keys[4_202:]:
        world.touch(key, "2")
    assert len(world.drifted()) == MOST_REMEMBERED - 4_202
    assert world.drifted() == []
    for key in world.keys:
        world.touch(key, "1")
    assert world.drifted() == []
    assert world.cursor == "{}"


@pytest.mark.parametrize("cursor", ["", "no json", "[]", '{"x":"y"}', '{"1":2}', "null", '{"1800000000":"?"}'])
def test_a_cursor_that_cannot_be_read_costs_a_run_too_many_and_no_more(world: World, cursor: str) -> None:
    world.touch("bea", "2")
    world.cursor = cursor
    assert world.drifted() == ["bea"]
    assert world.drifted() == []


class Ticks:
    """Ticks of the sensor, one after another, on a PDS in memory."""

    def __init__(self, instance: dg.DagsterInstance, *keys: str) -> None:
        self.instance, self.mirror, self.now = instance, ScriptedMirror(*keys), NOW
        self.cursor: str | None = None
        self.definitions = build_defs({"pipeline": self.mirror})
        self.sensor = make_drift_sensor(
            changed_users_job(dg.ResourceDefinition.hardcoded_resource(self.mirror)), lambda: self.now
        )
        instance.add_dynamic_partitions(USERS, keys)
        self.hosted = {key: self.mirror.pds.create_account(key, did=f"did:plc:{key}") for key in keys}
        self.settle()

    def settle(self) -> None:
        """Let every repository be as a sync left it."""
        for status in self.mirror.pds.list_repositories():
            self.mirror.left[status.did] = RepositoryCheckpoint(status.did, status.rev, BEFORE)

    def post(self, key: str) -> None:
        """A commit of somebody else's."""
        write = Write("create", "app.bsky.feed.post", "3ldrift", {"$type": "app.bsky.feed.post", "text": "hello"})
        self.mirror.pds.apply_writes(self.hosted[key], [write], swap_commit=None)

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=self.definitions)
        result = self.sensor(context, pipeline=self.mirror)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with open_instance() as made:
        yield made


@pytest.mark.parametrize("drifted", [["cyd"], ["bea", "cyd", "eve"]], ids=["one user", "several users"])
def test_a_tick_requests_one_run_that_dagster_can_run_for_exactly_the_users_that_drifted(
    instance: dg.DagsterInstance, drifted: list[str]
) -> None:
    """VERIFY-9, RUN-10: without a run key, with its reason."""
    ticks = Ticks(instance, "ada", "bea", "cyd", "dan", "eve")
    assert not ticks.tick().run_requests
    for key in drifted:
        ticks.post(key)
    (request,) = ticks.tick().run_requests or []
    assert (request.run_key, request.tags["ac_pipeline/reason"]) == (None, "drift")
    job = ticks.definitions.resolve_job_def(str(request.job_name))
    result = job.execute_in_process(
        instance=instance, tags=request.tags, partition_key=request.partition_key, run_config=request.run_config
    )
    assert result.success
    assert sorted(ticks.mirror.turns) == drifted
    assert instance.get_materialized_partitions(dg.AssetKey(["atproto", "moods"])) == set(drifted)
    quiet = ticks.tick()
    assert not quiet.run_requests
    assert f"{len(drifted)} repositories were changed by somebody else" in str(quiet.skip_reason)


@pytest.mark.parametrize("tags", [{PARTITION: "bea"}, {RANGE_START: "ada", RANGE_END: "bea"}], ids=["one", "range"])
def test_a_user_with_a_queued_run_is_passed_over(instance: dg.DagsterInstance, tags: dict[str, str]) -> None:
    """RUN-10: its run will find what changed."""
    ticks = Ticks(instance, "ada", "bea")
    ticks.post("bea")
    run = instance.create_run_for_job(ticks.definitions.resolve_job_def(SYNC_USERS), tags=tags)
    assert not ticks.tick().run_requests
    instance.report_run_canceled(run)
    assert len(ticks.tick().run_requests or []) == 1


def test_a_failed_read_of_the_pds_fails_the_tick_and_forgets_nothing(instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance, "ada")
    ticks.post("ada")
    ticks.tick()
    before = ticks.cursor
    ticks.mirror.broken = ServiceUnreachable("the PDS does not answer")
    with pytest.raises(ServiceUnreachable):
        ticks.tick()
    assert ticks.cursor == before


def test_of_1001_repositories_each_drifted_one_is_asked_for_once_in_a_bounded_number_of_runs(
    instance: dg.DagsterInstance,
) -> None:
    """RUN-3, RUN-10: every second one drifted, so that no two are neighbours."""
    ticks = Ticks(instance, *(f"user{number}" for number in range(1_001)))
    drifted = [f"user{number}" for number in range(0, 1_001, 2)]
    for key in drifted:
        ticks.post(key)
    requests = ticks.tick().run_requests or []
    assert len(requests) == 9
    found = [key for each in requests for op in each.run_config["ops"].values() for key in op["config"]["users"]]
    assert found == drifted
    assert not ticks.tick().run_requests
