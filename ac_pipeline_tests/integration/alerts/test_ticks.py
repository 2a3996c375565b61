"""Alerts about ticks of sensors and schedules and about daemons, on a real instance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ac_pipeline_tests.dagster_rows import automatic, tick
from ac_pipeline_tests.integration.alerts.site import DAEMONS, Site


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
    assert (alert.words, alert.path) == (
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
    site.ahead = quiet - 60
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
    site.memory = replace(site.memory, ticked=site.now - 30)


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
