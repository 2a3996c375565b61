"""Examining and healing one user, with what holds of every examination."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.operations.inspection.links import Examination, examine, heal
from ac_pipeline_tests.unit.sync.world import World, chosen

WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


def mood(ref: str, **fields: Any) -> dict[str, Any]:
    return {"mood": "fine", "when": WHEN_TEXT, "ref": ref, **fields}


def look(world: World, user: Account, **selection: Any) -> Examination:
    return examine(world.engine, user, chosen(**selection))


def states(world: World, user: Account, type: str = "mood", **selection: Any) -> dict[str, int]:
    return {str(state): n for state, n in look(world, user, **selection).states[type].items() if n}


def only(world: World, user: Account, **selection: Any) -> Any:
    (finding,) = look(world, user, **selection).findings
    return finding


def cure(world: World, user: Account, **selection: Any) -> None:
    """Heal once, and see that a second time does nothing."""
    heal(world.engine, user, chosen(**selection), "run-1")
    left = look(world, user, **selection)
    assert [finding for finding in left.findings if finding.repairable] == []
    with world.quiet():
        assert heal(world.engine, user, chosen(**selection), "run-2") is None
