"""Receipts in memory: a readable stand-in for the real ones, held to the same contract suite."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from ac_pipeline.mongo.ledger.receipts import Aspect, Found, Part, Receipt, Total


class MemoryReceipts:
    """The receipts of all accounts, by account id; `parts` with the moment each was taken."""

    def __init__(self) -> None:
        self.saved: list[Receipt] = []
        self.users: dict[str, tuple[str, str | None]] = {}
        self.parts: dict[str, dict[tuple[str, Aspect], tuple[datetime, Part]]] = {}

    def save(self, receipt: Receipt) -> None:
        self.saved.append(receipt)
        self.users[receipt.account] = receipt.user, receipt.did
        parts = self.parts.setdefault(receipt.account, {})
        parts.update({cell: (receipt.at, part) for cell, part in receipt.parts.items()})

    def forget(self, known: Collection[str]) -> None:
        for account in set(self.parts) - set(known):
            del self.parts[account]

    def totals(self, types: Iterable[str]) -> dict[tuple[str, Aspect], Total]:
        found = {}
        for cell in [(type_, aspect) for type_ in types for aspect in Aspect]:
            held = [parts[cell] for parts in self.parts.values() if cell in parts]
            found[cell] = Total(
                users=len(held),
                expected=sum(part.expected for _, part in held),
                sound=sum(part.sound for _, part in held),
                unsound=sum(part.unsound for _, part in held),
                warnings=sum(part.warnings for _, part in held),
                oldest=min((at for at, _ in held), default=None),
            )
        return found

    def unsound(self, types: Collection[str]) -> Iterator[Found]:
        for account, parts in sorted(self.parts.items(), key=lambda each: self.users[each[0]][0]):
            user, did = self.users[account]
            for (type_, aspect), (at, part) in sorted(parts.items(), key=lambda each: f"{each[0][0]}.{each[0][1]}"):
                if type_ in types and part.unsound:
                    yield Found(user, did, type_, aspect, at, part)
