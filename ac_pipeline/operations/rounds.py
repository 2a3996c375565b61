"""Rounds: the same work for many accounts, some at once, answers in the order of the accounts.

What is done for one account is said elsewhere; here is only that memory does not grow with their number (OPS-6), and
that one account that cannot be used does not keep the others from being looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked

Result = TypeVar("Result")

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Passes things on, told how many there will be: whoever shows progress looks at them here."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A user who could not be looked at, and why."""

    user: str
    message: str


def unwatched(things: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass things on where nobody watches."""
    del total
    return iter(things)


def ahead(
    accounts: Iterable[Account], work: Callable[[Account], Result], workers: int
) -> Iterator[tuple[Account, Result]]:
    """Do something with many accounts, some at once, in their order.

    Never more than twice the workers are begun and not taken: memory does not grow with their number (OPS-6).
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="account")
    try:
        waiting: deque[tuple[Account, Future[Result]]] = deque()
        for account in accounts:
            waiting.append((account, pool.submit(work, account)))
            if len(waiting) == 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def look_at(
    accounts: Sequence[Account], look: Callable[[Account], Result], workers: int, progress: Progress = unwatched
) -> Iterator[tuple[Account, Result | Blocked]]:
    """Look at every account that ever had a repository; the others have nothing to say.

    Yields:
        Each account with what was found, or with the reason why it cannot be looked at.
    """

    def seen(account: Account) -> Result | Blocked:
        try:
            return look(account)
        except Blocked as error:
            return error

    having = [account for account in accounts if account.did is not None]
    yield from progress(ahead(having, seen, workers), len(having))
