"""The canary: the first few users who have something to do, mirrored, verified, and shown before anybody else's turn.

How a user is mirrored is the engine's, what is verified `sync/verify.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import PipelineError
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import Verification, verify

SHOWN = 3
"""Records of a user whose addresses are shown."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a record can be looked at: its `at://` URI, and its page where it has one."""

    uri: str
    page: str | None

    def to_json(self) -> dict[str, object]:
        return {"uri": self.uri, "page": self.page}


@dataclass(frozen=True, slots=True)
class Look:
    """What a user's repository holds after a turn."""

    verification: Verification
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One user's turn, and the look afterwards; none where the account could not be read.

    Args:
        planned: Kind of operation -> how many there were.
    """

    account: Account
    planned: Counter[str]
    report: AccountReport
    look: Look | None


def canary(
    engine: Engine, accounts: Sequence[Account], selection: Selection, number: int, *, run_id: str, workers: int
) -> Iterator[Trial]:
    """Mirror the first so many accounts that have something to do, one after another; only looks run ahead.

    Raises:
        Transient: An account could not be read.
    """
    done = 0
    looks: Iterator[tuple[Account, Counter[str] | PipelineError]] = for_accounts(
        accounts, lambda each: _operations(engine, each, selection), workers, unread, ordered=True
    )
    for account, planned in looks:
        if isinstance(planned, PipelineError):
            yield Trial(account, Counter(), AccountReport(account.key, error=planned), None)
            continue
        if not planned:
            continue
        report = engine.sync(account, selection, run_id)
        yield Trial(account, planned, report, look(engine, account, selection, run_id))
        done += 1
        if done == number:
            return


def look(engine: Engine, account: Account, selection: Selection, run_id: str) -> Look:
    """Verify a user, and find a few records that this run has written.

    Raises:
        Transient: It could not be read.
    """
    verification = verify(engine, account, selection)
    plan, _ = engine.survey(account, selection)
    addresses: list[Address] = []
    for made in plan.plans:
        entries = plan.entries[made.media.name]
        for kept in made.kept:
            document = kept.wanted.document
            entry = entries.get(document.id)
            if entry is not None and entry.run_id == run_id and len(addresses) < SHOWN:
                uri = at_uri(str(account.did), made.media.nsid, kept.rkey)
                addresses.append(Address(uri, made.media.page(document)))
    return Look(verification, tuple(addresses))


def _operations(engine: Engine, account: Account, selection: Selection) -> Counter[str]:
    plan, report = engine.survey(account, selection)
    return Counter(operation.kind.value for operation in plan.operations() if report.blocked is None)
