"""What the demo makes of the checks that its verification leaves in Dagster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ac_pipeline.defs.checks import CHECKS
from ac_pipeline.local.dagster_ui import SUCCEEDED, Check
from ac_pipeline.local.demo import VERIFIED, Screen, Verified
from ac_pipeline.media.registry import MEDIA_TYPES

RECORDS = "records_match_documents"
SOUND = tuple(Check("atproto/moods", name, True, True, "", {"expected": 3, "verified": 3}) for name in VERIFIED)
WAITING = Check("atproto/moods", "no_quarantined_items", False, True, "Quarantined: 1.", {"quarantined": 1})


def changed(name: str, **counts: int) -> tuple[Check, ...]:
    return tuple(replace(each, counts={**each.counts, **counts}) if each.name == name else each for each in SOUND)


def test_the_demo_knows_the_checks_of_the_definitions() -> None:
    """VERIFY-1: by name, for it may not import them."""
    assert set(VERIFIED) == {check.name for check in CHECKS if check.aspect}
    assert WAITING.name in {check.name for check in CHECKS}


def test_everything_verified_is_complete_though_some_items_were_never_published() -> None:
    assert Verified(SUCCEEDED, (*SOUND, WAITING)).complete
    assert Verified(SUCCEEDED, SOUND).total(RECORDS, "expected") == 3


@pytest.mark.parametrize("name", list(VERIFIED))
def test_one_thing_amiss_is_not_complete(name: str) -> None:
    """VERIFY-2: a record, a link or a blob that is not as it should be."""
    assert not Verified(SUCCEEDED, changed(name, verified=2)).complete


@pytest.mark.parametrize("more", ["extra", "duplicates"])
def test_one_record_too_many_is_not_complete(more: str) -> None:
    assert not Verified(SUCCEEDED, changed(RECORDS, **{more: 1})).complete


@pytest.mark.parametrize(
    "found",
    [
        Verified("FAILURE", SOUND),
        Verified(SUCCEEDED, ()),
        Verified(SUCCEEDED, (replace(SOUND[0], passed=None), *SOUND[1:])),
    ],
)
def test_what_was_not_looked_at_is_never_complete(found: Verified) -> None:
    """A failed read is never an empty read."""
    assert not found.complete


def test_the_tables_of_the_summary_fit_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """OPS-2: a type is a column, a count or a check a line."""
    screen, assets = Screen(), [media.plural for media in MEDIA_TYPES]
    screen.counts({asset: {"documents": 123_456, "quarantined": 1} for asset in assets})
    screen.checks([Check(f"atproto/{asset}", check.name, None, True, "", {}) for asset in assets for check in CHECKS])
    screen.checks([replace(WAITING, asset=f"atproto/{asset}") for asset in assets])
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if "Quarantined" not in line]
    assert "records_match_documents" in "".join(tables)
    assert max(len(line.rstrip()) for line in tables) <= 80
    assert sum("no_quarantined_items: Quarantined: 1" in line for line in lines) == 1, "once for all types"
