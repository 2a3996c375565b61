"""What a kind of document is, and how a type's share of the demo is filled with kinds.

The kinds themselves are in the modules of the types. Each type lists its special kinds, most telling first, and its
plain ones; a small demo gets the first of the special ones, a large one gets all and then plain ones only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any

from ac_pipeline.local.seed_maker import Maker, naive
from ac_pipeline.local.seed_values import Item, Outcome, Past, Person, Situation, StoredObject

SPECIAL_SHARE = 0.75
"""Most of a type's documents that special kinds take up."""


class Whose(Enum):
    """Who makes a kind."""

    USER = auto()
    GUEST = auto()
    HISTORIAN = auto()


@dataclass(frozen=True, slots=True)
class Made:
    """The fields of one document but `user`, and its media; `_id` and `when` where they are not as usual."""

    fields: Mapping[str, Any]
    objects: tuple[StoredObject, ...] = ()


Build = Callable[[Maker, Person | None, datetime], Made]


@dataclass(frozen=True, slots=True)
class Kind:
    """One variant of a type.

    Args:
        name: For people.
        build: Makes its fields and media.
        whose: Who makes it.
        outcome: What becomes of it when its owner's account is ready.
        error_class: Class of its quarantine.
        past: What earlier writers left of it.
        guest_user: Value of `user` in a guest's document; None leaves the field out.
    """

    name: str
    build: Build
    whose: Whose = Whose.USER
    outcome: Outcome = Outcome.PUBLISHED
    error_class: str = ""
    past: Past = Past.NOTHING
    guest_user: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """How one type is filled.

    Args:
        type: Media type.
        special: Special kinds, most telling first.
        plain_user, plain_guest: Plain kinds, drawn at random.
        guests: Share of plain documents that guests made.
        needs_handle: Whether only people with a handle make any.
        everybody: Whether each person gets at least one.
    """

    type: str
    special: Sequence[Kind]
    plain_user: Sequence[Kind]
    plain_guest: Sequence[Kind] = ()
    guests: float = 0.0
    needs_handle: bool = False
    everybody: bool = False


def fill(maker: Maker, share: Share, cast: Sequence[Person], count: int) -> list[Item]:
    """So many items of one type, in no telling order."""
    special = list(share.special[: int(count * SPECIAL_SHARE)])
    ready = [
        person
        for person in cast
        if person.ready and not person.moods_nuked and (person.handle or not share.needs_handle)
    ]
    items = [item(maker, share.type, kind, _owner(maker, kind, cast, ready)) for kind in special]
    owners = [person for person in cast if _makes_plain(person, share)]
    weights = _weights(len(owners))
    waiting = list(owners) if share.everybody else []
    while len(items) < count:
        if waiting:
            owner: Person | None = waiting.pop(0)
        elif share.plain_guest and maker.random.random() < share.guests:
            owner = None
        else:
            owner = maker.random.choices(owners, weights)[0]
        kind = maker.random.choice(share.plain_guest if owner is None else share.plain_user)
        items.append(item(maker, share.type, kind, owner))
    return items


def item(maker: Maker, type: str, kind: Kind, owner: Person | None) -> Item:
    """One item of a kind."""
    when = maker.moment()
    made = kind.build(maker, owner, when)
    document: dict[str, Any] = {"_id": maker.object_id(when), "when": naive(when), **made.fields}
    if owner is not None:
        document["user"] = owner.id
    elif kind.guest_user:
        document["user"] = kind.guest_user[0]
    document = {name: value for name, value in document.items() if value is not MISSING}
    outcome, error_class = _expected(type, kind, owner)
    if type == "mood" and owner is not None and owner.moods_nuked:
        document["deleted"] = True
        outcome, error_class = Outcome.WITHDRAWN, ""
    return Item(type, kind.name, owner, document, outcome, error_class, kind.past, made.objects)


MISSING = object()
"""As the value of a field: the document does not have it."""
PRESENT = object()
"""As the value of a field: the moment at which the document gets into Mongo, the only thing of it that is not fixed."""


def _expected(type: str, kind: Kind, owner: Person | None) -> tuple[Outcome, str]:
    if owner is None or owner.ready:
        return kind.outcome, kind.error_class
    if owner.situation is Situation.SCHEDULED:
        return Outcome.OWNER_DELETED, ""
    if owner.situation is Situation.PURGED:
        return Outcome.PURGED, ""
    return Outcome.BLOCKED, ""


def _owner(maker: Maker, kind: Kind, cast: Sequence[Person], ready: Sequence[Person]) -> Person | None:
    if kind.whose is Whose.GUEST:
        return None
    if kind.whose is Whose.HISTORIAN:
        return cast[1]
    return maker.random.choices(ready, _weights(len(ready)))[0]


def _makes_plain(person: Person, share: Share) -> bool:
    if person.situation is Situation.SISTER_TENANT:
        return False
    return bool(person.handle) or not share.needs_handle


def _weights(count: int) -> list[float]:
    """One heavy user, then ever lighter ones (aesthetic-computer facts, section 12.1)."""
    return [max(3.0, count / 4), *(1 / (1 + rank / 10) for rank in range(count - 1))][:count]
