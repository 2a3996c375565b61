"""A world for the engine: documents, ledger, PDS and renderer in memory, one engine between them.

What happened can be read back from the ports' own logs. The same rules on real services are in `integration/`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.errors import PipelineError, SourceMissing
from ac_pipeline.items import BlobRef, Derived, LedgerEntry, Record, Rendition
from ac_pipeline.media.base import Document, Link, MediaType
from ac_pipeline.media.documents import interpret, read_link
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.costs import Bill, Cost, Limits, user_cost
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.plan import AccountPlan
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.memory_ports import FakeClock, MemoryDocuments, MemoryLedger

WHEN = datetime(2025, 10, 15, 12, 30, 45, 123_000, tzinfo=UTC)
LEXICONS = load_lexicons()

_MIME = {"thumbnail": "image/png", "video": "video/mp4"}
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "video/mp4": b"\x00\x00\x00\x18ftypmp42"}

P = ParamSpec("P")
T = TypeVar("T")


def cost(plan: AccountPlan, now: datetime, known: Limits | None = None) -> Cost:
    """What carrying out a plan takes, as a dry run of this user alone says it."""
    bill, amounts = Bill(now, known or Limits()), user_cost(plan)
    if amounts.operations:
        bill.add(amounts)
    return bill.total()


class InlineExecutor(Executor):
    """Runs what it is given at once, in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except PipelineError as error:
            future.set_exception(error)
        return future


class MemoryRenderer:
    """The Renderer port: renditions are a few bytes that name their document.

    Attributes:
        failures: Document id -> the error every `derive` of it raises.
        found: Document id -> companions that exist.
        stamps: Document id -> what storage says of its object.
        version: Part of the bytes; another one stands for another encoder.
        derived: Document ids, in the order `derive` was asked for them.
        keeps: Why the store gives nothing up, or None.
        forgotten: CIDs that it was told to give up.
    """

    def __init__(self) -> None:
        self.failures: dict[str, PipelineError] = {}
        self.found: dict[str, frozenset[str]] = {}
        self.stamps: dict[str, str] = {}
        self.version = "1"
        self.derived: list[str] = []
        self.same: dict[str, str] = {}
        self.store: dict[str, bytes] = {}
        self.keeps: PipelineError | None = None
        self.forgotten: list[str] = []

    def derive(
        self, media: MediaType, document: Document, known: Derived | None, *, look: bool = False, anew: bool = False
    ) -> Derived:
        self.derived.append(document.id)
        if document.id in self.failures:
            raise self.failures[document.id]
        before = known.found if known is not None else frozenset[str]()
        found = self.companions(media, document, before) if look else self.found.get(document.id, frozenset())
        stamp = self.stamps.get(document.id, "")
        replaced = anew or (look and known is not None and known.stamp not in ("", stamp))
        if known is not None and not replaced and {blob.name for blob in media.blobs} <= known.renditions.keys():
            return replace(known, found=found, stamp=stamp if look else known.stamp)
        renditions = {}
        for blob in media.blobs:
            mime = _MIME[blob.name]
            picture = self.same.get(document.id, document.id)
            data = _MAGIC[mime] + f"{blob.name} of {picture} by encoder {self.version}".encode()
            self.store[blob_cid(data)] = data
            renditions[blob.name] = Rendition(BlobRef(blob_cid(data), mime, len(data)), "source", self.version)
        return Derived(renditions, found, "key", stamp=stamp)

    def companions(self, media: MediaType, document: Document, known: frozenset[str]) -> frozenset[str]:
        return self.found.get(document.id, frozenset())

    def open(self, blob: BlobRef) -> bytes:
        if blob.cid not in self.store:
            raise SourceMissing(f"the store has lost {blob.cid}")
        return self.store[blob.cid]

    def forget(self, media: MediaType, renditions: Iterable[Rendition]) -> None:
        for made in renditions:
            if self.keeps is not None:
                raise self.keeps
            self.store.pop(made.blob.cid, None)
            self.forgotten.append(made.blob.cid)


class ScriptedPds(MemoryPds):
    """A PDS in memory that can change its mind, and tell when it is about to be written to.

    Attributes:
        refusals: `(collection, rkey)` -> what a batch that writes it is refused with, as long as it stands here.
        between: Called before each batch, with the number of batches so far: somebody else's turn.
    """

    def __init__(self, *, request_bytes: int) -> None:
        super().__init__(request_bytes=request_bytes)
        self.refusals: dict[tuple[str, str], PipelineError] = {}
        self.between: Callable[[int], None] = lambda number: None

    def heal(self) -> None:
        self.refusals.clear()
        self._faults.clear()

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        self.between(self.count("apply_writes"))
        for write in writes:
            error = self.refusals.get((write.collection, write.rkey))
            if error is not None:
                self.fail("apply_writes", error)
                break
        return super().apply_writes(account, writes, swap_commit=swap_commit)


class World:
    """Everything one engine touches.

    Args:
        request_bytes: Largest body of a batch the PDS takes.
    """

    def __init__(self, *, request_bytes: int = 1_000_000) -> None:
        self.clock = FakeClock()
        self.documents = MemoryDocuments(self.clock)
        self.ledger = MemoryLedger(self.clock)
        self.pds = ScriptedPds(request_bytes=request_bytes)
        self.renderer = MemoryRenderer()
        self.accounts: dict[str, Account] = {}
        self.safeguard = Safeguard(
            self.documents, self.ledger, self.pds, lambda: list(self.accounts.values()), self.clock, host="pds.test"
        )
        self.engine = Engine(
            documents=self.documents,
            server=self.pds,
            ledger=self.ledger,
            renderer=self.renderer,
            lexicons=LEXICONS,
            host="pds.test",
            holder="this process",
            now=self.clock,
            renders=InlineExecutor(),
            safeguard=self.safeguard,
        )

    # ---------------------------------------------------------------------------------------------------- the source

    def user(self, handle: str | None = None) -> Account:
        made = self.pds.create_account(handle)
        return self.accounts.setdefault(made.id, made)

    def guest(self) -> Account:
        made = replace(self.pds.create_account("art"), id=GUEST_ID, key=GUEST_ID)
        return self.accounts.setdefault(made.id, made)

    def add(self, type: str, account: Account, **fields: Any) -> str:
        """A document with everything its type needs; its id in hex."""
        needed: dict[str, dict[str, Any]] = {
            "painting": {"slug": "2025.10.15.12.30.45.123", "code": "abc"},
            "mood": {"mood": "fine"},
            "piece": {"slug": "wand"},
            "kidlisp": {"source": "(wipe blue)", "code": "cow"},
            "tape": {"slug": "2025.10.15.12.30.45.123", "code": "xyz"},
        }
        owner = {} if account.is_guest else {"user": account.id}
        return self.documents.add(media_type(type), {"when": WHEN, **owner, **needed[type], **fields})

    def moods(self, account: Account, count: int, *, first: int = 0) -> list[str]:
        """Moods a second apart, oldest first: the order of their keys."""
        prefix = "0" * 8 if account.is_guest else account.id[-8:]
        return [
            self.add("mood", account, mood=f"mood {n}", when=at_second(n), _id=ObjectId(f"{prefix}{n + 1:016x}"))
            for n in range(first, first + count)
        ]

    def change(self, type: str, document: str, **fields: Any) -> None:
        self.documents.change(media_type(type), document, **fields)

    def link(self, type: str, document: str) -> Link | None:
        media = media_type(type)
        return read_link(self.documents.raw(media, document), media.link_homes)

    def document(self, type: str, document: str) -> Document:
        media = media_type(type)
        return interpret(media, self.documents.raw(media, document))

    # ---------------------------------------------------------------------------------------------------- the work

    def sync(self, account: Account, **selection: Any) -> AccountReport:
        report = self.engine.sync(account, chosen(**selection), "run-1")
        assert_sums(report)
        return report

    def survey(self, account: Account, **selection: Any) -> tuple[AccountPlan, AccountReport]:
        return self.engine.survey(account, chosen(**selection), "run-1")

    # ---------------------------------------------------------------------------------------------------- the records

    def records(self, account: Account, type: str) -> dict[str, Record]:
        """rkey -> record."""
        prefix = media_type(type).nsid + "/"
        return {
            path.removeprefix(prefix): record
            for path, record in self.pds.records(account).items()
            if path.startswith(prefix)
        }

    def by_ref(self, account: Account, type: str) -> dict[str | None, list[str]]:
        """Document id -> keys of the records that name it."""
        found: defaultdict[str | None, list[str]] = defaultdict(list)
        for rkey, record in self.records(account, type).items():
            found[record.get("ref") or record.get("mongoId")].append(rkey)
        return dict(found)

    def put(self, account: Account, type: str, rkey: str, value: Record) -> str:
        """Somebody else writes a record, past this engine; its key."""
        nsid = media_type(type).nsid
        write = Write("create", nsid, rkey, {"$type": nsid, **value})
        MemoryPds.apply_writes(self.pds, account, [write], swap_commit=None)
        return rkey

    def drop(self, account: Account, type: str, rkey: str) -> None:
        """Somebody else deletes a record."""
        MemoryPds.apply_writes(self.pds, account, [Write("delete", media_type(type).nsid, rkey)], swap_commit=None)

    def entry(self, type: str, document: str) -> LedgerEntry:
        return self.ledger.entries[f"{type}:{document}"]

    def heal(self) -> None:
        """Every fault that was scripted and has not happened is taken back."""
        self.pds.heal()
        for port in (self.documents, self.ledger):
            port._failures.clear()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """A stretch in which nothing may be written to documents, ledger, PDS or store."""
        before = (len(self.documents.link_writes), len(self.ledger.saves), dict(self.renderer.store))
        sent = len(self.pds.calls)
        calls = len(self.ledger.calls), len(self.documents.calls)
        yield
        assert (len(self.documents.link_writes), len(self.ledger.saves), self.renderer.store) == before
        written = {"apply_writes", "upload_blob"}
        assert [call.method for call in self.pds.calls[sent:] if call.method in written] == []
        looks = {"last_look", "recorded", "keep_look"}  # what was there is remembered, whoever looks
        ahead = {"checkpoints_of", "all_holds"}
        assert set(self.ledger.calls[calls[0] :]) <= {
            "load",
            "lease",
            "batch_bytes",
            "checkpoint",
            "holds",
            *ahead,
            *looks,
        }
        assert set(self.documents.calls[calls[1] :]) <= {"stream", "owners", "is_empty", "dates"}


def chosen(**selection: Any) -> Selection:
    """A selection; `types` by name."""
    names = selection.pop("types", None)
    types = MEDIA_TYPES if names is None else tuple(media_type(name) for name in names)
    return Selection(types=types, **selection)


def at_second(number: int) -> datetime:
    return datetime.fromtimestamp(WHEN.timestamp() + number, UTC)


def assert_sums(report: AccountReport) -> None:
    """VERIFY-1: every item that has to be there, or to go, ends in exactly one state, whatever went wrong.

    Only an account of which too little could be read has none; what is invalid is not counted against one that is
    blocked from the start.
    """
    for tally in report.types.values():
        ends = (tally.created + tally.updated, tally.unchanged, tally.deleted, tally.deferred)
        assert tally.planned == sum(ends) + tally.quarantined + tally.blocked
        assert min(ends) >= 0
        if report.error is not None and not tally.planned:
            continue
        certain = tally.eligible + (0 if report.blocked else tally.invalid)
        assert certain <= tally.planned <= tally.eligible + tally.invalid + tally.withdrawn + tally.records


def totals(report: AccountReport, type: str = "mood") -> dict[str, int]:
    """The counts of one type that are not zero, without those of the documents."""
    left_out = {"documents", "eligible", "records", "planned", "written", "withdrawn", "invalid"}
    return {name: n for name, n in report.tally(type).to_json().items() if n and name not in left_out}
