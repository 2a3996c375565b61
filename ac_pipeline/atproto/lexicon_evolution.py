"""The rules of change: what a new version of a lexicon may differ in from the one that is published.

Data and programs written for the published version must stay valid: new fields are optional, required fields stay,
types stay, limits are not tightened; anything larger takes a new NSID (ATProto specification, "Lexicon", section
"Lexicon Evolution"). Reading what is published, and publishing, is `operations/lexicons.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

Schema = Mapping[str, Any]


class Effect(StrEnum):
    """What a change means for those who use the published version."""

    BREAKING = "breaking"
    WIDENING = "widening"
    COMPATIBLE = "compatible"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the published version and ours.

    Args:
        path: Where, such as `main.record.slug`.
        effect: `breaking`: existing data or programs fail; `widening`: programs that know the published version may
            refuse new data; `compatible`: nobody notices.
        what: The difference in words.
    """

    path: str
    effect: Effect
    what: str


_UPPER: Final = ("maxLength", "maxGraphemes", "maximum", "maxSize")
_LOWER: Final = ("minLength", "minGraphemes", "minimum")
_LISTS: Final = ("enum", "accept", "refs")
_FIXED: Final = ("format", "const", "closed", "ref", "key")
_WORDS: Final = ("description", "default", "knownValues", "revision")
_STRUCTURE: Final = ("type", "required", "nullable", "properties", "items", "record")


def changes(published: Schema, ours: Schema) -> list[Change]:
    """Every difference between two versions of one lexicon document, in order of their paths.

    Args:
        published: The document others know.
        ours: The document that would replace it.
    """
    before, after = published.get("defs", {}), ours.get("defs", {})
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(Change(name, Effect.BREAKING, "the definition is gone"))
        elif name not in before:
            found.append(Change(name, Effect.COMPATIBLE, "a new definition"))
        else:
            found.extend(_schemas(name, before[name], after[name]))
    found.extend(_words("", published, ours))
    return found


def _schemas(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    """Differences of two schemas at one place, and of all below them."""
    if before.get("type") != after.get("type"):
        yield Change(path, Effect.BREAKING, f"the type was {before.get('type')}, and is {after.get('type')}")
        return
    yield from _limits(path, before, after)
    yield from _choices(path, before, after)
    for name in _FIXED:
        if before.get(name) != after.get(name):
            loosened = name in {"format", "const", "closed"} and name not in after
            effect = Effect.WIDENING if loosened else Effect.BREAKING
            yield Change(path, effect, _turned(name, before.get(name), after.get(name)))
    yield from _words(path, before, after)
    if "record" in before or "record" in after:
        yield from _schemas(f"{path}.record", before.get("record", {}), after.get("record", {}))
    if "items" in before or "items" in after:
        yield from _schemas(f"{path}[]", before.get("items", {}), after.get("items", {}))
    yield from _fields(path, before, after)
    known = {*_UPPER, *_LOWER, *_LISTS, *_FIXED, *_WORDS, *_STRUCTURE}
    for name in sorted((before.keys() | after.keys()) - known):
        if before.get(name) != after.get(name):
            # A rule this module does not know is taken for the worst.
            yield Change(path, Effect.BREAKING, _turned(name, before.get(name), after.get(name)))


def _limits(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    for name in (*_UPPER, *_LOWER):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        sign = 1 if name in _UPPER else -1
        tightened = new is not None and (old is None or sign * new < sign * old)
        yield Change(path, Effect.BREAKING if tightened else Effect.WIDENING, _turned(name, old, new))


def _choices(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    for name in _LISTS:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        narrowed = new is not None and (old is None or not set(old) <= set(new))
        effect = Effect.BREAKING if narrowed else Effect.WIDENING
        if old is not None and new is not None and set(old) == set(new):
            effect = Effect.COMPATIBLE
        yield Change(path, effect, _turned(name, old, new))


def _fields(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    old, new = before.get("properties", {}), after.get("properties", {})
    for name in sorted(old.keys() | new.keys()):
        place = f"{path}.{name}"
        needed, needs = name in before.get("required", ()), name in after.get("required", ())
        if name not in new:
            effect = Effect.BREAKING if needed else Effect.WIDENING
            yield Change(place, effect, f"the {'required ' if needed else ''}field is gone")
        elif name not in old:
            effect = Effect.BREAKING if needs else Effect.COMPATIBLE
            yield Change(place, effect, f"a new {'required' if needs else 'optional'} field")
        else:
            if needed != needs:
                yield Change(place, Effect.BREAKING, "was required" if needed else "is required now")
            yield from _schemas(place, old[name], new[name])
    if set(before.get("nullable", ())) != set(after.get("nullable", ())):
        narrowed = not set(before.get("nullable", ())) <= set(after.get("nullable", ()))
        effect = Effect.BREAKING if narrowed else Effect.WIDENING
        yield Change(path, effect, _turned("nullable", before.get("nullable"), after.get("nullable")))


def _words(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    for name in _WORDS:
        if before.get(name) != after.get(name):
            yield Change(path or name, Effect.COMPATIBLE, f"another {name}")


def _turned(name: str, old: object, new: object) -> str:
    return f"{name} was {_shown(old)}, and is {_shown(new)}"


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
