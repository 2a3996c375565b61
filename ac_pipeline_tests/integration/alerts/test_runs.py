"""Alerts about runs of schedules and sensors, on a real instance with real runs of the definitions."""

from __future__ import annotations

import dagster as dg

from ac_pipeline.defs.assets.catalog import PARTITION
from ac_pipeline.defs.assets.changed_users import run_config
from ac_pipeline_tests.integration.alerts.site import RECORDS, THUMBNAILS, Site


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
    site.ahead = 2_400  # Dagster dates the runs: by the time of day, which goes on
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
    site.ahead = 1_200
    site.beat()
    assert len(site.look()) == 1
