"""The model of `docs/scaling.md`: equal to what was measured, and to what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ac_pipeline.settings import Settings
from ac_pipeline_tests.benchmarks.scaling import RELAY, measured, tables

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_model_is_within_a_tenth_of_what_was_measured() -> None:
    found = list(measured())
    assert len(found) == 8
    assert [what for what, least, most, said in found if not 0.9 * least <= said <= 1.1 * most] == []
    page = PAGE.read_text()
    assert [what for what, *_ in found if f"| {what} |" not in page] == []


@pytest.mark.slow
def test_the_page_shows_what_the_model_says() -> None:
    assert tables() in PAGE.read_text()


def test_the_pace_is_the_default() -> None:
    assert Settings.model_fields["ac_relay_commits_per_hour"].default == RELAY
