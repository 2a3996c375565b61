"""Alerts about backfills, on a real instance with real runs of the definitions."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from ac_pipeline.defs.alerts.messages import read_cursor
from ac_pipeline.defs.assets.catalog import PARTITION
from ac_pipeline.errors import InvalidRecord, ServerFailed
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.dagster_rows import automatic, tick
from ac_pipeline_tests.integration.alerts.site import KEYS, PAINTINGS, RECORDS, THUMBNAILS, Site


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
    assert (alert.partitions, alert.runs) == ((2, 4), (1, 1))
    assert (dict(alert.classes), list(alert.names)) == ({"server-failed": 2}, ["bea", "dan"])
    assert (alert.words, alert.path) == ("the PDS answered 502", "/runs/b/first")
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
    assert (alert.partitions, alert.runs) == ((500, 501), (3, 3))
    assert sum(alert.classes.values()) == 500
    assert "u000, u001, u002, u003, u004 and 495 more." in alert.text(0.0, None, str)


def test_a_backfill_that_dagster_itself_gave_up_says_why_and_the_next_good_one_repairs_it(site: Site) -> None:
    site.look()
    site.store("first", "FAILED", PAINTINGS, error="the code location could not be reached")
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Backfill first of atproto/paintings failed"
    assert alert.words == "the code location could not be reached"
    site.store("other", "COMPLETED_SUCCESS", THUMBNAILS)
    assert site.look() == []
    site.store("second", "COMPLETED_SUCCESS", *RECORDS)
    assert site.look() == ["[recovered] Backfill first is repaired: what had failed is done by now"]


def test_a_canceled_run_of_a_backfill_is_repaired_by_a_later_one_and_not_by_what_was_made_before(site: Site) -> None:
    site.run(*RECORDS)
    site.look()
    tags = {PARTITION: "dan", "dagster/backfill": "first"}
    site.instance.report_run_canceled(site.instance.create_run_for_job(site.sync, tags=tags))
    site.store("first", "COMPLETED_FAILED", *RECORDS)
    (alert,) = site.alerts()
    assert (alert.state, dict(alert.classes), list(alert.names)) == ("failed", {"canceled": 1}, ["dan"])
    site.run(*RECORDS, first="ada", last="cyd")
    assert site.look() == []
    site.run(*RECORDS, first="dan", last="dan")
    assert site.look() == ["[recovered] Backfill first is repaired: what had failed is done by now"]


def test_what_ran_and_what_had_failed_at_an_upgrade_ends_as_ever_and_nothing_is_repeated(site: Site) -> None:
    for id in ("failed", "running"):
        site.store(id, "COMPLETED_FAILED" if id == "failed" else "REQUESTED", THUMBNAILS, ended=id == "failed")
    now = site.now
    older = {
        "version": 1, "begun": now - 9_000, "looked_at": now, "ticked": now, "awake": now - 9_000, "backfills_seen": 2,
        "backfills": ["running"], "known": {"backfill:failed": [1, now - 60, True, ["failed"]]},
    }  # fmt: skip
    site.memory = read_cursor(json.dumps(older))
    assert site.look() == []
    site.fail("bea")
    site.run(THUMBNAILS, backfill="running")
    site.store("running", "COMPLETED_FAILED", THUMBNAILS)
    assert [line.split(" of ")[0] for line in site.look()] == ["[failed] Backfill running"]
    site.store("good", "COMPLETED_SUCCESS", THUMBNAILS)
    assert site.look() == ["[recovered] Backfill failed is repaired: what had failed is done by now"]


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
