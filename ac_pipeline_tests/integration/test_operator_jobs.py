"""The operators' jobs on real services: what a launch does is what the command does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import plain, said, sentence
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run

FLIGHT_PLAN = dg.AssetKey(["operations", "flight_plan"])


class Desk:
    """Launches of jobs, each with a pipeline of its own, as in production."""

    def __init__(self, slice_: Slice, instance: dg.DagsterInstance) -> None:
        self.slice, self.instance = slice_, instance

    def launch(self, job: str, **config: Any) -> dg.ExecuteInProcessResult:
        with PipelineResource(lambda: self.slice.pipeline.settings) as pipeline:
            definition = build_defs({"pipeline": pipeline}).resolve_job_def(job)
            (op,) = definition.nodes
            run_config = {"ops": {op.name: {"config": config}}}
            return definition.execute_in_process(instance=self.instance, run_config=run_config, raise_on_error=False)

    def contents(self, *users: Any) -> dict[str, str]:
        """Path -> CID of every record of these users, as a client that is not ours lists them."""
        return {
            f"{user.key}/{media.name}/{rkey}": cid
            for user in users
            for media in MEDIA_TYPES
            for rkey, (cid, _) in self.slice.listed(user, media.name).items()
        }


@pytest.fixture
def desk(slice_: Slice) -> Iterator[Desk]:
    with open_instance() as instance:
        yield Desk(slice_, instance)


def test_a_wipe_and_a_restore_by_job_leave_what_the_commands_leave(desk: Desk, slice_: Slice, cli: Run) -> None:
    """PLAN-5, PLAN-6: another user and other types stay untouched; links, holds, audit and keys are the same."""
    ada, bob, eve = (slice_.user(name) for name in ("ada", "bob", "eve"))
    moods = {
        user.key: [slice_.add("mood", user, mood=f"mood {number}") for number in range(3)] for user in (ada, bob, eve)
    }
    for user in (ada, bob, eve):
        slice_.add("piece", user, slug=f"of-{user.key}")
    assert cli("sync")[0] == 0
    before = desk.contents(ada, bob, eve)

    assert desk.launch("wipe_user", user="ada", types=["mood"]).success, "a preview"
    assert not desk.launch("wipe_user", user="ada", types=["mood"], confirm=4).success
    assert desk.contents(ada, bob, eve) == before
    assert desk.launch("wipe_user", user="ada", types=["mood"], confirm=3, why="asked to").success
    code, _ = cli("wipe", "bob", "--type", "mood", "--confirm", "3", "--why", "asked to")
    assert code == 0
    for user in (ada, bob):
        assert slice_.records(user, "mood") == {}
        assert len(slice_.records(user, "piece")) == 1
        assert all(slice_.link("mood", id) is None for id in moods[user.key])
        assert set(slice_.pipeline.ledger.holds(user)) == {"mood"}
    assert {path: cid for path, cid in before.items() if path.startswith("eve/")} == desk.contents(eve)
    by_job, by_command = (slice_.pipeline.audit.entries(action="wipe", user=key)[0] for key in ("ada", "bob"))
    assert (by_job.counts, by_job.why, by_job.outcome, by_job.types) == (
        by_command.counts, by_command.why, by_command.outcome, by_command.types,
    )  # fmt: skip
    observed = desk.instance.fetch_observations(dg.AssetKey(["atproto", "moods"]), limit=5).records
    assert [event.partition_key for event in observed] == ["ada"]

    wiped = desk.contents(ada, bob, eve)
    assert desk.launch("restore_user", user="ada", types=["mood"], source="latest").success
    assert desk.contents(ada, bob, eve) == wiped, "a dry run"
    assert desk.launch("restore_user", user="ada", types=["mood"], source="latest", dry_run=False).success
    assert cli("restore", "bob", "--type", "mood", "--from", "latest")[0] == 0
    assert desk.contents(ada, bob, eve) == before
    assert slice_.pipeline.ledger.holds(ada) == slice_.pipeline.ledger.holds(bob) == {}

    assert desk.launch("wipe_user", user="ada", confirm=4).success
    assert desk.contents(ada) == {}
    assert desk.launch("restore_user", user="ada", dry_run=False).success
    assert desk.contents(ada, bob, eve) == before
    code, out = cli("sync", "--json")
    assert (code, json.loads(out)["requests"]["apply_writes"]) == (0, 0)


def test_what_is_planned_in_dagster_is_carried_out_by_its_hash(desk: Desk, slice_: Slice, cli: Run) -> None:
    """PLAN-1, PLAN-2, LIMIT-8, ACCT-5."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood=f"of {user.key}")
    assert desk.launch("plan_users", users=["ada"]).success
    assert desk.contents(ada, bob) == {}
    event = desk.instance.get_latest_materialization_event(FLIGHT_PLAN)
    assert event is not None
    assert event.asset_materialization is not None
    hash_ = event.asset_materialization.metadata["hash"].value
    assert hash_ == json.loads(cli("plan", "--user", "ada", "--json")[1])["hash"][:12]
    assert desk.launch("apply_plan", plan=str(hash_)[:12], dry_run=True).success
    assert desk.contents(ada, bob) == {}
    assert desk.launch("apply_plan", plan=str(hash_)[:12], canary=1, dry_run=False).success
    assert [path.partition("/")[0] for path in desk.contents(ada, bob)] == ["ada"]
    again = desk.launch("apply_plan", plan=str(hash_)[:12], dry_run=False)
    assert (again.success, "1 were in place already" in said(again)["answer"]) == (True, True)
    assert cli("sync", "--plan", str(hash_)[:8])[0] == 0
    told = str(desk.instance.all_logs(event.run_id))
    assert str(ada.password) not in told
    assert ada.id not in told


def test_links_lost_documents_erasures_and_snapshots_are_seen_and_healed_by_job(
    desk: Desk, slice_: Slice, cli: Run
) -> None:
    """LINK-1, DEL-6: what the jobs find is there, what they repair is repaired, and nothing besides."""
    ada = slice_.user("ada")
    lost, unlinked, withdrawn = (slice_.add("mood", ada, mood=name) for name in ("lost", "unlinked", "withdrawn"))
    assert cli("sync")[0] == 0
    before = desk.contents(ada)
    document = slice_.document("mood", lost)
    slice_.database["moods"].delete_one({"_id": document["_id"]})
    slice_.database["moods"].update_one({"_id": slice_.document("mood", unlinked)["_id"]}, {"$unset": {"atproto": ""}})
    slice_.change("mood", withdrawn, nuked=True)

    assert desk.launch("take_snapshot", user="ada").success
    assert desk.launch("erasure_report").success
    assert desk.launch("heal_links", types=["mood"]).success
    assert desk.launch("restore_documents", users=["ada"]).success
    assert desk.contents(ada) == before
    assert slice_.link("mood", unlinked) is None
    assert slice_.database["moods"].count_documents({}) == 2

    assert not desk.launch("restore_documents", users=["ada"], confirm=2).success
    assert desk.launch("restore_documents", users=["ada"], confirm=1).success
    assert slice_.document("mood", lost)["mood"] == "lost"
    assert desk.launch("heal_links", users=["ada"], heal=True, why="asked to").success
    assert slice_.link("mood", unlinked) is not None
    assert {entry.action for entry in slice_.pipeline.audit.entries()} >= {"restore-documents"}
    assert cli("sync")[0] == 0
    assert {record["mood"] for record in slice_.records(ada, "mood").values()} == {"lost", "unlinked"}


def test_status_and_items_are_told_by_job_as_by_command(desk: Desk, slice_: Slice, cli: Run) -> None:
    """OPS-4, OPER-1."""
    ada = slice_.user("ada")
    id = slice_.add("mood", ada, mood="fine")
    slice_.add("kidlisp", ada, source="(line)")
    assert cli("sync")[0] == 1
    status = {row["type"]: row for row in said(desk.launch("show_status"))["status"]}
    assert (status["unchanged"]["mood"], status["quarantined"]["kidlisp"], status["documents"]["total"]) == (1, 1, 2)
    listed = json.loads(cli("items", "--json", "--state", "quarantined")[1])
    (row,) = said(desk.launch("list_items", states=["quarantined"]))["items"]
    assert row["item"] == listed[0]["item"]
    assert row["class"] == listed[0]["failure"]["error_class"]
    shown = said(desk.launch("show_item", item=f"mood:{id}"))
    assert {"field": "state", "value": "written"} in shown[f"mood:{id}"]
    assert len(shown[f"timeline of mood:{id}"]) == 1
    assert "is none of" in sentence(desk.launch("list_items", states=["lost"]))
    assert "knows no mood:nothing" in sentence(desk.launch("show_item", item="mood:nothing"))


def test_the_mirror_is_counted_and_every_failed_item_is_listed(desk: Desk, slice_: Slice, cli: Run) -> None:
    """OPER-4, SEEN-1: documents, records, what is kept back and why, blocked accounts by reason, and how long the
    oldest waits; the failed items of all users, the newest first, with what to do."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood=f"of {user.key}")
    lost = slice_.add("painting", ada, code="abc", slug="2025.1.2.3.4.5.678", bucket="user-aesthetic-computer")
    removed = slice_.add("mood", ada, mood="removed")
    slice_.change("mood", removed, nuked=True)
    assert cli("sync")[0] == 1
    slice_.database["users"].update_one({"_id": bob.id}, {"$unset": {"atproto.password": ""}})
    slice_.add("mood", ada, mood="not yet")
    leaving = slice_.user("cleo")
    slice_.add("mood", leaving, mood="never to be published")
    slice_.database["account-deletions"].insert_one({"_id": leaving.id, "state": "scheduled"})

    result = desk.launch("count_mirror")
    assert result.success
    event = desk.instance.get_latest_materialization_event(dg.AssetKey(["mirror", "totals"]))
    assert event is not None
    assert event.asset_materialization is not None
    found = plain(event.asset_materialization.metadata)
    wanted = {
        "documents": 6, "eligible": 4, "records": 2, "pending": 1, "quarantined": 1, "deferred": 0, "blocked": 0,
        "quarantined: source-missing": 1, "blocked_accounts: no-credentials": 1, "accounts_blocked": 1,
        "mood: documents": 5, "mood: records": 2, "mood: pending": 1, "oldest_pending_deletion_seconds": 0,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert found["oldest_unmirrored_document_seconds"] > 0
    assert "Mongo holds no password" in found["blocked: bob"]
    failed = said(result)["painting:abc"]
    assert failed.startswith("**source-missing**")
    for words in ("launch retry", "ada", "https://aesthetic.computer/#abc"):
        assert words in failed
    assert failed.endswith(f"`painting:{lost}`")
