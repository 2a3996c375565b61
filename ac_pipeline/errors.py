"""Every error the pipeline raises on purpose, by what can be done about it.

Nothing else belongs here: no handling, no retries. Whoever raises an error says at the boundary whether another
attempt can help; whoever catches one reads the branch of the tree and never a message.

    PipelineError
    |-- Misconfigured            a setting is missing or wrong; nothing was started
    |-- Transient                the same request may succeed later
    |   |-- ServiceUnreachable   no connection, or no answer to a read
    |   |-- RateLimited          429; `retry_after` says when
    |   |-- ServerFailed         5xx to a read, or to a write that is known not to have happened
    |   |-- OutcomeUnknown       a write was sent and its answer was lost: read back before any retry
    |   |-- RepositoryMoved      somebody else committed to the repository in between
    |   |-- RepositoryUnreadable a CAR that does not verify: cut, mixed up or forged
    |   |-- SourcePending        the platform is still making the item's media
    |   |-- EncoderFailed        ffmpeg could not start, was killed or ran out of time
    |   |   `-- EncoderTimedOut  it ran out of time; the second time is a verdict on the item
    |   `-- LeaseHeld            another run is writing to this repository
    |-- Permanent                this item fails until its document, its media or our code changes
    |   |-- InvalidDocument      the Mongo document cannot become a record
    |   |-- InvalidRecord        the record breaks its lexicon
    |   |-- SourceMissing        no candidate key exists in object storage
    |   |-- UnreadableMedia      the picture or the tape cannot be read
    |   |-- EncodingFailed       the encoder refuses the tape, or its result fails the checks
    |   |-- TooLarge             over a limit of the lexicon or of the PDS
    |   |-- RecordRefused        the PDS refuses this one record
    |   |-- BlobMissing          the PDS does not keep a blob that it accepted
    |   |-- HandleRefused        the PDS refuses a handle: reserved, malformed or taken
    |   |-- AccountRefused       the PDS refuses to make or change an account
    |   `-- HeldBack             publishing could be wrong (owner unclear, key crossed): a person decides
    |-- Unforeseen               any other exception, where it ended the turn of one account
    `-- Blocked                  the account cannot be used; none of its items fails for it
        |-- NoCredentials        no DID or no password in Mongo
        |-- WrongPassword        the PDS refuses the password
        |-- AccountInactive      deactivated, taken down or suspended on the PDS
        |-- AccountUnknown       the PDS does not host this DID
        |-- AccountDeleted       scheduled for deletion, or deleted, on the platform
        `-- Paused               an operator keeps these types from being mirrored
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class PipelineError(Exception):
    """Base of all. `code` is the class as people and reports see it.

    Args:
        message: What happened, to which thing, and what to do; never holds a secret.
        status: The HTTP status of the answer, where there was one.
        answer: The server's own words, shortened.
    """

    code: ClassVar[str] = "pipeline-error"

    def __init__(self, message: str, *, status: int | None = None, answer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.answer = answer


class Misconfigured(PipelineError):
    code = "misconfigured"


class Transient(PipelineError):
    """Another attempt may succeed.

    Args:
        retry_after: Seconds to wait before the next attempt, where the server named them.
    """

    code = "transient"

    def __init__(
        self, message: str, *, status: int | None = None, answer: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status, answer=answer)
        self.retry_after = retry_after


class ServiceUnreachable(Transient):
    code = "service-unreachable"


class RateLimited(Transient):
    code = "rate-limited"


class ServerFailed(Transient):
    code = "server-failed"


class OutcomeUnknown(Transient):
    code = "outcome-unknown"


class RepositoryMoved(Transient):
    code = "repository-moved"


class RepositoryUnreadable(Transient):
    code = "repository-unreadable"


class EncoderFailed(Transient):
    code = "encoder-failed"


class EncoderTimedOut(EncoderFailed):
    code = "encoder-timed-out"


class SourcePending(Transient):
    code = "source-pending"


class LeaseHeld(Transient):
    code = "lease-held"


class Permanent(PipelineError):
    """No retry can help until something else changes."""

    code = "permanent"


class InvalidDocument(Permanent):
    code = "invalid-document"


class InvalidRecord(Permanent):
    code = "invalid-record"


class SourceMissing(Permanent):
    code = "source-missing"


class UnreadableMedia(Permanent):
    code = "unreadable-media"


class EncodingFailed(Permanent):
    code = "encoding-failed"


class TooLarge(Permanent):
    code = "too-large"


class RecordRefused(Permanent):
    code = "record-refused"


class BlobMissing(Permanent):
    code = "blob-missing"


class HandleRefused(Permanent):
    code = "handle-refused"


class AccountRefused(Permanent):
    code = "account-refused"


class HeldBack(Permanent):
    code = "held-back"


class Unforeseen(PipelineError):
    """A fault of ours, or of what we use, that ended the turn of one account."""

    code = "unforeseen"


class Blocked(PipelineError):
    """The account cannot be used; the reason is for its owner or an operator."""

    code = "blocked"


class NoCredentials(Blocked):
    code = "no-credentials"


class WrongPassword(Blocked):
    code = "wrong-password"


class AccountInactive(Blocked):
    code = "account-inactive"


class AccountUnknown(Blocked):
    code = "account-unknown"


class AccountDeleted(Blocked):
    code = "account-deleted"


class Paused(Blocked):
    code = "on-hold"


_NO_SERVICE_BEHIND = frozenset({502, 503, 504})
"""Statuses by which a proxy says that it does not reach the service."""


def is_unreachable(code: str, status: int | None) -> bool:
    """True if an error of this class and HTTP status says that a service could not be reached."""
    return code in {ServiceUnreachable.code, OutcomeUnknown.code} or (
        code == ServerFailed.code and status in _NO_SERVICE_BEHIND
    )


TRANSIENT_CODES = frozenset(
    error.code
    for error in (
        Transient, ServiceUnreachable, RateLimited, ServerFailed, OutcomeUnknown, RepositoryMoved, RepositoryUnreadable,
        EncoderFailed, EncoderTimedOut, SourcePending, LeaseHeld,
    )
)  # fmt: skip
"""Codes of errors that another attempt may overcome, for reading the ledger."""


def _classes(error: type[PipelineError]) -> Iterator[str]:
    yield error.code
    for each in error.__subclasses__():
        yield from _classes(each)


ERROR_CLASSES = tuple(dict.fromkeys(_classes(PipelineError)))
"""Codes of all errors, as the ledger has them."""

WELL, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of commands: all well, finished with failed items or users, wrong usage or settings, a service cannot be
reached, and Ctrl-C."""
