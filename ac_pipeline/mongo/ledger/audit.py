"""The audit: who did what to whose records, when and why, for everything that removes or brings back work.

Lines are only ever added. One is written before the first change (outcome `started`) and a second one of the same
operation after the last, so that a kill leaves a trace. No secrets: keys, DIDs, counts and what people say.
"""

from __future__ import annotations

import getpass
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pymongo import DESCENDING
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.errors import PipelineError, Transient
from ac_pipeline.mongo.database import mongo_errors, own_collection, storable, value_of

STARTED, DONE, INTERRUPTED = "started", "done", "interrupted"  # Besides `failed: ...`

_log = logging.getLogger(__name__)


def operator_name(named: str | None) -> str:
    """Who operates the pipeline: the setting `AC_OPERATOR`, else the login name and the machine."""
    if named:
        return named
    try:
        login = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        login = "unknown"
    return f"{login}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One operation as the audit knows it."""

    action: str  # `wipe`, `restore`, `publish-lexicons` and the like
    who: str  # The operator, as `operator_name` has it
    when: datetime  # When it began, UTC
    why: str = ""  # The operator's own words
    users: tuple[str, ...] = ()  # Partition keys and DIDs of the accounts it touches
    types: tuple[str, ...] = ()  # Names of the media types it touches
    plan_hash: str | None = None  # Which plan was agreed to, where there is one
    counts: Mapping[str, int] = field(default_factory=dict)  # What it is about to change, later what it changed
    outcome: str = STARTED  # `started` until it ended
    operation: str = field(default_factory=lambda: uuid4().hex)  # Joins the lines of one operation

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__} | {"when": self.when.isoformat()}


@dataclass(slots=True)
class Audited:
    """An operation that goes on: what it may say of itself before it ends."""

    entry: AuditEntry
    counts: dict[str, int] = field(default_factory=dict)
    outcome: str = DONE


@dataclass(slots=True)
class MongoAudit:
    """The audit in the pipeline's own database; `who` is the operator, for `during`."""

    database: Database[dict[str, Any]]
    who: str | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def record(self, entry: AuditEntry) -> None:
        """Add a line; Transient when it could not be stored: an operation that is about to start must not."""
        line = {**storable(entry), "recorded": self.now(), "ended": entry.outcome != STARTED}
        with mongo_errors(f"write the {entry.action} into the audit"):
            own_collection(self.database, "audit").insert_one(line)

    @contextmanager
    def during(
        self,
        action: str,
        accounts: Iterable[Account],
        types: Iterable[str],
        *,
        why: str = "",
        plan_hash: str | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> Iterator[Audited]:
        """Record an operation around its work: before the first change, and again when it ends, in whatever way.
        `counts` is what it is about to change of these accounts' records; the caller puts what it changed into
        `Audited.counts`. Raises Transient when the first line could not be stored; nothing was done.
        """
        users = tuple(name for account in accounts for name in (account.key, account.did) if name)
        who, planned = operator_name(self.who), dict(counts or {})
        entry = AuditEntry(action, who, self.now(), why, users, tuple(types), plan_hash, planned)
        self.record(entry)
        audited = Audited(entry)
        try:
            yield audited
        except PipelineError as error:
            self._end(audited, f"failed: {error.message}")
            raise
        except BaseException:
            self._end(audited, INTERRUPTED)
            raise
        self._end(audited, audited.outcome)

    def entries(self, limit: int = 50, action: str | None = None, user: str | None = None) -> list[AuditEntry]:
        """Operations, the last one to begin or end first, each as its last line has it; at most `limit`, only of an
        action, only those that touch a `user` (partition key or DID).
        """
        query = {name: value for name, value in (("action", action), ("users", user)) if value is not None}
        found: dict[str, AuditEntry] = {}
        with mongo_errors("read the audit"):
            for line in own_collection(self.database, "audit").find(
                query, sort=[("recorded", DESCENDING), ("ended", DESCENDING)]
            ):
                found.setdefault(line["operation"], value_of(AuditEntry, line))
                if len(found) > limit:
                    break
        return list(found.values())[:limit]

    def _end(self, audited: Audited, outcome: str) -> None:
        try:
            self.record(replace(audited.entry, counts=audited.counts or audited.entry.counts, outcome=outcome))
        except Transient as error:  # the first line stays and tells that it began; the work is what it is
            _log.warning("%s", error.message)
