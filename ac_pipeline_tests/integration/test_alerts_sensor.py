"""The alerts sensor on a real instance: real runs of the definitions, real rows of backfills, ticks and checks."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.alerts import Memory
from ac_pipeline.defs.assets.changed_users import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.assets.renditions import RENDITIONS
from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.outlet import Outlet
from ac_pipeline.defs.partitions import PARTITION, RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.sensors.alerts import alerts_sensor, look
from ac_pipeline.errors import InvalidRecord, ServerFailed, ServiceUnreachable
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.redaction import Redactor
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import automatic, backfill, heartbeat, tick
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

ROOT = Path(__file__).parents[2]
RECORDS = [records_key(media) for media in MEDIA_TYPES]
PAINTINGS = records_key(media_type("painting"))
THUMBNAILS = RENDITIONS[0].key
KEYS = ["ada", "bea", "cyd", "dan"]
DAEMONS = ("SENSOR", "BACKFILL", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER", "ASSET")


class Site:
    """An instance on disk, runs in it, and one look at it after another."""

    def __init__(self, instance: dg.DagsterInstance, keys: list[str]) -> None:
        self.instance, self.keys = instance, keys
        self.mirror = ScriptedMirror(*keys)
        self.memory: Memory | None = None
        self.ahead = 0.0
        instance.add_dynamic_partitions(USERS, keys)
        definitions = build_defs({"mirror": self.mirror}, retry_seconds=0)
        self.everything = definitions.resolve_implicit_global_asset_job_def()
        self.changed = definitions.resolve_job_def(SYNC_CHANGED_USERS)
        self.sync = definitions.resolve_job_def(SYNC_USERS)
        self.repository = definitions.get_repository_def()
        self.checks = self.repository.asset_graph.asset_check_keys
        self.beat()

    @property
    def now(self) -> float:
        return time.time() + self.ahead

    def beat(self, *daemons: str) -> None:
        for daemon in daemons or DAEMONS:
            self.instance.add_daemon_heartbeat(heartbeat(daemon, self.now))

    def look(self) -> list[str]:
        """The headlines of one look."""
        return [alert.headline for alert in self.alerts()]

    def alerts(self) -> list[Any]:
        self.memory, alerts = look(self.instance, self.checks, self.memory, self.now)
        return alerts

    def run(
        self, *assets: dg.AssetKey, first: str | None = None, last: str | None = None, **tags: str
    ) -> dg.ExecuteInProcessResult:
        first, last = first or self.keys[0], last or self.keys[-1]
        which = {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}
        named = {f"dagster/{name}": value for name, value in tags.items()}
        return self.everything.execute_in_process(
            instance=self.instance,
            asset_selection=list(assets or (THUMBNAILS,)),
            tags={**which, **named},
            raise_on_error=False,
        )

    def fail(self, *keys: str, error: Exception | None = None) -> None:
        """Let the next run of these users fail, all attempts of it; without another error, at the first."""
        for key in keys:
            self.mirror.troubles.pop(key, None)
            self.mirror.trouble(key, *[error or KeyError("nobody foresaw this") for _ in range(4)])

    def heal(self) -> None:
        self.mirror.troubles.clear()

    def store(self, id: str, status: str, *assets: dg.AssetKey, ended: bool = True, **more: Any) -> None:
        row = backfill(id, status, list(assets), begun=self.now, ended=self.now if ended else None, **more)
        if self.instance.get_backfill(id) is None:
            self.instance.add_backfill(row)
        else:
            self.instance.update_backfill(row)


@pytest.fixture
def instance(services_folder: Path) -> Iterator[dg.DagsterInstance]:
    """With files, as one without knows no schedules and daemons; on the memory file system, as it writes a lot."""
    home = services_folder / f"dagster-{uuid.uuid4().hex}"
    home.mkdir()
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    settings["run_retries"]["max_retries"] = 1
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with open_instance(home) as made:
        yield made
    shutil.rmtree(home)


@pytest.fixture
def site(instance: dg.DagsterInstance) -> Site:
    return Site(instance, KEYS)


# --- backfills ---


def test_a_backfill_that_fails_is_one_message_and_one_more_when_its_users_are_repaired(site: Site) -> None:
    """RUN-9, OPS-3: by whatever repairs them, here a re-execution of what failed."""
    assert site.look() == []
    site.store("first", "REQUESTED", THUMBNAILS, ended=False)
    assert site.look() == []
    site.fail("bea", "dan", error=ServerFailed("the PDS answered 502"))
    assert not site.run(THUMBNAILS, backfill="first").success
    assert site.look() == []
    site.store("first", "COMPLETED_FAILED", THUMBNAILS)
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Backfill first of renditions/painting_thumbnails ended with failed runs"
    assert (alert.facts.partitions, alert.facts.runs) == ((2, 4), (1, 1))
    assert (dict(alert.facts.classes), list(alert.facts.names)) == ({"server-failed": 2}, ["bea", "dan"])
    assert (alert.facts.words, alert.facts.path) == ("the PDS answered 502", "/runs/b/first")
    assert site.look() == []
    site.heal()
    site.run(THUMBNAILS, first="bea", last="bea")
    assert site.look() == []
    site.run(THUMBNAILS, first="dan", last="dan")
    assert site.look() == ["[recovered] Backfill first is repaired: what had failed is done by now"]
    assert site.look() == []


def test_a_reexecution_that_fails_again_is_a_message_of_its_own_and_both_are_repaired_by_one(site: Site) -> None:
    site.look()
    for number, id in enumerate(["first", "second", "third"]):
        site.heal()
        site.fail(*KEYS[number:2])
        site.run(THUMBNAILS, backfill=id)
        tags = {} if id == "first" else {"root_backfill_id": "first", "parent_backfill_id": "first"}
        site.store(id, "COMPLETED_FAILED" if number < 2 else "COMPLETED_SUCCESS", THUMBNAILS, **tags)
        found = site.look()
        assert len(found) == 1
        assert found[0].startswith(f"[failed] Backfill {id}" if number < 2 else "[recovered] Backfill second")


def test_five_hundred_failing_partitions_are_one_message(instance: dg.DagsterInstance) -> None:
    """RUN-9: with the classes of their errors."""
    keys = [f"u{number:03}" for number in range(501)]
    site = Site(instance, keys)
    site.look()
    site.fail(*keys[:400], error=InvalidRecord("escaped"))
    site.fail(*keys[400:500], error=KeyError("nobody foresaw this"))
    for first, last in ((0, 199), (200, 399), (400, 500)):
        site.run(THUMBNAILS, first=keys[first], last=keys[last], backfill="huge")
    site.store("huge", "COMPLETED_FAILED", THUMBNAILS)
    (alert,) = site.alerts()
    assert (alert.facts.partitions, alert.facts.runs) == ((500, 501), (3, 3))
    assert sum(alert.facts.classes.values()) == 500
    assert "u000, u001, u002, u003, u004 and 495 more." in alert.text(None, str)


def test_a_backfill_that_dagster_itself_gave_up_says_why_and_the_next_good_one_repairs_it(site: Site) -> None:
    site.look()
    site.store("first", "FAILED", PAINTINGS, error="the code location could not be reached")
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Backfill first of atproto/paintings failed"
    assert alert.facts.words == "the code location could not be reached"
    site.store("other", "COMPLETED_SUCCESS", THUMBNAILS)
    assert site.look() == []
    site.store("second", "COMPLETED_SUCCESS", *RECORDS)
    assert site.look() == ["[recovered] Backfill first is repaired: what had failed is done by now"]


@pytest.mark.parametrize("status", ["CANCELED", "COMPLETED_SUCCESS"])
def test_a_backfill_that_ended_well_or_by_hand_is_no_message(site: Site, status: str) -> None:
    site.look()
    site.store("first", status, PAINTINGS)
    assert site.look() == []


def test_a_backfill_that_ended_between_two_looks_among_many_is_not_missed(site: Site) -> None:
    site.store("before", "COMPLETED_SUCCESS", PAINTINGS)
    site.look()
    for number in range(25):
        site.store(f"b{number:02}", "FAILED" if number in {0, 24} else "COMPLETED_SUCCESS", THUMBNAILS, error="gone")
    assert [line.split()[2] for line in site.look() if "[failed]" in line] == ["b00", "b24"]


def test_started_fresh_it_replays_no_history(site: Site) -> None:
    site.fail("bea")
    site.run(THUMBNAILS, backfill="old")
    site.store("old", "COMPLETED_FAILED", THUMBNAILS)
    site.run(first="ada", last="dan", schedule_name="sync_every_hour", tick="1")
    site.mirror.quarantine("ada", media_type("painting"), "no candidate is left")
    site.heal()
    site.run(PAINTINGS)
    state = site.instance.add_instigator_state(
        automatic("sensor", "users_sensor", running=True, since=site.now - 9_000)
    )
    for ago in (60, 30):
        site.instance.create_tick(tick(state, "FAILURE", site.now - ago, "no"))
    assert site.look() == []
    assert site.look() == []


# --- runs of schedules and sensors ---


def test_the_runs_of_a_schedule_fail_once_and_succeed_again_once(site: Site) -> None:
    """RUN-9: two hours that fail are one failure; the parts of an hour are counted together."""
    site.look()
    site.fail("bea")
    site.run(first="ada", last="bea", schedule_name="sync_every_hour", tick="1")
    site.run(first="cyd", last="dan", schedule_name="sync_every_hour", tick="1")
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Runs of the schedule sync_every_hour failed"
    assert (alert.facts.partitions, alert.facts.runs) == ((1, 4), (1, 2))
    site.fail("bea", "cyd")
    site.run(first="ada", last="dan", schedule_name="sync_every_hour", tick="2")
    assert site.look() == []
    site.heal()
    site.run(first="ada", last="bea", schedule_name="sync_every_hour", tick="3")
    assert site.look() == []
    site.run(first="cyd", last="dan", schedule_name="sync_every_hour", tick="3")
    assert site.look() == [
        "[recovered] Runs of the schedule sync_every_hour succeed again: what had failed is done by now"
    ]
    assert site.look() == []


def test_a_run_over_users_without_a_range_is_repaired_when_they_are_done_later(site: Site) -> None:
    """Its op targets no partition, so its failure turns none red: what it says of each user is read."""
    site.look()
    site.run(*RECORDS)
    site.fail("bea")
    site.changed.execute_in_process(
        instance=site.instance,
        run_config=run_config(["ada", "bea"]),
        tags={"dagster/sensor_name": "new_content_sensor", "dagster/tick": "1"},
        raise_on_error=False,
    )
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Runs of the sensor new_content_sensor failed"
    assert (alert.facts.partitions, list(alert.facts.names)) == ((1, 2), ["bea"])
    site.heal()
    site.run(*RECORDS, first="ada", last="ada")
    assert site.look() == []
    site.run(*RECORDS, first="bea", last="bea")
    assert site.look() == [
        "[recovered] Runs of the sensor new_content_sensor succeed again: what had failed is done by now"
    ]


def test_a_run_that_a_person_repairs_before_the_look_is_no_message(site: Site) -> None:
    site.look()
    site.fail("bea")
    site.run(schedule_name="sync_every_hour", tick="1")
    site.heal()
    site.run(first="bea", last="bea")
    assert site.look() == []


def test_single_runs_of_a_person_are_no_message(site: Site) -> None:
    site.look()
    site.fail("bea")
    assert not site.run(THUMBNAILS).success
    assert site.look() == []


def test_the_runs_of_one_tick_are_judged_when_the_last_has_ended_or_after_half_an_hour(site: Site) -> None:
    site.look()
    site.instance.create_run_for_job(
        site.sync, tags={PARTITION: "dan", "dagster/sensor_name": "drift_sensor", "dagster/tick": "7"}
    )
    site.fail("bea")
    site.run(first="bea", last="bea", sensor_name="drift_sensor", tick="7")
    assert site.look() == []
    site.ahead = 1_795
    site.beat()
    assert site.look() == []
    site.ahead = 1_860
    site.beat()
    assert site.look() == ["[failed] Runs of the sensor drift_sensor failed"]


def retried(site: Site, run_id: str, parent: dg.DagsterRun) -> dg.DagsterRun:
    """A run as the daemon launches it for one whose process died."""
    lineage = {"parent_run_id": parent.run_id, "root_run_id": parent.run_id, "retry_number": "1"}
    kept = {name: value for name, value in parent.tags.items() if "will_retry" not in name}
    return site.instance.create_run_for_job(
        site.sync,
        run_id=run_id,
        parent_run_id=parent.run_id,
        root_run_id=parent.run_id,
        tags={**kept, **{f"dagster/{name}": value for name, value in lineage.items()}},
    )


def test_a_run_whose_process_died_counts_by_its_automatic_retry(site: Site) -> None:
    """RUN-9, OPS-3."""
    site.look()
    tags = {PARTITION: "ada", "dagster/schedule_name": "sync_every_hour", "dagster/tick": "1"}
    died = site.instance.create_run_for_job(site.sync, tags=tags)
    site.instance.report_run_failed(died)
    assert site.look() == []
    id = "11111111-1111-4111-8111-111111111111"
    site.instance.add_run_tags(died.run_id, {"dagster/auto_retry_run_id": id})
    again = retried(site, id, died)
    assert site.look() == []
    site.instance.report_run_failed(again)
    (alert,) = site.alerts()
    assert (alert.facts.runs, alert.facts.partitions, dict(alert.facts.classes)) == ((1, 1), (1, 1), {"run-crashed": 1})


def test_a_retry_that_never_comes_is_not_waited_for_without_end(site: Site) -> None:
    site.look()
    tags = {PARTITION: "ada", "dagster/schedule_name": "s", "dagster/tick": "1"}
    site.instance.report_run_failed(site.instance.create_run_for_job(site.sync, tags=tags))
    assert site.look() == []
    site.ahead = 620
    site.beat()
    assert len(site.look()) == 1


# --- ticks ---


class Automatic:
    """A sensor or schedule that is turned on, and its ticks."""

    def __init__(self, site: Site, kind: str, name: str, **more: Any) -> None:
        self.site = site
        self.state = site.instance.add_instigator_state(automatic(kind, name, running=True, since=site.now, **more))

    def tick(self, status: str, error: str = "") -> None:
        self.site.instance.create_tick(tick(self.state, status, self.site.now, error))

    def turn_off(self) -> None:
        self.site.instance.update_instigator_state(self.state.with_status(type(self.state.status).STOPPED))


def test_ticks_that_fail_twice_are_one_message_and_one_when_they_succeed_again(site: Site) -> None:
    """RUN-9."""
    sensor = Automatic(site, "sensor", "users_sensor")
    site.look()
    sensor.tick("FAILURE", "MongoDB does not answer")
    site.ahead = 60
    assert site.look() == []
    sensor.tick("FAILURE", "MongoDB does not answer")
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Ticks of the sensor users_sensor fail"
    assert (alert.facts.words, alert.facts.path) == (
        "MongoDB does not answer",
        "/locations/ac_pipeline/sensors/users_sensor",
    )
    sensor.tick("STARTED")
    sensor.tick("FAILURE", "MongoDB does not answer")
    assert site.look() == []
    sensor.tick("SKIPPED")
    assert site.look() == ["[recovered] Ticks of the sensor users_sensor succeed again"]


@pytest.mark.parametrize(("seconds", "told"), [(28, 0), (31, 1)])
def test_a_quick_sensor_may_fail_for_half_a_minute(site: Site, seconds: int, told: int) -> None:
    """A service that restarts fails several ticks of a sensor that looks every 5 seconds."""
    sensor = Automatic(site, "sensor", "new_content_sensor", interval=5)
    site.look()
    start = site.now
    for offset in range(0, seconds - 1, 5):
        site.instance.create_tick(tick(sensor.state, "FAILURE", start + offset, "MongoDB does not answer"))
    site.ahead = seconds
    assert len(site.look()) == told


def test_one_failed_tick_of_a_schedule_is_enough(site: Site) -> None:
    schedule = Automatic(site, "schedule", "sync_every_hour")
    site.look()
    schedule.tick("FAILURE", "no")
    assert site.look() == ["[failed] Ticks of the schedule sync_every_hour fail"]
    schedule.tick("SUCCESS")
    assert site.look() == ["[recovered] Ticks of the schedule sync_every_hour succeed again"]


@pytest.mark.parametrize(("interval", "quiet"), [(30, 300), (60, 300), (120, 600)])
def test_a_sensor_that_is_on_and_stops_ticking_is_noticed(site: Site, interval: int, quiet: int) -> None:
    """RUN-9."""
    sensor = Automatic(site, "sensor", "users_sensor", interval=interval)
    site.look()
    sensor.tick("SKIPPED")
    for site.ahead in range(0, quiet, 200):
        site.beat()
        assert site.look() == []
    site.ahead = quiet - 5
    assert site.look() == []
    site.ahead = quiet + 5
    assert site.look() == ["[failed] Sensor users_sensor is on and does not tick"]
    assert site.look() == []
    sensor.tick("SKIPPED")
    assert site.look() == ["[recovered] Sensor users_sensor ticks again"]


@pytest.mark.parametrize(("cron", "hours"), [("0 * * * *", 1), ("30 3 * * *", 24), ("0 5 * * 0", 168)])
def test_a_schedule_is_silent_when_it_missed_two_of_its_times(site: Site, cron: str, hours: int) -> None:
    """RUN-9."""
    Automatic(site, "schedule", "sync", cron=cron)
    site.look()
    seen = []
    for quarter in range(1, 13):
        site.ahead = quarter * hours * 900
        site.beat()
        awake(site)
        if site.look():
            seen.append(quarter)
    # Two times are missed after one to two intervals, plus five minutes.
    assert len(seen) == 1
    assert 4 <= seen[0] <= 9


def awake(site: Site) -> None:
    """As if the alerts sensor had ticked all the time."""
    assert site.memory is not None
    site.memory = Memory(**{**{name: getattr(site.memory, name) for name in Memory.__slots__}, "ticked": site.now - 30})


def test_nobody_is_reproached_for_the_time_that_we_slept(site: Site) -> None:
    """After a night without Dagster, every sensor's last tick is old."""
    sensor = Automatic(site, "sensor", "users_sensor")
    sensor.tick("SKIPPED")
    site.look()
    site.ahead = 30_000
    assert site.look() == []
    site.ahead += 200
    assert site.look() == []
    site.ahead += 110
    site.beat()
    assert site.look() == ["[failed] Sensor users_sensor is on and does not tick"]


def test_who_is_turned_off_fails_no_more_and_is_no_message(site: Site) -> None:
    sensor = Automatic(site, "sensor", "users_sensor")
    site.look()
    for site.ahead in (0, 60):
        sensor.tick("FAILURE", "no")
    assert len(site.look()) == 1
    sensor.turn_off()
    site.ahead = 600
    site.beat()
    assert site.look() == []


def test_the_sensor_does_not_watch_itself(site: Site) -> None:
    sensor = Automatic(site, "sensor", "alerts_sensor")
    site.look()
    for site.ahead in (0, 60, 120):
        sensor.tick("FAILURE", "no")
    assert site.look() == []


def test_a_daemon_without_a_heartbeat_is_noticed(site: Site) -> None:
    """RUN-9: its schedules, backfills or queue stand still without any failure."""
    site.look()
    for site.ahead in (200, 400, 590):
        assert site.look() == []
    site.ahead = 610
    others = [daemon for daemon in DAEMONS if daemon != "BACKFILL"]
    site.beat(*others)
    assert [line for line in site.look() if "backfills" in line] == [
        "[failed] Dagster's daemon for backfills has stopped: nothing of it happens until Dagster is restarted"
    ]
    site.beat()
    assert site.look() == ["[recovered] Dagster's daemon for backfills is at work again"]


# --- checks ---


def test_quarantined_items_are_one_message_for_each_asset_and_one_when_there_are_none(site: Site) -> None:
    """OPS-1, OPS-3."""
    painting = media_type("painting")
    site.look()
    site.run(PAINTINGS)
    assert site.look() == []
    first = site.mirror.quarantine("ada", painting, "no candidate is left")
    second = site.mirror.quarantine("bea", painting, "no candidate is left")
    site.run(PAINTINGS)
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Check no_quarantined_items of atproto/paintings counts 2 quarantined items"
    assert dict(alert.facts.classes) == {"source-missing": 2}
    assert list(alert.facts.names) == [f"ada {first}", f"bea {second}"]
    assert alert.facts.path == "/assets/atproto/paintings?view=checks"
    site.run(PAINTINGS)
    assert site.look() == []
    del site.mirror.ledger[second]
    site.run(PAINTINGS)
    assert site.look() == []
    site.mirror.quarantine("cyd", painting, "no candidate is left")
    site.run(PAINTINGS)
    assert site.look() == [
        "[failed] Check no_quarantined_items of atproto/paintings counts 2 quarantined items, 1 of them new"
    ]
    site.mirror.ledger.clear()
    site.run(PAINTINGS)
    assert site.look() == ["[recovered] Check no_quarantined_items of atproto/paintings passes again"]


def test_while_a_backfill_runs_news_of_quarantined_items_waits_for_its_end_or_an_hour(site: Site) -> None:
    """RUN-9: each run of a backfill may raise the count."""
    site.look()
    site.store("first", "REQUESTED", *RECORDS, ended=False)
    for key in KEYS[:3]:
        site.mirror.quarantine(key, media_type("painting"), "no candidate is left")
        site.run(PAINTINGS, first=key, last=key)
        assert site.look() == []
    site.ahead = 3_590
    site.beat()
    assert site.look() == []
    site.ahead = 3_610
    assert [line for line in site.look() if "counts 3 quarantined" in line]
    site.mirror.quarantine("dan", media_type("painting"), "no candidate is left")
    site.run(PAINTINGS, first="dan", last="dan")
    assert site.look() == []
    site.store("first", "COMPLETED_SUCCESS", *RECORDS)
    assert [line for line in site.look() if "counts 4 quarantined items, 1 of them new" in line]


# --- the sensor itself ---


class Receiver:
    """A webhook in memory that can be away."""

    def __init__(self) -> None:
        self.got: list[Mapping[str, Any]] = []
        self.away = False

    def send(self, payload: Mapping[str, Any]) -> None:
        if self.away:
            raise ServiceUnreachable("The alert webhook does not answer (ConnectError).")
        self.got.append(payload)


def test_a_tick_sends_what_is_new_and_keeps_in_its_cursor_what_is_not_delivered(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """RUN-9, ACCT-5: delivered at least once, said in the log, no secret in either."""
    receiver = Receiver()
    outlet = Outlet("https://dagster.example", Redactor(["mongodb://reader:hunter2@host"]), receiver)
    cursor = None

    def tick_once() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=site.instance, cursor=cursor, repository_def=site.repository)
        result = alerts_sensor(context, alerts=outlet)
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        return str(result.skip_reason)

    assert "Nothing has changed" in tick_once()
    site.store("first", "FAILED", PAINTINGS, error="cannot connect to mongodb://reader:hunter2@host: wrong hunter2")
    receiver.away = True
    assert "Messages: 1" in tick_once()
    assert receiver.got == []
    log = capfd.readouterr().err
    assert "Messages that wait for the next tick: 1. The alert webhook does not answer" in log
    assert "[failed] Backfill first" in log
    receiver.away = False
    assert "Nothing has changed" in tick_once()
    assert [payload["alert"]["id"].rpartition(":")[0] for payload in receiver.got] == ["backfill:first:failed"]
    assert receiver.got[0]["text"].endswith("\nhttps://dagster.example/runs/b/first")
    tick_once()
    assert len(receiver.got) == 1
    assert "hunter2" not in log + capfd.readouterr().err + str(receiver.got) + str(cursor)
    assert "[removed]" in receiver.got[0]["text"]
