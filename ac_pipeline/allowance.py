"""How much may be amiss before it is an error: a number of items, or a share of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%")


@dataclass(frozen=True, slots=True)
class Allowance:
    """An allowance, as a setting names it; `str` gives that form back.

    Args:
        items: So many items, where it is a number.
        percent: So many of a hundred, where it is a share; None where it is a number.
    """

    items: int = 0
    percent: float | None = None

    def covers(self, amiss: int, of: int) -> bool:
        """Whether it is still allowed that so many of so many are amiss; what is exactly at the limit is."""
        return amiss <= self.items if self.percent is None else 100 * amiss <= self.percent * of

    def __str__(self) -> str:
        return str(self.items) if self.percent is None else f"{self.percent:g}%"


def allowance(value: object) -> Allowance:
    """Read `25` or `0.5%`.

    Raises:
        ValueError: Something else, or a share over 100 %.
    """
    if isinstance(value, Allowance):
        return value
    found = _FORM.fullmatch(str(value).strip())
    if found is None or (found[2] is not None and float(found[2]) > 100):
        raise ValueError("must be a number of items such as 25, or a share of them such as 0.5%")
    return Allowance(int(found[1])) if found[1] is not None else Allowance(percent=float(found[2]))
