"""Runs of the real definitions on a real MongoDB, PDS and object storage."""

from __future__ import annotations

from typing import Any

import dagster as dg
import httpx
import pytest

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, RENDITIONS, USERS, records_key
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.dagster_rows import cells_of
from ac_pipeline_tests.harness import Slice

PAINTINGS = records_key(media_type("painting"))
MOODS = records_key(media_type("mood"))


@pytest.fixture(autouse=True)
def environment(named_services: pytest.MonkeyPatch) -> None:
    """The runs read it by themselves."""
    named_services.setenv("AC_SILENT_DAYS", "0")  # the tests' documents are of a fixed past


def run(instance: dg.DagsterInstance, keys: list[str], *assets: dg.AssetKey) -> dg.ExecuteInProcessResult:
    job = build_defs(retry_seconds=0).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=list(assets),
        tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
        raise_on_error=False,
    )


def said(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str) -> dict[str, Any]:
    found = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1)
    made = found.records[0].asset_materialization
    assert made is not None
    return {name: value.value for name, value in made.metadata.items()}


def test_a_backfill_of_both_stages_brings_documents_to_the_pds_and_a_second_one_writes_nothing(
    slice_: Slice, object_server: Any, instance: dg.DagsterInstance
) -> None:
    """RUN-7, WRITE-1, ACCT-1, OPS-1: the settings are read by the run; Dagster's run id stands in the ledger."""
    ada, bea = slice_.user("ada"), slice_.user("bea")
    slice_.database["users"].insert_one({"_id": "auth0|nobody"})
    slice_.database["@handles"].insert_one({"_id": "auth0|nobody", "handle": "nobody"})
    for user in (ada, bea):
        slice_.add("mood", user, mood=f"a mood of {user.key}")
    slice_.add("mood", slice_.account("auth0|nobody"), mood="no account on the PDS")
    good = slice_.add("painting", ada, code="abc", slug="2025.1.2.3.4.5.678", bucket="user-aesthetic-computer")
    lost = slice_.add("painting", bea, code="xyz", slug="2025.1.2.3.4.5.679", bucket="user-aesthetic-computer")
    object_server.put("user-aesthetic-computer", f"{ada.id}/painting/2025.1.2.3.4.5.678.png", pixel_art(24, 16))
    keys = sorted(account.key for account in slice_.pipeline.accounts.all())
    assert keys == ["ada", "art-guest", "bea", "nobody"]
    instance.add_dynamic_partitions(USERS, keys)
    records = [records_key(media) for media in MEDIA_TYPES]

    rendered = run(instance, keys, *RENDITIONS)
    assert rendered.success
    assert said(instance, next(iter(RENDITIONS)), "ada")["made"] == 1

    written = run(instance, keys, *records)
    assert written.success
    for asset in records:
        assert set(instance.get_materialized_partitions(asset)) == set(keys)
    assert [value["mood"] for value in slice_.records(ada, "mood").values()] == ["a mood of ada"]
    assert said(instance, PAINTINGS, "ada")["created"] == 1
    assert said(instance, MOODS, "nobody")["blocked_reason"].startswith("no-credentials")
    (row,) = cells_of(said(instance, PAINTINGS, "bea")["failed_items"])
    assert (row["item"], row["class"]) == (f"painting:{lost}", "source-missing")
    address = said(instance, PAINTINGS, "ada")["pictures"].rpartition("](")[2].removesuffix(")")
    assert httpx.get(address).headers["content-type"].startswith("image/")
    entry = slice_.pipeline.ledger.get(f"painting:{good}")
    assert entry is not None
    assert (entry.state, entry.run_id, entry.partition) == (State.WRITTEN, written.run_id, "ada")
    checked = {(each.asset_key, each.check_name): each for each in written.get_asset_check_evaluations()}
    quarantined = checked[PAINTINGS, "no_quarantined_items"]
    assert [row.data["user"] for row in quarantined.metadata["items"].value.records] == ["bea"]
    # Of what no job has verified yet nothing is said: a warning, neither a pass nor an error.
    errors = {key for key, each in checked.items() if not each.passed and each.severity is dg.AssetCheckSeverity.ERROR}
    assert errors == {(PAINTINGS, "no_quarantined_items")}

    before = slice_.listed(ada, "painting") | slice_.listed(bea, "mood")
    assert run(instance, keys, *records).success
    assert slice_.listed(ada, "painting") | slice_.listed(bea, "mood") == before
    again = said(instance, PAINTINGS, "ada")
    assert (again["written"], again["unchanged"], again["records"]) == (0, 1, 1)
    kept = said(instance, next(iter(RENDITIONS)), "ada")
    assert (kept["renditions"], kept["bytes"] > 100) == (1, True)


def test_object_storage_that_is_down_for_one_user_leaves_the_others_green_and_is_named(
    slice_: Slice, object_server: Any, instance: dg.DagsterInstance
) -> None:
    """RUN-1, MEDIA-3, OPS-3: a 503 is tried again and never taken for absent."""
    users = [slice_.user("ada"), slice_.user("bea")]
    for number, user in enumerate(users):
        slug = f"2025.1.2.3.4.5.{number}"
        slice_.add("painting", user, code=f"abc{number}", slug=slug, bucket="user-aesthetic-computer")
        object_server.put("user-aesthetic-computer", f"{user.id}/painting/{slug}.png", pixel_art(24, 16))
    key = f"{users[1].id}/painting/2025.1.2.3.4.5.1.png"
    object_server.fail("user-aesthetic-computer", key, 503)
    instance.add_dynamic_partitions(USERS, ["ada", "bea"])
    result = run(instance, ["ada", "bea"], PAINTINGS)
    assert not result.success
    assert set(instance.get_materialized_partitions(PAINTINGS)) == {"ada"}
    assert len(slice_.records(users[0], "painting")) == 1
    object_server.heal("user-aesthetic-computer", key)
    assert run(instance, ["bea"], PAINTINGS).success
    assert set(instance.get_materialized_partitions(PAINTINGS)) == {"ada", "bea"}
