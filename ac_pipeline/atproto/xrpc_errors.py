"""What an answer of a PDS means: HTTP status and XRPC error name -> one of the errors of `errors.py`.

One table, read from top to bottom; the first rule that fits decides. What may be repeated follows from the error: see
the tree in `errors.py`. Also here: when a server wants to be asked again (`Retry-After`, `RateLimit-*`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from ac_pipeline import errors
from ac_pipeline.bounds import seconds_to_wait
from ac_pipeline.errors import OutcomeUnknown, PipelineError, ServerFailed, ServiceUnreachable, Transient
from ac_pipeline.redaction import conceal


def need(holds: object, otherwise: str) -> None:
    """Go on when `holds`."""
    if not holds:
        raise ValueError(otherwise)


def content_of(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        raise ValueError("it is not JSON") from None
    need(isinstance(content, dict), "it is not a JSON object")
    return dict(content)


ANSWER_LENGTH: Final = 500  # Characters kept of a server's own words; enough for a reason, too few for a page of HTML
HIDDEN: Final = "[hidden]"

# Characters of a server's words in which secrets are looked for: so many more than are kept that no part of a secret
# that is cut here is among them
_LOOKED_AT: Final = 1 << 16

_JWT: Final = re.compile(r"\beyJ[\w-]*\.[\w-]+(?:\.[\w-]*)*")


class TokenRefused(Transient):
    """The access or refresh token is expired, revoked or unknown to the PDS; the request was not carried out.

    Handled inside this package: refresh, then sign in, then repeat.
    """

    code = "token-refused"


class NothingSent(ServiceUnreachable):
    """No connection could be made, so not a byte left: even a write may be sent again."""


class Malformed(ServerFailed):
    """A 200 that is not what its call answers: a portal's page, another call's answer, nulls, a part of it.

    It says nothing of what was asked about (ANSWER-1).
    """


class Call(StrEnum):
    """What was asked, by what its failure means."""

    READ = "read"
    WRITE = "write"
    UPLOAD = "upload"
    SIGN_IN = "sign-in"
    REFRESH = "refresh"
    NEW_ACCOUNT = "new-account"
    ADMIN = "admin"


# Calls that may be sent twice: they change no repository. Uploading a blob again is idempotent (atproto, Blobs); so is
# setting the same password, and a second invite code is used by nobody.
REPEATABLE: Final = frozenset({Call.READ, Call.UPLOAD, Call.SIGN_IN, Call.REFRESH, Call.ADMIN})

_WITH_TOKEN: Final = frozenset({Call.WRITE, Call.UPLOAD, Call.REFRESH})
_ALL: Final = frozenset(Call)


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal as it came over the wire."""

    status: int  # HTTP status
    # The XRPC error name, or None when the body is not an XRPC error: then a proxy spoke, not the PDS
    error: str | None
    words: str | None  # The server's own words, without secrets, at most `ANSWER_LENGTH` characters
    retry_after: float | None = None  # Seconds until the server wants to be asked again, where it said so


_READS: Final = frozenset({Call.READ})
_WRITES: Final = frozenset({Call.WRITE})
_SENDS: Final = frozenset({Call.WRITE, Call.UPLOAD})
_SIGN_IN: Final = frozenset({Call.SIGN_IN})
_NEW_ACCOUNT: Final = frozenset({Call.NEW_ACCOUNT})
_ADMIN: Final = frozenset({Call.ADMIN})
_ANY_STATUS: Final = range(1000)
_CLIENT_ERRORS: Final = range(400, 500)

_CHECK_DID: Final = "is not hosted there: check the DID of the account, and that PDS_URL is the server that hosts it."
_RENEWED: Final = "The access is renewed by itself."
_SEND_LESS: Final = "Send less at once."
_UPLOAD_AGAIN: Final = "Upload the blob again in the same batch."
_READ_BACK: Final = "Read the repository back before any retry."
_PLAN_ANEW: Final = "Read the repository again and plan anew."
_READ_CONFLICT: Final = "Read the repository back: a record exists already, or is missing."
_ADMIN_REFUSED: Final = "PDS_ADMIN_PASSWORD is not the one this PDS was started with: correct it."
_CORRECT: Final = "Correct what it names, then run this again."
_REACTIVATE: Final = "is {state}: reactivate the account, or leave it blocked."
_NO_FACTOR: Final = "Sign-in by password needs the second factor of this account to be off."
_STORE_IT: Final = "refuses the password: store the current one on the platform, or `ac-pipeline accounts rotate`."
_UNKNOWN_CALL: Final = "Check that PDS_URL names a PDS that knows this call."
_REDIRECTED: Final = "Set PDS_URL to the address it redirects to; redirects are not followed."
_ASK_OPERATOR: Final = "Ask the operator of the PDS why this account may not do this."

_INACTIVE: Final = frozenset(
    f"{subject}{state}"
    for subject in ("Account", "Repo")
    for state in ("Deactivated", "Takedown", "Takendown", "Suspended", "Inactive")
)
_TOO_LARGE: Final = frozenset(
    {"PayloadTooLarge", "PayloadTooLargeError", "CommitTooBig", "BlobTooLarge", "RecordTooLarge"}
)
_ANYTHING: Final = re.compile("")
_says = partial(re.compile, flags=re.IGNORECASE)

# The reference PDS to names that are reserved, taken, too short or too long, and to those that are no handles.
_BAD_HANDLE: Final = _says(r"InvalidHandle\b|HandleNotAvailable\b|handle already taken|valid handle")
_NO_ACCOUNT: Final = _says(r"could not find (repo|root|account|user)|invalid did")
# The reference PDS to a commit over 2,000,000 bytes: 400 InvalidRequest "Too many writes. Max event size: 2MB".
_TOO_MANY: Final = _says(
    r"too many writes|max event size|\b(payload|request|entity|body|commit)\b.{0,40}\btoo (large|big)\b"
)
_CONFLICT: Final = _says(
    r"RecordAlreadyExists|RecordNotFound|RecordExists"
    r"|\brecord\b.{0,200}\b(already exists|not found|does not exist)|could not (find|locate) record"
)

_OF_ACCOUNTS: Final = frozenset({errors.AccountInactive, errors.AccountUnknown, errors.WrongPassword})

_Rule = tuple[frozenset[Call], Container[int], "frozenset[str] | re.Pattern[str] | None", type[PipelineError], str]

_TABLE: Final[tuple[_Rule, ...]] = (
    # What was asked, HTTP statuses, and the XRPC error: its names, or a pattern found in name or words (`_ANYTHING`
    # fits every XRPC error), or None where a proxy may have spoken; then what it becomes, and the advice.
    (_ALL, {429}, None, errors.RateLimited, "Wait until the limit resets."),
    (_ADMIN, {401, 403}, None, errors.Misconfigured, _ADMIN_REFUSED),
    (_ADMIN, {400, 404}, _says(r"NotFound\b|account not found"), errors.AccountUnknown, _CHECK_DID),
    (_NEW_ACCOUNT | _ADMIN, _CLIENT_ERRORS, _BAD_HANDLE, errors.HandleRefused, "Give the account another handle."),
    (_NEW_ACCOUNT | _ADMIN, _CLIENT_ERRORS, _ANYTHING, errors.AccountRefused, _CORRECT),
    (_ALL, _CLIENT_ERRORS, _INACTIVE, errors.AccountInactive, _REACTIVATE),
    (_ALL, _CLIENT_ERRORS, frozenset({"AccountNotFound", "RepoNotFound"}), errors.AccountUnknown, _CHECK_DID),
    (_READS, {400, 404}, _NO_ACCOUNT, errors.AccountUnknown, _CHECK_DID),
    (_WITH_TOKEN, {400, 401, 403}, frozenset({"ExpiredToken", "InvalidToken"}), TokenRefused, _RENEWED),
    (_SIGN_IN, _ANY_STATUS, frozenset({"AuthFactorTokenRequired"}), errors.Blocked, _NO_FACTOR),
    (_SIGN_IN, {401}, _ANYTHING, errors.WrongPassword, _STORE_IT),
    (_WITH_TOKEN, {401}, _ANYTHING, TokenRefused, _RENEWED),
    (_SENDS, {413}, None, errors.TooLarge, _SEND_LESS),
    (_SENDS, _CLIENT_ERRORS, _TOO_LARGE, errors.TooLarge, _SEND_LESS),
    (_SENDS, {400}, _TOO_MANY, errors.TooLarge, _SEND_LESS),
    (_WRITES, _CLIENT_ERRORS, frozenset({"InvalidSwap"}), errors.RepositoryMoved, _PLAN_ANEW),
    (_WRITES | _READS, _CLIENT_ERRORS, frozenset({"BlobNotFound"}), errors.BlobMissing, _UPLOAD_AGAIN),
    # The reference PDS to `getBlob`: 400 InvalidRequest "Blob not found".
    (_READS, {400, 404}, _says(r"blob not found"), errors.BlobMissing, _UPLOAD_AGAIN),
    # The reference PDS says 500 where a record exists or is missing, others say 409 or 400 (WRITE-7).
    (_WRITES, {409}, None, OutcomeUnknown, _READ_CONFLICT),
    (_WRITES, {400, 404}, _CONFLICT, OutcomeUnknown, _READ_CONFLICT),
    (_ALL, {501}, frozenset({"MethodNotImplemented"}), ServerFailed, _UNKNOWN_CALL),
    (_ALL, range(300, 400), None, ServiceUnreachable, _REDIRECTED),
    (_WRITES, range(500, 600), None, OutcomeUnknown, _READ_BACK),
    (_SENDS | _SIGN_IN, {403}, _ANYTHING, errors.Blocked, _ASK_OPERATOR),
    (_SIGN_IN, _CLIENT_ERRORS, _ANYTHING, errors.Blocked, "Check DID and password of the account."),
    (frozenset({Call.REFRESH}), _CLIENT_ERRORS, None, TokenRefused, _RENEWED),
    (_SENDS, _CLIENT_ERRORS, _ANYTHING, errors.RecordRefused, "Correct the document, or the way it is mapped."),
    (_NEW_ACCOUNT, _ANY_STATUS, None, OutcomeUnknown, "Sign in with the new account to see whether it was made."),
    # A 4xx that is not an XRPC error comes from something in front of the PDS and blames no record.
    (_WRITES, _ANY_STATUS, None, OutcomeUnknown, _READ_BACK),
    (_ALL, _ANY_STATUS, None, ServerFailed, "Try again later."),
)


def _fits(rule: _Rule, call: Call, answer: Answer) -> bool:
    calls, statuses, said, _, _ = rule
    if call not in calls or answer.status not in statuses:
        return False
    if isinstance(said, re.Pattern):
        return answer.error is not None and said.search(answer.words or "") is not None
    return said is None or answer.error in said


def classify(call: Call, answer: Answer, subject: str) -> PipelineError:
    """The error an answer stands for. `subject`: the call and its target for people, e.g. `com.atproto.repo.applyWrites
    of did:plc:abc at http://pds`."""
    *_, becomes, advice = next(rule for rule in _TABLE if _fits(rule, call, answer))
    if becomes in _OF_ACCOUNTS:  # what is wrong with an account is said without the protocol's words
        state = re.sub(r"^(Account|Repo)", "", answer.error or "").lower()
        sentence = advice.format(state={"takedown": "takendown"}.get(state, state))  # as `listRepos` says it
        return becomes(f"{subject.partition(' for ')[2]} {sentence}", status=answer.status, answer=answer.words)
    said = f": {answer.words}" if answer.words else ""
    message = f"{subject}: the server answered {answer.status}{said}. {advice}"
    error = becomes(message, status=answer.status, answer=answer.words)
    if isinstance(error, Transient):
        error.retry_after = answer.retry_after
    return error


def lost(call: Call, subject: str, reason: str, *, sent: bool) -> PipelineError:
    """The error of a request without an answer, for the reason (without secrets) that something broke. `sent`: True if
    any of the request may have reached the server."""
    if sent and call not in REPEATABLE:
        return _unknown(call, f"{subject}: {reason}.")
    becomes = ServiceUnreachable if sent else NothingSent
    proxied = "the proxy and its variable, and " if " through the proxy " in reason else ""
    return becomes(f"{subject}: {reason}. Check {proxied}PDS_URL and that the server runs.")


def unfit(call: Call, subject: str, reason: ServerFailed) -> PipelineError:
    """The error of a request whose answer cannot be used: `reason`, an `OverLimit` or a `Malformed` in a few words
    without secrets, or that its outcome is unknown."""
    if call not in REPEATABLE:
        return _unknown(call, f"{subject}: {reason.message}.", status=200)
    advice = "Check that PDS_URL is a PDS" if isinstance(reason, Malformed) else "Try again later, or raise the limit"
    return type(reason)(f"{subject}: {reason.message}. {advice}.", status=200)


def _unknown(call: Call, message: str, status: int | None = None) -> OutcomeUnknown:
    return OutcomeUnknown(f"{message} {'Sign in to see.' if call is Call.NEW_ACCOUNT else _READ_BACK}", status=status)


def read_answer(status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Iterable[str]) -> Answer:
    """Make an `Answer` of a response (headers by lower-case name) that is not a success. `secrets`: texts that must not
    be repeated, e.g. the password that was sent."""
    error, message = None, body.decode("utf-8", "replace").strip()
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("error"), str) and content["error"]:
        error, said = scrub(content["error"], secrets), content.get("message")
        message = said if isinstance(said, str) else ""
    words = ": ".join(part for part in (error, message) if part)
    return Answer(status, error, scrub(words, secrets) if words else None, retry_after(headers, now))


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` without anything like a token and without `secrets`, at most `ANSWER_LENGTH` characters (ACCT-5)."""
    text = _JWT.sub(HIDDEN, conceal(text[:_LOOKED_AT], secrets, HIDDEN))
    return text if len(text) <= ANSWER_LENGTH else f"{text[: ANSWER_LENGTH - 3]}..."


# `RateLimit-Reset` is epoch seconds on the reference PDS, seconds from now in the IETF draft
_EARLIEST_EPOCH: Final = 1_000_000_000

LONGEST: Final = 86_400.0  # Seconds: the longest window of a PDS. A header with a later time would silence it for good.


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server wants to be asked again: the later of `Retry-After` and the reset of a spent limit.
    `headers`: response headers, by lower-case name."""
    spent = headers.get("ratelimit-remaining", "0").strip() == "0"
    reset = reset_time(headers.get("ratelimit-reset"), now) if spent else None
    waits = [wait for wait in (seconds_to_wait(headers, now), reset and max(reset - now, 0.0)) if wait is not None]
    return min(max(waits), LONGEST) if waits else None


def reset_time(value: str | None, now: float) -> float | None:
    """Epoch seconds of a `RateLimit-Reset` header, which may count from 1970 or from now; None when unreadable."""
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    if not 0 <= number < float("inf"):
        return None
    return min(number if number >= _EARLIEST_EPOCH else now + number, now + LONGEST)
