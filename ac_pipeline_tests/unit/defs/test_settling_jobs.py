"""The jobs about differences and lexicons: what they show, what they refuse, and when they write."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.unit.defs.desk import Desk, said, sentence

MOOD = f"mood:{'a' * 24}"


def test_differences_are_listed_ours_beside_theirs(desk: Desk) -> None:
    """WRITE-10."""
    result = desk.launch("settle_differences")
    found = said(result)
    assert result.success
    assert (found["dry_run"], found["differences"], found["acceptable"]) == (True, 2, 1)
    first, second = found["records_others_touched"]
    assert (first["item"], first["ours"], first["theirs"]) == (MOOD, "mood: ours", "mood: theirs")
    assert second["accept_theirs"] == "not possible: it has no text"
    assert found["not_looked_at"] == [{"user": "bea", "message": "no password"}]
    assert "confirm" not in found


@pytest.mark.parametrize(("choice", "number"), [("push-ours", 2), ("accept-theirs", 1)])
def test_a_choice_without_a_number_is_told_it(desk: Desk, choice: str, number: int) -> None:
    """PLAN-5."""
    result = desk.launch("settle_differences", {"users": ["ada"], "choice": choice})
    assert result.success
    assert said(result)["confirm"] == number
    assert desk.changes == []


@pytest.mark.parametrize(
    ("choice", "confirm", "done"),
    [
        ("push-ours", 0, False),
        ("push-ours", 1, False),
        ("push-ours", 2, True),
        ("push-ours", 3, False),
        ("accept-theirs", 0, False),
        ("accept-theirs", 1, True),
        ("accept-theirs", 2, False),
    ],
)
def test_differences_are_settled_when_their_number_is_confirmed(
    desk: Desk, choice: str, confirm: int, done: bool
) -> None:
    """PLAN-5."""
    config = {"users": ["ada"], "items": ["mood:abc"], "choice": choice, "confirm": confirm, "why": "asked to"}
    result = desk.launch("settle_differences", config)
    assert result.success is done
    wanted = (choice, ("ada",), frozenset({("mood", "abc")}), "asked to")
    assert desk.changes == ([wanted] if done else [])
    if done:
        found = said(result)
        assert found["dry_run"] is False
        assert found["pushed" if choice == "push-ours" else "accepted"] == (2 if choice == "push-ours" else 1)
    else:
        assert f"not {confirm}: nothing was" in sentence(result)


@pytest.mark.parametrize(("choice", "confirm"), [("push-ours", 2), ("accept-theirs", 1)])
def test_what_could_not_be_settled_fails_with_what_was_done(desk: Desk, choice: str, confirm: int) -> None:
    """PLAN-3."""
    desk.operator.stopped = ServiceUnreachable("The PDS is away.")
    result = desk.launch("settle_differences", {"users": ["ada"], "choice": choice, "confirm": confirm})
    assert not result.success
    assert sentence(result) == "Not all of the confirmed items could be settled: see the tables."
    if choice == "push-ours":
        (row,) = said(result)["not_pushed"]
        assert (row["user"], row["class"], row["message"]) == ("ada", "service-unreachable", "The PDS is away.")
    else:
        assert [row["outcome"] for row in said(result)["items"]] == ["it changed in between", "it has no text"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"users": ["ada"], "choice": "theirs"}, "`choice` is push-ours, accept-theirs or empty, not 'theirs'"),
        ({"choice": "push-ours", "confirm": 2}, "say whose items are to be settled"),
        ({"choice": "accept-theirs", "confirm": 1, "types": ["mood"]}, "say whose items are to be settled"),
        ({"items": ["abc"]}, "is no item"),
        ({"types": ["poem"]}, "no media type"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_done(desk: Desk, config: dict[str, Any], reason: str) -> None:
    result = desk.launch("settle_differences", config)
    assert not result.success
    assert reason in sentence(result)
    assert desk.changes == []


@pytest.mark.parametrize("scan", [True, False])
def test_a_lexicon_check_shows_what_breaks_what(desk: Desk, scan: bool) -> None:
    """VERIFY-3: a breaking change is for a person, and the gate keeps records from being written meanwhile."""
    result = desk.launch("check_lexicons", {"scan": scan})
    found = said(result)
    nsid = media_type("mood").nsid
    assert result.success
    assert (found["authority"], found["breaking"]) == ("did:plc:lexi", 1)
    counts = {"records": 3, "invalid": 1} if scan else {}
    assert found["lexicons"] == [{"lexicon": nsid, "published": "breaking", **counts}]
    assert found["changes_against_the_published_versions"][0]["what"] == "maxLength was 6000, and is 5000"
    assert [row["problem"] for row in found.get("records_that_break_our_lexicon", [])] == (["no mood"] if scan else [])
    assert found.get("not_read", []) == ([{"user": "bea", "message": "no password"}] if scan else [])
    assert f"No record is written while {nsid}" in str(desk.instance.all_logs(result.run_id))
