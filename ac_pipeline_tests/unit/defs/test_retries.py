"""The job `retry_items`: what it runs, what it refuses, and what the UI shows afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, USERS, records_key
from ac_pipeline.defs.metadata import unbroken
from ac_pipeline.defs.user_jobs import RETRY_ITEMS, RETRY_STEP
from ac_pipeline.errors import AccountInactive, ServerFailed, ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

PAINTING, MOOD = media_type("painting"), media_type("mood")
PAINTINGS, MOODS = records_key(PAINTING), records_key(MOOD)
KEYS = ["ada", "bea"]


class Site:
    """An instance in which both users were synchronised, with runs of the job."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.mirror = instance, ScriptedMirror(*KEYS)
        instance.add_dynamic_partitions(USERS, KEYS)
        self.definitions = build_defs({"pipeline": self.mirror}, retry_seconds=0)

    def sync(self) -> None:
        job = self.definitions.resolve_job_def("sync_users")
        tags = {RANGE_START: KEYS[0], RANGE_END: KEYS[-1]}
        job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)

    def retry(self, **config: Any) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(RETRY_ITEMS)
        run_config = {"ops": {RETRY_STEP: {"config": config}}}
        return job.execute_in_process(instance=self.instance, run_config=run_config, raise_on_error=False)

    def said(self, asset: dg.AssetKey, user: str) -> dict[str, Any]:
        """Metadata of a partition's last materialisation."""
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[user])
        made = self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        assert made is not None
        return {name: value.value for name, value in made.metadata.items()}

    def observed(self, result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dict[str, Any]]:
        """(Asset, user) -> metadata of each observation of a run."""
        return {
            (each.asset_key.path[-1], str(each.partition)): {name: value.value for name, value in each.metadata.items()}
            for record in self._events(result, dg.DagsterEventType.ASSET_OBSERVATION)
            if (each := record.asset_observation) is not None
        }

    def materialised(self, result: dg.ExecuteInProcessResult) -> set[tuple[str, str]]:
        return {
            (each.asset_key.path[-1], str(each.partition))
            for record in self._events(result, dg.DagsterEventType.ASSET_MATERIALIZATION)
            if (each := record.asset_materialization) is not None
        }

    def _events(self, result: dg.ExecuteInProcessResult, kind: dg.DagsterEventType) -> Sequence[dg.EventLogRecord]:
        return self.instance.get_records_for_run(result.run_id, of_type=kind).records


@pytest.fixture
def site() -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance)


def words(result: dg.ExecuteInProcessResult) -> str:
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def test_an_empty_launchpad_fails_and_says_what_to_fill_in(site: Site) -> None:
    """PLAN-2: nothing selected is not everything."""
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    for config in ({}, {"limit": 5}, {"states": ["deferred"]}):
        result = site.retry(**config)
        assert not result.success
        assert "fill in items, users, types or error_class in the launchpad, or set all_failed to true" in words(result)
    assert site.mirror.retried == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"items": ["painting"]}, "'painting' is no item: write TYPE:CODE or TYPE:ID"),
        ({"types": ["paintings"]}, "There is no media type 'paintings'"),
        ({"states": ["written"], "all_failed": True}, "written is no state of a failed item"),
        ({"error_class": "source-mising"}, "error_class: 'source-mising' is none of pipeline-error, "),
    ],
)
def test_a_wrong_field_fails_in_one_sentence_and_runs_nothing(site: Site, config: dict[str, Any], said: str) -> None:
    result = site.retry(**config)
    assert not result.success
    assert said in words(result)


def test_exactly_the_selected_items_are_run(site: Site) -> None:
    """OPS-3, PLAN-2."""
    first = site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    second = site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    third = site.mirror.quarantine("ada", MOOD, "too long")
    fourth = site.mirror.quarantine("bea", PAINTING, "no candidate is left")
    assert site.retry(items=[second]).success
    assert site.mirror.retried == [second]
    assert site.retry(users=["bea"]).success
    assert site.mirror.retried == [second, fourth]
    assert site.retry(types=["mood"]).success
    assert site.mirror.retried == [second, fourth, third]
    assert site.retry(error_class="too-large").success
    assert site.mirror.retried == [second, fourth, third]
    assert site.retry(all_failed=True).success
    assert site.mirror.retried == [second, fourth, third, first]


def test_the_limit_bounds_how_many_are_run(site: Site) -> None:
    for _ in range(3):
        site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    assert site.retry(all_failed=True, limit=2).success
    assert len(site.mirror.retried) == 2


def test_a_partition_that_is_proven_to_be_in_order_is_materialised_with_its_whole_counts(site: Site) -> None:
    """OPS-3: a user whose sync failed turns green, and the counts are those of the partition, not of the retry."""
    site.mirror.trouble("ada", *[ServerFailed("the PDS answered 502") for _ in range(9)])
    site.sync()
    site.mirror.troubles.clear()
    assert site.instance.get_materialized_partitions(PAINTINGS) == {"bea"}
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    result = site.retry(items=[next(iter(site.mirror.ledger))])
    assert result.success
    assert site.materialised(result) == {("paintings", "ada")}
    assert site.observed(result) == {}
    assert site.instance.get_materialized_partitions(PAINTINGS) == {"ada", "bea"}
    assert site.instance.get_materialized_partitions(MOODS) == {"bea"}
    said = site.said(PAINTINGS, "ada")
    assert (said["documents"], said["unchanged"], said["quarantined"], said["retried"]) == (2, 2, 0, 1)
    assert said["retried_in"] == result.run_id


def test_an_item_that_fails_again_is_observed_in_a_table_and_fails_the_run(site: Site) -> None:
    """OPS-2, OPS-3, OPER-3: its partition keeps what was said; the run is red as the command ends with 1."""
    site.sync()
    item = site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.stubborn.add(item)
    result = site.retry(items=[item])
    assert not result.success
    assert "1 of 1 items failed again (source-missing 1)" in words(result)
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert site.materialised(result) == set()
    (seen,) = site.observed(result).values()
    assert (seen["retried"], seen["quarantined"]) == (1, 1)
    assert [unbroken(row.data["item"]) for row in seen["failed_items"].records] == [item]
    assert "retried" not in site.said(PAINTINGS, "ada")
    assert site.mirror.surveyed == []


def test_what_cannot_be_proven_is_observed(site: Site) -> None:
    """A second item of the user is still quarantined; or the dry run cannot be read."""
    first = site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.stubborn.add("none")
    result = site.retry(items=[first])
    assert (site.materialised(result), set(site.observed(result))) == (set(), {("paintings", "ada")})
    site.mirror.ledger.clear()
    again = site.mirror.quarantine("bea", MOOD, "too long")
    site.mirror.unreadable = ServiceUnreachable("the PDS does not answer")
    result = site.retry(items=[again])
    assert result.success
    assert (site.materialised(result), set(site.observed(result))) == (set(), {("moods", "bea")})


def test_a_user_with_a_transient_error_fails_the_run_and_nobody_elses_items(site: Site) -> None:
    """RUN-1, OPS-1: the run fails as the other steps do, with the user's name and a table."""
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.quarantine("bea", PAINTING, "no candidate is left")
    site.mirror.trouble("ada", ServerFailed("the PDS answered 502"))
    result = site.retry(all_failed=True)
    assert not result.success
    assert "1 of 2 users have to be run again (server-failed 1). ada: the PDS answered 502" in words(result)
    assert site.materialised(result) == {("paintings", "bea")}
    assert site.observed(result)["paintings", "ada"]["error_class"] == "server-failed"


def test_a_blocked_account_is_observed_with_its_reason(site: Site) -> None:
    """ACCT-2, RUN-7."""
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.blocked["ada"] = AccountInactive("the PDS says AccountDeactivated")
    result = site.retry(users=["ada"])
    assert result.success
    assert site.observed(result)["paintings", "ada"]["blocked_reason"].startswith("account-inactive")
    assert site.materialised(result) == set()


def test_items_of_an_account_that_left_the_platform_are_named_and_left_alone(site: Site) -> None:
    site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.mirror.known = {"bea": Account("auth0|bea", "bea", did="did:plc:bea")}
    assert site.retry(all_failed=True).success
    assert site.mirror.retried == []


def test_the_check_says_at_once_what_is_quarantined_now(site: Site) -> None:
    """OPS-3."""
    item = site.mirror.quarantine("ada", PAINTING, "no candidate is left")
    site.sync()

    def passed() -> bool:
        key = dg.AssetCheckKey(PAINTINGS, "no_quarantined_items")
        summary = site.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
        evaluation = summary[key].event.dagster_event.event_specific_data  # type: ignore[union-attr]
        return bool(evaluation.passed)  # type: ignore[union-attr]

    assert not passed()
    assert site.retry(items=[item]).success
    assert passed()
