"""The client of one PDS: the calls the pipeline makes, their arguments and their answers; the port `DataServer`.

How a request is sent is `transport.py`, who is signed in `sessions.py`, what may be sent `rate_limits.py`, what a
refusal means `xrpc_errors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import Charge, Pace
from ac_pipeline.atproto.repository import Repository, read_repository
from ac_pipeline.atproto.sessions import Sessions
from ac_pipeline.atproto.syntax import at_uri, blob_cid, cid_bytes, is_did, is_tid
from ac_pipeline.atproto.transport import Read, Request, Transport, Usage
from ac_pipeline.atproto.types import MAX_OPERATIONS, Commit, RepositoryStatus, Write, encode_body, erases, points
from ac_pipeline.atproto.xrpc_errors import Call, TokenRefused, content_of, need
from ac_pipeline.errors import BlobMissing, InvalidRecord, RepositoryUnreadable, ServerFailed, TooLarge
from ac_pipeline.items import BlobRef

# Bytes, where `describeServer` names no limit: the default of the reference PDS's code (atproto facts, Blobs)
DEFAULT_BLOB_LIMIT: Final = 5 * 2**20

REPOSITORIES_A_PAGE: Final = 1_000  # The most that `listRepos` gives (atproto facts, Reading back)

# Seconds: write points and uploads are limited per hour or day, never per minutes (atproto facts, Limits)
_POINTS_WINDOW: Final = 3_600.0

_REPOSITORY_SECONDS: Final = 120.0  # Seconds of silence while a repository is read
_PLAIN: Final = {"Accept-Encoding": "identity"}  # gzip doubles the time (atproto facts, Reading back)


class PdsClient:
    """One PDS, as the port `DataServer` describes it; safe to share between threads. All reading raises AccountInactive
    or AccountUnknown where the account cannot be read, and Transient where the PDS did not answer. `pace`: how many
    commits may be made; any number when None."""

    def __init__(self, transport: Transport, sessions: Sessions, pace: Pace | None = None) -> None:
        self._transport = transport
        self._sessions = sessions
        self._pace = pace or Pace(transport.host, 0)
        self._lock = Lock()
        self._blob_limit: int | None = None

    def usage(self) -> Usage:
        """Requests and bytes so far; subtract two of them for what lies between."""
        return self._transport.usage()

    def blob_limit(self) -> int:
        """As the port says; asked once."""
        with self._lock:
            if self._blob_limit is None:
                request = Request(Call.READ, "com.atproto.server.describeServer", self._transport.host)
                self._blob_limit = self._transport.send(request, _blob_limit_of) or DEFAULT_BLOB_LIMIT
            return self._blob_limit

    def read_repository(self, did: str) -> Repository:
        """As the port says; another repository's CAR is unreadable, too."""
        return self._get_repository(did, lambda car: self._verified(did, car))

    def download_repository(self, did: str) -> bytes:
        """The CAR of the whole repository of `did` as it was sent, verified; raises as `read_repository`."""

        def read(car: bytes) -> bytes:
            self._verified(did, car)
            return car

        return self._get_repository(did, read)

    def latest_commit(self, did: str) -> RepositoryStatus:
        request = Request(Call.READ, "com.atproto.sync.getLatestCommit", did, params={"did": did})

        def read(body: bytes) -> RepositoryStatus:
            head, rev = _head(content_of(body), "cid")
            return RepositoryStatus(did, head, rev, active=True, status=None)

        return self._transport.send(request, read)

    def has_blob(self, did: str, cid: str) -> bool:
        """True if the blob can be downloaded: some record of the account refers to it, and the PDS keeps it."""
        request = replace(self._blob_request(did, cid), method="HEAD")
        try:
            self._transport.send(request, lambda _: None)
        except ServerFailed:
            # The refusal of a HEAD has no words, and some servers know no HEAD: ask for the reason with GET.
            try:
                self.get_blob(did, cid)
            except BlobMissing:
                return False
        return True

    def get_blob(self, did: str, cid: str) -> bytes:
        """The bytes of a blob, checked against their CID. Raises BlobMissing (no record refers to it, or the PDS has
        lost it), ServerFailed (other bytes came back, each time)."""

        def read(data: bytes) -> bytes:
            need(blob_cid(data) == cid, f"other bytes than those of blob {cid}")
            return data

        return self._transport.send(self._blob_request(did, cid), read)

    def list_repositories(self) -> Iterator[RepositoryStatus]:
        """As the port says. Where a page cannot be read, what came before it is not the whole list."""
        cursor: str | None = None
        before = set[str | None]()
        while True:
            before.add(cursor)
            params: dict[str, str | int] = {"limit": REPOSITORIES_A_PAGE} | ({"cursor": cursor} if cursor else {})
            request = Request(Call.READ, "com.atproto.sync.listRepos", "all repositories", params=params)
            statuses, cursor = self._transport.send(request, partial(_page_of, before=before))
            yield from statuses
            if cursor is None:
                return

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        """As the port says, for 1 to 200 operations; `swap_commit` is the head they were planned on, or None for any.

        Sent once. It is sent again only where it certainly did not happen: the token was refused, or no connection
        could be made. It counts for the relay, and waits for its hour unless it deletes something (LIMIT-9).
        """
        if not writes:
            raise ValueError("a batch holds at least one write")
        if len(writes) > MAX_OPERATIONS:
            raise TooLarge(f"A batch of {len(writes)} writes; a PDS takes {MAX_OPERATIONS}. Send less at once.")
        did = account.did or ""
        charges, body = (Charge(did, points(writes), _POINTS_WINDOW),), encode_body(did, writes, swap_commit)
        request = Request(Call.WRITE, "com.atproto.repo.applyWrites", did, charges, method="POST", body=body)
        with self._pace.commit(did, held=not erases(writes)):
            return self._send_signed(account, request, lambda body: _commit_of(did, writes, body))

    def reserve_commit(self, account: Account, writes: Sequence[Write]) -> None:
        if not erases(writes):
            self._pace.reserve(account.did or "")

    def release_commit(self, account: Account) -> None:
        self._pace.release(account.did or "")

    def upload_blob(self, account: Account, data: bytes, mime_type: str) -> BlobRef:
        """As the port says; the MIME type is the one sniffed from the bytes (MEDIA-2). Lost answers are repeated, as
        uploading again is harmless; an answer that names other things counts when it is given twice."""
        limit = self.blob_limit()
        if len(data) > limit:
            raise TooLarge(f"A blob of {len(data)} bytes; {self._transport.place} takes {limit}. Make it smaller.")
        nsid, charge = "com.atproto.repo.uploadBlob", Charge(f"{self._transport.host} uploadBlob", 1, _POINTS_WINDOW)
        headers = {"Content-Type": mime_type}
        request = Request(
            Call.UPLOAD, nsid, account.did or "", (charge,), method="POST", body=data, headers=headers, limit="blob"
        )
        sent = BlobRef(blob_cid(data), mime_type, len(data))

        def read(body: bytes) -> BlobRef:
            taken = _blob_of(body)
            if taken != sent.to_json():
                found = f"{taken['ref']['$link']} ({taken['mimeType']}, {taken['size']} bytes)"[:200]
                raise InvalidRecord(
                    f"{self._transport.place} took the blob {sent.cid} ({mime_type}, {len(data)} bytes) of "
                    f"{account.did} for {found}. Declare the type its bytes have.",
                    status=200,
                )
            return sent

        return self._send_signed(account, request, read)

    def _send_signed(
        self, account: Account, request: Request, read: Callable[[bytes], Read], refused: str | None = None
    ) -> Read:
        """Send as the account; once more with another token where the PDS refuses the first one."""
        token = self._sessions.access(account, refused=refused)
        try:
            return self._transport.send(replace(request, token=token, secrets=(account.password or "",)), read)
        except TokenRefused as error:
            if refused is None:
                return self._send_signed(account, request, read, token)
            raise ServerFailed(
                f"{request.nsid} for {account.did} at {self._transport.place}: the server refuses the session it has "
                f"just given: {error.answer}. Nothing was written; check the clock of the PDS.",
                status=error.status,
                answer=error.answer,
            ) from None

    def _get_repository(self, did: str, read: Callable[[bytes], Read]) -> Read:
        charges, patience = (Charge(f"{self._transport.host} getRepo", 1),), _REPOSITORY_SECONDS
        request = Request(Call.READ, "com.atproto.sync.getRepo", did, charges, params={"did": did}, headers=_PLAIN)
        return self._transport.send(replace(request, timeout=patience, limit="repository"), read)

    def _verified(self, did: str, car: bytes) -> Repository:
        repository = read_repository(car)
        if repository.did != did:
            raise RepositoryUnreadable(f"{self._transport.place} sent the repository of {repository.did} for {did}.")
        return repository

    def _blob_request(self, did: str, cid: str) -> Request:
        params = {"did": did, "cid": cid}
        return Request(Call.READ, "com.atproto.sync.getBlob", did, params=params, headers=_PLAIN, limit="blob")


def _blob_limit_of(body: bytes) -> int | None:
    """The largest blob that an answer to `describeServer` names, in bytes; None when it names none."""
    content = content_of(body)
    need(isinstance(content.get("did"), str), "it names no server")
    if "blobUploadLimit" not in content:
        need(isinstance(content.get("availableUserDomains"), list), "it describes no server")
        return None
    limit = content["blobUploadLimit"]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit <= 0:
        raise ValueError("its blobUploadLimit is no size")
    return limit


def _commit_of(did: str, writes: Sequence[Write], body: bytes) -> Commit:
    """The commit that an answer to `applyWrites` names."""
    content = content_of(body)
    commit, results = content.get("commit"), content.get("results")
    if not isinstance(commit, dict) or not isinstance(results, list) or len(results) != len(writes):
        raise ValueError("it does not fit the batch")
    head, rev = _head(commit, "cid")
    cids: list[str | None] = []
    for write, result in zip(writes, results, strict=True):
        need(isinstance(result, dict), "it does not fit the batch")
        kind = result.get("$type", f"#{write.action}Result")
        need(isinstance(kind, str) and kind.endswith(f"#{write.action}Result"), "it answers another kind of write")
        if write.action == "delete":
            cids.append(None)
            continue
        need(result.get("uri") == at_uri(did, write.collection, write.rkey), "it names other records")
        # The PDS does not know these lexicons and says "unknown" (REC-1); nothing but a known refusal matters.
        need(result.get("validationStatus") in (None, "unknown", "valid"), "it finds a record invalid")
        cids.append(_cid(result.get("cid")))
    return Commit(head, rev, tuple(cids))


def _page_of(body: bytes, before: set[str | None]) -> tuple[list[RepositoryStatus], str | None]:
    """The repositories on a page of `listRepos`, and the next cursor. `before`: those that were sent."""
    content = content_of(body)
    repos: Any = content.get("repos")
    following = content.get("cursor")
    need(isinstance(repos, list), "it lists no repositories")
    statuses: list[RepositoryStatus] = []
    for repo in repos:
        need(isinstance(repo, dict) and isinstance(repo.get("did"), str) and is_did(repo["did"]), "it lists no DIDs")
        active, status = repo.get("active", True), repo.get("status")
        need(isinstance(active, bool), "it does not say who is active")
        need(isinstance(status, str | None), "it gives no status")
        head, rev = _head(repo, "head")
        statuses.append(RepositoryStatus(repo["did"], head, rev, active=active, status=status))
    need(isinstance(following, str | None), "its cursor is none")
    need(not following or following not in before, f"it leads back to {following!r}")
    return statuses, following or None


def _blob_of(body: bytes) -> dict[str, Any]:
    """The blob that an answer to `uploadBlob` names."""
    blob = content_of(body).get("blob")
    if not isinstance(blob, dict) or blob.get("$type") != "blob" or not isinstance(blob.get("ref"), dict):
        raise ValueError("it names no blob")
    _cid(blob["ref"].get("$link"))
    need(isinstance(blob.get("mimeType"), str) and type(blob.get("size")) is int, "its blob has no type and size")
    return blob


def _head(content: dict[str, Any], name: str) -> tuple[str, str]:
    rev = content.get("rev")
    if not isinstance(rev, str) or not is_tid(rev):
        raise ValueError("it names no revision")
    return _cid(content.get(name)), rev


def _cid(text: object) -> str:
    need(isinstance(text, str), "it names no CID")
    cid_bytes(str(text))
    return str(text)
