"""How much may be amiss before it is an error."""

from __future__ import annotations

import pytest

from ac_pipeline.settings import Allowance, allowance


@pytest.mark.parametrize(
    ("text", "amiss", "of", "covered"),
    [
        ("0", 0, 0, True),
        ("0", 1, 1_000_000, False),
        ("25", 25, 25, True),
        ("25", 26, 1_000_000, False),
        ("1%", 1, 100, True),
        ("1%", 2, 199, False),
        ("0.5%", 5, 1_000, True),
        ("0.5%", 6, 1_000, False),
        ("0%", 1, 1_000, False),
        ("100%", 7, 7, True),
        ("1%", 0, 0, True),
    ],
)
def test_an_allowance_covers_what_is_at_its_limit_and_nothing_more(
    text: str, amiss: int, of: int, covered: bool
) -> None:
    """OPS-1."""
    assert allowance(text).covers(amiss, of) is covered


@pytest.mark.parametrize("text", ["", "-1", "some", "1.5", "101%", "1 %", "%", "0.5", "1e3"])
def test_anything_else_is_refused_with_the_two_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"a number of items such as 25, or a share of them such as 0\.5%"):
        allowance(text)


@pytest.mark.parametrize("text", ["0", "25", "0.5%", "12%"])
def test_an_allowance_is_written_as_it_was_read(text: str) -> None:
    """It is handed on to Dagster's processes in the environment."""
    assert str(allowance(text)) == text
    assert allowance(allowance(text)) == allowance(text)


def test_without_a_setting_nothing_is_allowed() -> None:
    assert Allowance() == allowance("0")
