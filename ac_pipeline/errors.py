"""Every error the pipeline raises on purpose, by what can be done about it: `Misconfigured`, `Transient`, `Permanent`,
`Unforeseen`, `Blocked`. Whoever raises one says at the boundary whether another attempt can help; whoever catches one
reads its branch and never a message. No handling and no retries here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar


class PipelineError(Exception):
    """Base of all. `code` is the class as people and reports see it: its name here, such as `wrong-password`, unless it
    says otherwise. A class of another module has that of its base.

    Args:
        message: What happened, to which thing, and what to do; never holds a secret.
        status: The HTTP status of the answer, where there was one.
        answer: The server's own words, shortened.
        retry_after: Seconds to wait before the next attempt of what is transient, where the server named them.
    """

    code: ClassVar[str] = "pipeline-error"

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__ and "code" not in vars(cls):
            cls.code = re.sub(r"\B(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(
        self, message: str, *, status: int | None = None, answer: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.answer, self.retry_after = message, status, answer, retry_after


class Misconfigured(PipelineError):
    """A setting is missing or wrong; nothing was started."""


class NotPermitted(Misconfigured):
    """The user of MongoDB may not do this; whoever only looks goes on without."""


class Transient(PipelineError):
    """The same request may succeed later."""


class ServiceUnreachable(Transient):
    """No connection, or no answer to a read."""


class RateLimited(Transient):
    """429; `retry_after` says when."""


class ServerFailed(Transient):
    """5xx to a read, or to a write that is known not to have happened."""


class OutcomeUnknown(Transient):
    """A write was sent and its answer was lost: read back before any retry."""


class RepositoryMoved(Transient):
    """Somebody else committed to the repository in between."""


class RepositoryUnreadable(Transient):
    """A CAR that does not verify: cut, mixed up or forged."""


class EncoderFailed(Transient):
    """ffmpeg could not start, was killed or ran out of time."""


class EncoderTimedOut(EncoderFailed):
    """It ran out of time; the second time is a verdict on the item."""


class SourcePending(Transient):
    """The platform is still making the item's media."""


class LeaseHeld(Transient):
    """Another run is writing to this repository."""


class Permanent(PipelineError):
    """This item fails until its document, its media or our code changes."""


class InvalidDocument(Permanent):
    """The Mongo document cannot become a record."""


class InvalidRecord(Permanent):
    """The record breaks its lexicon."""


class SourceMissing(Permanent):
    """No candidate key exists in object storage."""


class UnreadableMedia(Permanent):
    """The picture or the tape cannot be read."""


class EncodingFailed(Permanent):
    """The encoder refuses the tape, or its result fails the checks."""


class TooLarge(Permanent):
    """Over a limit of the lexicon or of the PDS."""


class RecordRefused(Permanent):
    """The PDS refuses this one record."""


class BlobMissing(Permanent):
    """The PDS does not keep a blob that it accepted."""


class HandleRefused(Permanent):
    """The PDS refuses a handle: reserved, malformed or taken."""


class AccountRefused(Permanent):
    """The PDS refuses to make or change an account."""


class HeldBack(Permanent):
    """Publishing could be wrong (owner unclear, key crossed): a person decides."""


class Unforeseen(PipelineError):
    """A fault of ours, or of what we use, that ended the turn of one account."""


class Blocked(PipelineError):
    """The account cannot be used, and none of its items fails for it; the reason is for its owner or an operator."""


class NoCredentials(Blocked):
    """No DID or no password in Mongo."""


class WrongPassword(Blocked):
    """The PDS refuses the password."""


class AccountInactive(Blocked):
    """Deactivated, taken down or suspended on the PDS."""


class AccountUnknown(Blocked):
    """The PDS does not host this DID."""


class AccountDeleted(Blocked):
    """Scheduled for deletion, or deleted, on the platform."""


class Paused(Blocked):
    """An operator keeps these types from being mirrored."""

    code = "on-hold"


_NO_SERVICE_BEHIND = frozenset({502, 503, 504})  # Statuses by which a proxy says that it does not reach the service


def is_unreachable(code: str, status: int | None) -> bool:
    """True if an error of this class and HTTP status says that a service could not be reached."""
    return code in {ServiceUnreachable.code, OutcomeUnknown.code} or (
        code == ServerFailed.code and status in _NO_SERVICE_BEHIND
    )


def _codes(error: type[PipelineError]) -> Iterator[str]:
    yield error.code
    for each in error.__subclasses__():
        yield from _codes(each)


ERROR_CLASSES = tuple(dict.fromkeys(_codes(PipelineError)))  # Codes of all errors, as the ledger has them
TRANSIENT_CODES = frozenset(_codes(Transient))
"""Codes of errors that another attempt may overcome, for reading the ledger."""

WELL, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of commands: all well, finished with failed items or users, wrong usage or settings, a service cannot be
reached, and Ctrl-C."""
