"""What the UI shows after a run over a range of users: who is green, who is red, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RENDITIONS
from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.partitions import RANGE_END, RANGE_START, USERS
from ac_pipeline.errors import AccountInactive, InvalidRecord, Misconfigured, ServerFailed, ServiceUnreachable
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

RECORDS = [records_key(media) for media in MEDIA_TYPES]
THUMBNAILS = RENDITIONS[0].key
PAINTINGS = records_key(media_type("painting"))
MOODS = records_key(media_type("mood"))


class Site:
    """A Dagster instance with keys, and runs over all of them."""

    def __init__(self, instance: dg.DagsterInstance, mirror: ScriptedMirror, keys: list[str]) -> None:
        self.instance, self.mirror, self.keys = instance, mirror, keys
        instance.add_dynamic_partitions(USERS, keys)
        definitions = build_defs({"mirror": mirror}, retry_seconds=0)
        self.job = definitions.resolve_implicit_global_asset_job_def()

    def run(self, *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(
            instance=self.instance,
            asset_selection=list(assets),
            tags={RANGE_START: self.keys[0], RANGE_END: self.keys[-1]},
            raise_on_error=False,
        )

    def green(self, asset: dg.AssetKey) -> set[str]:
        return set(self.instance.get_materialized_partitions(asset))

    def said(self, asset: dg.AssetKey, key: str) -> dict[str, Any]:
        """Metadata of the last materialisation of a partition."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1
        ).records
        made = records[0].asset_materialization
        assert made is not None
        return {name: value.value for name, value in made.metadata.items()}

    def observed(self, asset: dg.AssetKey) -> dict[str, dict[str, Any]]:
        """Partition -> metadata of its last observation."""
        records = self.instance.fetch_observations(dg.AssetRecordsFilter(asset_key=asset), limit=100).records
        found: dict[str, dict[str, Any]] = {}
        for record in records:
            seen = record.asset_observation
            assert seen is not None
            found.setdefault(str(seen.partition), {name: value.value for name, value in seen.metadata.items()})
        return found


KEYS = ["ada", "bea", "cyd", "dan"]


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Site(instance, mirror, KEYS)


@pytest.mark.parametrize("asset", [THUMBNAILS, *RECORDS], ids=lambda key: key.to_user_string())
def test_every_user_of_a_range_without_trouble_is_materialised_with_its_counts(site: Site, asset: dg.AssetKey) -> None:
    """RUN-7, VERIFY-1."""
    result = site.run(asset)
    assert result.success
    assert site.green(asset) == set(KEYS)
    said = site.said(asset, "bea")
    assert (said["documents"], said["written"], said["planned"]) == (2, 2, 2)


def test_all_five_types_of_a_user_are_one_turn_in_one_run(site: Site) -> None:
    result = site.run(*RECORDS)
    assert result.success
    assert sorted(site.mirror.turns) == KEYS
    assert site.mirror.types == [("painting", "mood", "piece", "kidlisp", "tape")]
    assert site.mirror.run_ids == {result.run_id}
    assert site.mirror.reads == 1


def test_only_the_selected_types_are_synchronised(site: Site) -> None:
    assert site.run(MOODS).success
    assert site.mirror.types == [("mood",)]
    assert site.green(MOODS) == set(KEYS)
    assert not site.green(PAINTINGS)


@pytest.mark.parametrize("asset", [THUMBNAILS, PAINTINGS], ids=["renditions", "records"])
def test_one_user_who_fails_for_good_turns_red_alone(site: Site, asset: dg.AssetKey) -> None:
    """RUN-1, OPS-1: the run fails, the other users are usable, the failing one is named with its error."""
    site.mirror.trouble("cyd", *[ServerFailed("the PDS answered 502") for _ in range(9)])
    result = site.run(asset)
    assert not result.success
    assert site.green(asset) == {"ada", "bea", "dan"}
    assert set(site.observed(asset)) == {"cyd"}
    assert site.observed(asset)["cyd"]["error_class"] == "server-failed"
    assert site.observed(asset)["cyd"]["error"] == "the PDS answered 502"
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "1 of 4 users have to be run again (server-failed 1). cyd: the PDS answered 502" in str(
        failure.user_failure_data.description
    )


def test_a_retry_runs_only_who_is_not_done_yet_and_then_all_are_green(site: Site) -> None:
    """RUN-5: what a first attempt said of the others is kept."""
    site.mirror.trouble("cyd", ServerFailed("the PDS answered 502"))
    result = site.run(PAINTINGS)
    assert result.success
    assert site.mirror.turns.count("cyd") == 2
    assert len(site.mirror.turns) == 5
    assert site.green(PAINTINGS) == set(KEYS)
    assert {key: site.said(PAINTINGS, key)["written"] for key in KEYS} == dict.fromkeys(KEYS, 2)


def test_a_retry_does_not_materialise_the_others_again_while_one_keeps_failing(site: Site) -> None:
    site.mirror.trouble("cyd", *[ServerFailed("the PDS answered 502") for _ in range(9)])
    result = site.run(PAINTINGS)
    made = [event.partition for event in result.all_events if event.is_step_materialization]
    assert sorted(made) == ["ada", "bea", "dan"]
    assert site.mirror.turns.count("cyd") == 4


@pytest.mark.parametrize(
    "error", [KeyError("nobody foresaw this"), InvalidRecord("escaped from the engine")], ids=["crash", "permanent"]
)
def test_an_error_that_no_attempt_can_help_is_not_retried(site: Site, error: Exception) -> None:
    """RUN-1, OPS-3: a crash in one account's turn costs nobody else's."""
    site.mirror.trouble("bea", error)
    result = site.run(*RECORDS)
    assert not result.success
    assert site.mirror.turns.count("bea") == 1
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert site.green(MOODS) == {"ada", "cyd", "dan"}
    assert type(error).__name__ in site.observed(MOODS)["bea"]["error"]


def test_a_blocked_account_and_quarantined_items_leave_their_partition_green(site: Site) -> None:
    """ACCT-1, OPS-2, RUN-7: with the reason, and a table of the items."""
    site.mirror.blocked["ada"] = AccountInactive("the PDS says AccountDeactivated")
    item = site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    assert site.run(*RECORDS).success
    assert site.green(PAINTINGS) == set(KEYS)
    assert site.said(PAINTINGS, "ada")["blocked_reason"] == "account-inactive: the PDS says AccountDeactivated"
    (row,) = site.said(PAINTINGS, "bea")["failed_items"].records
    assert row.data == {
        "item": item,
        "code": "abc",
        "user": "bea",
        "stage": "rendition",
        "class": "source-missing",
        "message": "no candidate is left",
        "attempts": 3,
        "page": "https://aesthetic.computer/#abc",
        "record": "at://did:plc:bea/computer.aesthetic.painting/1",
    }
    assert "failed_items" not in site.said(MOODS, "bea")


def test_paintings_show_some_of_their_pictures_from_the_pds(site: Site) -> None:
    site.run(*RECORDS)
    assert site.said(PAINTINGS, "ada")["pictures"] == "![abc](https://pds.example/blob)"
    assert "pictures" not in site.said(MOODS, "ada")


def test_a_key_without_an_account_is_noted_and_harms_nobody(site: Site) -> None:
    """RUN-4, RUN-7."""
    del site.mirror.known["bea"]
    result = site.run(PAINTINGS)
    assert result.success
    assert "no account has this key any more" in site.said(PAINTINGS, "bea")["note"]
    assert site.said(PAINTINGS, "ada")["written"] == 2


def test_a_wrong_setting_fails_the_step_in_one_sentence_without_a_retry(site: Site) -> None:
    """OPS-1: every requested partition says so as well (RUN-7)."""
    site.mirror.broken = Misconfigured("MONGODB_NAME is not set.")
    result = site.run(MOODS)
    assert not result.success
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert not site.green(MOODS)
    assert {key: said["error"] for key, said in site.observed(MOODS).items()} == dict.fromkeys(
        KEYS, "MONGODB_NAME is not set."
    )


def test_a_database_that_does_not_answer_is_tried_again(site: Site) -> None:
    """OPS-3, DEL-5: a failed read is not an empty one: nobody is green for it."""
    site.mirror.broken = ServiceUnreachable("Could not read users: MongoDB does not answer.")
    result = site.run(THUMBNAILS)
    assert not result.success
    assert sum(event.is_step_up_for_retry for event in result.all_events) == 2
    assert not site.green(THUMBNAILS)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {each.asset_key.to_user_string(): each for each in result.get_asset_check_evaluations()}


def test_the_check_names_every_quarantined_item_also_when_a_user_of_the_range_fails(site: Site) -> None:
    """VERIFY-12, OPS-1: a failed check means that a person must look; it names item, reason and partition key."""
    item = site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    site.mirror.trouble("cyd", *[ServerFailed("502") for _ in range(9)])
    result = site.run(*RECORDS)
    assert not result.success
    evaluated = checks(result)
    assert {name: each.passed for name, each in evaluated.items()} == {
        key.to_user_string(): key != PAINTINGS for key in RECORDS
    }
    (row,) = evaluated["atproto/paintings"].metadata["items"].value.records
    assert (row.data["item"], row.data["user"], row.data["message"]) == (item, "bea", "no candidate is left")
    assert evaluated["atproto/paintings"].severity is dg.AssetCheckSeverity.ERROR


def test_a_check_can_be_executed_alone(site: Site) -> None:
    site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    definitions = build_defs({"mirror": site.mirror})
    asset = next(
        each for each in definitions.assets or () if isinstance(each, dg.AssetsDefinition) and PAINTINGS in each.keys
    )
    result = dg.materialize(
        [asset],
        instance=site.instance,
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(PAINTINGS, "no_quarantined_items")),
        resources={"mirror": site.mirror},
    )
    assert [each.passed for each in result.get_asset_check_evaluations()] == [False]
    assert not site.mirror.turns
