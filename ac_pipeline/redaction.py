"""Keeps secrets out of texts that leave us: the values we know, and whatever has the shape of one.

For texts that others wrote (servers, drivers, tracebacks); our own errors name no secret in the first place (ACCT-5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

REMOVED = "[removed]"

_SHORTEST = 4
"""Characters of a value that is looked for: a shorter one would be found everywhere."""

_SHAPES = (
    (re.compile(r"(?<=://)[^\s/@]*:[^\s@]*@"), f"{REMOVED}@"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"), REMOVED),
    (re.compile(r"(?i)\b(bearer|basic|dpop)\s+[\w.~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (
        re.compile(r"(?i)([\"']?[\w-]*(?:password|passwd|secret|token|jwt|api[_-]?key|bypass[_-]?key)[\"']?\s*=\s*)"
                   r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)"),
        rf"\1{REMOVED}",
    ),
    (
        re.compile(r"(?i)([\"'][\w-]*(?:password|passwd|secret|token|jwt|api[_-]?key|bypass[_-]?key)[\"']\s*:\s*)"
                   r"(?:\"[^\"]*\"|'[^']*')"),
        rf"\1{REMOVED}",
    ),
)  # fmt: skip
"""User and password of an address; tokens of sessions; headers; assignments; members of JSON and of Python's dicts."""


class Redactor:
    """Removes secrets from texts.

    Args:
        secrets: Values that must not be seen. Of an address, its password is looked for as well.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        values = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
        self._known = tuple(sorted(values, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        for value in self._known:
            text = text.replace(value, REMOVED)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} values)"


def _forms(secret: str) -> Iterable[str]:
    yield secret
    if "://" not in secret:
        yield from (quote(secret, safe=""), unquote(secret))
        return
    rest = secret.partition("://")[2]
    yield rest
    try:
        password = urlsplit(secret).password
    except ValueError:
        password = None
    # What stands before the last @, however the rest of the address is to be read.
    for found in (password, rest.rpartition("@")[0].partition(":")[2]):
        if found:
            yield from (found, unquote(found))
