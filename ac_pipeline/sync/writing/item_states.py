"""Item states: what each item of one account still waits for in a run, and in which state it ended.

Every planned item ends in exactly one state, whatever happens to it in later rounds (VERIFY-1), and is counted there
once. In memory only: links and ledger entries are the recorder's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.planning.plan import BESIDE, ERASES, Kind, Operation
from ac_pipeline.sync.report import AccountReport


class ItemStates:
    """How the items of one account end in one run.

    Args:
        report: Where they are counted.
    """

    def __init__(self, report: AccountReport) -> None:
        self._report = report
        self._states: dict[str, State] = {}
        self._open: dict[str, dict[str, Operation]] = {}  # what each item still waits for, by path
        self._sent: dict[str, dict[str, Operation]] = {}

    def begin(self) -> None:
        """A round starts: what the last one left open is planned anew."""
        self._open = {}

    def send(self) -> None:
        """What is open now goes to the PDS, and may arrive there without an answer."""
        for item, operations in self._open.items():
            self._sent.setdefault(item, {}).update(operations)

    def reopen(self, operation: Operation) -> None:
        """An item waits for a write; one that was in order a round ago may do so, one that has ended otherwise not."""
        item = operation.item
        if not operation.writes or operation.kind in BESIDE:
            return
        if self._states.get(item) is State.UNCHANGED:
            del self._states[item]
            self._report.tally(operation.media.name).count(State.UNCHANGED, -1)
        if item not in self._states:
            self._open.setdefault(item, {})[operation.path] = operation

    def close(self, operation: Operation) -> bool:
        """An operation needs no more waiting for; True if it was its item's last."""
        waiting = self._open.get(operation.item, {})
        waiting.pop(operation.path, None)
        if not waiting:
            self._open.pop(operation.item, None)
        return not waiting

    def end(self, media: MediaType, item: str, state: State) -> bool:
        """Count an item where it ended; False if it had ended before."""
        if item in self._states:
            return False
        self._states[item] = state
        self._report.tally(media.name).count(state)
        return True

    def write(self, media: MediaType, item: str, kind: Kind) -> None:
        """An item ended with its record written: `written` is the sum of both kinds."""
        if item not in self._states:
            self._states[item] = State.WRITTEN
            tally = self._report.tally(media.name)
            tally.created += kind is Kind.CREATE
            tally.updated += kind is Kind.UPDATE

    def of(self, item: str) -> State | None:
        """How an item ended; None as long as it has not."""
        return self._states.get(item)

    def sent(self, item: str) -> dict[str, Operation]:
        """What was sent for an item in this run, by path."""
        return self._sent.get(item, {})

    def unheard_deletions(self) -> list[Operation]:
        """One deletion of each item whose deletions were sent in an earlier round and need not be sent again: they
        arrived."""
        return [
            next(iter(operations.values()))
            for item, operations in self._sent.items()
            if item not in self._open and all(each.kind in ERASES for each in operations.values())
        ]

    def take_open(self) -> Sequence[Operation]:
        """One operation of each item that has not ended; none of them is waited for any more."""
        waiting = [next(iter(ops.values())) for item, ops in self._open.items() if item not in self._states]
        self._open = {}
        return waiting

    @property
    def left_open(self) -> int:
        """Items that still wait."""
        return len(self._open)
