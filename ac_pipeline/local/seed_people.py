"""The people of the demo: mostly ordinary ones, and one of each situation the platform knows.

Pure values; their accounts are made in `seed.py`. Source: aesthetic-computer facts, section 2.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

from ac_pipeline.local.seed_maker import NOW, Maker, iso, naive
from ac_pipeline.local.seed_values import Person, Situation

GUEST_LABEL = "art"
"""First label of the guest account's handle on the PDS."""

_FIRST_NAMES = ("mila", "oskar", "yuki", "ines", "tomas", "nadia", "felix", "aiko", "bruno", "selma", "kofi", "lena")
_SECOND = ("blue", "fox", "77", "draws", "wave", "loop", "ink", "moth", "zz", "tape", "sun", "nine")


def people(maker: Maker, users: int) -> list[Person]:
    """So many people. The first is the heavy user, the second has most of the past; the order is part of the seed.

    Args:
        users: How many, at least 8; every situation takes part from 21 on.
    """
    cast = [_ordinary(maker, index) for index in range(users)]
    for index, change in enumerate(_SPECIAL):
        if index < users:
            cast[index] = replace(cast[index], **change)
    if users > _OWNER_OF_CODE:  # a handle that is the permanent code of somebody else
        cast[_NAMED_BY_CODE] = replace(cast[_NAMED_BY_CODE], handle=cast[_OWNER_OF_CODE].code)
    return cast


def user_document(person: Person, did: str | None, pds_handle: str | None) -> dict[str, Any] | None:
    """The person's `users` document, or None where the platform has none."""
    situation = person.situation
    if situation in {Situation.HANDLE_ONLY, Situation.PURGED}:
        return None
    document: dict[str, Any] = {"_id": person.id, "code": person.code}
    if did is None:
        return document
    password = f"{person.password[::-1]}!" if situation is Situation.WRONG_PASSWORD else person.password
    if person.flat:
        return {
            **document,
            "atproto_did": did,
            "atproto_handle": pds_handle,
            "atproto_password": password,
            "atproto_created_at": naive(NOW),
        }
    document["atproto"] = {"did": did, "handle": pds_handle, "password": password, "created": iso(NOW)}
    if situation is Situation.DID_ONLY:
        del document["atproto"]["password"]
    return document


def deletion_documents(cast: list[Person]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `account-deletions` and of `account-tombstones`."""
    states = {Situation.SCHEDULED: "scheduled", Situation.CANCELLED: "cancelled"}
    rows = [
        {"_id": person.id, "state": states[person.situation], "purgeAfter": naive(NOW)}
        for person in cast
        if person.situation in states
    ]
    tombstones = [
        {"_id": sha256(person.id.encode()).hexdigest(), "deletedAt": naive(NOW)}
        for person in cast
        if person.situation is Situation.PURGED
    ]
    return rows, tombstones


def label_of(person: Person) -> str:
    """First label of the handle the platform asks the PDS for: `.` and `_` become `-`."""
    return (person.handle or person.code).lower().replace(".", "-").replace("_", "-")


def _ordinary(maker: Maker, index: int) -> Person:
    draw = maker.random
    name = f"{draw.choice(_FIRST_NAMES)}{draw.choice(('', '-', '.', '_'))}{draw.choice(_SECOND)}{index}"
    return Person(
        id=f"auth0|{maker.hex(24)}",
        code=f"ac{draw.randint(23, 26)}{''.join(draw.choices('bcdfghjklmnpqrstvwxyz', k=5))}",
        handle=name,
        password=maker.password(),
    )


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
