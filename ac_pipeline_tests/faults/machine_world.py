"""The world of the state machine: everything in memory, with faults at any call of a port, and what shall be public.

The model is written from the documents as they are stored; nothing of the package decides it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import BlobMissing, OutcomeUnknown, PipelineError, RateLimited, ServerFailed, ServiceUnreachable
from ac_pipeline.items import BlobRef, Derived, Record, Rendition
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.documents import read_link
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.media.times import read_when
from ac_pipeline.sync.writing.erased import made_of
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.operations.guarded import Guarded, Killed
from ac_pipeline_tests.unit.sync.world import MemoryRenderer

COPIES = "site.standard.document"
POST = "app.bsky.feed.post"
BULK = 4
"""With a floor of one and a share of a tenth, so many documents lost of up to 39 are always too many."""
MOST = 26
"""Documents of a type."""
FIELDS = {"mood": {"mood"}, "piece": {"slug"}, "kidlisp": {"source", "code"}, "painting": {"slug", "code"}}
FIELDS["tape"] = FIELDS["painting"]
"""What document and record share, besides `when`."""
ADDRESSES = {"kidlisp": {"acUrl"}, "painting": {"acUrl", "imageUrl"}, "tape": {"acUrl"}}
BLOBS = {"painting": {"thumbnail": "image/png"}, "tape": {"video": "video/mp4", "thumbnail": "image/png"}}
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "video/mp4": b"\x00\x00\x00\x18ftypmp42"}
_PORTS = {
    "documents": ("stream", "owners", "dates", "is_empty", "write_links"),
    "ledger": (
        "load", "save", "used_blobs", "lease", "batch_bytes", "checkpoint", "keep_checkpoint", "follow_checkpoint",
        "recorded", "last_look", "keep_look", "hold", "release", "holds",
    ),
    "pds": (
        "read_repository", "latest_commit", "apply_writes", "upload_blob", "has_blob", "get_blob",
        "download_repository",
    ),
    "renderer": ("derive", "companions", "open", "forget"),
    "index": ("save", "find"),
    "files": ("put_repository", "put_blob", "put_manifest"),
}  # fmt: skip


class Oven(MemoryRenderer):
    """Renditions that name the object they are made of, which a document or storage may say was replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: defaultdict[str, set[str]] = defaultdict(set)

    def data(self, raw: dict[str, Any], id: str, name: str, mime: str) -> bytes:
        made = f"{name} of {self.same.get(id, id)} baked {raw.get('mp4CompletedAt')} stamped {self.stamps.get(id, '')}"
        return _MAGIC[mime] + made.encode()

    def derive(
        self, media: MediaType, document: Document, known: Derived | None, *, look: bool = False, anew: bool = False
    ) -> Derived:
        stamp, key = self.stamps.get(document.id, ""), str(document.fields.get("mp4CompletedAt"))
        replaced = anew or (look and known is not None and known.stamp != stamp)
        if known is not None and known.key == key and not replaced:
            return replace(known, found=self.found.get(document.id, frozenset()) if look else known.found)
        made = {}
        for name, mime in BLOBS.get(media.name, {}).items():
            data = self.data(dict(document.fields), document.id, name, mime)
            self.store[blob_cid(data)] = data
            self.ever[document.id].add(blob_cid(data))
            made[name] = Rendition(BlobRef(blob_cid(data), mime, len(data)), "source", self.version)
        return Derived(made, self.found.get(document.id, frozenset()), key, stamp=stamp)


@dataclass
class Trouble:
    """Something that happens at one of the next calls.

    Args:
        calls: At which, counted from now.
        method: Only calls of this one count; None for all.
        after: Whether the call takes effect before.
        act: What happens: it may raise.
    """

    calls: int
    method: str | None
    after: bool
    act: Callable[[str], None]


class Hostile(Guarded):
    """A world with trouble in store, and a model of what shall be public in it.

    Attributes:
        missing: Type -> documents that records may name and that are not there.
        kept: Type -> documents of those that vanished whose records must stay -> whose they are.
        held: Account and type that an operator keeps back.
        foreign: Account -> records of other apps, and of ours that name nobody: path -> whole record.
        copies: Account -> copies of records: path -> type and document.
        touched: Items whose records another writer has changed or deleted.
        taken_back: Items that were withdrawn at some time: their copies may be gone.
        addresses: Item -> key of its record, which it keeps, come what may from us and its owner.
        doing: What is being done: only a sync is judged by every single write.
        raced: Whether documents changed while that was done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.renderer = self.engine.renderer = Oven()
        self.safeguard.floor = 1
        self.trouble: list[Trouble] = []
        self.killed = self.raced = False
        self.doing = ""
        self.missing: defaultdict[str, set[str]] = defaultdict(set)
        self.kept: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.backup: dict[tuple[str, str], dict[str, Any]] = {}
        self.held: set[tuple[str, str]] = set()
        self.foreign: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self.copies: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        self.touched: set[tuple[str, str]] = set()
        self.taken_back: set[tuple[str, str]] = set()
        self.addresses: dict[tuple[str, str], str] = {}
        self.public: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        for port, methods in _PORTS.items():
            for name in methods:
                self._listen(getattr(self, port), name)
        give_back = self.ledger._give_back
        self.ledger._give_back = lambda did, token: not self.killed and give_back(did, token)  # type: ignore[method-assign]

    # ---------------------------------------------------------------------------------------------------------- trouble

    def _listen(self, port: Any, name: str) -> None:
        method = getattr(port, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            if self.killed:
                raise Killed  # whatever the dying process still does has no effect
            due = self._due(name)
            if due is not None and not due.after:
                due.act(name)
            if name == "apply_writes" and not self.raced:
                self._judge_content(args[0], args[1])
            if name == "apply_writes" and self.doing == "sync":
                self._judge(args[0], args[1])
            answer = method(*args, **kwargs)
            if due is not None and due.after:
                due.act(name)
            return answer

        setattr(port, name, called)

    def _due(self, name: str) -> Trouble | None:
        if not self.doing:
            return None
        due = None
        for each in [each for each in self.trouble if each.method in (None, name)]:
            each.calls -= 1
            if each.calls <= 0 and due is None:
                due = each
        if due is not None:
            self.trouble.remove(due)
        return due

    def fail(self, error: PipelineError | None, *, after: bool) -> Callable[[str], None]:
        def act(name: str) -> None:
            if name == "apply_writes":
                raise OutcomeUnknown("no answer") if after else error or ServerFailed("500")
            raise ServiceUnreachable(f"{name} does not answer")

        return act

    def kill(self, name: str) -> None:
        self.killed = True
        raise Killed

    def run(self, doing: str, act: Callable[[], Any]) -> Any:
        """Do something of ours, whatever comes in between: what it gives, or the error that ended it; None if killed.

        Nothing but a PipelineError may come out of it.
        """
        self.doing, self.raced = doing, False
        try:
            return act()
        except Killed:
            self.killed = False
            self.clock.advance(61)  # its leases expire
            return None
        except PipelineError as error:
            return error
        finally:
            self.doing, self.killed = "", False
            assert not self.violations, self.violations

    def _judge_content(self, account: Account, writes: list[Write]) -> None:
        """Nothing of ours, a restore included, publishes what its owner took back."""
        withdrawn = {id for media in MEDIA_TYPES for id in self.withdrawn(self.accounts[account.id], media.name)}
        for write in writes:
            ref = (write.value or {}).get("ref")
            if write.collection not in {COPIES, POST} and isinstance(ref, str) and ref in withdrawn:
                self.violations.append(f"{write.collection}/{write.rkey} is withdrawn and was published")

    def _judge(self, account: Account, writes: list[Write]) -> None:
        """No write of a sync harms anybody, whatever else is going on."""
        account = self.accounts[account.id]
        records = MemoryPds.records(self.pds, account)
        for write in writes:
            name = next((media.name for media in MEDIA_TYPES if media.nsid == write.collection), None)
            path = f"{write.collection}/{write.rkey}"
            if name is None:
                if write.collection != COPIES or write.action != "delete":
                    self.violations.append(f"a sync wrote {path}")
                continue
            if account.pending_deletion is not None:
                if write.action != "delete":
                    self.violations.append(f"{path} was written for an account that leaves")
                continue
            if (account.id, name) in self.held:
                self.violations.append(f"{path} was written although it is on hold")
            if write.action != "delete" or path not in records or self.raced:
                continue
            ref = records[path].get("ref")
            rest = [p for p, r in records.items() if p.startswith(write.collection) and r.get("ref") == ref]
            rest = [p for p in rest if p not in {f"{w.collection}/{w.rkey}" for w in writes if w.action == "delete"}]
            if ref in self.shown(account, name) and not rest:
                self.violations.append(f"the record {path} of a live document was deleted")
            if self.is_kept(name, ref) and not rest:
                self.violations.append(f"the record {path} was deleted, although documents vanished in bulk")

    # ------------------------------------------------------------------------------------------------------------ model

    def raws(self, name: str, account: Account | None = None) -> dict[str, dict[str, Any]]:
        """Documents of a type that are there, of all or of one account, by id."""
        stored = self.documents.collections.get(media_type(name).collection, {})
        owner = None if account is None or account.is_guest else account.id
        return {str(id): raw for id, raw in stored.items() if account is None or raw.get("user") == owner}

    def shown(self, account: Account, name: str) -> set[str]:
        """Documents that shall have a record: those that nobody took back, of an account that stays."""
        if account.pending_deletion is not None:
            return set()
        found = self.raws(name, account).items()
        return {id for id, raw in found if not (raw.get("nuked") or raw.get("deleted") or raw.get("private"))}

    def withdrawn(self, account: Account, name: str) -> set[str]:
        return self.raws(name, account).keys() - self.shown(account, name)

    def is_kept(self, name: str, document: object) -> bool:
        return len(self.kept[name]) >= BULK and document in self.kept[name]

    def named(self, account: Account, name: str) -> dict[str, list[str]]:
        """Document -> keys of the records that show it, by name or, in KidLisp, by what they hold."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        texts = (
            {(r["code"], r["source"]): id for id, r in self.raws(name, account).items()} if name == "kidlisp" else {}
        )
        for rkey, record in self.records(account, name).items():
            found[record.get("ref") or texts.get((record.get("code"), record.get("source")), "")].append(rkey)
        return dict(found)

    # --------------------------------------------------------------------------------------------------------- somebody

    def write(self, account: Account, action: Any, path: str, value: Record | None = None) -> None:
        """Another writer on the PDS."""
        collection, _, rkey = path.partition("/")
        write = Write(action, collection, rkey, None if value is None else {"$type": collection, **value})
        own = replace(account, password=self.pds._hosted[str(account.did)].password)
        with suppress(BlobMissing):  # lost
            MemoryPds.apply_writes(self.pds, own, [write], swap_commit=None)

    def change(self, type: str, document: str, **fields: Any) -> None:
        super().change(type, document, **fields)
        if document in self.withdrawn(self.accounts[self.raws(type)[document].get("user") or GUEST_ID], type):
            self.taken_back.add((type, document))

    def vanish(self, name: str, ids: set[str]) -> None:
        """Documents are gone. Records of those that were published stay, when they are many."""
        media = media_type(name)
        for id in ids:
            raw = self.documents.raw(media, id)
            owner = self.accounts[raw.get("user") or GUEST_ID]
            there = any(record.get("ref") == id for record in self.records(owner, name).values())
            if (name, id) in self.public and there and owner.pending_deletion is None and len(ids) >= BULK:
                self.kept[name][id] = owner.id
            self.backup[name, id] = dict(raw)
            self.missing[name].add(id)
            self.documents.remove(media, id)

    def come_back(self, name: str, ids: set[str]) -> None:
        for id in ids:
            self.documents.add(media_type(name), self.backup.pop((name, id)))
            self.missing[name].discard(id)
            self.kept[name].pop(id, None)

    def forget(self, account: Account, name: str) -> None:
        """An operator, or the user, took everything of a type away: nothing says any more what has to stay of it."""
        for id in [id for id, owner in self.kept[name].items() if owner == account.id]:
            del self.kept[name][id]
        nsid = media_type(name).nsid
        self.foreign[account.id] = {p: r for p, r in self.foreign[account.id].items() if not p.startswith(nsid)}
        self.copies[account.id] = {p: each for p, each in self.copies[account.id].items() if each[0] != name}

    # ----------------------------------------------------------------------------------------------------------- checks

    def check(self) -> None:
        """The mirror holds. Called when the world is quiet."""
        for account in self.accounts.values():
            records = self.pds.records(account)
            for path, value in self.foreign[account.id].items():
                assert records.get(path) == value, f"{path} is somebody else's"
            for media in MEDIA_TYPES:
                self._check_type(account, media.name)
            self._check_copies(account, records)
            holds = {name for id, name in self.held if id == account.id}
            assert set(self.ledger.holds(account)) == holds
            if not holds:
                mark = self.ledger.checkpoint(str(account.did))
                assert mark is not None
                assert mark.rev == self.pds.latest_commit(str(account.did)).rev, (
                    "our own commit looks like a stranger's"
                )
            plan, _ = self.survey(account)
            assert [op for op in plan.operations() if op.item not in self._doubtful()] == [], "a second sync has a plan"
        self.public = {
            (media.name, id) for media in MEDIA_TYPES for each in self.accounts.values()
            if (each.id, media.name) not in self.held for id in self.shown(each, media.name)
        }  # fmt: skip

    def _doubtful(self) -> set[str]:
        return {f"{name}:{id}" for name, ids in self.missing.items() for id in ids}

    def _check_type(self, account: Account, name: str) -> None:
        if (account.id, name) in self.held and account.pending_deletion is None:
            return
        media, found, raws = media_type(name), self.named(account, name), self.raws(name, account)
        records, shown = self.records(account, name), self.shown(account, name)
        if account.pending_deletion is not None:
            assert records == {}, f"{account.key} leaves, and its {media.plural} are public"
        for id in shown:
            rkeys = found.get(id, [])
            assert len(rkeys) == 1, f"{name} {id} has {len(rkeys)} records"
            self._check_record(account, name, id, rkeys[0], records[rkeys[0]])
            if (name, id) in self.touched:  # another writer may have made it a new address
                self.addresses.pop((name, id), None)
            assert self.addresses.setdefault((name, id), rkeys[0]) == rkeys[0], f"{name} {id} has another address"
        for id in raws.keys() - shown:
            assert found.get(id, []) == [], f"{name} {id} is withdrawn and public"
            assert read_link(raws[id], media.link_homes) is None, f"{name} {id} is withdrawn and linked"
            self._check_erased(account, name, id)
        for id in found.keys() - raws.keys() - {""}:
            assert id in self.missing[name], f"{name} {id} has a record and never had a document"
        for id, owner in self.kept[name].items():
            if owner == account.id and self.is_kept(name, id):
                assert id in found, f"{name} {id} vanished in bulk, and its record was deleted"
        alone = self.missing[name]
        if len(alone) == 1 and self.raws(name) and not any(name == held for _, held in self.held):
            (id,) = alone
            assert id not in found, f"{name} {id} was deleted alone, and its record stays"

    def _check_record(self, account: Account, name: str, id: str, rkey: str, record: Record) -> None:
        media, raw = media_type(name), self.raws(name)[id]
        assert record["ref"] == id
        assert {field: record[field] for field in FIELDS[name]} == {field: raw[field] for field in FIELDS[name]}
        assert abs((read_when(record["when"]) or 0) - (read_when(raw["when"]) or 0)) < 1000
        extra = {"recordingUrl"} if self.renderer.found.get(id) else set()
        wanted = {"$type", "ref", "when", *FIELDS[name], *ADDRESSES.get(name, ()), *BLOBS.get(name, ()), *extra}
        assert record.keys() == wanted
        for field, mime in BLOBS.get(name, {}).items():
            data = self.renderer.data(raw, id, field, mime)  # type: ignore[attr-defined]
            assert record[field]["ref"]["$link"] == blob_cid(data), f"{name} {id} shows another {field}"
            assert self.pds.has_blob(str(account.did), blob_cid(data))
        cid = self.pds.read_repository(str(account.did)).records[f"{media.nsid}/{rkey}"]
        for home in media.link_homes:
            link = {key: raw.get(home, {}).get(key) for key in ("rkey", "uri", "cid", "did")}
            uri = f"at://{account.did}/{media.nsid}/{rkey}"
            assert link == {"rkey": rkey, "uri": uri, "cid": cid, "did": account.did}, f"{name} {id} is linked wrongly"
        entry = self.entry(name, id)
        assert (entry.state in {"written", "unchanged"}, entry.rkey, entry.cid) == (True, rkey, cid)

    def _check_erased(self, account: Account, name: str, id: str) -> None:
        """DEL-7: no blob is left that it used alone, neither on the PDS nor in the store."""
        used = {
            cid for media in MEDIA_TYPES for other in self.raws(media.name) if other != id
            for cid in self.renderer.ever[other]  # type: ignore[attr-defined]
        }  # fmt: skip
        alone = self.renderer.ever[id] - used  # type: ignore[attr-defined]
        assert not any(self.pds.has_blob(str(account.did), cid) for cid in alone)
        entry = self.ledger.entries.get(f"{name}:{id}")
        if entry is not None:
            assert (entry.state, made_of(entry), entry.withdrawn_at) == ("deleted", (), None), entry
            assert not alone.intersection(entry.past_blobs) & self.renderer.store.keys()

    def _check_copies(self, account: Account, records: dict[str, Record]) -> None:
        for path, (name, id) in self.copies[account.id].items():
            if account.pending_deletion is not None or (
                (account.id, name) not in self.held and id in self.withdrawn(account, name)
            ):
                assert path not in records, f"a copy of {name} {id} is public"
            elif (id in self.shown(account, name) or self.is_kept(name, id)) and (name, id) not in self.taken_back:
                assert path in records, f"a copy of {name} {id} is gone"

    def all_documents(self) -> Iterator[tuple[str, str]]:
        for media in MEDIA_TYPES:
            yield from ((media.name, id) for id in self.raws(media.name))


def new_id(number: int) -> ObjectId:
    return ObjectId(f"{0x68EF9C00 + number:08x}{number:016x}")


def limited() -> RateLimited:
    return RateLimited("the points are spent", retry_after=600)
