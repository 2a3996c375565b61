"""The demo is the same for the same seed, has every variant when it is large enough, and counts itself correctly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.seed.plan import KIDLISP, MOODS, PAINTINGS, PIECES, PRESENT, TAPES, plan_demo
from ac_pipeline.local.seed.values import Demo, Outcome, SeedSummary, Situation

_SHARES = (PAINTINGS, MOODS, PIECES, KIDLISP, TAPES)


@pytest.fixture(scope="module")
def demo() -> Demo:
    return plan_demo(60, 2_500, 1)


def _documents(demo: Demo) -> list[Mapping[str, Any]]:
    return [item.document for item in demo.items]


def test_the_same_numbers_give_the_same_demo_and_another_seed_another(demo: Demo) -> None:
    again = plan_demo(60, 2_500, 1)
    assert _documents(again) == _documents(demo)
    assert again.cast == demo.cast
    assert _documents(plan_demo(60, 2_500, 2)) != _documents(demo)


def test_only_the_tape_that_is_being_baked_has_a_time_that_is_not_fixed(demo: Demo) -> None:
    """GUARD-6: it is posted when the demo is made."""
    fresh = [item for item in demo.items if PRESENT in item.document.values()]
    assert [(item.kind, item.outcome) for item in fresh] == [("being baked", Outcome.DEFERRED)]
    assert {name for name, value in fresh[0].document.items() if value is PRESENT} == {"when", "mp4StartedAt"}


def test_a_demo_of_ordinary_size_has_every_variant_of_every_type(demo: Demo) -> None:
    """SRC-1 to SRC-11: what the platform left behind is in the demo, each variant at least once."""
    found = {(item.type, item.kind) for item in demo.items}
    wanted = {(share.type, kind.name) for share in _SHARES for kind in share.special}
    assert wanted - found == set()
    assert {person.situation for person in demo.cast} == set(Situation)


def test_the_shares_of_the_types_are_those_of_the_platform(demo: Demo) -> None:
    counts = Counter(item.type for item in demo.items)
    assert counts == {"painting": 700, "mood": 550, "piece": 75, "tape": 38, "kidlisp": 1_137}


def test_media_are_the_same_bytes_each_time_they_are_made(demo: Demo) -> None:
    objects = [one for item in demo.items[:60] for one in item.objects]
    assert [one.make() for one in objects] == [one.make() for one in objects]
    assert len({(one.bucket, one.key) for one in objects}) == len(objects)


def test_accounts_that_cannot_be_used_own_nothing_that_would_fail_for_another_reason(demo: Demo) -> None:
    """ACCT-1, ACCT-2: whether an item is blocked or quarantined must never be a matter of opinion in the demo."""
    for item in demo.items:
        if item.owner is not None and not item.owner.ready:
            assert item.kind.startswith("plain")
            assert item.outcome in {Outcome.BLOCKED, Outcome.OWNER_DELETED, Outcome.PURGED}


@pytest.mark.parametrize(("users", "items"), [(8, 100), (60, 2_500), (500, 5_000)])
def test_each_document_is_counted_once_and_the_counts_survive_json(users: int, items: int) -> None:
    """VERIFY-1: the expectations add up."""
    demo = plan_demo(users, items, 1)
    summary = SeedSummary.of(demo, users=users, objects=0, media_bytes=0, seconds=1.5)
    for one in summary.types.values():
        ends = (one.published, one.withdrawn, one.owner_deleted, one.purged, one.blocked, *one.quarantined.values())
        assert sum(ends) + one.deferred == one.documents == sum(one.kinds.values())
    orphans = sum(one.orphans for one in summary.types.values())
    assert summary.documents + orphans == len(demo.items)
    assert items <= len(demo.items) <= items + users
    assert SeedSummary.from_json(summary.to_json()) == summary


def test_no_password_is_in_what_a_person_or_a_summary_shows(demo: Demo) -> None:
    """ACCT-5."""
    shown = repr(demo.cast) + repr(SeedSummary.of(demo, users=60, objects=0, media_bytes=0, seconds=0.0))
    assert not any(person.password in shown for person in demo.cast)


@pytest.mark.parametrize(("users", "items"), [(7, 100), (8, 99), (60, 119)])
def test_a_demo_too_small_to_tell_anything_is_refused(users: int, items: int) -> None:
    with pytest.raises(Misconfigured, match="needs at least 8 users"):
        plan_demo(users, items, 1)
