"""Which changes of state are worth a message, what it says, and what one tick leaves to the next. A message is due when
a subject's level rises and when it falls to 0 again, and never besides: 500 failing partitions are one backfill that
failed (RUN-9). No Dagster and no network here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from ac_pipeline.media.times import format_when

SHOWN_NAMES: Final = 5
TEXT_CHARACTERS: Final = 1_900
"""Discord takes 2,000 characters in a message, Slack more."""
WORDS_CHARACTERS: Final = 400  # Of an error's own words

_HINTS: Final = {
    "service-unreachable": "A service does not answer: nothing is lost, and what failed succeeds once it is back.",
    "misconfigured": "A setting is missing or wrong: nothing succeeds until it is corrected.",
    "rate-limited": "A limit of the PDS is used up: the rest fits later.",
}
"""What to do, where the class of most failures says it."""

_VERSION: Final = 2
GOES_ON: Final = -1  # In place of a number of failed runs, while some are unfinished


@dataclass(frozen=True, slots=True)
class SubjectStatus:
    """A subject as it is now, and what a message about it says."""

    subject: str  # Its name, e.g. `backfill:abcdefgh` or `sensor:users_sensor:ticks`.
    level: int  # 0 when it is well; a higher one is worse, and worth another message
    what: str  # The subject, for people: `Backfill abcdefgh`
    said: str  # What is the matter with it, as the rest of that sentence
    path: str  # Its page in the UI, from the root
    since: float | None = None  # Epoch seconds at which it began; None when nobody knows
    partitions: tuple[int, int] | None = None  # Failed ones and all there were
    runs: tuple[int, int] | None = None  # Failed ones and all there were
    classes: Mapping[str, int] = field(default_factory=dict)  # Failures by class of error
    names: Sequence[str] = ()  # Users or items it is about
    words: str = ""  # One error's own words
    about: tuple[str, ...] = ()  # What has to be remembered of it until it is well, to recognise that
    quiet: bool = False  # True if being well is worth no message, e.g. because a person turned it off

    @property
    def state(self) -> str:
        return "failed" if self.level else "recovered"

    @property
    def headline(self) -> str:
        """The first line of its message, which says it all to who knows."""
        return f"[{self.state}] {self.what} {self.said}"

    def text(self, at: float, base_url: str | None, redact: Callable[[str], str]) -> str:
        """The whole message, of the moment `at` (epoch seconds). Without the UI's `base_url` it has a path; `redact`,
        which removes secrets, is given every text, ours as well."""
        lines = [self.headline]
        if self.since is not None:
            since = "Since" if self.level else "Had failed since"
            lines.append(f"{since} {_time(self.since)} ({_duration(at - self.since)}).")
        counts = [
            f"{name}: {pair[0]} of {pair[1]} failed" if self.level else f"{name}: {pair[1]}"
            for name, pair in (("Users", self.partitions), ("Runs", self.runs))
            if pair is not None
        ]
        if counts:
            lines.append(f"{'; '.join(counts)}.")
        classes = by_count(self.classes)
        if classes:
            lines.append(f"Errors: {', '.join(f'{name} {count}' for name, count in classes[:SHOWN_NAMES])}.")
        if self.names:
            lines.append(f"{listed(self.names, SHOWN_NAMES)}.")
        if self.words:
            # Redacted before it is cut: half a password is found by nobody.
            lines.append(f"One says: {_cut(redact(self.words), WORDS_CHARACTERS)}")
        if classes and (hint := _HINTS.get(classes[0][0])):
            lines.append(hint)
        address = (base_url or "") + self.path
        whole = redact("\n".join(lines))
        return f"{_cut(whole, TEXT_CHARACTERS - len(address) - 1)}\n{address}"

    def payload(self, at: float, base_url: str | None, redact: Callable[[str], str]) -> dict[str, Any]:
        """What a webhook is sent: `text` for Slack and its like, `content` for Discord, `alert` for programs."""
        text, subject = self.text(at, base_url, redact), redact(self.subject)
        partitions, runs = (
            {"failed": pair[0], "all": pair[1]} if pair is not None else None for pair in (self.partitions, self.runs)
        )
        return {
            "text": text,
            "content": text,
            "alert": {
                "id": f"{subject}:{self.state}:{int(at)}",
                "state": self.state,
                "subject": subject,
                "headline": redact(self.headline),
                "at": _time(at),
                "since": _time(self.since) if self.since is not None else None,
                "partitions": partitions,
                "runs": runs,
                "error_classes": {redact(name): count for name, count in by_count(self.classes)},
                "names": [redact(name) for name in self.names[:SHOWN_NAMES]],
                "url": (base_url or "") + self.path,
            },
        }


class Known(NamedTuple):
    """What is remembered of a subject that is not well."""

    level: int  # As it was seen last
    since: float  # Epoch seconds
    announced: bool  # True if there was a message; what was so before the first tick has none
    about: tuple[str, ...] = ()  # See `SubjectStatus`


def decide(
    known: Mapping[str, Known], statuses: Iterable[SubjectStatus], now: float, *, silent: bool = False
) -> tuple[dict[str, Known], list[SubjectStatus]]:
    """Compare what is seen with what is remembered: what to remember now, and the subjects that are worth a message.

    Of subjects that are not among the statuses, which could not be looked at, nothing changes. `now` is in epoch
    seconds. Where it is `silent`, it is remembered and nothing is said: the first look replays no history.
    """
    after, alerts = dict(known), []
    for each in statuses:
        before = after.pop(each.subject, None)
        if each.level == 0:
            if before is not None and before.announced and not silent and not each.quiet:
                alerts.append(replace(each, since=before.since))
            continue
        worse = (before is None or each.level > before.level) and not silent
        if worse:
            alerts.append(each)
        since = before.since if before is not None else each.since or now
        after[each.subject] = Known(each.level, since, worse or (before is not None and before.announced), each.about)
    return after, alerts


@dataclass(frozen=True, slots=True)
class Memory:
    """What one tick leaves to the next, in the sensor's cursor. Its size is bounded by its parts."""

    begun: float  # Epoch seconds of the first tick; what was before is history
    looked_at: float  # Epoch seconds up to which runs were looked at
    ticked: float  # When we ticked last
    awake: float  # Since when we tick without a break: nobody else is reproached for the time we slept
    checked: float = 0.0  # When checks were compared last
    backfills_seen: int = 0  # How many backfills there were
    # Backfills and ticks of which something changed lately -> how many of their runs failed, or `GOES_ON`
    run_sets: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)  # Subjects that are not well

    def cursor(self) -> str:
        """As the instance keeps it."""
        return json.dumps({"version": _VERSION, **asdict(self)}, separators=(",", ":"))


def read_cursor(cursor: str | None) -> Memory | None:
    """What the last tick left, of this release or one before; None at the first tick, and when it is not ours."""
    try:
        found = json.loads(cursor or "")
    except ValueError:
        return None
    version = found.get("version") if isinstance(found, dict) else None
    if version not in (1, _VERSION):
        return None
    memory = TypeAdapter(Memory).validate_python(found)
    if version == _VERSION:
        return memory
    # Backfills were named by their id alone, and those that ran stood by themselves.
    sets = {**memory.run_sets, **{_named(id): GOES_ON for id in found.get("backfills", ())}}
    known = {name: each._replace(about=tuple(map(_named, each.about))) for name, each in memory.known.items()}
    return replace(memory, run_sets=sets, known=known)


def _named(key: str) -> str:
    return key if "|" in key else f"backfill|0|{key}"


def by_count(classes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first."""
    return sorted(classes.items(), key=lambda item: (-item[1], item[0]))


def listed(names: Sequence[str], shown: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _time(seconds: float) -> str:
    return f"{format_when(int(seconds * 1000))[:19]}Z"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    for least, size, unit in ((2_880, 1_440, "days"), (120, 60, "h"), (1, 1, "min")):
        if minutes >= least:
            return f"{minutes // size} {unit} ago"
    return "just now"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
