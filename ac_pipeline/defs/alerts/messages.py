"""Alerts: which changes of state are worth a message, what the message says, and what is remembered of them.

Pure: no Dagster, no network. What the state of a backfill, schedule, sensor, daemon or check *is* is read in
`statuses.py` and `run_sightings.py`; sending is `outlet.py`.

A subject is well (level 0) or not. A message is due when its level rises and when it falls to 0 again, and never
besides: 500 failing partitions are one backfill that failed (RUN-9).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ac_pipeline.media.times import format_when

SHOWN_NAMES: Final = 5
TEXT_CHARACTERS: Final = 1_900
"""Discord takes 2,000 characters in a message, Slack more."""
WORDS_CHARACTERS: Final = 400
"""Of an error's own words."""

_HINTS: Final = {
    "service-unreachable": "A service does not answer: nothing is lost, and what failed succeeds once it is back.",
    "misconfigured": "A setting is missing or wrong: nothing succeeds until it is corrected.",
    "rate-limited": "A limit of the PDS is used up: the rest fits later.",
}
"""What to do, where the class of most failures says it."""

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a message is made of.

    Args:
        what: The subject, for people: `Backfill abcdefgh`.
        said: What is the matter with it, as the rest of that sentence.
        path: Its page in the UI, from the root.
        since: Epoch seconds at which it began; None when nobody knows.
        partitions: Failed ones and all there were.
        runs: Failed ones and all there were.
        classes: Failures by class of error.
        names: Users or items it is about.
        words: One error's own words.
    """

    what: str
    said: str
    path: str
    since: float | None = None
    partitions: tuple[int, int] | None = None
    runs: tuple[int, int] | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class SubjectStatus:
    """A subject as it is now.

    Args:
        subject: Its name, e.g. `backfill:abcdefgh` or `sensor:users_sensor:ticks`.
        level: 0 when it is well; a higher one is worse, and worth another message.
        facts: What to say of it.
        about: What has to be remembered of it until it is well, to recognise that.
        quiet: Whether being well is worth no message, e.g. because a person turned it off.
    """

    subject: str
    level: int
    facts: Facts
    about: tuple[str, ...] = ()
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a subject that is not well.

    Args:
        level: As it was seen last.
        since: Epoch seconds.
        told: Whether there was a message; what was so before the first tick has none.
        about: See `SubjectStatus`.
    """

    level: int
    since: float
    told: bool
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """One message: something failed, or is well again."""

    subject: str
    failed: bool
    at: float
    facts: Facts

    @property
    def headline(self) -> str:
        """The first line, which says it all to who knows."""
        return f"[{'failed' if self.failed else 'recovered'}] {self.facts.what} {self.facts.said}"

    def text(self, base_url: str | None, redact: Callable[[str], str]) -> str:
        """The whole message.

        Args:
            base_url: Of the UI; None leaves paths.
            redact: Removes secrets; given every text, ours as well.
        """
        facts = self.facts
        lines = [self.headline]
        if facts.since is not None:
            since = "Since" if self.failed else "Had failed since"
            lines.append(f"{since} {_time(facts.since)} ({_duration(self.at - facts.since)}).")
        counts = [
            f"{name}: {failed} of {of} failed" if self.failed else f"{name}: {of}"
            for name, pair in (("Users", facts.partitions), ("Runs", facts.runs))
            if pair is not None
            for failed, of in [pair]
        ]
        if counts:
            lines.append(f"{'; '.join(counts)}.")
        classes = _by_count(facts.classes)
        if classes:
            lines.append(f"Errors: {', '.join(f'{name} {count}' for name, count in classes[:SHOWN_NAMES])}.")
        if facts.names:
            more = len(facts.names) - SHOWN_NAMES
            lines.append(f"{', '.join(facts.names[:SHOWN_NAMES])}{f' and {more} more' if more > 0 else ''}.")
        if facts.words:
            # Redacted before it is cut: half a password is found by nobody.
            lines.append(f"One says: {cut(redact(facts.words), WORDS_CHARACTERS)}")
        if classes and (hint := _HINTS.get(classes[0][0])):
            lines.append(hint)
        address = (base_url or "") + facts.path
        whole = redact("\n".join(lines))
        return f"{cut(whole, TEXT_CHARACTERS - len(address) - 1)}\n{address}"

    def payload(self, base_url: str | None, redact: Callable[[str], str]) -> dict[str, Any]:
        """What a webhook is sent: `text` for Slack and its like, `content` for Discord, `alert` for programs."""
        facts, text = self.facts, self.text(base_url, redact)
        return {
            "text": text,
            "content": text,
            "alert": {
                "id": f"{self.subject}:{'failed' if self.failed else 'recovered'}:{int(self.at)}",
                "state": "failed" if self.failed else "recovered",
                "subject": redact(self.subject),
                "headline": redact(self.headline),
                "at": _time(self.at),
                "since": _time(facts.since) if facts.since is not None else None,
                "partitions": _pair(facts.partitions),
                "runs": _pair(facts.runs),
                "error_classes": {redact(name): count for name, count in _by_count(facts.classes)},
                "names": [redact(name) for name in facts.names[:SHOWN_NAMES]],
                "url": (base_url or "") + facts.path,
            },
        }


def decide(
    known: Mapping[str, Known], statuses: Iterable[SubjectStatus], now: float, *, silent: bool = False
) -> tuple[dict[str, Known], list[Alert]]:
    """Compare what is seen with what is remembered.

    Args:
        known: Subjects that were not well at the last look.
        statuses: The subjects that could be looked at now; of the others nothing changes.
        now: Epoch seconds.
        silent: Remember, but say nothing: the first look replays no history.

    Returns:
        What to remember, and the messages.
    """
    after, alerts = dict(known), []
    for each in statuses:
        before = after.get(each.subject)
        if each.level == 0:
            if before is not None:
                del after[each.subject]
                if before.told and not silent and not each.quiet:
                    facts = replace(each.facts, since=before.since)
                    alerts.append(Alert(each.subject, failed=False, at=now, facts=facts))
            continue
        since = before.since if before is not None else each.facts.since or now
        told = before is not None and before.told
        if (before is None or each.level > before.level) and not silent:
            alerts.append(Alert(each.subject, failed=True, at=now, facts=each.facts))
            told = True
        after[each.subject] = Known(each.level, since, told, each.about)
    return after, alerts


@dataclass(frozen=True, slots=True)
class Memory:
    """What one tick leaves to the next, in the sensor's cursor. Its size is bounded by its parts.

    Args:
        begun: Epoch seconds of the first tick; what was before is history.
        looked_at: Epoch seconds up to which runs were looked at.
        ticked: When we ticked last.
        awake: Since when we tick without a break: nobody else is reproached for the time we slept.
        backfills_seen: How many backfills there were.
        backfills: Ids of those that still ran.
        run_sets: Ticks whose runs changed lately -> how many of these failed; -1 while some are unfinished.
        held: Subjects whose message waits for the end of runs -> since when.
        known: Subjects that are not well.
        outbox: Payloads that are not delivered yet, oldest first.
    """

    begun: float
    looked_at: float
    ticked: float
    awake: float
    backfills_seen: int = 0
    backfills: tuple[str, ...] = ()
    run_sets: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    outbox: tuple[Mapping[str, Any], ...] = ()

    def cursor(self) -> str:
        """As the instance keeps it."""
        return json.dumps(
            {
                "version": _VERSION,
                "begun": self.begun,
                "looked_at": self.looked_at,
                "ticked": self.ticked,
                "awake": self.awake,
                "backfills_seen": self.backfills_seen,
                "backfills": list(self.backfills),
                "run_sets": dict(self.run_sets),
                "held": dict(self.held),
                "known": {name: [k.level, k.since, k.told, list(k.about)] for name, k in self.known.items()},
                "outbox": list(self.outbox),
            },
            separators=(",", ":"),
        )


def read_cursor(cursor: str | None) -> Memory | None:
    """What the last tick left; None at the first one, and when the cursor is not ours."""
    try:
        found = json.loads(cursor or "")
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        return None
    return Memory(
        begun=found["begun"],
        looked_at=found["looked_at"],
        ticked=found["ticked"],
        awake=found["awake"],
        backfills_seen=found["backfills_seen"],
        backfills=tuple(found["backfills"]),
        run_sets=found["run_sets"],
        held=found["held"],
        known={name: Known(level, since, told, tuple(of)) for name, (level, since, told, of) in found["known"].items()},
        outbox=tuple(found["outbox"]),
    )


def _by_count(classes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(classes.items(), key=lambda item: (-item[1], item[0]))


def _pair(pair: tuple[int, int] | None) -> dict[str, int] | None:
    return {"failed": pair[0], "all": pair[1]} if pair is not None else None


def _time(seconds: float) -> str:
    return f"{format_when(int(seconds * 1000))[:19]}Z"


def _duration(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"


def cut(text: str, characters: int) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
