"""What a repository's mark vouches for: a look at a part of it never hides what somebody else changed in the rest."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.unit.sync.home import Home, home


def is_marked(made: Home) -> bool:
    """Whether the repository is as its mark says, so that no drift is seen."""
    did = str(made.user.did)
    return made.world.ledger.repositories[did].rev == made.world.pds.latest_commit(did).rev


PARTS: list[dict[str, Any]] = [
    {"types": ("painting",)},
    {"items": frozenset({("mood", "cod1")})},
    {"limit": 1},
    {"types": tuple(media.name for media in MEDIA_TYPES[1:])},
]


@pytest.mark.parametrize("part", PARTS, ids=["a type", "an item", "a limit", "all types but one"])
def test_a_run_about_a_part_leaves_the_drift_of_the_rest_to_be_seen(part: dict[str, Any]) -> None:
    """VERIFY-9: whatever the part was about; the next whole run brings the record back and settles it."""
    made = home()
    made.write("delete", "mood 1")
    assert made.world.sync(made.user, **part).error is None
    assert not is_marked(made)
    assert made.world.sync(made.user).error is None
    assert is_marked(made)
    assert f"{media_type('mood').nsid}/{made.key('mood 1')}" in made.world.pds.records(made.user)


@pytest.mark.parametrize("part", PARTS, ids=["a type", "an item", "a limit", "all types but one"])
def test_our_own_writes_about_a_part_are_no_drift(part: dict[str, Any]) -> None:
    made = home()
    made.change("mood 1", mood="changed")
    made.change("painting 1", slug="2025.1.2.3.4.5.999")
    assert made.world.sync(made.user, **part).error is None
    assert is_marked(made)


def test_a_repository_that_was_never_marked_is_marked_type_by_type() -> None:
    """A first backfill runs the types with renditions apart from the others."""
    made = home(mirrored=False)
    made.world.sync(made.user, types=("mood",))
    made.world.sync(made.user, types=("painting",))
    assert is_marked(made)
