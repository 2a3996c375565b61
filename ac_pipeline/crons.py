"""Cron lines as the settings take them: what is accepted. When a schedule ticks is Dagster's business.

A part of what Dagster accepts, so that a wrong line is refused with the name of its variable, not by a stack trace of
the code location.
"""

from __future__ import annotations

import re
from typing import Final

_FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_PART: Final = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")
_LAST_DAY: Final = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
"""Of the months that are shorter than 31 days."""


def cron_line(value: str) -> str:
    """A cron line of five fields, with single spaces.

    Args:
        value: Minute, hour, day of the month, month, day of the week (0 or 7: Sunday), each of numbers, `*`, `a-b`,
            `/step` and commas; UTC.

    Raises:
        ValueError: Something else, or a day that never comes.
    """
    texts = value.split()
    if len(texts) != len(_FIELDS):
        raise ValueError(
            "must be a cron line of five fields: minute, hour, day of the month, month, day of the week, in UTC"
        )
    _, _, days, months, _ = (_moments(text, *field) for text, field in zip(texts, _FIELDS, strict=True))
    if texts[4] == "*" and all(min(days) > _LAST_DAY.get(month, 31) for month in months):
        raise ValueError("names a day of the month that never comes")
    return " ".join(texts)


def _moments(text: str, name: str, least: int, most: int) -> set[int]:
    """All values one field stands for."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is not None:
            first = int(match[1] or least)
            last = int(match[2] or (most if match[1] is None or match[3] else first))
            step = int(match[3] or 1)
            if step and least <= first <= last <= most:
                found.update(range(first, last + 1, step))
                continue
        raise ValueError(f"has a {name} that is not understood: write numbers from {least} to {most}, *, a-b, /step")
    return found
