"""The lexicons' gate: no record is written while our lexicons break what is published, by the rules of
`atproto/lexicon.py`. A published record cannot be called back from those who read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Change, Effect, Lexicons, changes
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import Blocked, Misconfigured, Transient
from ac_pipeline.sync.ports import DataServer

SCHEMA: Final = "com.atproto.lexicon.schema"  # Published lexicons, by NSID (ATProto specification, "Lexicon")
Published = Mapping[str, Mapping[str, Any]]


class Memory(Protocol):
    """What was last seen of the published lexicons (`mongo/ledger/collections.py`)."""

    def seen(self, authority: str) -> Published:
        """NSID -> lexicon; empty when nothing was ever read."""

    def remember(self, authority: str, published: Published) -> None:
        """Keep what is published now."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One lexicon of ours beside the published one; `published`: True if there is one, `changes`: what differs."""

    nsid: str
    published: bool
    changes: tuple[Change, ...] = ()

    @property
    def breaking(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.BREAKING)

    @property
    def state(self) -> str:
        """`new`, `same`, `breaking`, or the widest of the effects its changes have."""
        if not self.published:
            return "new"
        effects = {change.effect for change in self.changes}
        return next((effect.value for effect in Effect if effect in effects), "same")


def compare(lexicons: Lexicons, published: Published) -> list[Comparison]:
    return [
        Comparison(nsid, nsid in published, tuple(changes(published[nsid], ours)) if nsid in published else ())
        for nsid, ours in lexicons.documents.items()
    ]


@dataclass(frozen=True, slots=True)
class Authority:
    """Who publishes the lexicons, and on which PDS: an account with a DID; with a password, if it is to publish."""

    account: Account
    server: DataServer

    @property
    def did(self) -> str:
        return str(self.account.did)

    def published(self, lexicons: Lexicons) -> Published:
        """Those of ours in the authority's repository; raises Transient or Blocked when it cannot be read."""
        return published_in(self.server.read_repository(self.did), lexicons)


@dataclass(slots=True)
class LexiconGate:
    """Lets records through only while our lexicons keep what the published ones promise. Asked once, then open."""

    lexicons: Lexicons
    authority: Authority | None  # Who publishes them; None leaves the gate open
    memory: Memory  # Stands in while the authority's PDS does not answer
    _open: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False)

    def comparisons(self) -> list[Comparison]:
        """Ours beside the published ones, as they are now or were when they could last be read; when they never could,
        raises Transient, or Misconfigured where the authority's account cannot be read.
        """
        if self.authority is None:
            return compare(self.lexicons, {})
        try:
            published = self.authority.published(self.lexicons)
        except (Transient, Blocked) as error:
            published = self.memory.seen(self.authority.did)
            if published:
                return compare(self.lexicons, published)
            if isinstance(error, Transient):
                raise
            raise Misconfigured(
                f"The published lexicons cannot be read ({error.message}): AC_LEXICON_AUTHORITY and AC_LEXICON_PDS_URL "
                "name an account and the PDS that hosts it, or nothing."
            ) from error
        self.memory.remember(self.authority.did, published)
        return compare(self.lexicons, published)

    def require(self) -> None:
        """Return when records may be written; raises Misconfigured with all that would break, else as `comparisons`."""
        with self._lock:
            if self._open:
                return
            broken = [(each.nsid, change) for each in self.comparisons() for change in each.breaking]
            if broken:
                listed = "; ".join(f"{nsid}: {change.path}: {change.what}" for nsid, change in broken)
                raise Misconfigured(
                    f"The lexicons break what is published, so no record is written ({listed}). Undo the change, or "
                    "give the new shape an NSID of its own; `ac-pipeline lexicons check` shows all of it."
                )
            self._open = True


def published_in(repository: Repository, lexicons: Lexicons) -> Published:
    found: dict[str, Mapping[str, Any]] = {}
    for nsid, _ in repository.collection(SCHEMA):
        if nsid in lexicons.documents:
            value = repository.value(f"{SCHEMA}/{nsid}")
            found[nsid] = {name: part for name, part in value.items() if name != "$type"}
    return found
