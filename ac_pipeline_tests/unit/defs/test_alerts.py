"""Which changes are worth a message, and what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ac_pipeline.defs.alerts.messages import Known, Memory, SubjectStatus, decide, read_cursor
from ac_pipeline.redaction import Redactor

NOW = 1_767_323_045.0  # 2026-01-02T03:04:05Z
USERS = [f"user{number:03}" for number in range(500)]
STATUS = SubjectStatus(
    "backfill:abcdefgh",
    1,
    "Backfill abcdefgh",
    "of atproto/moods and atproto/paintings ended with failed runs",
    "/runs/b/abcdefgh",
    since=NOW - 5_400,
    partitions=(500, 4_201),
    runs=(5, 36),
    classes={"rate-limited": 1, "service-unreachable": 499},
    names=USERS,
    words="the PDS does not answer",
)


def plain(text: str) -> str:
    return text


def seen(level: int, subject: str = "backfill:a", **facts: Any) -> SubjectStatus:
    return SubjectStatus(subject, level, "Backfill a", "failed" if level else "is repaired", "/runs/b/a", **facts)


class Looks:
    """One look after another, each remembering the last."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def look(self, *statuses: SubjectStatus, now: float = NOW, silent: bool = False) -> list[str]:
        self.known, alerts = decide(self.known, statuses, now, silent=silent)
        return [alert.headline for alert in alerts]


def test_one_change_of_state_is_one_message() -> None:
    """RUN-9."""
    looks = Looks()
    assert looks.look(seen(0)) == []
    assert looks.look(seen(1)) == ["[failed] Backfill a failed"]
    assert looks.look(seen(1)) == []
    assert looks.look() == []
    assert looks.look(seen(0)) == ["[recovered] Backfill a is repaired"]
    assert looks.look(seen(0)) == []
    assert looks.known == {}


def test_a_subject_that_gets_worse_is_told_again_and_one_that_gets_better_is_not() -> None:
    looks = Looks()
    assert len(looks.look(seen(2))) == 1
    assert len(looks.look(seen(3))) == 1
    assert looks.look(seen(1)) == []
    assert looks.known["backfill:a"].level == 1
    assert len(looks.look(seen(2))) == 1


def test_what_was_so_before_the_first_look_is_history_and_neither_failed_nor_recovered() -> None:
    looks = Looks()
    assert looks.look(seen(3), silent=True) == []
    assert looks.look(seen(3)) == []
    assert looks.look(seen(0)) == []
    looks.look(seen(3), silent=True)
    assert len(looks.look(seen(4))) == 1
    assert len(looks.look(seen(0))) == 1


def test_who_is_turned_off_by_a_person_is_forgotten_without_a_message() -> None:
    looks = Looks()
    looks.look(seen(1))
    off = SubjectStatus("backfill:a", 0, "a", "is turned off", "/", quiet=True)
    assert looks.look(off) == []
    assert looks.known == {}


def test_since_when_is_remembered_until_it_is_well() -> None:
    looks = Looks()
    looks.look(seen(1, since=NOW - 60), now=NOW)
    looks.look(seen(2, since=NOW + 600), now=NOW + 600)
    _, (alert,) = decide(looks.known, [seen(0)], NOW + 7_200)
    assert alert.since == NOW - 60


def test_five_hundred_failing_users_are_one_message_with_classes_counts_a_few_names_and_the_page() -> None:
    """RUN-9, OPS-1."""
    text = STATUS.text(NOW, "https://dagster.example", plain)
    assert text == (
        "[failed] Backfill abcdefgh of atproto/moods and atproto/paintings ended with failed runs\n"
        "Since 2026-01-02T01:34:05Z (90 min ago).\n"
        "Users: 500 of 4201 failed; Runs: 5 of 36 failed.\n"
        "Errors: service-unreachable 499, rate-limited 1.\n"
        "user000, user001, user002, user003, user004 and 495 more.\n"
        "One says: the PDS does not answer\n"
        "A service does not answer: nothing is lost, and what failed succeeds once it is back.\n"
        "https://dagster.example/runs/b/abcdefgh"
    )


def test_a_recovery_says_since_when_it_had_failed_and_counts_no_failures() -> None:
    text = seen(0, since=NOW - 10_800, partitions=(0, 6)).text(NOW, None, plain)
    assert (
        text
        == "[recovered] Backfill a is repaired\nHad failed since 2026-01-02T00:04:05Z (3 h ago).\nUsers: 6.\n/runs/b/a"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(29, "just now"), (31, "1 min ago"), (7_169, "119 min ago"), (7_200, "2 h ago"), (169_140, "46 h ago"),
     (172_740, "47 h ago"), (172_800, "2 days ago")],
)  # fmt: skip
def test_how_long_ago_is_said_in_fitting_units(seconds: float, said: str) -> None:
    assert f"({said})" in seen(1, since=NOW - seconds).text(NOW, None, plain)


def test_receivers_of_every_kind_find_their_field_and_programs_find_figures() -> None:
    payload = STATUS.payload(NOW, "https://dagster.example", plain)
    assert payload["text"] == payload["content"]
    assert payload["alert"] == {
        "id": "backfill:abcdefgh:failed:1767323045",
        "state": "failed",
        "subject": "backfill:abcdefgh",
        "headline": "[failed] Backfill abcdefgh of atproto/moods and atproto/paintings ended with failed runs",
        "at": "2026-01-02T03:04:05Z",
        "since": "2026-01-02T01:34:05Z",
        "partitions": {"failed": 500, "all": 4201},
        "runs": {"failed": 5, "all": 36},
        "error_classes": {"service-unreachable": 499, "rate-limited": 1},
        "names": ["user000", "user001", "user002", "user003", "user004"],
        "url": "https://dagster.example/runs/b/abcdefgh",
    }
    json.dumps(payload)


@pytest.mark.parametrize("words", ["x" * 390, "x" * 380])
def test_a_secret_appears_nowhere_in_a_message_also_where_it_is_cut(words: str) -> None:
    """ACCT-5."""
    secret = "hunter2-and-a-half-of-it-is-still-one"
    named: dict[str, Any] = {"classes": {secret: 1}, "names": [secret], "words": f"{words} {secret}"}
    status = SubjectStatus(f"sensor:{secret}", 1, f"Sensor {secret}", f"says {secret}", "/x", **named)
    payload = status.payload(NOW, None, Redactor([secret]))
    assert "hunter2" not in json.dumps(payload)


def test_a_message_is_no_longer_than_chats_accept_and_keeps_its_address() -> None:
    status = SubjectStatus("backfill:a", 1, "Backfill a", "b" * 5_000, "/runs/b/a", names=["c" * 900] * 5)
    text = status.text(NOW, "https://dagster.example", plain)
    assert len(text) == 1_900
    assert text.endswith("...\nhttps://dagster.example/runs/b/a")


def test_what_a_tick_leaves_is_read_back_by_the_next() -> None:
    memory = Memory(
        begun=1.0, looked_at=2.0, ticked=3.0, awake=2.5, checked=2.7, backfills_seen=7,
        run_sets={"schedule|1|s": -1, "backfill|1.5|b": 2},
        known={"backfill:b": Known(2, 1.0, announced=True, about=("backfill|1.5|b",))},
    )  # fmt: skip
    assert read_cursor(memory.cursor()) == memory


@pytest.mark.parametrize("cursor", [None, "", "17", "not json", "[]", '{"version": 0}', '{"version": [1]}'])
def test_a_cursor_that_is_not_ours_counts_as_none(cursor: str | None) -> None:
    assert read_cursor(cursor) is None


def test_the_cursor_of_an_older_release_is_read_without_what_waited_in_it() -> None:
    """Neither are messages of before repeated nor does a failure of before stay without its end."""
    older = {
        "version": 1, "begun": 1.0, "looked_at": 2.0, "ticked": 3.0, "awake": 1.0, "backfills_seen": 1,
        "backfills": ["b"], "run_sets": {"schedule|1|s": 0}, "held": {"check:c": 1.0},
        "known": {"backfill:a": [1, 1.0, True, ["a"]], "schedule:s:runs": [1, 1.0, True, ["schedule|1|s"]]},
        "outbox": [{"text": "a", "content": "a", "alert": {"subject": "a"}}],
    }  # fmt: skip
    assert read_cursor(json.dumps(older)) == Memory(
        begun=1.0, looked_at=2.0, ticked=3.0, awake=1.0, backfills_seen=1,
        run_sets={"schedule|1|s": 0, "backfill|0|b": -1},
        known={
            "backfill:a": Known(1, 1.0, announced=True, about=("backfill|0|a",)),
            "schedule:s:runs": Known(1, 1.0, announced=True, about=("schedule|1|s",)),
        },
    )  # fmt: skip
