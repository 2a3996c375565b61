"""Data versions of a report: they change when, and only when, what they name has changed."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.planning.plan import Versions
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.unit.sync.world import World


@pytest.fixture
def world() -> World:
    return World()


def seen(report: Any, type: str) -> Versions:
    versions = report.versions[type]
    assert isinstance(versions, Versions)
    return versions


def test_a_second_sync_over_unchanged_data_says_the_same_versions(world: World) -> None:
    user = world.user()
    for type in ("painting", "mood", "kidlisp"):
        world.add(type, user)
    first, second = world.sync(user), world.sync(user)
    assert first.versions == second.versions
    assert all(seen(first, type).documents for type in ("painting", "mood", "kidlisp", "piece", "tape"))


def test_the_order_in_which_documents_are_read_changes_nothing(world: World) -> None:
    user = world.user()
    world.moods(user, 3)
    before = seen(world.sync(user), "mood")
    stored = world.documents.collections["moods"]
    world.documents.collections["moods"] = dict(reversed(stored.items()))
    assert seen(world.sync(user), "mood") == before


@pytest.mark.parametrize(
    ("fields", "documents", "records"),
    [
        ({"source": "(wipe red)"}, True, True),
        ({"nuked": True}, True, True),
        ({"hits": 7}, False, False),
        ({"atproto": {"rkey": "3jzfcijpj2z2a"}}, False, False),
    ],
    ids=["a synced field", "withdrawn", "hits (SRC-9)", "the link"],
)
def test_only_what_a_record_depends_on_changes_a_version(
    world: World, fields: dict[str, Any], documents: bool, records: bool
) -> None:
    user = world.user()
    item = world.add("kidlisp", user)
    before = seen(world.survey(user)[1], "kidlisp")
    world.change("kidlisp", item, **fields)
    after = seen(world.survey(user)[1], "kidlisp")
    assert (after.documents != before.documents, after.records != before.records) == (documents, records)


def test_a_picture_that_is_made_anew_changes_renditions_and_records_but_not_documents(world: World) -> None:
    user = world.user()
    world.add("painting", user)
    before = seen(world.sync(user), "painting")
    world.renderer.version = "2"
    world.ledger.entries.clear()
    after = seen(world.sync(user), "painting")
    assert after.documents == before.documents
    assert after.renditions != before.renditions
    assert after.records != before.records


def test_rendering_ahead_says_the_same_renditions_as_the_sync_that_follows(world: World) -> None:
    user = world.user()
    world.add("painting", user)
    rendered = world.engine.render(user, media_type("painting"), Selection(), "run-1")
    assert seen(rendered, "painting").renditions == seen(world.sync(user), "painting").renditions


def test_a_part_of_the_documents_has_no_version(world: World) -> None:
    """A run over some items must not pass for a look at all of them."""
    user = world.user()
    world.moods(user, 3)
    assert "mood" not in world.sync(user, limit=2).versions
