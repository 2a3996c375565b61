"""The ports of the engine: the few calls it makes on the outside world, and the values they carry.

Each Protocol has a real implementation (`mongo/`, `atproto/client.py`, `renditions/`) and an in-memory one in the
tests; one contract suite runs on both. Errors are those of `errors.py`; a failed read raises, it is never empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.types import Commit, RepositoryStatus, Write
from ac_pipeline.items import BlobRef, Derived, LastLook, LedgerEntry, Rendition, RepositoryCheckpoint
from ac_pipeline.media.base import Document, LinkUpdate, MediaType


class Documents(Protocol):
    """The source documents of one MongoDB."""

    def stream(self, account: Account, media: MediaType) -> Iterator[Document]:
        """Every document of the account, whatever its verdict, in no particular order, read with a projection."""

    def stream_of(self, accounts: Sequence[Account], media: MediaType) -> Iterator[tuple[str, Document]]:
        """The same of several accounts in one read, each with its account's id; the guest is not among them."""

    def owners(self, media: MediaType, documents: Sequence[str]) -> Mapping[str, str | None]:
        """Owner of each of these ids, whoever it belongs to (None: guest; `NOBODY`: its `user` is no text); ids that do
        not exist are absent.
        """

    def dates(self, media: MediaType) -> Mapping[str, int]:
        """Id of every document of the collection, whoever owns it -> its `when` in ms since 1970."""

    def is_empty(self, media: MediaType) -> bool:
        """True if the whole collection holds nothing: a reason to distrust what is missing from it."""

    def write_links(self, media: MediaType, updates: Sequence[LinkUpdate]) -> None:
        """Store or clear links, all in one bulk write."""


class DataServer(Protocol):
    """One PDS."""

    def blob_limit(self) -> int:
        """Largest blob it takes, in bytes (`describeServer.blobUploadLimit`)."""

    def read_repository(self, did: str) -> Repository:
        """The whole repository, verified (`com.atproto.sync.getRepo`); raises AccountInactive or AccountUnknown when
        the account cannot be read, RepositoryUnreadable when the CAR does not verify.
        """

    def latest_commit(self, did: str) -> RepositoryStatus:
        """Head and revision of one repository (`com.atproto.sync.getLatestCommit`); errors as above."""

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        """Commit all of `writes` or none (`com.atproto.repo.applyWrites`).

        Raises:
            RepositoryMoved: `swap_commit` is not the head.
            OutcomeUnknown: Sent, but no answer, or a 5xx: read back before any retry.
            TooLarge: The request or the commit is over a cap (413 and its names).
            BlobMissing: A record refers to a blob the PDS does not have.
            RecordRefused: Any other 4xx about the content.
            RateLimited, Blocked: As their names say.
        """

    def reserve_commit(self, account: Account, writes: Sequence[Write]) -> None:
        """Make sure that the next commit of the account, which will be `writes`, does not have to wait for a pace of
        our own (LIMIT-9), so that no blob is uploaded for one that does; where there is no such pace, nothing happens.
        Raises RateLimited when it would have to; `retry_after` says until when.
        """

    def release_commit(self, account: Account) -> None:
        """Give back what `reserve_commit` took and no commit used, if anything."""

    def upload_blob(self, account: Account, data: bytes, mime_type: str) -> BlobRef:
        """Upload one blob (`com.atproto.repo.uploadBlob`); raises InvalidRecord when the answer names another CID, size
        or MIME type, TooLarge when it is over the PDS's limit.
        """

    def has_blob(self, did: str, cid: str) -> bool:
        """True if the blob can be downloaded (`com.atproto.sync.getBlob`)."""

    def list_repositories(self) -> Iterator[RepositoryStatus]:
        """Every repository the PDS hosts, a page at a time (`com.atproto.sync.listRepos`)."""


class Ledger(Protocol):
    """What the pipeline remembers of every item and repository, who is writing where, and what is not to be written."""

    def load(self, account: Account, media: MediaType) -> Mapping[str, LedgerEntry]:
        """Entries of one account and type, by document id."""

    def of_others(self, account: Account, items: Iterable[str]) -> list[LedgerEntry]:
        """The entries of these items that are of another account, without media and timeline."""

    def load_of(
        self, accounts: Sequence[Account], types: Sequence[MediaType]
    ) -> Mapping[str, Mapping[str, Mapping[str, LedgerEntry]]]:
        """The same of several accounts and types in one read, by id and name; who has no entry is there, empty."""

    def save(self, entries: Iterable[LedgerEntry]) -> None:
        """Insert or replace entries in one bulk write; each entry's last history line is appended to its timeline."""

    def used_blobs(self, cids: Collection[str], *, without: Collection[str]) -> set[str]:
        """Those of these blobs that an item uses whose record is not deleted, besides the items `without`. Who asks has
        marked its own deletions before, so that of two that share a blob at least the later one sees that nobody needs
        it.
        """

    def lease(self, did: str, holder: str) -> AbstractContextManager[None]:
        """Be the only writer of a repository while the context is open; renewed in the background, expires if we die.
        Raises LeaseHeld when somebody else is, and stayed so for the waiting time.
        """

    def batch_bytes(self, host: str, default: int) -> int:
        """Largest request body a PDS is known to take, in bytes."""

    def remember_batch_bytes(self, host: str, limit: int) -> None:
        """Keep a smaller body size learned from a 413."""

    def checkpoint(self, did: str) -> RepositoryCheckpoint | None:
        """How the last sync left this repository; None when none ever reached its end."""

    def checkpoints_of(self, dids: Collection[str]) -> Mapping[str, RepositoryCheckpoint]:
        """The same of several repositories in one read, by DID; those without one are absent."""

    def checkpoints(self) -> Mapping[str, RepositoryCheckpoint]:
        """The checkpoints of all repositories by DID, without `settled`: what a compare of revisions needs."""

    def keep_checkpoint(self, checkpoint: RepositoryCheckpoint) -> None:
        """Keep how a repository was left, in place of what was known."""

    def follow_checkpoint(self, checkpoint: RepositoryCheckpoint, *, since: str) -> None:
        """Move one that stands at the revision `since` to that of a commit of ours on top of it; another one stays
        where it is, with the change by somebody else that it does not know. The types counted in `checkpoint` were
        written to: they are not up to date any more.
        """

    def recorded(self, type: str) -> Iterable[tuple[str, str]]:
        """Account id and document id of every item of a type that has a record."""

    def last_look(self, name: str) -> LastLook:
        """What is remembered under this name, a type's as a rule; one without `at` when that is nothing."""

    def keep_look(self, look: LastLook) -> bool:
        """Keep it in place of the version before it; False when somebody else has changed that meanwhile."""

    def hold(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        """Keep these types of an account from being mirrored until `release`; a later reason replaces an earlier one.
        Take it inside the repository's lease, or before it: a sync asks `holds` once it has the lease.
        """

    def release(self, account: Account, types: Iterable[MediaType]) -> None:
        """Let these types be mirrored again; what is not paused stays so."""

    def holds(self, account: Account) -> Mapping[str, str]:
        """Name of each type of the account that is paused -> the reason."""

    def all_holds(self) -> Mapping[str, Mapping[str, str]]:
        """The same of all accounts that have any, by their ids."""


class Renderer(Protocol):
    """Derived media of one document."""

    def derive(
        self, media: MediaType, document: Document, known: Derived | None, *, look: bool = False, anew: bool = False
    ) -> Derived:
        """Renditions and companions of a document: from what is known, else the store, else made now. `look`: ask
        storage whether the object is still the one that was rendered; `anew`: make renditions again, whatever is known
        or kept.

        Raises SourceMissing, UnreadableMedia, EncodingFailed or TooLarge when the item is to be quarantined, Transient
        when storage or the encoder did not answer.
        """

    def companions(self, media: MediaType, document: Document, known: frozenset[str]) -> frozenset[str]:
        """Names of the document's companions that are in storage now; what differs from `known` is asked for twice.
        Raises Transient when storage did not answer.
        """

    def open(self, blob: BlobRef) -> bytes:
        """The bytes of a rendition; raises SourceMissing when the store has lost it: derive again with `known=None`."""

    def forget(self, media: MediaType, renditions: Iterable[Rendition]) -> None:
        """Let the store give up these renditions and how they were made; what is not there is gone already. Nobody is
        harmed who needs one after all: it is made again. Raises Transient when the store did not answer, or keeps one.
        """
