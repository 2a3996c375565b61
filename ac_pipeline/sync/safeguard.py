"""Safeguards against a database or a PDS that has not what was there: a wrong one, a half-restored one, one that lost
its users. What was there at the last look is in the ledger, so that all runs and machines judge by the same.

A record whose document is gone (an orphan) may be the only copy of somebody's work. Orphans of a type are deleted only
while its collection, the documents of the records that are known, and all orphans met within a day are each within
the allowed share, and those of one user are not most of what that user has. What its owner withdrew, or an account
that is to be deleted, is never asked about here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, ServerFailed
from ac_pipeline.items import LastLook
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.media.times import object_id_time
from ac_pipeline.sync.ports import DataServer, Documents, Ledger

MANY_OF_ONE: Final = 10  # More orphans, and more than half of a user's records of a type, wait for a person as well
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)  # A record that nobody has met for so long does not wait any more
_FRESH: Final = timedelta(seconds=10)  # For so long a doubt is not looked into again, which thousands of users meet
_OF_A_DOCUMENT: Final = timedelta(milliseconds=1)
"""A look that may be a little old may be so for each document that it read, up to `_LONGEST`: looks after every run
would else take a share of the database that grows with the collection."""
_LONGEST: Final = timedelta(minutes=10)
_SOME: Final = 3  # Documents within the set days that make a type one of which something is expected to come
_FEW: Final = 3  # Fewer known repositories or accounts say nothing about a database or a PDS
_TRIES: Final = 500


@dataclass(slots=True)
class Safeguard:
    """What may be deleted as an orphan, and whether this is the database and the PDS we know."""

    documents: Documents
    ledger: Ledger
    server: DataServer
    accounts: Callable[[], Sequence[Account]]  # All accounts there are
    now: Callable[[], datetime]
    share: float = 0.1  # Share of a type's documents that may be lost, or deleted as orphans within a day
    floor: int = 5  # So many may in any case
    silent_days: int = 14  # Days without a new document after which a type is silent; 0 to never say so
    database: str = ""  # Its name, for sentences
    host: str = ""  # The PDS's
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _verdict: str | None = field(default=None, repr=False)  # What is wrong with the PDS; empty: nothing, None: unasked
    _staying: tuple[datetime, set[str]] | None = field(default=None, repr=False)  # Accounts in use, and when

    def allowed(self, number: int) -> int:
        return max(self.floor, int(self.share * number))

    # ------------------------------------------------------------------------------------------------- collections

    def look(self, media: MediaType, within: timedelta = timedelta(0)) -> LastLook:
        """Count the documents of a type, and those lost of the records that are known; the ledger remembers it. A look
        `within` so short a time is good enough, or a millisecond a document where any is. Raises Transient.
        """
        now, known = self.now(), self.ledger.last_look(media.name)
        large = min(_LONGEST, max(known.documents, known.known) * _OF_A_DOCUMENT) if within else within
        # One from the future is of a clock that was wrong.
        if known.at is not None and timedelta(0) <= now - known.at < max(within, large):
            return known
        dates, staying = self.documents.dates(media), self._accounts_in_use()
        recorded = [document for account, document in self.ledger.recorded(media.name) if account in staying]
        whens = [when for when in dates.values() if when <= now.timestamp() * 1000]

        def seen(before: LastLook) -> LastLook:
            look = replace(
                before, at=now, documents=len(dates), known=len(recorded), lost=len(set(recorded) - dates.keys())
            )
            lost = {each: at for each, at in before.waiting.items() if each not in dates}
            look = replace(look, orphans=_since(before.orphans, now - _DAY), waiting=_since(lost, now - _WEEK))
            newest = max(whens, default=None)
            if newest is not None and (before.newest is None or newest >= before.newest):
                recent = newest - self.silent_days * (_DAY // timedelta(milliseconds=1))
                look = replace(look, newest=newest, arrivals=sum(when > recent for when in whens))
            # A larger collection is expected at once; a smaller one within the share, and once a day at most.
            shrunk, lowered = look.expected - look.documents, look.lowered_at
            slowly = lowered is None or (shrunk <= self.allowed(look.expected) and now - lowered >= _DAY)
            if shrunk <= 0 or slowly:
                lowered = now if lowered is None or shrunk > 0 else lowered
                look = replace(look, expected=look.documents, lowered_at=lowered)
            return look

        return self._change(media.name, seen)

    def _accounts_in_use(self) -> set[str]:
        """Ids of the accounts that are not to be deleted, read once for all types that are looked at in a row. Of one
        that is deleted just then, records without a document are counted as lost a little longer: that only keeps."""
        with self._lock:
            if self._staying is None or self.now() - self._staying[0] >= _FRESH:
                self._staying = self.now(), {each.id for each in self.accounts() if not each.owner_deleted}
            return self._staying[1]

    def doubt(self, look: LastLook) -> str | None:
        """Why no orphan of the type may be deleted now, as the end of a sentence; None when they may."""
        here, once = look.documents, look.expected
        if not here:
            return "the whole collection is empty"
        if once - here > self.allowed(once):
            return f"the collection holds {here} documents, where there were {once}"
        if look.lost > self.allowed(look.known):
            return f"the documents of {look.lost} of all {look.known} {look.type} records are gone"
        if len(look.orphans) + len(look.waiting) > self._limit(look):
            return f"more than {self._limit(look)} {look.type} records would go within a day"
        return None

    def _limit(self, look: LastLook) -> int:
        return self.allowed(min(look.documents, look.expected))

    def problems(self, look: LastLook) -> tuple[str | None, str | None]:
        """What a person has to know of a collection: that orphans are kept and why, and that nothing new comes."""
        doubt, silence = None, None
        if (look.documents or look.known or look.expected) and (why := self.doubt(look)) is not None:
            doubt = (
                f"{why[:1].upper()}{why[1:]}: that looks like a wrong or half-restored database, so no {look.type} "
                "record is deleted for want of its document. If it is right, `ac-pipeline plan "
                f"--type {look.type}` says the number for `ac-pipeline sync --type {look.type} --sweep NUMBER`."
            )
        if self.silent_days and look.newest is not None and look.arrivals >= _SOME:
            last = datetime.fromtimestamp(look.newest / 1000, UTC)
            days = (self.now() - last) // _DAY
            if days >= self.silent_days:
                silence = (
                    f"No new {look.type} has come for {days} days, the last one on {last:%Y-%m-%d}, where "
                    f"{look.arrivals} had come in {self.silent_days} days: look at what writes the collection "
                    "(AC_SILENT_DAYS)."
                )
        return doubt, silence

    def permit(
        self,
        media: MediaType,
        account: Account,
        orphans: Mapping[str, str],
        records: int,
        *,
        sweep: int | None,
        run_id: str,
        dry: bool,
    ) -> str | None:
        """Ask to delete these orphans: why they have to stay, as the end of a sentence, or None.

        Whoever asks is counted from now on, in a dry run as well, and whether the deletion then happens or not: asked
        again, the same orphans are the same.

        Args:
            orphans: Key of each of the records -> id of its document.
            records: How many of the type the repository holds.
            sweep: How many a person has agreed to let go in this run whatever is doubted, or None.
            dry: Nothing will be deleted; a sweep of any number is permitted.
        """
        # A document's id is kept as it is, so that it is recognised when it is back; anybody may write anything there.
        met = {each if object_id_time(each) is not None else _hash(each) for each in orphans.values()}
        look, now = self.ledger.last_look(media.name), self.now()
        if look.at is None or not timedelta(0) <= now - look.at < _FRESH or self.doubt(look) is None:
            self.look(media)

        def meet(before: LastLook) -> LastLook:
            gone, waiting = _since(before.orphans, now - _DAY), _since(before.waiting, now - _WEEK)
            rest = {name: at for name, at in waiting.items() if name not in met}
            asked = replace(before, orphans={**gone, **dict.fromkeys(sorted(met), now)}, waiting=rest)
            if most is None and self.doubt(asked) is None:
                return asked
            # One user alone, with records of any names, must not hold up all the others.
            room = self.floor if most is None and len(waiting) <= self.allowed(before.documents) else 0
            fresh = [each for each in sorted(met) if each not in gone and each not in waiting]
            new = [*(met & waiting.keys()), *fresh[:room]]
            late = [each for each in new if each not in waiting or now - waiting[each] > _HOUR]
            return replace(before, orphans=gone, waiting={**waiting, **dict.fromkeys(late, now)})

        most = None
        if len(orphans) > MANY_OF_ONE and 2 * len(orphans) > records:
            most = f"they are most of the {records} that {account.key} has"
        found = self._change(media.name, meet)
        why = self.doubt(found) or most
        if why is None and not met <= found.orphans.keys():
            why = f"with them, more than {self._limit(found)} {media.name} records would go within a day"
        if why is None or sweep is None or dry:
            return None if sweep is not None and dry else why
        swept = self._sweep(run_id, {_hash(f"{account.did}/{media.nsid}/{rkey}") for rkey in orphans}, sweep)
        if swept is None:
            return f"they are more than the {sweep} that --sweep names"

        def confirmed(before: LastLook) -> LastLook:
            expected = max(before.documents, before.expected - swept)
            rest = {name: at for name, at in before.waiting.items() if name not in met}
            return replace(before, expected=expected, waiting=rest)

        self._change(media.name, confirmed)
        return None

    def accept(self, types: Iterable[MediaType]) -> None:
        """A person says that the collections are right as they were found at the last look."""

        def right(look: LastLook) -> LastLook:
            return replace(look, expected=look.documents, lowered_at=self.now(), orphans={}, waiting={})

        for media in types:
            self._change(media.name, right)

    def sweeping(self, run_id: str) -> bool:
        """True if the number of this run is agreed to already: a retry goes on where it was."""
        return self.ledger.last_look(f"sweep {run_id}").at is not None

    def begin_sweep(self, run_id: str) -> None:
        self._change(f"sweep {run_id}", lambda look: replace(look, at=self.now()))

    def _sweep(self, run_id: str, met: set[str], number: int) -> int | None:
        """Take these out of the number a run may sweep: how many are new; None when they are too many."""
        new = 0

        def take(before: LastLook) -> LastLook:
            nonlocal new
            after = {**before.orphans, **dict.fromkeys(sorted(met), self.now())}
            new = len(after) - len(before.orphans)
            return before if len(after) > number else replace(before, at=self.now(), orphans=after)

        return new if met <= self._change(f"sweep {run_id}", take).orphans.keys() else None

    def _change(self, name: str, change: Callable[[LastLook], LastLook]) -> LastLook:
        """Change what is remembered, on top of what others have changed meanwhile."""
        for _ in range(_TRIES):
            before = self.ledger.last_look(name)
            after = change(before)
            if after == before:
                return before
            if self.ledger.keep_look(after):
                return replace(after, version=after.version + 1)
        raise ServerFailed(f"What was last seen of {name} changes too fast to be kept: run it again later.")

    # -------------------------------------------------------------------------------------------- database and PDS

    def check_platform(self, accounts: Sequence[Account]) -> None:
        """Raise Misconfigured for a database without anybody and anything."""
        if not any(account.did or not account.is_guest for account in accounts) and all(
            self.documents.is_empty(media) for media in MEDIA_TYPES
        ):
            raise Misconfigured(
                f"The database {self.database} holds no users and no documents: MONGODB_NAME or "
                "MONGODB_CONNECTION_STRING seems to name another one. Nothing was done."
            )

    def check_accounts(self, accounts: Sequence[Account]) -> None:
        """Raise Misconfigured for a database with (almost) none of the accounts whose repositories are known."""
        known = self.ledger.checkpoints().keys()
        named = known & {account.did for account in accounts}
        if _almost_none(len(named), len(known)):
            raise Misconfigured(
                f"The database {self.database} names {len(named)} of the {len(known)} accounts whose repositories are "
                "known here: MONGODB_NAME or MONGODB_CONNECTION_STRING seems to name another one. Nothing was done. If "
                "it is the right one, start anew with another AC_LEDGER_DATABASE."
            )

    def check_server(self) -> None:
        """Raise Misconfigured for a PDS that hosts (almost) none of the accounts, Transient for one that does not
        answer. Asked once, by whoever meets an account it does not know.
        """
        with self._lock:
            if self._verdict is None:
                wanted = {account.did for account in self.accounts() if account.did and not account.owner_deleted}
                hosted = wanted & {each.did for each in self.server.list_repositories()}
                self._verdict = ""
                if _almost_none(len(hosted), len(wanted)):
                    self._verdict = (
                        f"The PDS {self.host} hosts {len(hosted)} of the {len(wanted)} accounts of the database "
                        f"{self.database}: PDS_URL or MONGODB_NAME seems to name another one. Nothing was done."
                    )
            if self._verdict:
                raise Misconfigured(self._verdict)


def _almost_none(found: int, of: int) -> bool:
    """True if so few of what is known are there that it is not the same place."""
    return of >= _FEW and (not found or (of - found > MANY_OF_ONE and 2 * found < of))


def _since(times: Mapping[str, datetime], moment: datetime) -> dict[str, datetime]:
    return {name: at for name, at in times.items() if at > moment}


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
