"""The schedules, evaluated by a real Dagster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.atproto.types import Write
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.assets.records import CHANGED_STEP, STEP, SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.jobs import SCHEDULE, SYNC_USERS
from ac_pipeline.defs.schedules import INCREMENTAL_SYNC, NIGHTLY_RECONCILE, WEEKLY_VERIFICATION, ranges, schedules
from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.items import RepositoryCheckpoint
from ac_pipeline.mongo.changes.pending import Cause, Work
from ac_pipeline.settings import Timetable
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

pytestmark = pytest.mark.slow


class Site:
    """Definitions on a pipeline in memory, and an instance on disk: a schedule opens the instance by itself."""

    def __init__(self, instance: dg.DagsterInstance, *keys: str) -> None:
        self.instance, self.mirror = instance, ScriptedMirror(*keys)
        self.definitions = build_defs({"pipeline": self.mirror}, timetable=Timetable())
        instance.add_dynamic_partitions(USERS, keys)

    def tick(self, name: str, hour: int = 3) -> Any:
        repository = self.definitions.get_repository_def()
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=repository,
            scheduled_execution_time=datetime(2026, 1, 2, hour, tzinfo=UTC),
            resources={"pipeline": self.mirror},
        ) as context:
            return repository.get_schedule_def(name).evaluate_tick(context)

    def requests(self, name: str, hour: int = 3) -> list[dg.RunRequest]:
        return list(self.tick(name, hour).run_requests or [])

    def work(self, *keys: str) -> None:
        """These users have something new."""
        self.mirror.works = [Work(key, f"mood:{number:024x}", Cause.NEW, "m") for number, key in enumerate(keys)]

    def drift(self, *keys: str) -> None:
        """These users were synchronised; then another client changed their repositories."""
        for key in keys:
            made = self.mirror.pds.create_account(key, did=f"did:plc:{key}")
            (status,) = [each for each in self.mirror.pds.list_repositories() if each.did == made.did]
            self.mirror.left[status.did] = RepositoryCheckpoint(
                status.did, status.rev, datetime(2026, 1, 1, tzinfo=UTC)
            )
            write = Write("create", "app.bsky.feed.post", "3ldrift", {"$type": "app.bsky.feed.post", "text": "hello"})
            self.mirror.pds.apply_writes(made, [write], swap_commit=None)

    def queue(self, schedule: str) -> dg.DagsterRun:
        """An unfinished run of a schedule's."""
        job = self.definitions.resolve_job_def(SYNC_USERS)
        return self.instance.create_run_for_job(job, tags={SCHEDULE: schedule})

    def carry_out(self, request: dg.RunRequest, job: str) -> bool:
        made = self.definitions.resolve_job_def(request.job_name or job)
        done = made.execute_in_process(instance=self.instance, tags=request.tags, run_config=request.run_config)
        return bool(done.success)


def asked(requests: list[dg.RunRequest]) -> list[list[str]]:
    """The users of each run over changed users."""
    return [request.run_config["ops"][CHANGED_STEP]["config"]["users"] for request in requests]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as made:
        yield made


def test_the_night_requests_all_known_keys_in_ranges_and_adds_none(instance: dg.DagsterInstance) -> None:
    """RUN-10, RUN-11: what the requests name, Dagster can run; the next night's requests are others."""
    keys = [f"u{number}" for number in range(190)]
    site = Site(instance, *keys)
    requests = site.requests(NIGHTLY_RECONCILE)
    assert [(each.tags[RANGE_START], each.tags[RANGE_END]) for each in requests] == [("u0", "u179"), ("u180", "u189")]
    assert not {each.run_key for each in requests} & {each.run_key for each in site.requests(NIGHTLY_RECONCILE, 4)}
    assert instance.get_dynamic_partitions(USERS) == keys
    assert site.carry_out(requests[1], SYNC_USERS)
    assert sorted(site.mirror.turns) == sorted(keys[180:])
    assert (site.mirror.full, site.mirror.anew) == ([True], [False])


def test_an_hour_in_which_nothing_changed_costs_a_look_and_no_run(instance: dg.DagsterInstance) -> None:
    site = Site(instance, "ada", "bea")
    found = site.tick(INCREMENTAL_SYNC)
    assert not found.run_requests
    assert "No run to ask for: the look compared all documents, and 0 repositories with their last sync" in str(
        found.skip_message
    )
    assert site.mirror.turns == []


def test_an_hour_requests_who_has_new_work_or_drifted_together_and_nobody_else(instance: dg.DagsterInstance) -> None:
    """RUN-10, RUN-11, VERIFY-10: in the order of the keys; who has no partition yet waits for it."""
    site = Site(instance, "ada", "bea", "cyd", "dan")
    site.work("dan", "nobody", "bea")
    site.drift("ada", "bea")
    (request,) = site.requests(INCREMENTAL_SYNC)
    assert asked([request]) == [["ada", "bea", "dan"]]
    assert (site.mirror.synchronised, site.mirror.served) == ({"did:plc:ada", "did:plc:bea"},) * 2
    (later,) = site.requests(INCREMENTAL_SYNC, 4)
    assert request.run_key != later.run_key
    assert instance.get_dynamic_partitions(USERS) == ["ada", "bea", "cyd", "dan"]
    assert site.carry_out(request, SYNC_CHANGED_USERS)
    assert sorted(site.mirror.turns) == ["ada", "bea", "dan"]
    assert (site.mirror.full, site.mirror.anew) == ([False], [False])


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (60, [60]), (130, [60, 60, 10])])
def test_an_hour_has_at_most_so_many_users_in_a_run(instance: dg.DagsterInstance, count: int, sizes: list[int]) -> None:
    keys = [f"u{number}" for number in range(140)]
    site = Site(instance, *keys)
    site.work(*keys[:count])
    found = asked(site.requests(INCREMENTAL_SYNC))
    assert [len(each) for each in found] == sizes
    assert [key for each in found for key in each] == keys[:count]


def test_an_hour_asks_for_nobody_whom_a_run_is_about_already(instance: dg.DagsterInstance) -> None:
    """The rule of the sensors."""
    site = Site(instance, "ada", "bea")
    site.work("ada", "bea")
    site.drift("bea")
    job = site.definitions.resolve_job_def(SYNC_CHANGED_USERS)
    run = instance.create_run_for_job(job, run_config=run_config(["bea"]))
    assert asked(site.requests(INCREMENTAL_SYNC)) == [["ada"]]
    site.work("bea")
    assert "1 with work are being synchronised" in str(site.tick(INCREMENTAL_SYNC).skip_message)
    instance.report_run_canceled(run)
    assert asked(site.requests(INCREMENTAL_SYNC)) == [["bea"]]


def test_a_look_that_does_not_end_loses_nobody(instance: dg.DagsterInstance) -> None:
    """All are asked for, but who is in a run."""
    keys = [f"u{number}" for number in range(190)]
    site = Site(instance, *keys)
    site.mirror.slow = "25 s were not enough to compare all documents"
    job = site.definitions.resolve_job_def(SYNC_CHANGED_USERS)
    instance.create_run_for_job(job, run_config=run_config(["u3"]))
    found = asked(site.requests(INCREMENTAL_SYNC))
    assert [len(each) for each in found] == [180, 9]
    assert {key for each in found for key in each} == {*keys} - {"u3"}


def test_an_hour_that_cannot_read_fails_and_the_next_one_looks_again(instance: dg.DagsterInstance) -> None:
    """GUARD-2: nothing is requested for what is not known."""
    site = Site(instance, "ada")
    site.work("ada")
    site.mirror.broken = ServiceUnreachable("MongoDB does not answer")
    with pytest.raises(dg.DagsterError) as failed:
        site.tick(INCREMENTAL_SYNC)
    assert isinstance(failed.value.__cause__, ServiceUnreachable)
    site.mirror.broken = None
    assert asked(site.requests(INCREMENTAL_SYNC)) == [["ada"]]


def test_a_person_has_renditions_made_again_from_the_launchpad(instance: dg.DagsterInstance) -> None:
    """MEDIA-21."""
    site = Site(instance, "ada")
    config = {"ops": {STEP: {"config": {"renditions": True}}}}
    job = site.definitions.resolve_job_def(SYNC_USERS)
    tags = {RANGE_START: "ada", RANGE_END: "ada"}
    assert job.execute_in_process(instance=instance, tags=tags, run_config=config).success
    assert (site.mirror.anew, site.mirror.full) == ([True], [False])


@pytest.mark.parametrize(
    ("name", "unfinished", "waits"),
    [
        (INCREMENTAL_SYNC, INCREMENTAL_SYNC, True),
        (INCREMENTAL_SYNC, NIGHTLY_RECONCILE, True),
        (NIGHTLY_RECONCILE, NIGHTLY_RECONCILE, True),
        (NIGHTLY_RECONCILE, INCREMENTAL_SYNC, False),
        (INCREMENTAL_SYNC, "somebody_elses", False),
        (INCREMENTAL_SYNC, WEEKLY_VERIFICATION, False),
        (WEEKLY_VERIFICATION, WEEKLY_VERIFICATION, True),
        (WEEKLY_VERIFICATION, INCREMENTAL_SYNC, False),
    ],
)
def test_a_schedule_waits_for_the_runs_of_its_last_tick_and_the_hourly_one_for_the_night_too(
    instance: dg.DagsterInstance, name: str, unfinished: str, waits: bool
) -> None:
    site = Site(instance, "ada", "bea")
    site.work("bea")
    run = site.queue(unfinished)
    assert bool(site.requests(name)) is not waits
    if waits:
        assert f"1 runs of an earlier tick of {unfinished} are not done yet" in str(site.tick(name).skip_message)
    instance.report_run_canceled(run)
    assert len(site.requests(name)) == 1


def test_the_verification_of_a_week_is_one_run_over_everybody(instance: dg.DagsterInstance) -> None:
    """RUN-3: it reads only, and knows by itself who there is; the next week's is another one."""
    site = Site(instance, *(f"u{number}" for number in range(130)))
    (request,) = site.requests(WEEKLY_VERIFICATION)
    assert not {RANGE_START, RANGE_END} & request.tags.keys()
    (later,) = site.requests(WEEKLY_VERIFICATION, 4)
    assert request.run_key != later.run_key
    job = site.definitions.resolve_job_def("verify_users")
    assert job.execute_in_process(instance=instance, run_config=request.run_config).success


def test_without_users_a_schedule_names_the_sensor_that_is_missing(instance: dg.DagsterInstance) -> None:
    """RUN-11: it adds no keys by itself."""
    site = Site(instance)
    assert "start the sensor users_sensor" in str(site.tick(INCREMENTAL_SYNC).skip_message)
    assert not instance.get_dynamic_partitions(USERS)


@pytest.mark.parametrize(
    ("keys", "runs"), [(0, 0), (1, 1), (180, 1), (181, 2), (4_202, 24), (18_000, 100), (18_001, 100)]
)
def test_a_tick_requests_at_most_a_hundred_runs_for_any_number_of_users(keys: int, runs: int) -> None:
    """RUN-3, RUN-10."""
    named = [str(number) for number in range(keys)]
    found = list(ranges(named))
    assert len(found) == runs
    assert [key for first, last in found for key in named[int(first) : int(last) + 1]] == named


def test_a_full_sync_of_4202_users_is_24_runs_of_one_tick(instance: dg.DagsterInstance) -> None:
    """RUN-3: each of them is a run Dagster would start; together they are about every user once."""
    keys = [f"user{number}" for number in range(4_202)]
    requests = Site(instance, *keys).requests(NIGHTLY_RECONCILE)
    assert len(requests) == 24
    places = {key: place for place, key in enumerate(keys)}
    covered = [
        key for each in requests for key in keys[places[each.tags[RANGE_START]] : places[each.tags[RANGE_END]] + 1]
    ]
    assert covered == keys


def test_the_crons_of_the_settings_are_those_of_the_schedules() -> None:
    timetable = Timetable(
        ac_cron_sync="*/10 * * * *", ac_cron_reconcile="5,35 2-4/2 1 * 5-7", ac_cron_verify="0 6 * * MON-FRI"
    )
    repository = build_defs(timetable=timetable).get_repository_def()
    crons = {each.name: each.cron_schedule for each in repository.schedule_defs}
    assert crons[INCREMENTAL_SYNC] == "*/10 * * * *"
    assert crons[NIGHTLY_RECONCILE] == "5,35 2-4/2 1 * 5-7"
    assert crons[WEEKLY_VERIFICATION] == "0 6 * * MON-FRI"
    assert {each.execution_timezone for each in repository.schedule_defs} == {"UTC"}


@pytest.mark.parametrize("line", ["", "0 * * *", "60 * * * *", "0 0 30 2 *", "hourly"])
@pytest.mark.parametrize("name", ["ac_cron_sync", "ac_cron_reconcile", "ac_cron_verify"])
def test_a_wrong_cron_line_is_one_sentence_that_names_its_variable(name: str, line: str) -> None:
    """Dagster's own parser judges it."""
    with pytest.raises(Misconfigured, match=rf"^{name.upper()} must be a cron line"):
        schedules(Timetable(**{name: line}))


def test_a_wrong_cron_line_keeps_the_code_location_from_loading_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ac_pipeline.definitions"],
        cwd=tmp_path,
        env={"AC_CRON_SYNC": "hourly"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Misconfigured: AC_CRON_SYNC must be a cron line" in done.stderr
