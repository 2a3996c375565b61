"""The one definition of what the mirror shows: which documents are guests', and which are withdrawn.

The rule of the aesthetic-computer facts, section 4, points 1 to 3 and 5. Point 4 (the content is there) is each type's
own `validate`: damaged content is quarantined for a person, not taken for a wish to remove the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ac_pipeline.accounts import LEAVING
from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media.fields import is_text, sound_text, wrong_type

GUEST_VALUES: tuple[str | None, ...] = (None, "")
"""What stands under `user` in anonymous work; a missing field reads as None, in Python as in a Mongo query."""

NOBODY = ""  # Stands for the owner of a document whose `user` is no text: whose it is, a person has to say

FLAGS = ("nuked", "deleted", "private", "draft", "hidden")
RULE_FIELDS = (*FLAGS, "visibility", "status")
"""The fields the rule reads; every type synchronises them, and `user` and `when`."""

COMMON_FIELDS = ("user", "when", *RULE_FIELDS)


def is_guest(user: object) -> bool:
    """True if a document with this `user` is anonymous: missing, null or empty (SRC-4)."""
    return user is None or user == ""


def why_withdrawn(fields: Mapping[str, Any], *, owner_deleted: bool) -> str:
    """Why a document with these synced fields shall have no record, in a few words; empty where it shall have one.
    Raises InvalidDocument if a flag or `status` is neither missing nor of its type, so that the owner's wish is
    unclear: then nothing new is published and nothing is removed."""
    if owner_deleted:
        return LEAVING
    for flag in FLAGS:
        if fields.get(flag) is True:
            return flag
    visibility = fields.get("visibility")
    if visibility is not None and visibility != "public":
        return f"visibility: {sound_text(visibility) or ''}" if is_text(visibility) else "visibility: not public"
    status = fields.get("status")
    if status == "wip":
        return "work in progress"
    for flag in FLAGS:
        value = fields.get(flag)
        if value is not None and value is not False:
            raise InvalidDocument(wrong_type(flag, value, "true or false"))
    if status is not None and not is_text(status):
        raise InvalidDocument(wrong_type("status", status, "a text"))
    return ""
