"""The whole demo as values, before anything is made: who there is, what they made, and what should become of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.seed.kinds import KIDLISP, MISSING, MOODS, PAINTINGS, PIECES, TAPES, Kind, Share
from ac_pipeline.local.seed.values import NOW, Demo, Item, Maker, Outcome, Person, Situation, iso, naive

LEAST_USERS = 8
LEAST_ITEMS = 100

_SHARES = ((PAINTINGS, 0.28, 0), (MOODS, 0.22, 0), (PIECES, 0.03, 8), (TAPES, 0.015, 8))
"""Share of all items, and the least number; what is left is kidlisp, about 45 %."""

SPECIAL_SHARE = 0.75  # Most of a type's documents that special kinds take up


def plan_demo(users: int, items: int, seed: int) -> Demo:
    """The demo of so many people and documents (a few become records without a document instead); the same numbers give
    the same demo. Raises Misconfigured: too few of either."""
    if users < LEAST_USERS or items < LEAST_ITEMS or items < 2 * users:
        raise Misconfigured(
            f"the demo needs at least {LEAST_USERS} users, {LEAST_ITEMS} items and two items a user;"
            f" asked were {users} users and {items} items"
        )
    maker = Maker(seed)
    cast = people(maker, users)
    made: list[Item] = []
    for share, part, least in _SHARES:
        made += fill(maker, share, cast, max(least, round(items * part)))
    made += fill(maker, KIDLISP, cast, max(users, items - len(made)))
    return Demo(maker, tuple(cast), tuple(made))


def fill(maker: Maker, share: Share, cast: Sequence[Person], count: int) -> list[Item]:
    """So many items of one type, in no telling order."""
    named = [person for person in cast if person.handle or not share.needs_handle]
    ready = [person for person in named if person.ready and not person.moods_nuked]
    owners = [person for person in named if person.situation is not Situation.SISTER_TENANT]
    items = []
    for kind in share.special[: int(count * SPECIAL_SHARE)]:
        owner = _drawn(maker, ready) if kind.whose == "user" else cast[1] if kind.whose == "historian" else None
        items.append(item(maker, share.type, kind, owner))
    waiting = list(owners) if share.everybody else []
    while len(items) < count:
        if waiting:
            owner = waiting.pop(0)
        elif share.plain_guest and maker.random.random() < share.guests:
            owner = None
        else:
            owner = _drawn(maker, owners)
        kind = maker.random.choice(share.plain_guest if owner is None else share.plain_user)
        items.append(item(maker, share.type, kind, owner))
    return items


def _drawn(maker: Maker, people: Sequence[Person]) -> Person:
    """One heavy user, then ever lighter ones (aesthetic-computer facts, section 12.1)."""
    weights = [max(3.0, len(people) / 4), *(1 / (1 + rank / 10) for rank in range(len(people) - 1))]
    return maker.random.choices(people, weights[: len(people)])[0]


def item(maker: Maker, type: str, kind: Kind, owner: Person | None) -> Item:
    when = maker.moment()
    fields, objects = kind.build(maker, owner, when)
    user = owner.id if owner is not None else kind.guest_user
    document = {"_id": maker.object_id(when), "when": naive(when), **fields, "user": user}
    document = {name: value for name, value in document.items() if value is not MISSING}
    outcome, error_class = _expected(kind, owner)
    if type == "mood" and owner is not None and owner.moods_nuked:
        document["deleted"] = True
        outcome, error_class = Outcome.WITHDRAWN, ""
    return Item(type, kind.name, owner, document, outcome, error_class, kind.past, objects)


def _expected(kind: Kind, owner: Person | None) -> tuple[Outcome, str]:
    if owner is None or owner.ready:
        return (Outcome.QUARANTINED if kind.error else kind.outcome), kind.error
    gone = {Situation.SCHEDULED: Outcome.OWNER_DELETED, Situation.PURGED: Outcome.PURGED}
    return gone.get(owner.situation, Outcome.BLOCKED), ""


GUEST_LABEL = "art"  # First label of the guest account's handle on the PDS

_FIRST_NAMES = ("mila", "oskar", "yuki", "ines", "tomas", "nadia", "felix", "aiko", "bruno", "selma", "kofi", "lena")
_SECOND = ("blue", "fox", "77", "draws", "wave", "loop", "ink", "moth", "zz", "tape", "sun", "nine")


def people(maker: Maker, users: int) -> list[Person]:
    """So many people. The first is the heavy user, the second has most of the past; the order is part of the seed.
    `users`: how many, at least 8; every situation takes part from 21 on."""
    cast = [_ordinary(maker, index) for index in range(users)]
    for index, change in enumerate(_SPECIAL):
        if index < users:
            cast[index] = replace(cast[index], **change)
    if users > _OWNER_OF_CODE:  # a handle that is the permanent code of somebody else
        cast[_NAMED_BY_CODE] = replace(cast[_NAMED_BY_CODE], handle=cast[_OWNER_OF_CODE].code)
    return cast


def user_document(person: Person, did: str | None, pds_handle: str | None) -> dict[str, Any] | None:
    situation = person.situation
    if situation in {Situation.HANDLE_ONLY, Situation.PURGED}:
        return None
    document: dict[str, Any] = {"_id": person.id, "code": person.code}
    if did is None:
        return document
    password = f"{person.password[::-1]}!" if situation is Situation.WRONG_PASSWORD else person.password
    if person.flat:
        flat = {"atproto_did": did, "atproto_handle": pds_handle, "atproto_password": password}
        return {**document, **flat, "atproto_created_at": naive(NOW)}
    document["atproto"] = {"did": did, "handle": pds_handle, "password": password, "created": iso(NOW)}
    if situation is Situation.DID_ONLY:
        del document["atproto"]["password"]
    return document


def deletion_documents(cast: Sequence[Person]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `account-deletions` and of `account-tombstones`."""
    states = {Situation.SCHEDULED: "scheduled", Situation.CANCELLED: "cancelled"}
    pending = [(person.id, states[person.situation]) for person in cast if person.situation in states]
    purged = [sha256(person.id.encode()).hexdigest() for person in cast if person.situation is Situation.PURGED]
    rows = [{"_id": id, "state": state, "purgeAfter": naive(NOW)} for id, state in pending]
    return rows, [{"_id": digest, "deletedAt": naive(NOW)} for digest in purged]


def label_of(person: Person) -> str:
    """First label of the handle the platform asks the PDS for: `.` and `_` become `-`."""
    return (person.handle or person.code).lower().replace(".", "-").replace("_", "-")


def _ordinary(maker: Maker, index: int) -> Person:
    draw = maker.random
    name = f"{draw.choice(_FIRST_NAMES)}{draw.choice(('', '-', '.', '_'))}{draw.choice(_SECOND)}{index}"
    id = f"auth0|{maker.hex(24)}"
    code = f"ac{draw.randint(23, 26)}{''.join(draw.choices('bcdfghjklmnpqrstvwxyz', k=5))}"
    return Person(id, code, name, maker.password())


_SPECIAL: tuple[dict[str, Any], ...] = (
    {"handle": "jeffrey-heavy"},
    {"handle": "fifi-history"},
    {"situation": Situation.NO_CREDENTIALS},
    {"situation": Situation.WRONG_PASSWORD},
    {"flat": True},
    {"situation": Situation.SCHEDULED},
    {"situation": Situation.DEACTIVATED},
    {"handle": "Rosa.Luna_9"},
    {"situation": Situation.TAKEN_DOWN},
    {"situation": Situation.DID_ONLY},
    {"handle": "LunaTick"},
    {"handle": "lunatick"},
    {},
    {},
    {"situation": Situation.PURGED, "handle": None},
    {"situation": Situation.CANCELLED},
    {"situation": Situation.HANDLE_ONLY},
    {"situation": Situation.UNKNOWN_DID},
    {"handle": None},
    {"handle": "ñandú", "moods_nuked": True},
    {"situation": Situation.SISTER_TENANT, "id": "sotce-auth0|65f1c0ffee65f1c0ffee65f1", "handle": None},
)
_NAMED_BY_CODE = 12
_OWNER_OF_CODE = 13
