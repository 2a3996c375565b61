"""Keeps secrets out of texts that leave us and that others wrote (servers, drivers, tracebacks): the values we know,
and whatever has the shape of one. Our own errors name no secret in the first place (ACCT-5)."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

REMOVED = "[removed]"

_SHORTEST = 4  # Characters of a value that is looked for: a shorter one would be found everywhere

_NAME = r"[\w-]*(?:password|passwd|secret|token|jwt|api[_-]?key|bypass[_-]?key)"
_QUOTED = r"\"[^\"]*\"|'[^']*'"
_SHAPES = (
    (re.compile(r"(?<=://)[^\s/@]*:[^\s@]*@"), f"{REMOVED}@"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"), REMOVED),
    (re.compile(r"(?i)\b(bearer|basic|dpop)\s+[\w.~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(rf"(?i)([\"']?{_NAME}[\"']?\s*=\s*)(?:{_QUOTED}|[^\s,;&)}}\]]+)"), rf"\1{REMOVED}"),
    (re.compile(rf"(?i)([\"']{_NAME}[\"']\s*:\s*)(?:{_QUOTED})"), rf"\1{REMOVED}"),
)
"""User and password of an address; tokens of sessions; headers; assignments; members of JSON and of Python's dicts."""


_ESCAPED = re.compile(
    rb"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u([0-9a-f]{4})|\\x([0-9a-f]{2})|\\([\\\"'/bfnrt])"
    rb"|%([0-9a-f]{2})|(&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});)",
    re.IGNORECASE,
)
"""How a server may write a character it was sent: escaped for JSON, a URL or HTML."""

_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_LEVELS = 3  # How many times over something may be escaped: the HTML of JSON in JSON


def conceal(text: str, secrets: Iterable[str], instead: str) -> str:
    """The text with `instead` in place of each secret, as it is or in any form in which a server may echo it.

    The escapes are undone in secrets as well, as a secret may hold what looks like one. A plus is as good as a space.
    """
    wanted = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    for secret in wanted:
        text = text.replace(secret, instead)
    plain = data = text.encode("utf-8", "surrogatepass")
    if not wanted or not (_ESCAPED.search(data) or b"+" in data or any("+" in secret for secret in wanted)):
        return text
    sought: set[bytes] = set()
    for secret in wanted:
        form = secret.encode("utf-8", "surrogatepass")
        for level in range(_LEVELS):
            if level == 0 or len(form) >= _SHORTEST:
                sought.add(form.replace(b"+", b" "))
            form = _unescaped(form, range(len(form)), range(len(form)))[0]
    starts: Sequence[int] = range(len(data))
    ends: Sequence[int] = range(1, len(data) + 1)
    found: list[tuple[int, int]] = []
    for _ in range(_LEVELS + 1):
        spaced = plain.replace(b"+", b" ")
        for form in sought:
            at = spaced.find(form)
            while at >= 0:
                found.append((starts[at], ends[at + len(form) - 1]))
                at = spaced.find(form, at + len(form))
        before = plain
        plain, starts, ends = _unescaped(plain, starts, ends)
        if plain == before:
            break
    parts, end = [], 0
    for start, stop in sorted(found):
        if start >= end:
            parts += [data[end:start], instead.encode()]
        end = max(end, stop)
    return b"".join((*parts, data[end:])).decode("utf-8", "surrogatepass")


def _unescaped(data: bytes, starts: Sequence[int], ends: Sequence[int]) -> tuple[bytes, Sequence[int], Sequence[int]]:
    """The text with one level of escapes undone, and for each byte from where to where it is in the original."""
    plain, at = bytearray(), 0
    new_starts, new_ends = list[int](), list[int]()
    for match in _ESCAPED.finditer(data):
        meant = _meant(match)
        begin, end = match.span()
        plain += data[at:begin] + meant
        new_starts += [*starts[at:begin], *[starts[begin]] * len(meant)]
        new_ends += [*ends[at:begin], *[ends[end - 1]] * len(meant)]
        at = end
    if not at:
        return data, starts, ends
    return bytes(plain + data[at:]), [*new_starts, *starts[at:]], [*new_ends, *ends[at:]]


def _meant(match: re.Match[bytes]) -> bytes:
    high, low, unicode, hexadecimal, letter, percent, entity = match.groups()
    if percent:  # a byte of UTF-8, so that those of one letter come together again
        return bytes.fromhex(percent.decode())
    if letter:
        return _LETTERS.get(letter.lower(), letter)
    if entity:
        return html.unescape(entity.decode()).encode("utf-8", "surrogatepass")
    if high:
        text = chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    else:
        text = chr(int(unicode or hexadecimal, 16))
    return text.encode("utf-8", "surrogatepass")


def url_secrets(url: str) -> tuple[str, ...]:
    """What is secret of an address that may carry credentials: user and password, and the values of its query."""
    logins = [part for login in re.findall(r"://([^\s?#]*)@", url) for part in (login, *login.split(":", 1)[1:])]
    found = logins + [value for query in url.split("?")[1:] for value in re.findall(r"=([^&#\s]+)", query)]
    return (url, *(form for part in found for form in (part, unquote(part)))) if found else ()


class Redactor:
    """Removes secrets from texts. `secrets`: values that must not be seen. Of an address, its password is looked for as
    well."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known = tuple({form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST})

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        text = conceal(text, self._known, REMOVED)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} values)"


def _forms(secret: str) -> Iterable[str]:
    yield secret
    if "://" not in secret:
        yield from (unquote(secret), secret.strip("\"' "), basic("admin", secret).rstrip("="))
        return
    rest = secret.partition("://")[2]
    yield rest
    try:
        parts = urlsplit(secret)
        user, password = unquote(parts.username or ""), parts.password
    except ValueError:
        user, password = "", None
    if password:
        yield basic(user, unquote(password)).rstrip("=")  # some leave the padding out
    # What stands before the last @, however the rest of the address is to be read.
    for found in (password, rest.rpartition("@")[0].partition(":")[2]):
        if found:
            yield from (found, unquote(found))


def basic(user: str, password: str) -> str:
    """What HTTP's basic authentication sends for a user."""
    return base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
