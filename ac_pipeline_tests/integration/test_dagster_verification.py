"""The job `verify_users` on a real MongoDB and PDS: what it finds, what takes it back, and what it cannot say."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START, USERS, records_key
from ac_pipeline.defs.assets.records import CHANGED_STEP, STEP, SYNC_CHANGED_USERS
from ac_pipeline.defs.checks import (
    ACCOUNTS_USABLE,
    BLOBS_PRESENT,
    LEXICON_VALID,
    LINKS_CONSISTENT,
    NO_QUARANTINED_ITEMS,
    RECORDS_MATCH_DOCUMENTS,
)
from ac_pipeline.defs.user_jobs import VERIFY_STEP, VERIFY_USERS
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.local.services.processes import free_port
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.dagster_rows import cells_of
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.pds_folder import lose_bytes

RECORDS = [records_key(media) for media in MEDIA_TYPES]
MOODS = records_key(media_type("mood"))
PAINTINGS = records_key(media_type("painting"))
pytestmark = pytest.mark.usefixtures("named_services")  # the runs read them by themselves


def sync(instance: dg.DagsterInstance, first: str, last: str, *assets: dg.AssetKey, **config: Any) -> None:
    tags = {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}
    job = build_defs(retry_seconds=0).resolve_implicit_global_asset_job_def()
    run_config = {"ops": {STEP: {"config": config}}} if config else None
    assert job.execute_in_process(
        instance=instance, asset_selection=list(assets), tags=tags, run_config=run_config
    ).success


def verify(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_defs(retry_seconds=0).resolve_job_def(VERIFY_USERS)
    run_config = {"ops": {VERIFY_STEP: {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def check(instance: dg.DagsterInstance, asset: dg.AssetKey, name: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(asset, name)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.evaluation is not None
    return record.evaluation


def rows(found: dg.AssetCheckEvaluation) -> list[tuple[str, str, str]]:
    return [(each["user"], each["item"], each["state"]) for each in cells_of(found.metadata["items"])]


def test_what_others_have_broken_is_found_by_user_and_item_and_a_sync_takes_it_back(
    slice_: Slice, object_server: Any, instance: dg.DagsterInstance
) -> None:
    """VERIFY-2, VERIFY-3, VERIFY-12, OPS-1: the job succeeds, the checks fail and name exactly what is wrong."""
    ada, bea = slice_.user("ada"), slice_.user("bea")
    moods = {user.key: slice_.add("mood", user, mood=f"a mood of {user.key}") for user in (ada, bea)}
    shape = slice_.add("mood", bea, mood="another mood")
    slice_.add("painting", ada, code="abc", slug="2025.1.2.3.4.5.678", bucket=USER_BUCKET)
    object_server.put(USER_BUCKET, f"{ada.id}/painting/2025.1.2.3.4.5.678.png", pixel_art(24, 16))
    instance.add_dynamic_partitions(USERS, ["ada", "bea"])
    sync(instance, "ada", "bea", *RECORDS)

    assert verify(instance).success
    for asset, names in {
        MOODS: (RECORDS_MATCH_DOCUMENTS, LINKS_CONSISTENT, LEXICON_VALID),
        PAINTINGS: (RECORDS_MATCH_DOCUMENTS, LINKS_CONSISTENT, LEXICON_VALID, BLOBS_PRESENT),
    }.items():
        assert {name: check(instance, asset, name).passed for name in names} == dict.fromkeys(names, True)
    assert check(instance, PAINTINGS, BLOBS_PRESENT).metadata["expected"].value == 1

    keys = {link.rkey: id for id in (moods["bea"], shape) if (link := slice_.link("mood", id)) is not None}
    for rkey in keys:
        target = {"repo": bea.did, "collection": "computer.aesthetic.mood", "rkey": rkey}
        slice_.call(bea, "com.atproto.repo.deleteRecord", target)
    old = next(rkey for rkey, id in keys.items() if id == shape)
    slice_.put(bea, "mood", {"text": "another mood", "when": "2025-10-15T12:30:45.123Z", "ref": shape}, rkey=old)
    assert verify(instance, users=["bea"], types=["mood"]).success
    records = check(instance, MOODS, RECORDS_MATCH_DOCUMENTS)
    assert (records.passed, records.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert set(rows(records)) == {("bea", f"mood:{moods['bea']}", "missing"), ("bea", f"mood:{shape}", "different")}
    assert rows(check(instance, MOODS, LEXICON_VALID)) == [("bea", f"mood:{shape}", "wrong-shape")]
    assert rows(check(instance, MOODS, LINKS_CONSISTENT)) == [("bea", f"mood:{moods['bea']}", "dangling")]
    assert check(instance, PAINTINGS, RECORDS_MATCH_DOCUMENTS).passed

    sync(instance, "ada", "ada", *RECORDS)
    assert not check(instance, MOODS, RECORDS_MATCH_DOCUMENTS).passed
    sync(instance, "bea", "bea", *RECORDS)
    for name in (RECORDS_MATCH_DOCUMENTS, LINKS_CONSISTENT, LEXICON_VALID):
        assert check(instance, MOODS, name).passed
    assert verify(instance).success
    assert check(instance, MOODS, RECORDS_MATCH_DOCUMENTS).passed


def test_a_pds_that_does_not_answer_fails_the_job_and_changes_no_verdict(
    slice_: Slice, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEL-5, OPS-1: a failed read is neither a finding nor a success."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="fine")
    instance.add_dynamic_partitions(USERS, ["ada"])
    sync(instance, "ada", "ada", MOODS)
    assert verify(instance).success
    monkeypatch.setenv("PDS_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AC_PDS_TIMEOUT_SECONDS", "1")
    result = verify(instance, users=["ada"])
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    assert "1 of 1 users have to be run again" in str(failure.user_failure_data.description)
    assert check(instance, MOODS, RECORDS_MATCH_DOCUMENTS).passed


@pytest.mark.parametrize("job", ["sync_users", "sync_changed_users"])
def test_what_the_check_of_the_blobs_advises_gives_them_back(
    slice_: Slice, object_server: Any, instance: dg.DagsterInstance, job: str
) -> None:
    """SEEN-4, VERIFY-5: each launch that the sentence names, done as it says; without `blobs` nothing comes back."""
    ada = slice_.user("ada")
    slice_.add("painting", ada, code="abc", slug="2025.1.2.3.4.5.678", bucket=USER_BUCKET)
    object_server.put(USER_BUCKET, f"{ada.id}/painting/2025.1.2.3.4.5.678.png", pixel_art(24, 16))
    instance.add_dynamic_partitions(USERS, ["ada"])
    sync(instance, "ada", "ada", *RECORDS)
    (cid,) = slice_.pipeline.server.read_repository(str(ada.did)).blobs()
    lose_bytes(slice_.pds.folder, ada, cid)
    assert verify(instance).success
    found = check(instance, PAINTINGS, BLOBS_PRESENT)
    assert not found.passed
    for words in ("sync_users", "sync_changed_users", "`blobs: true`", "`ac-pipeline sync --blobs`", "verify_users"):
        assert words in str(found.description)
    (row,) = found.metadata["items"].value.records
    assert "blobs: true" in str(row.data["repair"])

    sync(instance, "ada", "ada", *RECORDS, full=True)
    assert verify(instance).success
    assert not check(instance, PAINTINGS, BLOBS_PRESENT).passed, "`full` alone asks for no blob"
    if job == "sync_users":
        sync(instance, "ada", "ada", *RECORDS, blobs=True)
    else:
        changed = build_defs(retry_seconds=0).resolve_job_def(SYNC_CHANGED_USERS)
        config = {"ops": {CHANGED_STEP: {"config": {"users": ["ada"], "blobs": True}}}}
        assert changed.execute_in_process(instance=instance, run_config=config).success
    assert verify(instance).success
    assert check(instance, PAINTINGS, BLOBS_PRESENT).passed


def test_accounts_that_lose_their_passwords_turn_no_check_green(slice_: Slice, instance: dg.DagsterInstance) -> None:
    """SEEN-1: quarantined items and broken records stay; the accounts are named, and are green again by themselves."""
    users = [slice_.user(f"user{number}") for number in range(6)]
    for user in users:
        slice_.add("mood", user, mood="fine")
        slice_.add("mood", user, mood="x" * 6000)
    instance.add_dynamic_partitions(USERS, [user.key for user in users])
    first, last = users[0].key, users[-1].key
    sync(instance, first, last, MOODS)
    checks = (NO_QUARANTINED_ITEMS, LEXICON_VALID)
    before = [check(instance, MOODS, name).description for name in checks]
    assert "Quarantined: 6, in partitions: 6" in str(before[0])

    lost = {user.id: user.password for user in users[:4]}
    for id in lost:
        slice_.database["users"].update_one({"_id": id}, {"$unset": {"atproto.password": ""}})
    sync(instance, first, last, MOODS)
    assert [check(instance, MOODS, name).description for name in checks] == before
    usable = check(instance, MOODS, ACCOUNTS_USABLE)
    assert (usable.passed, usable.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert usable.metadata["partitions"].value == [user.key for user in users[:4]]
    assert usable.metadata["items_waiting"].value == 4

    for id, password in lost.items():
        slice_.database["users"].update_one({"_id": id}, {"$set": {"atproto.password": password}})
    sync(instance, first, last, MOODS)
    assert check(instance, MOODS, ACCOUNTS_USABLE).passed
    assert [check(instance, MOODS, name).description for name in checks] == before
