"""The contracts of the index of snapshots and of the audit, held in memory and on MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, Permanent
from ac_pipeline.mongo.ledger.audit import AuditEntry, MongoAudit, operator_name
from ac_pipeline.mongo.ledger.collections import MongoSnapshots, Snapshot
from ac_pipeline_tests.memory_ports import FakeClock
from ac_pipeline_tests.memory_vault import MemorySnapshots

NOW = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)
ADA = Account("auth0|1", "ada", did="did:plc:ada", password="hunter2")


@pytest.fixture(params=["in memory", "on MongoDB"])
def index(request: pytest.FixtureRequest) -> MongoSnapshots | MemorySnapshots:
    if request.param == "in memory":
        return MemorySnapshots()
    return MongoSnapshots(request.getfixturevalue("mongo"))


def snapshot(id: str, **fields: Any) -> Snapshot:
    values: dict[str, Any] = {
        "account": "auth0|1",
        "user": "ada",
        "did": "did:plc:ada",
        "when": NOW,
        "types": ("mood", "tape"),
        "commit": "bafycommit",
        "repository": "abc",
        "records": {"mood": 3, "tape": 1},
    }
    return Snapshot(id, **(values | fields))


def test_a_snapshot_is_read_as_it_was_saved(index: MongoSnapshots | MemorySnapshots) -> None:
    """PLAN-5."""
    saved = snapshot("a", blobs=2, bytes=10, complete=True, previous="b", wipe=4, open=True)
    index.save(snapshot("a"))
    index.save(saved)
    assert index.get("a") == saved
    assert index.find() == [saved]


def test_snapshots_are_listed_newest_first_and_by_account(index: MongoSnapshots | MemorySnapshots) -> None:
    """PLAN-5."""
    for number in (1, 3, 2):
        index.save(snapshot(f"s{number}", when=NOW + timedelta(seconds=number), account=f"auth0|{number % 2}"))
    assert [each.id for each in index.find()] == ["s3", "s2", "s1"]
    assert [each.id for each in index.find(limit=1)] == ["s3"]
    assert [each.id for each in index.find(account="auth0|1")] == ["s3", "s1"]
    assert index.find(account="auth0|9") == []


def test_an_unknown_snapshot_is_named(index: MongoSnapshots | MemorySnapshots) -> None:
    with pytest.raises(Misconfigured, match="no snapshot 'x'"):
        index.get("x")


def test_a_removed_snapshot_is_forgotten_and_the_others_stay(index: MongoSnapshots | MemorySnapshots) -> None:
    """DEL-7: also when it is removed twice."""
    for id in "ab":
        index.save(snapshot(id))
    for _ in range(2):
        index.remove("a")
    assert [each.id for each in index.find()] == ["b"]
    with pytest.raises(Misconfigured):
        index.get("a")


def test_the_json_of_a_snapshot_leaves_the_mongo_id_out() -> None:
    """ACCT-5."""
    assert "auth0" not in str(snapshot("a").to_json())


# ------------------------------------------------------------------------------------------------------------ the audit


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def audit(mongo: Any, clock: FakeClock) -> MongoAudit:
    return MongoAudit(mongo, who="ada@desk", now=clock)


def test_an_operation_is_recorded_before_it_starts_and_again_when_it_ends(audit: MongoAudit, mongo: Any) -> None:
    """PLAN-5, ACCT-5: both lines stay, the last one counts; no password is in either."""
    with audit.during("wipe", [ADA], ["mood"], why="asked", plan_hash="abc", counts={"mood": 3}) as audited:
        (started,) = audit.entries()
        assert (started.outcome, started.counts) == ("started", {"mood": 3})
        audited.counts = {"mood": 2}
    (ended,) = audit.entries()
    assert ended == AuditEntry(
        "wipe",
        "ada@desk",
        started.when,
        "asked",
        ("ada", "did:plc:ada"),
        ("mood",),
        "abc",
        {"mood": 2},
        "done",
        started.operation,
    )
    lines = list(mongo["audit"].find())
    assert len(lines) == 2
    assert "hunter2" not in str(lines)
    assert ended.to_json()["when"] == ended.when.isoformat()


@pytest.mark.parametrize(("changed", "counts"), [({}, {}), (None, {"mood": 3})], ids=["nothing", "unknown"])
def test_what_was_planned_stays_only_where_nobody_knows_what_was_changed(
    audit: MongoAudit, changed: dict[str, int] | None, counts: dict[str, int]
) -> None:
    """PLAN-5."""
    with audit.during("wipe", [ADA], ["mood"], counts={"mood": 3}) as audited:
        audited.counts = changed
    assert [entry.counts for entry in audit.entries()] == [counts]


def test_a_kill_leaves_its_trace(audit: MongoAudit) -> None:
    """PLAN-5: an operation of which nothing more is heard stays `started`."""
    audit.record(AuditEntry("wipe", "ada@desk", NOW))
    assert [entry.outcome for entry in audit.entries()] == ["started"]


@pytest.mark.parametrize(
    ("error", "outcome"), [(Permanent("it stays"), "failed: it stays"), (KeyboardInterrupt(), "interrupted")]
)
def test_how_an_operation_failed_is_recorded(audit: MongoAudit, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)), audit.during("wipe", [ADA], ["mood"]):
        raise error
    assert [entry.outcome for entry in audit.entries()] == [outcome]


def test_operations_are_listed_by_action_and_user_the_last_first(audit: MongoAudit, clock: FakeClock) -> None:
    bob = Account("auth0|2", "bob")
    for action, account in (("wipe", ADA), ("restore", ADA), ("wipe", bob)):
        clock.advance(1)
        with audit.during(action, [account], []):
            clock.advance(1)
    assert [(e.action, e.users[0]) for e in audit.entries()] == [("wipe", "bob"), ("restore", "ada"), ("wipe", "ada")]
    assert [e.users[0] for e in audit.entries(action="wipe")] == ["bob", "ada"]
    assert [e.action for e in audit.entries(user="did:plc:ada")] == ["restore", "wipe"]
    assert [e.action for e in audit.entries(1)] == ["wipe"]


def test_the_operator_is_the_setting_else_the_login_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator_name("ada") == "ada"
    monkeypatch.setenv("LOGNAME", "bob")
    assert operator_name(None).startswith("bob@")
