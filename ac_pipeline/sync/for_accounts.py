"""The one way to do something for many accounts: several at once, each on its own, until an interrupt.

Memory does not grow with the number of accounts (OPS-6).
"""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, PipelineError, ServiceUnreachable, Unforeseen
from ac_pipeline.redaction import Redactor
from ac_pipeline.sync.report import AccountReport

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_LOOK = 0.5  # Seconds between two looks whether Ctrl-C was pressed while accounts are under way
_MESSAGE = 500  # Characters of an unforeseen error's message


def for_accounts(
    accounts: Iterable[Account],
    work: Callable[[Account], Result],
    workers: int,
    failed: Callable[[Account, PipelineError], Result],
    *,
    ordered: bool = False,
) -> Iterator[tuple[Account, Result]]:
    """Do the same work for many accounts; yields each one's result as it ends.

    After an interrupt (Ctrl-C, or the exception by which Dagster ends a run) no other account begins, the results of
    those under way are still yielded, and then the interrupt is raised. A second one is raised at once.

    Args:
        workers: Accounts at a time.
        failed: The result of an account whose work raised; what it raises itself ends everything.
        ordered: Yield in the order of the accounts; up to twice the workers may then be begun and not yielded.

    Raises:
        Misconfigured: No account can be worked on.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="account")
    coming, under_way = iter(accounts), dict[Future[Result], Account]()
    stopped: BaseException | None = None
    with _first_interrupt() as pressed:
        try:
            while True:
                try:
                    if stopped is None and pressed:
                        raise KeyboardInterrupt  # noqa: TRY301  (the same way as one that is raised in `wait`)
                    if stopped is None:
                        for account in islice(coming, (2 if ordered else 1) * workers - len(under_way)):
                            under_way[pool.submit(work, account)] = account
                    if not under_way:
                        break
                    looked_at = [next(iter(under_way))] if ordered else under_way
                    ended = wait(looked_at, timeout=_LOOK, return_when=FIRST_COMPLETED).done
                except Exception:
                    raise
                except BaseException as error:
                    if stopped is not None:
                        raise
                    stopped = error
                    under_way = {future: account for future, account in under_way.items() if not future.cancel()}
                    _LOG.warning(
                        "Interrupted: %d accounts under way are finished, no other is begun. "
                        "Another interrupt stops at once.",
                        len(under_way),
                    )
                    continue
                for future in ended:
                    account, raised = under_way.pop(future), future.exception()
                    if raised is not None and not isinstance(raised, Exception):
                        stopped = stopped or raised
                    yield account, future.result() if raised is None else failed(account, _named(account, raised))
        except BaseException as error:
            again = (stopped is not None or pressed) and not isinstance(error, Exception)
            pool.shutdown(wait=not again, cancel_futures=True)
            raise
        pool.shutdown()
        if stopped is not None or pressed:
            raise stopped or KeyboardInterrupt


def unread(_account: Account, error: PipelineError) -> PipelineError:
    """Why one account could not be read; raises ServiceUnreachable: nothing can be said of the others either."""
    if isinstance(error, ServiceUnreachable):
        raise error
    return error


def needed(_account: Account, error: PipelineError) -> NoReturn:
    """End everything: what is asked of all accounts together cannot be said without one of them."""
    raise error


def account_reports(
    accounts: Iterable[Account], work: Callable[[Account], AccountReport], workers: int
) -> Iterator[tuple[Account, AccountReport]]:
    """`for_accounts` for work that reports: an account whose work raised has the error in its report."""
    return for_accounts(accounts, work, workers, lambda account, error: AccountReport(account.key, error=error))


def _named(account: Account, error: BaseException) -> PipelineError:
    """The error, raised if Misconfigured; one nobody foresaw with class, message without secrets, and place."""
    if isinstance(error, Misconfigured):
        raise error
    if isinstance(error, PipelineError):
        return error
    ours = [each for each in traceback.extract_tb(error.__traceback__) if "ac_pipeline" in Path(each.filename).parts]
    place = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    text = Redactor([account.password] if account.password else [])(f"{type(error).__name__}: {error}")
    return Unforeseen(f"{text[:_MESSAGE]}{place}")


@contextmanager
def _first_interrupt() -> Iterator[list[int]]:
    """Filled by the first Ctrl-C, so that it disturbs neither the work nor whoever takes the results; a second one is
    raised as ever. Where somebody else handles interrupts, or in another thread, they are left as they are."""
    pressed: list[int] = []  # no lock, which a handler could find taken by the very thread it interrupts
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield pressed
        return

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(number)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
