"""What a PDS is asked to do and what it answers, as plain values; no protocol and no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ac_pipeline.items import Record


@dataclass(frozen=True, slots=True)
class Write:
    """One operation of a batch. `value` is the record for create and update, None for delete; `unchecked`: the PDS is
    not to hold it to a lexicon that it may know."""

    action: Literal["create", "update", "delete"]
    collection: str
    rkey: str
    value: Record | None = None
    unchecked: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer to a batch: the repository's new head and the record CID of each write (None for a delete)."""

    cid: str
    rev: str
    cids: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """A repository, its head, and whether its account is active: one line of `com.atproto.sync.listRepos`.

    `com.atproto.sync.getLatestCommit` answers for active accounts only, so that one from there is always active.
    """

    did: str
    head: str
    rev: str
    active: bool
    status: str | None
