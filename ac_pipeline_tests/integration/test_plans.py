"""Plans that are kept, syncs that are held to them, and canaries: the command line on real services."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.atproto.rate_limits import Window
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run


def planned(cli: Run, *arguments: str) -> dict[str, Any]:
    code, out = cli("plan", "--json", *arguments)
    assert code == 0, out
    return dict(json.loads(out))


def by_plan(cli: Run, plan: dict[str, Any], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out = cli("sync", "--plan", plan["hash"][:8], "--json", *arguments)
    return code, json.loads(out)


def moved(report: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["moved"], each["user"], each["operation"]) for each in report["moved"]}


def test_exactly_the_plan_is_carried_out_and_a_second_time_nothing(cli: Run, slice_: Slice) -> None:
    """PLAN-1, PLAN-2: a prefix of the hash is enough; the audit knows which plan it was."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    slice_.add("mood", ada, mood="one")
    slice_.add("piece", bob, slug="wand")
    plan = planned(cli)
    assert (len(plan["operations"]), plan["users"], plan["saved"]) == (2, 2, True)
    assert slice_.records(ada, "mood") == {}

    code, report = by_plan(cli, plan)
    assert (code, report["same"], report["before"], report["moved"]) == (0, 2, 0, [])
    written = {(user.key, rkey, cid) for user, type_ in ((ada, "mood"), (bob, "piece"))
               for rkey, (cid, _) in slice_.listed(user, type_).items()}  # fmt: skip
    assert written == {(each["user"], each["rkey"], each["cid"]) for each in plan["operations"]}
    (entry,) = slice_.pipeline.audit.entries(action="sync-plan")
    assert (entry.plan_hash, entry.outcome, entry.counts["done"]) == (plan["hash"], "done", 2)
    assert {"ada", "bob"} <= set(entry.users)

    code, report = by_plan(cli, plan)
    assert (code, report["same"], report["before"], report["moved"]) == (0, 0, 2, [])


def test_what_moved_since_is_listed_and_not_done(cli: Run, slice_: Slice) -> None:
    """PLAN-1: new, changed and no longer needed; deletes, orphans and new users included."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    kept = [slice_.add("mood", ada, mood=f"mood {number}") for number in range(6)]
    orphans = [slice_.add("piece", ada, slug=f"piece-{number}") for number in range(2)]
    slice_.add("piece", bob, slug="wand")  # an empty collection would prove nothing (DEL-5)
    assert cli("sync")[0] == 0
    same, changed, gone = (slice_.add("mood", ada, mood=name) for name in ("same", "changed", "gone"))
    slice_.change("mood", kept[0], nuked=True)  # a delete that stays as planned
    slice_.change("mood", kept[1], nuked=True)  # one that is taken back
    slice_.database["pieces"].delete_one({"_id": ObjectId(orphans[0])})
    plan = planned(cli)
    assert sorted(each["operation"] for each in plan["operations"]) == [
        "create", "create", "create", "delete", "delete", "delete-orphan",
    ]  # fmt: skip

    slice_.change("mood", changed, mood="something else")
    slice_.change("mood", gone, nuked=True)
    slice_.change("mood", kept[1], nuked=False)
    slice_.change("mood", kept[2], nuked=True)  # a delete nobody has agreed to
    slice_.change("mood", kept[3], mood="an update nobody has agreed to")
    slice_.database["pieces"].delete_one({"_id": ObjectId(orphans[1])})
    slice_.add("mood", ada, mood="new")
    slice_.add("mood", bob, mood="of a user who is not in the plan")
    expected = {
        ("changed", "ada", "create"),
        ("no longer needed", "ada", "create"),
        ("no longer needed", "ada", "delete"),
        ("new since", "ada", "delete"),
        ("new since", "ada", "update"),
        ("new since", "ada", "delete-orphan"),
        ("new since", "ada", "create"),
        ("new since", "bob", "create"),
    }
    before = slice_.listed(ada, "mood")
    code, looked = by_plan(cli, plan, "--dry-run")
    assert (code, moved(looked), slice_.listed(ada, "mood")) == (1, expected, before)

    code, report = by_plan(cli, plan)
    assert (code, moved(report), report["same"]) == (1, expected, 3)
    after = {record["ref"]: cid for cid, record in slice_.listed(ada, "mood").values()}
    assert set(after) == {*kept[1:], same}
    assert {record["mood"] for record in slice_.records(ada, "mood").values()} == {
        *(f"mood {n}" for n in range(1, 6)),
        "same",
    }
    assert [record["ref"] for record in slice_.records(ada, "piece").values()] == [orphans[1]]
    assert slice_.records(bob, "mood") == {}

    assert cli("sync")[0] == 0
    assert len(slice_.records(bob, "mood")) == 1


def test_a_user_who_cannot_be_used_any_more_is_listed_and_the_others_go_on(cli: Run, slice_: Slice) -> None:
    """ACCT-2."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood="hello")
    plan = planned(cli)
    slice_.database["users"].delete_one({"_id": ada.id})
    slice_.database["moods"].delete_many({"user": ada.id})
    slice_.database["users"].update_one({"_id": bob.id}, {"$unset": {"atproto.password": ""}})
    code, report = by_plan(cli, plan)
    assert (code, moved(report)) == (1, {("no longer needed", "ada", "create"), ("not possible", "bob", "create")})


def test_plans_are_listed_newest_first_and_found_by_a_prefix_of_eight(cli: Run, slice_: Slice) -> None:
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="one")
    first = planned(cli)
    slice_.add("mood", ada, mood="two")
    second = planned(cli, "--user", "ada")
    _, out = cli("plans", "--json")
    listed = json.loads(out)
    assert [each["hash"] for each in listed] == [second["hash"], first["hash"]]
    assert [each["selection"]["users"] for each in listed] == [1, "all"]
    assert listed[0]["counts"] == {"create": 2}
    assert ada.id not in out
    assert first["hash"][:8] in cli("plans")[1]
    assert cli("sync", "--plan", first["hash"][:7])[0] == 2
    assert cli("sync", "--plan", "0123456789")[0] == 2
    assert cli("sync", "--plan", first["hash"], "--user", "ada")[0] == 2
    assert cli("plan", "--since", "2030-01-01")[0] == 0
    assert len(json.loads(cli("plans", "--json")[1])) == 2, "an empty plan is not kept"


@pytest.mark.parametrize("by_hash", [False, True])
def test_a_canary_does_the_first_users_with_work_and_says_how_to_go_on(cli: Run, slice_: Slice, by_hash: bool) -> None:
    """PLAN-2: those who have nothing to do do not count; the others are untouched until the command that goes on."""
    users = [slice_.user(name) for name in ("ada", "bea", "cyd", "dan")]
    for user in users[1:]:
        slice_.add("mood", user, mood=f"of {user.key}")
        slice_.add("kidlisp", user, code=f"k{user.key}", source=f"(wipe {user.key})")
    begin = ("sync", "--plan", planned(cli)["hash"]) if by_hash else ("sync", "--type", "mood", "--type", "kidlisp")
    code, out = cli(*begin, "--canary", "2", "--json")
    report = json.loads(out)
    assert code == 0, out
    assert [each["user"] for each in report["canary"]] == ["bea", "cyd"]
    for each in report["canary"]:
        assert (each["verification"]["expected"], each["verification"]["verified"]) == (2, 2)
        assert all(found["uri"].startswith("at://did:") for found in each["records"])
        assert any("aesthetic.computer" in str(found["page"]) for found in each["records"])
    assert [len(slice_.records(user, "mood")) for user in users] == [0, 1, 1, 0]
    program, *rest = report["go_on"].split()
    assert (program, "--canary" in rest) == ("ac-pipeline", False)
    assert cli(*rest)[0] == 0
    assert [len(slice_.records(user, "mood")) for user in users] == [0, 1, 1, 1]
    assert "Have a look" in cli(*begin, "--canary", "1")[1]


def test_the_cost_is_reckoned_with_what_the_pds_has_taught(cli: Run, slice_: Slice) -> None:
    """LIMIT-4, LIMIT-8: which limit binds, and when it is over, before anything is sent."""
    ada = slice_.user("ada")
    for number in range(5):
        slice_.add("mood", ada, mood=f"mood {number}")
    assert planned(cli)["cost"]["waits_for"] == "the speed of the PDS"
    now = slice_.pipeline.engine.now().timestamp()
    policy = Window(5_000, 3_600.0, 510, now + 1_800)
    slice_.pipeline.budgets.change(str(ada.did), "5000;w=3600", None, policy)
    plan = planned(cli, "--relay-events", "2500")
    assert plan["cost"]["waits_for"] == "write points of one user (5,000 an hour)", "500 are left to the user"
    assert 1_700 < _seconds(plan["cost"]["finishes_at"], now) < 1_900
    assert {each["what"] for each in plan["limits"]} == {"write points of one user", "commits the relay takes"}
    assert plan["by_user"][0]["waits_for"] == plan["cost"]["waits_for"]
    assert "5,000 an hour" in cli("plan")[1]


def _seconds(moment: str, now: float) -> float:

    return datetime.fromisoformat(moment).timestamp() - now


def test_every_command_about_items_takes_the_same_selectors(cli: Run, slice_: Slice) -> None:
    """PLAN-2: users, types, dates, items and at most N of each user and type, in whatever is listed or looked at."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        for day in (1, 2, 3):
            when = datetime(2025, 10, day, tzinfo=UTC)
            slice_.add("mood", user, mood=f"mood {day}", when=when)
            slice_.add("kidlisp", user, code=f"{user.key}{day}", source=f"(wipe {user.key} {day})", when=when)
    assert cli("sync")[0] == 0

    def items(*arguments: str) -> Counter[tuple[str, str]]:
        return Counter((each["user"], each["type"]) for each in json.loads(cli("items", "--json", *arguments)[1]))

    def looked(command: str, *arguments: str) -> int:
        code, out = cli(command, "--json", *arguments)
        found = json.loads(out)
        assert code == 0, out
        if command == "verify":
            return int(found["expected"])
        return (
            int(found["total"]["documents"])
            if command == "links"
            else sum(tally["documents"] for tally in found["types"].values())
        )

    both = [("ada", "mood"), ("ada", "kidlisp"), ("bob", "mood"), ("bob", "kidlisp")]
    for arguments, expected in (
        ((), dict.fromkeys(both, 3)),
        (("--limit", "2"), dict.fromkeys(both, 2)),
        (("--user", "ada", "--type", "mood"), {("ada", "mood"): 3}),
        (("--item", "kidlisp:bob2"), {("bob", "kidlisp"): 1}),
        (("--since", "2025-10-02"), dict.fromkeys(both, 2)),
        (("--until", "2025-10-02", "--type", "mood"), {("ada", "mood"): 1, ("bob", "mood"): 1}),
    ):
        assert items(*arguments) == expected
        for command in ("verify", "links", "status"):
            assert looked(command, *arguments) == sum(expected.values()), command
