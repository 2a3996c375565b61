"""The fan-out over accounts: its bounds, an interrupt at any place, and accounts whose work raises."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, PipelineError, ServerFailed, ServiceUnreachable, Unforeseen
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.inspection.verification import take_receipts
from ac_pipeline.operations.sync import AccountRetry, retry_accounts
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.for_accounts import account_reports, for_accounts, unread
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify_accounts
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.memory_receipts import MemoryReceipts

USERS = [Account(str(number), f"user{number}", f"did:plc:{number}") for number in range(60)]
WORKERS = 3
SECONDS = 60.0


@dataclass
class StubEngine:
    """An engine whose work says when it begins, and waits until it may end."""

    on_begin: Callable[[int], None] = lambda number: None
    begun: list[str] = field(default_factory=list)  # Keys of the accounts that have had their turn
    bad: dict[str, BaseException] = field(default_factory=dict)  # Keys whose work raises, and what
    server: MemoryPds = field(default_factory=MemoryPds)
    documents: Any = None
    ledger: Any = None
    ahead: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sync(self, account: Account, selection: Selection, run_id: str) -> AccountReport:
        return self.work(account)

    def survey(self, account: Account, selection: Selection, *, seen: Any) -> Any:
        raise ServerFailed(self.work(account).user)

    def work(self, account: Account) -> AccountReport:
        with self.lock:
            self.begun.append(account.key)
            number = len(self.begun)
        self.on_begin(number)
        if account.key in self.bad:
            raise self.bad[account.key]
        return AccountReport(account.key)


def _reports(engine: Any) -> Iterator[AccountReport]:
    for _, report in sync_accounts(engine, USERS, Selection(), "run", WORKERS):
        yield report


def _retries(engine: Any) -> Iterator[AccountReport]:
    for _, report in retry_accounts(engine, [AccountRetry(user, Selection(), {}) for user in USERS], "run", WORKERS):
        yield report


def _receipts(engine: Any) -> Iterator[Any]:
    yield from take_receipts(
        engine, MemoryReceipts(), USERS, MEDIA_TYPES, blobs=True, run_id="run", workers=WORKERS, now=lambda: None
    )  # type: ignore[arg-type, return-value]


def _verifications(engine: Any) -> Iterator[Any]:
    yield from verify_accounts(engine, USERS, Selection(), WORKERS)


def _in_order(engine: Any) -> Iterator[Any]:
    yield from for_accounts(USERS, engine.work, WORKERS, lambda account, error: error, ordered=True)


FAN_OUTS = pytest.mark.parametrize("fan_out", [_reports, _retries, _receipts, _verifications, _in_order])


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@FAN_OUTS
def test_after_ctrl_c_only_the_accounts_under_way_are_finished_and_all_results_are_there(
    fan_out: Callable[[Any], Iterator[Any]],
) -> None:
    """GUARD-8: of 60 users, those who had begun; each of them has a result."""
    engine = StubEngine(lambda number: press() if number == 7 else None)
    results: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(fan_out(engine))
    assert len(results) == len(engine.begun)
    assert 7 <= len(engine.begun) <= 7 + 3 * WORKERS
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_result_is_dealt_with_loses_no_result() -> None:
    """GUARD-8: whoever takes the results is not disturbed in it."""
    engine, results = StubEngine(), list[str]()

    def take() -> None:
        for report in _reports(engine):
            if len(results) == 5:
                press()
            results.append(report.user)

    with pytest.raises(KeyboardInterrupt):
        take()
    assert sorted(results) == sorted(engine.begun)
    assert len(results) <= 5 + 2 * WORKERS


class PressAgain(logging.Handler):
    """Presses Ctrl-C as soon as it is said what another one does."""

    def emit(self, record: logging.LogRecord) -> None:
        assert "Another interrupt stops at once" in record.getMessage()
        press()


def test_a_second_ctrl_c_stops_at_once() -> None:
    """GUARD-8: the accounts under way are not waited for."""
    never = threading.Event()

    def begin(number: int) -> None:
        if number == 2:
            press()
        never.wait(SECONDS)

    engine, again, log = StubEngine(begin), PressAgain(), logging.getLogger("ac_pipeline.sync.for_accounts")
    log.addHandler(again)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(for_accounts(USERS, engine.work, 2, lambda account, error: error))
    finally:
        log.removeHandler(again)
        never.set()
    assert time.monotonic() - started < SECONDS / 2
    assert len(engine.begun) == 2


class Ended(BaseException):
    """As Dagster ends a run: raised in the main thread by its own handler of the signal."""


def test_an_interrupt_that_somebody_else_raises_counts_as_one() -> None:
    """GUARD-8: Dagster's interrupt of a run leaves the reports of all that were done, and is raised afterwards."""
    raised, results = threading.Event(), list[str]()

    def end(number: int, frame: object) -> None:
        raised.set()
        raise Ended

    def begin(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGUSR1)  # while the main thread waits in the fan-out: nobody has ended yet
        assert raised.wait(SECONDS)

    def take() -> None:
        for report in _reports(engine):
            results.append(report.user)

    engine, before = StubEngine(begin), signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(Ended):
            take()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(results) <= set(engine.begun)
    assert 1 <= len(results) <= len(engine.begun) <= WORKERS


@pytest.mark.parametrize("error", [KeyError("nobody foresaw this"), RecursionError(), TypeError("a Code is no str")])
@FAN_OUTS
def test_an_account_whose_work_raises_costs_its_own_result_only(
    fan_out: Callable[[Any], Iterator[Any]], error: Exception
) -> None:
    """GUARD-8: 60 results of 60."""
    engine = StubEngine()
    engine.bad["user3"] = error
    assert len(list(fan_out(engine))) == len(USERS)
    assert len(engine.begun) == len(USERS)


def test_the_error_nobody_foresaw_is_named_in_the_report_without_the_password() -> None:
    """GUARD-8, ACCT-5: its class and message, in the report of that account."""
    account = Account("1", "ada", "did:plc:ada", password="correct-horse")

    def work(account: Account) -> AccountReport:
        raise ValueError(f"cannot parse {account.password} of mongodb://u:pw@host/ with token=abcdef")

    ((_, report),) = account_reports([account], work, 1)
    assert isinstance(report.error, Unforeseen)
    assert report.error.message.startswith("ValueError: cannot parse [removed] of mongodb://[removed]@host/")
    for secret in ("correct-horse", "pw", "abcdef"):
        assert secret not in report.error.message


def test_a_wrong_setting_ends_everything() -> None:
    engine = StubEngine()
    engine.bad["user3"] = Misconfigured("MONGODB_NAME names no database")
    with pytest.raises(Misconfigured):
        list(_reports(engine))
    assert len(engine.begun) <= 4 + 2 * WORKERS


def test_who_stops_listening_leaves_the_others_alone() -> None:
    engine = StubEngine()
    reports = _reports(engine)
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    assert len(engine.begun) <= 2 * WORKERS


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_slow_listener_holds_the_work_back(workers: int, ordered: bool) -> None:
    """OPS-6: no more accounts are begun and not taken than the bound."""
    engine, taken, most = StubEngine(), [], 0
    for account, report in account_reports(USERS, engine.work, workers) if not ordered else _ordered(engine, workers):
        taken.append(account.key)
        assert report.user == account.key
        most = max(most, len(engine.begun) - len(taken))
    assert sorted(taken) == sorted(user.key for user in USERS)
    assert most <= (2 if ordered else 1) * workers
    if ordered:
        assert taken == [user.key for user in USERS]


def _ordered(engine: StubEngine, workers: int) -> Iterator[tuple[Account, AccountReport]]:
    def failed(account: Account, error: PipelineError) -> AccountReport:
        return AccountReport(account.key, error=error)

    return for_accounts(USERS, engine.work, workers, failed, ordered=True)


def test_a_service_that_is_down_ends_a_round_of_reading_and_anything_else_costs_one_account() -> None:
    ada = USERS[0]
    other = ServerFailed("502")
    assert unread(ada, other) is other
    with pytest.raises(ServiceUnreachable):
        unread(ada, ServiceUnreachable("the PDS does not answer"))
