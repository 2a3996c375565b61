"""The operators' jobs: what they do, what they refuse, and that a launch without config changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.operators.catalog import OPERATOR_JOBS
from ac_pipeline.defs.operators.plans import FLIGHT_PLAN
from ac_pipeline.defs.operators.tables import ROWS
from ac_pipeline.errors import NoCredentials, ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.unit.defs.desk import Desk, plain, said, sentence

NAMES = [job.name for job in OPERATOR_JOBS]
MOODS = records_key(media_type("mood"))


@pytest.mark.parametrize("job", [name for name in NAMES if name != "take_snapshot"])
@pytest.mark.parametrize("whom", [False, True])
def test_a_launch_with_default_config_changes_nothing(desk: Desk, job: str, whom: bool) -> None:
    """PLAN-1, PLAN-5: not even where a user is named already."""
    known = {"user": "ada", "users": ["ada"]}
    desk.launch(job, {name: known[name] for name in desk.fields(job) & known.keys()} if whom else None)
    assert desk.changes == []


@pytest.mark.parametrize("job", NAMES)
def test_every_job_says_what_it_does_and_every_field_what_it_means(desk: Desk, job: str) -> None:
    definition = desk.definitions.resolve_job_def(job)
    assert definition.tags["kind"] == "operator"
    assert len(str(definition.description)) > 80
    (op,) = definition.nodes
    schema: Any = op.definition.config_schema
    fields = schema.config_type.fields
    assert fields
    for name, field in fields.items():
        assert field.description, f"{job}: {name} is not described"
        assert not field.is_required


@pytest.mark.parametrize("job", ["wipe_user", "restore_user", "take_snapshot", "rotate_password"])
def test_a_job_about_one_user_refuses_to_guess_whom(desk: Desk, job: str) -> None:
    result = desk.launch(job)
    assert not result.success
    assert "No user is named" in sentence(result)
    assert not any(event.is_step_up_for_retry for event in result.all_events)


@pytest.mark.parametrize("job", NAMES)
@pytest.mark.parametrize("error", [NoCredentials("ada has no password"), ServiceUnreachable("MongoDB is away")])
def test_a_refusal_is_one_sentence_and_is_not_tried_again(desk: Desk, job: str, error: Any) -> None:
    desk.fail(error)
    result = desk.launch(job, {"user": "ada"} if "user" in desk.fields(job) else {})
    assert not result.success
    assert sentence(result) == error.message
    assert not any(event.is_step_up_for_retry for event in result.all_events)


@pytest.mark.parametrize(("confirm", "done"), [(-1, False), (0, False), (2, False), (3, True), (4, False)])
def test_a_wipe_takes_the_number_of_records(desk: Desk, confirm: int, done: bool) -> None:
    """PLAN-5: else it says the number, and how many public addresses break."""
    result = desk.launch("wipe_user", {"user": "ada", "types": ["mood"], "confirm": confirm, "why": "asked to"})
    assert result.success is done
    assert desk.operator.changes == ([("wipe", "ada", ("mood",), 3, "asked to")] if done else [])
    if done:
        assert said(result)["deleted"] == [{"what": "mood", "number": 3}]
        (event,) = desk.instance.fetch_observations(MOODS, limit=5).records
        assert event.partition_key == "ada"
    else:
        assert "3 records of ada would be deleted, 3 public addresses would break" in sentence(result)
        assert said(result)["confirm"] == 3
        assert desk.instance.fetch_observations(MOODS, limit=5).records == []


@pytest.mark.parametrize("job", ["wipe_user", "restore_user"])
def test_what_stops_in_the_middle_fails_with_what_was_done(desk: Desk, job: str) -> None:
    """PLAN-3: the table says how far it came."""
    desk.operator.stopped = ServiceUnreachable("the PDS does not answer.")
    result = desk.launch(job, {"user": "ada", **({"confirm": 3} if job == "wipe_user" else {"dry_run": False})})
    assert not result.success
    assert "The same launch does the rest" in sentence(result)
    assert said(result)["deleted" if job == "wipe_user" else "restored"] == [{"what": "mood", "number": 3}]


@pytest.mark.parametrize("source", ["mongo", "latest"])
def test_a_restore_only_says_what_would_come_back_until_it_is_told_to(desk: Desk, source: str) -> None:
    """PLAN-6."""
    looked = desk.launch("restore_user", {"user": "ada", "source": source})
    assert looked.success
    assert said(looked)["dry_run"] is True
    assert desk.operator.changes == []
    done = desk.launch("restore_user", {"user": "ada", "source": source, "dry_run": False, "why": "asked to"})
    assert done.success
    assert desk.operator.changes == [("restore", "ada", source, "asked to")]


def test_a_plan_is_a_materialisation_with_operations_cost_and_hash(desk: Desk) -> None:
    """PLAN-1, PLAN-2, LIMIT-8."""
    config = {"users": ["ada"], "types": ["mood"], "since": "2026-01-01", "limit": 5, "relay_events": 2_500}
    assert desk.launch("plan_users", config).success
    ((users, selection, relay),) = desk.operator.plans
    assert (users, [media.name for media in selection.types], selection.limit, relay) == (("ada",), ["mood"], 5, 2_500)
    assert (selection.since, selection.until, selection.items) == (1_767_225_600_000, None, None)
    event = desk.instance.get_latest_materialization_event(FLIGHT_PLAN)
    assert event is not None
    assert event.asset_materialization is not None
    shown = plain(event.asset_materialization.metadata)
    assert (shown["hash"], shown["operations"], shown["users"]) == ("ab" * 32, 3, 1)
    assert [row["item"] for row in shown["operations_listed"]] == ["mood:0", "mood:1", "mood:2"]
    cost = {row["what"]: row["amount"] for row in shown["cost"]}
    assert cost["points"] == "6000"
    assert cost["limit: blob uploads"] == "1,000 a day"
    assert shown["waits_for"] == "write points of one user (5,000 an hour)"
    assert shown["blocked_users"] == [{"user": "bea", "message": "no password"}]


@pytest.mark.parametrize(("operations", "hidden"), [(ROWS, None), (ROWS + 1, 1)])
def test_a_long_plan_shows_its_first_rows_and_counts_the_rest(desk: Desk, operations: int, hidden: int | None) -> None:
    """OPS-6: an event is kept for good."""
    desk.operator.operations = operations
    desk.launch("plan_users")
    event = desk.instance.get_latest_materialization_event(FLIGHT_PLAN)
    assert event is not None
    assert event.asset_materialization is not None
    shown = plain(event.asset_materialization.metadata)
    assert (len(shown["operations_listed"]), shown.get("operations_listed_not_shown")) == (ROWS, hidden)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"since": "yesterday"}, "is no date"),
        ({"types": ["poem"]}, "no media type"),
        ({"items": ["poem:1"], "users": ["ada"]}, "is no item"),
        ({"items": ["mood:1"]}, "name these in `users`"),
    ],
)
def test_a_wrong_field_is_named(desk: Desk, config: dict[str, Any], reason: str) -> None:
    assert reason in sentence(desk.launch("plan_users", config))


def test_links_are_healed_only_when_told_to(desk: Desk) -> None:
    """LINK-1."""
    assert said(desk.launch("heal_links", {"users": ["ada"]}))["dry_run"] is True
    result = desk.launch("heal_links", {"users": ["ada"], "dry_run": False, "why": "asked to"})
    assert result.success
    assert {"what": "healed", "number": 2} in said(result)["done"]
    assert desk.operator.changes == [("heal", ("ada",), "asked to")]


@pytest.mark.parametrize(("confirm", "inserted"), [(-1, None), (0, None), (1, 1), (2, None)])
def test_documents_are_inserted_only_when_their_number_is_confirmed(
    desk: Desk, confirm: int, inserted: int | None
) -> None:
    result = desk.launch("restore_documents", {"confirm": confirm})
    assert result.success is (confirm in {-1, 1})
    assert len(desk.operator.changes) == (inserted or 0)
    if confirm == -1:
        assert said(result)["confirm"] == 1
        assert said(result)["left_alone"] == [{"user": "bea", "message": "no password"}]


def test_erasures_are_shown_with_what_is_left_and_what_has_gone(desk: Desk) -> None:
    """DEL-6, DEL-7."""
    shown = said(desk.launch("erasure_report"))
    assert (shown["pending"], shown["gone"], shown["records"], shown["links"]) == (2, 1, 1, 1)
    assert (shown["blobs"], shown["renditions"], shown["snapshots"]) == (0, 2, 0)
    assert [row["item"] for row in shown["pending_items"]] == ["mood:1", "tape:1"]
    assert shown["pending_items"][1]["renditions"] == "bafk1; bafk2"


def test_forgetting_snapshots_says_which_and_deletes_none_until_their_number_is_confirmed(desk: Desk) -> None:
    """DEL-7."""
    for named in ({"user": "ada"}, {"snapshots": ["snapshot-1"]}):
        shown = said(desk.launch("forget_snapshots", named))
        assert (shown["dry_run"], shown["confirm"], shown["blobs"], shown["shared_blobs"]) == (True, 1, 2, 1)
        assert [row["id"] for row in shown["snapshots"]] == ["snapshot-1"]
    assert not desk.launch("forget_snapshots", {"user": "ada", "confirm": 2}).success
    assert not desk.launch("forget_snapshots", {"user": "ada", "confirm": 0}).success
    assert desk.operator.changes == []
    done = said(desk.launch("forget_snapshots", {"user": " ada ", "confirm": 1, "why": "she left"}))
    assert (done["dry_run"], done["forgotten"]) == (False, 1)
    assert desk.operator.changes == [("forget", "ada", (), "she left")]


@pytest.mark.parametrize("config", [None, {"user": " "}, {"user": "ada", "snapshots": ["snapshot-1"]}])
def test_forgetting_names_either_a_user_or_snapshots(config: dict[str, Any] | None, desk: Desk) -> None:
    assert not desk.launch("forget_snapshots", config).success
    assert desk.operator.changes == []


def test_lexicons_are_published_only_when_told_to(desk: Desk) -> None:
    assert "would_be_published" in said(desk.launch("publish_lexicons"))
    assert "published" in said(desk.launch("publish_lexicons", {"dry_run": False, "why": "ready"}))
    assert desk.operator.changes == [("publish", "ready")]


def test_a_snapshot_names_what_it_holds(desk: Desk) -> None:
    shown = said(desk.launch("take_snapshot", {"user": "ada"}))
    assert (shown["snapshot"], shown["records"]) == ("snapshot-1", [{"what": "mood", "number": 3}])
    assert "auth0" not in json.dumps(shown)
