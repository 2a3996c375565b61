"""What the UI shows after a run over a range of users: who is green, who is red, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.defs.assets.catalog import source_key
from ac_pipeline.defs.metadata import unbroken
from ac_pipeline.defs.pipeline import Outcome
from ac_pipeline.errors import AccountInactive, InvalidRecord, Misconfigured, ServerFailed, ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror
from ac_pipeline_tests.unit.defs.site import KEYS, MOODS, PAINTINGS, RECORDS, THUMBNAILS, Site

SOURCE = source_key(media_type("painting"))


@pytest.fixture
def mirror() -> ScriptedMirror:
    return ScriptedMirror(*KEYS)


@pytest.fixture
def site(mirror: ScriptedMirror) -> Iterator[Site]:
    with open_instance() as instance:
        yield Site(instance, mirror, KEYS)


@pytest.mark.parametrize("asset", [THUMBNAILS, *RECORDS], ids=lambda key: key.to_user_string())
def test_every_user_of_a_range_without_trouble_is_materialised_with_its_counts(site: Site, asset: dg.AssetKey) -> None:
    """RUN-7, VERIFY-1."""
    result = site.run(asset)
    assert result.success
    assert site.green(asset) == set(KEYS)
    said = site.said(asset, "bea")
    assert (said["documents"], said.get("written", said.get("renditions"))) == (2, 2)


class Watching(ScriptedMirror):
    """Looks at the instance whenever the step has dealt with a user; the last user ends first."""

    def __init__(self, instance: dg.DagsterInstance, asset: dg.AssetKey) -> None:
        super().__init__(*KEYS)
        self.instance, self.asset, self.green = instance, asset, list[int]()

    def sync(self, *args: Any, **options: Any) -> Iterator[Outcome]:
        for outcome in sorted(super().sync(*args, **options), key=lambda each: each.account.key, reverse=True):
            yield outcome
            self.green.append(len(self.instance.get_materialized_partitions(self.asset)))


@pytest.mark.parametrize(
    ("asset", "green", "order"),
    [(THUMBNAILS, [0, 0, 0, 0], KEYS), (PAINTINGS, [1, 2, 3, 4], KEYS[::-1])],
    ids=["renditions", "records"],
)
def test_users_turn_green_one_by_one_unless_another_stage_waits_for_them(
    asset: dg.AssetKey, green: list[int], order: list[str]
) -> None:
    """RUN-3: a backfill asks for the next stage of whoever is green, in as many runs as that leaves gaps."""
    with open_instance() as instance:
        mirror = Watching(instance, asset)
        site = Site(instance, mirror, KEYS)
        assert site.run(asset).success
        assert mirror.green == green
        made = instance.fetch_materializations(asset, limit=10, ascending=True).records
        assert [record.partition_key for record in made] == order


@pytest.mark.parametrize("keys", [KEYS, KEYS[:1]], ids=["range", "one user"])
def test_a_stage_that_feeds_another_one_materialises_each_user_once(site: Site, keys: list[str]) -> None:
    """RUN-7: as results, which Dagster wants of it, or as events of the log, not as both."""
    result = site.run(THUMBNAILS, PAINTINGS) if len(keys) > 1 else site.run_one("ada", THUMBNAILS, PAINTINGS)
    assert result.success
    for asset in (THUMBNAILS, PAINTINGS):
        records = site.instance.fetch_materializations(asset, limit=100).records
        events = [record.event_log_entry.dagster_event for record in records]
        own = {THUMBNAILS: "renditions__painting_thumbnails", PAINTINGS: "atproto_records"}[asset]
        made = [event.partition for event in events if event is not None and event.step_key == own]
        assert sorted(map(str, made)) == keys


def test_all_five_types_of_a_user_are_one_turn_in_one_run(site: Site) -> None:
    result = site.run(*RECORDS)
    assert result.success
    assert sorted(site.mirror.turns) == KEYS
    assert site.mirror.types == [("painting", "mood", "piece", "kidlisp", "tape")]
    assert site.mirror.run_ids == {result.run_id}


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
    assert not result.success
    made = [str(record.partition_key) for record in site.instance.fetch_materializations(PAINTINGS, limit=100).records]
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
    seen = site.observed(MOODS)["bea"]
    assert str(error) in seen["error"]
    assert seen["error_class"] == getattr(error, "code", "unforeseen")


def test_quarantined_items_leave_their_partition_green_with_the_reason_first(site: Site) -> None:
    """OPS-2, OPER-2: a table of the items that begins with why and ends with the id, and says what to do."""
    item = site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    assert site.run(*RECORDS).success
    assert site.green(PAINTINGS) == set(KEYS)
    table = site.said(PAINTINGS, "bea")["failed_items"]
    assert [column.name for column in table.schema.columns] == ["code", "class", "message", "item"]
    assert {name: unbroken(value) for name, value in table.records[0].data.items()} == {
        "code": "abc",
        "class": "source-missing",
        "message": "no candidate is left. When the file is in storage, launch retry_items.",
        "item": item,
    }
    assert "failed_items" not in site.said(MOODS, "bea")


def test_the_partition_of_somebody_blocked_does_not_look_like_one_that_is_well(site: Site) -> None:
    """ACCT-1, RUN-7, SEEN-1: it begins with the reason, and its documents are seen in another version than it is made
    from, so that it is shown as behind until the account can be used. No run and no backfill fails for it."""
    site.mirror.blocked["ada"] = AccountInactive("did:plc:ada is deactivated")
    for _ in range(2):
        result = site.run(*RECORDS)
        assert result.success
        assert site.green(PAINTINGS) == set(KEYS)
        said = site.said(PAINTINGS, "ada")
        assert list(said)[:2] == ["status", "blocked_reason"]
        assert said["blocked_reason"] == "account-inactive: did:plc:ada is deactivated"
        assert "Blocked accounts: 1 (account-inactive 1)" in closing_line(site, result)
        assert (site.version(SOURCE, "ada"), site.version(SOURCE, "bea")) == ("documents-blocked", "documents")
    del site.mirror.blocked["ada"]
    site.run(*RECORDS)
    assert site.version(SOURCE, "ada") == "documents"
    assert "status" not in site.said(PAINTINGS, "ada")


def test_documents_that_were_read_fill_their_partition(site: Site) -> None:
    site.run(PAINTINGS)
    assert site.green(SOURCE) == set(KEYS)
    assert site.said(SOURCE, "ada")["documents"] == 2


def test_the_last_line_of_a_run_sums_it_up(site: Site) -> None:
    """Totals by type and outcome, and the classes of errors."""
    site.mirror.quarantine("bea", media_type("painting"), "no candidate is left")
    site.mirror.trouble("cyd", *[ServerFailed("the PDS answered 502") for _ in range(9)])
    said = closing_line(site, site.run(PAINTINGS, MOODS))
    assert said == (
        "Done. Users: 1, to be run again: 1. painting: nothing to do; mood: nothing to do. Errors: server-failed 1."
    )
    site.mirror.troubles.clear()
    assert closing_line(site, site.run(MOODS)) == "Done. Users: 4. mood: 8 created. No errors."


def closing_line(site: Site, result: dg.ExecuteInProcessResult) -> str:
    said = [entry.user_message for entry in site.instance.all_logs(result.run_id)]
    return [line for line in said if line.startswith("Done. ")][-1]


def test_small_pictures_of_paintings_open_the_picture(site: Site) -> None:
    site.run(*RECORDS)
    picture = (
        "[![abc](/thumbnails/did:plc:ada/bafy)]"
        "(https://pds.example/xrpc/com.atproto.sync.getBlob?did=did%3Aplc%3Aada&cid=bafy)"
    )
    assert site.said(PAINTINGS, "ada")["pictures"] == picture
    assert "pictures" not in site.said(MOODS, "ada")


def test_renditions_tell_what_was_made_and_what_is_kept(site: Site) -> None:
    site.run(THUMBNAILS)
    said = site.said(THUMBNAILS, "ada")
    assert next(iter(said)) == "pictures"
    names = ("made", "reused", "failed", "renditions", "bytes", "seconds_of_encoding")
    assert {name: said[name] for name in names} == dict(zip(names, (0, 0, 0, 2, 100, 0.0), strict=True))
    assert "records" not in said


def test_records_are_counted_after_the_run(site: Site) -> None:
    site.run(PAINTINGS)
    assert (site.said(PAINTINGS, "ada")["created"], site.said(PAINTINGS, "ada")["records"]) == (2, 2)


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
