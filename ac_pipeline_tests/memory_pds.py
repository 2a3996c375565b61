"""A PDS in memory: the port `DataServer` with the rules of the reference PDS, scriptable, with a record of its calls.

Held to the same contract suite as the client on a real PDS (`contract/test_data_server.py`). It refuses with the words
of the reference PDS, classified by the same table (ATProto facts, "Writing" and "Blobs").
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal, NoReturn

import libipld

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository, read_repository
from ac_pipeline.atproto.syntax import (
    DAG_CBOR_CID,
    blob_cid,
    cid_text,
    encode_record,
    is_record_key,
    record_cid,
    tid,
)
from ac_pipeline.atproto.types import Commit, RepositoryStatus, Write, encode_body
from ac_pipeline.atproto.xrpc_errors import Answer, Call, classify
from ac_pipeline.errors import BlobMissing, InvalidRecord, NoCredentials, PipelineError, TooLarge
from ac_pipeline.items import BlobRef, Record
from ac_pipeline_tests.car_builder import build_car

Method = Literal[
    "blob_limit",
    "read_repository",
    "download_repository",
    "latest_commit",
    "apply_writes",
    "reserve_commit",
    "upload_blob",
    "has_blob",
    "get_blob",
    "list_repositories",
]

_MAGIC = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


@dataclass(frozen=True, slots=True)
class Called:
    """One call the PDS received, scripted failures included.

    Args:
        method: Of the port.
        did: Whose repository, where the call names one.
        writes: The batch of `apply_writes`.
        cid: The blob of `upload_blob`, `has_blob` and `get_blob`.
    """

    method: Method
    did: str | None = None
    writes: tuple[Write, ...] = ()
    cid: str | None = None


@dataclass(slots=True)
class _Fault:
    """An error to raise at the `call`-th call from now, before the call takes effect or after."""

    error: PipelineError
    call: int
    after: bool


@dataclass(slots=True)
class _Hosted:
    """One account on the server."""

    did: str
    password: str
    repository: Repository
    status: str | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    foreign: dict[str, bytes] = field(default_factory=dict)

    def true_repository(self, rev: str) -> bytes:
        """A true CAR of what it holds."""
        blocks = {path: block for path, block in self.foreign.items() if path in self.repository.records}
        values = {path: self.repository.value(path) for path in self.repository.records if path not in blocks}
        return build_car({**values, **blocks}, did=self.did, rev=rev)


class MemoryPds:
    """One PDS; safe to share between threads.

    Args:
        blob_limit: Largest blob in bytes.
        request_bytes: Largest body of a batch in bytes.

    Attributes:
        calls: Every call, in order.
        reserved: DIDs for which a commit is reserved that was neither made nor given back.
    """

    def __init__(self, *, blob_limit: int = 100 * 2**20, request_bytes: int = 1_000_000) -> None:
        self.calls: list[Called] = []
        self.reserved: set[str | None] = set()
        self._blob_limit = blob_limit
        self._request_bytes = request_bytes
        self._lock = threading.RLock()
        self._hosted: dict[str, _Hosted] = {}
        self._numbers = itertools.count(1)
        self._revisions = itertools.count(1)
        self._faults: dict[Method, list[_Fault]] = {}
        self._refused: dict[tuple[str, str], PipelineError] = {}

    # ------------------------------------------------------------------------------------------- accounts and scripts

    def create_account(self, handle: str | None = None, *, key: str | None = None, did: str | None = None) -> Account:
        """A new account with DID and password and an empty repository."""
        with self._lock:
            number = next(self._numbers)
            label = handle or f"u{number}"
            did = did or f"did:plc:{number:024d}"
            password = f"password-{number}"
            self._hosted[did] = _Hosted(did, password, _empty(did, self._next_rev()))
        return Account(
            id=f"auth0|{number:024d}",
            key=key or label,
            did=did,
            handle=label,
            pds_handle=f"{label}.test",
            code=f"ac25u{number}",
            password=password,
        )

    def fail(self, method: Method, error: PipelineError, *, call: int = 1, after: bool = False) -> None:
        """Let the `call`-th call of `method` from now raise `error`, before it takes effect or (`after`) afterwards.

        `fail("apply_writes", OutcomeUnknown(...), after=True)` is a commit whose answer was lost.
        """
        with self._lock:
            self._faults.setdefault(method, []).append(_Fault(error, call, after))

    def refuse(self, collection: str, rkey: str, error: PipelineError) -> None:
        """Refuse every batch that writes this record, from now on."""
        with self._lock:
            self._refused[collection, rkey] = error

    def set_status(self, account: Account, status: Literal["deactivated", "takendown", "suspended"] | None) -> None:
        """Make an account inactive, or (None) active again."""
        with self._lock:
            self._hosted[str(account.did)].status = status

    def lose_blob(self, account: Account, cid: str) -> None:
        """Forget a blob that a record refers to, as after a move to another server."""
        with self._lock:
            del self._hosted[str(account.did)].blobs[cid]

    def lose_bytes(self, account: Account, cid: str) -> None:
        """Lose the bytes of a blob and believe to have them: what is uploaded again is thrown away, until no record
        refers to the blob any more. What it does not have, it cannot lose."""
        with self._lock:
            hosted = self._hosted[str(account.did)]
            if cid in hosted.blobs:
                hosted.lost.add(cid)

    def count(self, method: Method) -> int:
        """Calls of a method so far."""
        with self._lock:
            return sum(called.method == method for called in self.calls)

    def plant(self, account: Account, path: str, block: bytes) -> None:
        """Another app's record, whose block holds any bytes."""
        with self._lock:
            hosted = self._hosted[str(account.did)]
            hosted.foreign[path] = block
            records = {**hosted.repository.records, path: record_cid({})}
            hosted.repository = replace(hosted.repository, records=records)
            hosted.repository = read_repository(hosted.true_repository(self._next_rev()))

    def batches(self, account: Account) -> list[tuple[Write, ...]]:
        """The batches sent to one repository, refused ones included."""
        with self._lock:
            return [
                called.writes for called in self.calls if called.method == "apply_writes" and called.did == account.did
            ]

    def records(self, account: Account) -> dict[str, Record]:
        """The records of an account by `collection/rkey`."""
        with self._lock:
            hosted = self._hosted[str(account.did)]
            readable = sorted(hosted.repository.records.keys() - hosted.foreign.keys())
            return {path: hosted.repository.value(path) for path in readable}

    # -------------------------------------------------------------------------------------------------------- the port

    def blob_limit(self) -> int:
        with self._lock, self._answering(Called("blob_limit")):
            return self._blob_limit

    def read_repository(self, did: str) -> Repository:
        with self._lock, self._answering(Called("read_repository", did)):
            return self._readable(did).repository

    def latest_commit(self, did: str) -> RepositoryStatus:
        with self._lock, self._answering(Called("latest_commit", did)):
            repository = self._readable(did).repository
            return RepositoryStatus(did, repository.commit, repository.rev, active=True, status=None)

    def download_repository(self, did: str) -> bytes:
        """A true CAR. Its commit becomes the head, in place of the one that was made up."""
        with self._lock, self._answering(Called("download_repository", did)):
            hosted = self._readable(did)
            car = hosted.true_repository(hosted.repository.rev)
            hosted.repository = read_repository(car)
            return car

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        called = Called("apply_writes", account.did, tuple(writes))
        with self._lock, self._answering(called):
            self.reserved.discard(account.did)
            if not writes:
                raise ValueError("a batch holds at least one write")
            hosted = self._signed_in(account)
            size = len(encode_body(hosted.did, writes, swap_commit))
            if size > self._request_bytes:
                _refuse(Call.WRITE, hosted.did, 413, "PayloadTooLargeError", "request entity too large")
            if len(writes) > 200:
                raise TooLarge(f"A batch of {len(writes)} writes; a PDS takes 200. Send less at once.")
            self._check_active(hosted)
            for write in writes:
                self._check_record(hosted, write)
            head = hosted.repository.commit
            if swap_commit is not None and swap_commit != head:
                _refuse(Call.WRITE, hosted.did, 400, "InvalidSwap", f"Commit was at {head}")
            return self._commit(hosted, writes)

    def reserve_commit(self, account: Account, writes: Sequence[Write]) -> None:
        with self._lock, self._answering(Called("reserve_commit", account.did, tuple(writes))):
            self.reserved.add(account.did)  # no relay reads it: what has to wait is scripted with `fail`

    def release_commit(self, account: Account) -> None:
        with self._lock:
            self.reserved.discard(account.did)

    def upload_blob(self, account: Account, data: bytes, mime_type: str) -> BlobRef:
        with self._lock, self._answering(Called("upload_blob", account.did, cid=blob_cid(data))):
            if len(data) > self._blob_limit:
                raise TooLarge(f"A blob of {len(data)} bytes; the PDS takes {self._blob_limit}. Make it smaller.")
            hosted = self._signed_in(account)
            self._check_active(hosted)
            sniffed = next((mime for magic, mime in _MAGIC if data.startswith(magic)), mime_type)
            if sniffed != mime_type:
                raise InvalidRecord(f"The PDS took the blob {blob_cid(data)} ({mime_type}) for {sniffed}.")
            hosted.blobs[blob_cid(data)] = data
            return BlobRef(blob_cid(data), mime_type, len(data))

    def has_blob(self, did: str, cid: str) -> bool:
        with self._lock, self._answering(Called("has_blob", did, cid=cid)):
            return self._can_download(self._readable(did), cid)

    def get_blob(self, did: str, cid: str) -> bytes:
        with self._lock, self._answering(Called("get_blob", did, cid=cid)):
            hosted = self._readable(did)
            if not self._can_download(hosted, cid):
                raise BlobMissing(f"{did} has no blob {cid}.", status=400, answer="InvalidRequest: Blob not found")
            return hosted.blobs[cid]

    def list_repositories(self) -> Iterator[RepositoryStatus]:
        with self._lock, self._answering(Called("list_repositories")):
            found = [
                RepositoryStatus(
                    did, hosted.repository.commit, hosted.repository.rev, hosted.status is None, hosted.status
                )
                for did, hosted in self._hosted.items()
            ]
        yield from found

    # ----------------------------------------------------------------------------------------------------------- rules

    @contextmanager
    def _answering(self, called: Called) -> Iterator[None]:
        self.calls.append(called)
        waiting = self._faults.get(called.method, [])
        for fault in waiting:
            fault.call -= 1
        due = next((fault for fault in waiting if fault.call <= 0), None)
        if due is not None:
            waiting.remove(due)
            if not due.after:
                raise due.error
        yield
        if due is not None:
            raise due.error

    @staticmethod
    def _can_download(hosted: _Hosted, cid: str) -> bool:
        return cid in hosted.blobs and cid not in hosted.lost and cid in hosted.repository.blobs()

    def _signed_in(self, account: Account) -> _Hosted:
        if not account.did or not account.password:
            raise NoCredentials(f"Account {account.key} has no DID or no password.")
        hosted = self._hosted.get(account.did)
        if hosted is None or hosted.password != account.password:
            _refuse(Call.SIGN_IN, account.did, 401, "AuthenticationRequired", "Invalid identifier or password")
        return hosted

    def _check_active(self, hosted: _Hosted) -> None:
        names = {"deactivated": "AccountDeactivated", "takendown": "AccountTakedown", "suspended": "AccountSuspended"}
        if hosted.status is not None:
            _refuse(Call.SIGN_IN, hosted.did, 401, names[hosted.status], f"Account is {hosted.status}")

    def _readable(self, did: str) -> _Hosted:
        hosted = self._hosted.get(did)
        if hosted is None:
            _refuse(Call.READ, did, 400, "RepoNotFound", f"Could not find repo for DID: {did}")
        if hosted.status is not None:
            name = f"Repo{hosted.status.capitalize()}"
            _refuse(Call.READ, did, 400, name, f"Repo has been {hosted.status}: {did}")
        return hosted

    def _check_record(self, hosted: _Hosted, write: Write) -> None:
        error = self._refused.get((write.collection, write.rkey))
        if error is not None:
            raise error
        if not is_record_key(write.rkey):
            _refuse(Call.WRITE, hosted.did, 400, "InvalidRequest", f'Invalid record key (got "{write.rkey}")')
        if write.action == "delete":
            return
        value = write.value or {}
        if value.get("$type") != write.collection:
            said = f"Invalid $type: expected {write.collection}, got {value.get('$type')}"
            _refuse(Call.WRITE, hosted.did, 400, "InvalidRequest", said)
        try:
            encode_record(value)
        except InvalidRecord as error_:
            _refuse(Call.WRITE, hosted.did, 400, "InvalidRequest", error_.message)

    def _commit(self, hosted: _Hosted, writes: Sequence[Write]) -> Commit:
        paths = set(hosted.repository.records)
        for write in writes:
            path = f"{write.collection}/{write.rkey}"
            if (path in paths) == (write.action == "create"):
                _refuse(Call.WRITE, hosted.did, 500, "InternalServerError", "Internal Server Error")
            if write.action == "create":
                paths.add(path)
            elif write.action == "delete":
                paths.remove(path)
        for cid in sorted({cid for write in writes for cid in _blob_cids(write.value)} - hosted.blobs.keys()):
            _refuse(Call.WRITE, hosted.did, 400, "BlobNotFound", f"Could not find blob: {cid}")
        rev = self._next_rev()
        # Made up: unlike on a PDS, the commit does not depend on the records, and nothing is signed.
        head = cid_text(DAG_CBOR_CID + sha256(f"{hosted.did} {rev}".encode()).digest())
        cids = tuple(record_cid(write.value or {}) if write.action != "delete" else None for write in writes)
        commit = Commit(head, rev, cids)
        before = hosted.repository
        hosted.repository = before.with_writes(commit, writes)
        if any(write.action != "create" for write in writes):
            for cid in before.blobs() - hosted.repository.blobs():  # a blob goes with its last record
                hosted.blobs.pop(cid, None)
                hosted.lost.discard(cid)
        return commit

    def _next_rev(self) -> str:
        return tid(1_700_000_000_000_000 + next(self._revisions), 0)


def _empty(did: str, rev: str) -> Repository:
    """A repository without records, from a CAR like that of a fresh account."""
    tree = libipld.encode_dag_cbor({"l": None, "e": []})
    tree_cid = DAG_CBOR_CID + sha256(tree).digest()
    commit = libipld.encode_dag_cbor(
        {"did": did, "version": 3, "data": tree_cid, "rev": rev, "prev": None, "sig": b"unsigned"}
    )
    commit_cid = DAG_CBOR_CID + sha256(commit).digest()
    header = libipld.encode_dag_cbor({"version": 1, "roots": [commit_cid]})
    return read_repository(b"".join(_framed(part) for part in (header, commit_cid + commit, tree_cid + tree)))


def _framed(part: bytes) -> bytes:
    """A part behind its length, an unsigned varint of one or two bytes."""
    length = len(part)
    return (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + part


def _refuse(call: Call, did: str, status: int, name: str, message: str) -> NoReturn:
    raise classify(call, Answer(status, name, f"{name}: {message}"), f"the PDS in memory, for {did}")


def _blob_cids(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("$type") == "blob":
            yield value["ref"]["$link"]
        else:
            for part in value.values():
                yield from _blob_cids(part)
    elif isinstance(value, list):
        for part in value:
            yield from _blob_cids(part)
