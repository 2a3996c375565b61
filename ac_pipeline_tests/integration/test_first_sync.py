"""What the guide says "Before the first sync of a real platform": what a look writes, and a sync, and what happens to
records that are there already."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run

GUIDE = (Path(__file__).parents[2] / "docs" / "operators-guide.md").read_text()
CHAPTER = GUIDE.split("## Before the first sync of a real platform")[1].split("\n## ")[0]
WHEN = "2025-10-15T12:30:45.123Z"


def outside(slice_: Slice) -> dict[str, Any]:
    """Whatever there is besides the pipeline's own database."""
    own = f"{slice_.pipeline.settings.ac_ledger_database}."
    return {name: kept for name, kept in slice_.everything().items() if not name.startswith(own)}


def records_of_others(slice_: Slice, user: Account) -> dict[str, str]:
    """A record of each kind that the guide's table names; what it is -> its rkey."""
    right = slice_.add("mood", user, mood="right")
    old = slice_.add("mood", user, mood="old")
    twice = slice_.add("mood", user, mood="twice")
    nuked = slice_.add("mood", user, mood="nuked", deleted=True)

    def put(mood: str, **fields: str) -> str:
        return slice_.put(user, "mood", {"mood": mood, "when": WHEN, **fields})

    return {
        "right": put("right", ref=right),
        "old": put("", mongoId=old),
        "first": put("twice", ref=twice),
        "second": put("twice", ref=twice),
        "nuked": put("nuked", ref=nuked),
        "gone": put("gone", ref=str(ObjectId())),
        "nameless": put("nameless"),
    }


def test_the_look_writes_to_the_pipelines_own_database_alone(cli: Run, slice_: Slice) -> None:
    """PLAN-5: every command of the look, as it stands in the guide."""
    records_of_others(slice_, slice_.user("ada"))
    before = outside(slice_)
    commands = re.findall(r"^ac-pipeline (.+)$", CHAPTER, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        code, out = cli(*command.split())
        assert code in {0, 1}, out
        assert outside(slice_) == before
    own = slice_.database.client[slice_.pipeline.settings.ac_ledger_database]
    assert own["sessions"].count_documents({}) == 0


def test_what_the_first_sync_does_with_records_that_are_there(cli: Run, slice_: Slice) -> None:
    """LINK-2, LINK-7, DEL-1, DEL-4: the operations that the plan lists are those of the guide's table."""
    user = slice_.user("ada")
    keys = records_of_others(slice_, user)
    before = {name: kept for name, kept in outside(slice_).items() if name != "repositories"}
    planned = {row["rkey"]: row["operation"] for row in csv.DictReader(StringIO(cli("plan", "--csv")[1]))}
    assert planned == {
        keys["right"]: "adopt",
        keys["old"]: "update",
        keys["first"]: "adopt",
        keys["second"]: "delete-duplicate",
        keys["nuked"]: "delete",
        keys["gone"]: "delete-orphan",
    }
    assert {each for each in planned.values() if f"`{each}`" not in CHAPTER} == set()
    cli("sync")
    left = slice_.records(user, "mood")
    assert {name for name, rkey in keys.items() if rkey in left} == {"right", "old", "first", "nameless"}
    assert left[keys["old"]]["mood"] == "old"

    slice_.database["moods"].update_many({}, {"$unset": {"atproto": ""}})
    after = {name: kept for name, kept in outside(slice_).items() if name != "repositories"}
    assert after == before, "a sync stores links and changes nothing else of the platform's database"


def test_the_role_covers_the_collections_that_links_are_stored_in() -> None:
    """Of the roles that the chapter names: the pipeline's may change the links of each type, and nothing else there."""
    assert "deploy/mongo-roles.json" in CHAPTER
    roles = json.loads((Path(__file__).parents[2] / "deploy" / "mongo-roles.json").read_text())
    mine = next(role for role in roles if role["createRole"] == "acPipeline")
    changed = {
        each["resource"]["collection"]: each["actions"]
        for each in mine["privileges"]
        if each["resource"]["db"] == "SOURCE" and each["actions"] != ["changeStream"]
    }
    assert changed == {media.collection: ["update"] for media in MEDIA_TYPES}
