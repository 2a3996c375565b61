"""Admission: which types of an account may be synchronised now, and the books of those that may not.

Two things keep work from being published: an account that cannot be used, and a type that an operator holds. Whatever
is kept back is counted and remembered as blocked, with the reason, and is never an error of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, NoCredentials, OnHold
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.bookkeeper import Bookkeeper
from ac_pipeline.sync.ports import Documents, Ledger
from ac_pipeline.sync.selection import Selection


@dataclass(frozen=True, slots=True)
class Admission:
    """Lets types through, or books their items as blocked."""

    documents: Documents
    ledger: Ledger

    def released(self, account: Account, selection: Selection, books: Bookkeeper) -> Selection:
        """The selection without the types an operator holds; their items are counted and remembered as blocked.

        Asked for under the lease: whoever puts a hold on before taking it finds that no sync writes there any more.
        A hold keeps work from being published; it keeps nobody who leaves from being erased.
        """
        if account.leaving is not None:
            return selection
        holds = self.ledger.holds(account)
        held = [media for media in selection.types if media.name in holds]
        for media in held:
            reason = OnHold(f"the {media.plural} of {account.key} are on hold: {holds[media.name]}")
            books.report.note(reason.message)
            self._wait(account, [media], selection, books, reason)
        if held and len(held) == len(selection.types):
            reasons = dict.fromkeys(holds[media.name] for media in held)
            books.report.blocked = OnHold(f"{account.key} is on hold: {'; '.join(reasons)}")
        return replace(selection, types=tuple(media for media in selection.types if media not in held))

    def block(self, account: Account, selection: Selection, books: Bookkeeper, error: Blocked | None) -> None:
        """Count and remember what waits for an account that cannot be used.

        Args:
            error: Why; None for an account without a repository.
        """
        reason = error or NoCredentials(f"{account.key} has no account on the PDS")
        self._wait(account, selection.types, selection, books, reason)
        books.report.blocked = reason

    def _wait(
        self, account: Account, types: Sequence[MediaType], selection: Selection, books: Bookkeeper, reason: Blocked
    ) -> None:
        for media in types:
            documents = list(self.documents.stream(account, media))
            books.block(media, documents, selection.documents(documents), self.ledger.load(account, media), reason)
