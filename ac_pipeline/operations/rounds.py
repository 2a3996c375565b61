"""Rounds: many accounts looked at in their order, and who of them cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, PipelineError
from ac_pipeline.sync.for_accounts import for_accounts, unread

Result = TypeVar("Result")

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Passes things on, told how many there will be: whoever shows progress looks at them here."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A user who could not be looked at, and why."""

    user: str
    error: PipelineError

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def failed(self) -> bool:
        """Whether it is an error, and not that the account is blocked."""
        return not isinstance(self.error, Blocked)


def unwatched(things: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass things on where nobody watches."""
    del total
    return iter(things)


def failed(looks: Iterable[LeftOut]) -> int:
    """How many of the users left out could not be looked at because of an error."""
    return sum(each.failed for each in looks)


def look_at(
    accounts: Sequence[Account], look: Callable[[Account], Result], workers: int, progress: Progress = unwatched
) -> Iterator[tuple[Account, Result | PipelineError]]:
    """Look at every account that ever had a repository; the others have nothing to say.

    Yields:
        Each account with what was found, or with the reason why it cannot be looked at.

    Raises:
        ServiceUnreachable: A service is down.
    """
    having = [account for account in accounts if account.did is not None]
    looks: Iterator[tuple[Account, Result | PipelineError]] = for_accounts(having, look, workers, unread, ordered=True)
    yield from progress(looks, len(having))
