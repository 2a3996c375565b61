"""Which changes are worth a message, what it says, and what becomes of it when nobody takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ac_pipeline.defs.alerts.delivery import WAITING, AlertDelivery
from ac_pipeline.defs.alerts.messages import Alert, Facts, Known, Memory, SubjectStatus, decide, read_cursor
from ac_pipeline.errors import Misconfigured, PipelineError, ServerFailed, ServiceUnreachable
from ac_pipeline.redaction import Redactor

NOW = 1_767_323_045.0  # 2026-01-02T03:04:05Z
USERS = [f"user{number:03}" for number in range(500)]
FACTS = Facts(
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
    return SubjectStatus(
        subject, level, Facts("Backfill a", "failed" if level else "is repaired", "/runs/b/a", **facts)
    )


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
    off = SubjectStatus("backfill:a", 0, Facts("a", "is turned off", "/"), quiet=True)
    assert looks.look(off) == []
    assert looks.known == {}


def test_since_when_is_remembered_until_it_is_well() -> None:
    looks = Looks()
    looks.look(seen(1, since=NOW - 60), now=NOW)
    looks.look(seen(2, since=NOW + 600), now=NOW + 600)
    _, (alert,) = decide(looks.known, [seen(0)], NOW + 7_200)
    assert alert.facts.since == NOW - 60


def test_five_hundred_failing_users_are_one_message_with_classes_counts_a_few_names_and_the_page() -> None:
    """RUN-9, OPS-1."""
    text = Alert("backfill:abcdefgh", failed=True, at=NOW, facts=FACTS).text("https://dagster.example", plain)
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
    facts = Facts("Backfill a", "is repaired", "/runs/b/a", since=NOW - 10_800, partitions=(0, 6))
    text = Alert("backfill:a", failed=False, at=NOW, facts=facts).text(None, plain)
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
    facts = Facts("a", "b", "/", since=NOW - seconds)
    assert f"({said})" in Alert("a", failed=True, at=NOW, facts=facts).text(None, plain)


def test_receivers_of_every_kind_find_their_field_and_programs_find_figures() -> None:
    payload = Alert("backfill:abcdefgh", failed=True, at=NOW, facts=FACTS).payload("https://dagster.example", plain)
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
    facts = Facts(
        f"Sensor {secret}", f"says {secret}", "/x", classes={secret: 1}, names=[secret], words=f"{words} {secret}"
    )
    payload = Alert(f"sensor:{secret}", failed=True, at=NOW, facts=facts).payload(None, Redactor([secret]))
    assert "hunter2" not in json.dumps(payload)


def test_a_message_is_no_longer_than_chats_accept_and_keeps_its_address() -> None:
    facts = Facts("Backfill a", "b" * 5_000, "/runs/b/a", names=["c" * 900] * 5)
    text = Alert("backfill:a", failed=True, at=NOW, facts=facts).text("https://dagster.example", plain)
    assert len(text) == 1_900
    assert text.endswith("...\nhttps://dagster.example/runs/b/a")


def test_what_a_tick_leaves_is_read_back_by_the_next() -> None:
    memory = Memory(
        begun=1.0, looked_at=2.0, ticked=3.0, awake=2.5, backfills_seen=7, backfills=("b", "c"),
        run_sets={"schedule|1|s": -1}, held={"check:a": 1.0},
        known={"backfill:b": Known(2, 1.0, told=True, about=("b",))},
        outbox=({"text": "a", "content": "a", "alert": {}},),
    )  # fmt: skip
    assert read_cursor(memory.cursor()) == memory


@pytest.mark.parametrize("cursor", [None, "", "17", "not json", "[]", '{"version": 0}'])
def test_a_cursor_that_is_not_ours_counts_as_none(cursor: str | None) -> None:
    assert read_cursor(cursor) is None


class Receiver:
    """A webhook in memory that fails as it is told, in its order."""

    def __init__(self, *troubles: Exception | None) -> None:
        self.troubles = list(troubles)
        self.asked = 0
        self.got: list[str] = []

    def send(self, payload: Mapping[str, Any]) -> None:
        self.asked += 1
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble
        self.got.append(payload["alert"]["headline"])


def payloads(*names: str, failed: bool = True) -> list[dict[str, Any]]:
    return [Alert(name, failed, NOW, Facts(name, "failed", "/")).payload(None, plain) for name in names]


def deliver(given: Sequence[Mapping[str, Any]], sink: Receiver | None) -> tuple[list[str], str | None]:
    """The headlines that are left, and why."""
    left, trouble = AlertDelivery(None, plain, sink).deliver(given)
    return [payload["alert"]["headline"] for payload in left], trouble


def test_a_webhook_that_is_away_gets_every_message_later() -> None:
    """RUN-9: delivered at least once, not lost."""
    receiver = Receiver(None, ServiceUnreachable("The alert webhook does not answer."))
    left, trouble = AlertDelivery(None, plain, receiver).deliver(payloads("a", "b", "c"))
    assert (len(left), trouble, receiver.asked) == (2, "The alert webhook does not answer.", 2)
    assert deliver(left, receiver) == ([], None)
    assert sorted(receiver.got) == ["[failed] a failed", "[failed] b failed", "[failed] c failed"]


@pytest.mark.parametrize("trouble", [Misconfigured("400"), ServerFailed("503")])
def test_a_message_that_is_never_taken_holds_up_no_other_and_is_asked_for_once_a_tick(trouble: PipelineError) -> None:
    class Picky(Receiver):
        def send(self, payload: Mapping[str, Any]) -> None:
            self.troubles = [trouble] if payload["alert"]["subject"] == "a" else []
            super().send(payload)

    receiver = Picky()
    assert deliver(payloads("a", "b", "c"), receiver) == (
        ["[failed] b failed", "[failed] c failed", "[failed] a failed"],
        trouble.message,
    )
    assert receiver.asked == 1
    assert deliver(payloads("b", "c", "a"), receiver) == (["[failed] a failed"], trouble.message)
    assert receiver.got == ["[failed] b failed", "[failed] c failed"]


def test_of_a_subject_only_its_newest_state_is_sent_when_the_webhook_is_back() -> None:
    receiver = Receiver()
    deliver([*payloads("a", "b"), *payloads("a", failed=False)], receiver)
    assert sorted(receiver.got) == ["[failed] b failed", "[recovered] a failed"]


def test_without_a_webhook_nothing_waits() -> None:
    assert deliver(payloads("a"), None) == ([], None)


def test_what_waits_is_bounded_by_its_newest() -> None:
    names = [f"number{number:03}" for number in range(WAITING + 2)]
    left, _ = deliver(payloads(*names), Receiver(ServerFailed("503")))
    assert sorted(left) == [f"[failed] {name} failed" for name in names[2:]]


def test_messages_that_an_older_release_left_in_the_cursor_are_sent() -> None:
    """RUN-9: its outbox held several of one subject, and one that listed older ones."""
    digest = {"text": "old ones", "content": "old ones", "alert": {"subject": "digest", "headline": "2 older messages"}}
    older = {
        "version": 1, "begun": 1.0, "looked_at": 2.0, "ticked": 3.0, "awake": 1.0, "backfills_seen": 1,
        "backfills": ["b"], "run_sets": {"schedule|1|s": 0}, "held": {}, "known": {"backfill:a": [1, 1.0, True, ["a"]]},
        "outbox": [digest, *payloads("a"), *payloads("a", failed=False)],
    }  # fmt: skip
    memory = read_cursor(json.dumps(older))
    assert memory is not None
    assert memory.known == {"backfill:a": Known(1, 1.0, told=True, about=("a",))}
    receiver = Receiver()
    assert deliver(memory.outbox, receiver) == ([], None)
    assert receiver.got == ["2 older messages", "[recovered] a failed"]
