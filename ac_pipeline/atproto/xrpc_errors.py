"""What an answer of a PDS means: HTTP status and XRPC error name -> one of the errors of `errors.py`.

One table, read from top to bottom; the first rule that fits decides. No I/O and no retries: sending is `client.py`.
What may be repeated follows from the error: see the tree in `errors.py`. Also here: the bodies of good answers, and
when a server wants to be asked again (`Retry-After`, `RateLimit-*`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from ac_pipeline.atproto.syntax import at_uri, cid_bytes, is_did, is_tid
from ac_pipeline.atproto.types import Commit, RepositoryStatus, Write
from ac_pipeline.errors import (
    AccountInactive,
    AccountRefused,
    AccountUnknown,
    BlobMissing,
    Blocked,
    HandleRefused,
    Misconfigured,
    OutcomeUnknown,
    PipelineError,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
    Transient,
    WrongPassword,
)
from ac_pipeline.redaction import conceal


def need(holds: object, otherwise: str) -> None:
    """Go on when `holds`."""
    if not holds:
        raise ValueError(otherwise)


def content_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        content = json.loads(body)
    except ValueError:
        raise ValueError("it is not JSON") from None
    need(isinstance(content, dict), "it is not a JSON object")
    return dict(content)


def nothing(body: bytes) -> None:
    """The answer of a call that has none."""
    need(not body.strip() or content_of(body) == {}, "this call answers with nothing")


def did_of(body: bytes, **fixed: str) -> str:
    """The DID in a body whose other fields `fixed` are as asked for, but for the case of their letters."""
    content = content_of(body)
    did = content.get("did")
    need(all(str(content.get(key)).lower() == value.lower() for key, value in fixed.items()), "it is about another one")
    if not isinstance(did, str) or not is_did(did):
        raise ValueError("it names no DID")
    return did


def text_of(body: bytes, name: str) -> str:
    """A text that is not empty."""
    text = content_of(body).get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"it has no {name}")
    return text


def blob_limit_of(body: bytes) -> int | None:
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


def commit_of(did: str, writes: Sequence[Write], body: bytes) -> Commit:
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
        cid = result.get("cid")
        need(result.get("uri") == at_uri(did, write.collection, write.rkey), "it names other records")
        # The PDS does not know these lexicons and says "unknown" (REC-1); nothing but a known refusal matters.
        need(result.get("validationStatus") in (None, "unknown", "valid"), "it finds a record invalid")
        cids.append(_cid(cid))
    return Commit(head, rev, tuple(cids))


def status_of(did: str, body: bytes) -> RepositoryStatus:
    """The status that an answer to `getLatestCommit` names."""
    head, rev = _head(content_of(body), "cid")
    return RepositoryStatus(did, head, rev, active=True, status=None)


def page_of(body: bytes, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The repositories on a page of `listRepos`, each with a DID and perhaps a state, and the next cursor.

    Args:
        cursor: The one that was sent.
    """
    content = content_of(body)
    repos: Any = content.get("repos")
    following = content.get("cursor")
    need(isinstance(repos, list), "it lists no repositories")
    for repo in repos:
        need(isinstance(repo, dict) and isinstance(repo.get("did"), str) and is_did(repo["did"]), "it lists no DIDs")
        need(isinstance(repo.get("active", True), bool), "it does not say who is active")
        need(isinstance(repo.get("status", ""), str | None), "it gives no status")
    need(isinstance(following, str | None), "its cursor is none")
    need(not following or following != cursor, f"it does not get beyond {cursor!r}")
    return repos, following or None


def repository_of(repo: dict[str, Any]) -> RepositoryStatus:
    """One entry of a page of our PDS."""
    head, rev = _head(repo, "head")
    return RepositoryStatus(repo["did"], head, rev, active=repo.get("active", True), status=repo.get("status"))


def blob_of(body: bytes) -> dict[str, Any]:
    """The blob that an answer to `uploadBlob` names."""
    blob = content_of(body).get("blob")
    if not isinstance(blob, dict) or blob.get("$type") != "blob" or not isinstance(blob.get("ref"), dict):
        raise ValueError("it names no blob")
    _cid(blob["ref"].get("$link"))
    need(isinstance(blob.get("mimeType"), str) and type(blob.get("size")) is int, "its blob has no type and size")
    return blob


def in_words(blob: dict[str, Any]) -> str:
    """A blob that `blob_of` has read, for a message."""
    return f"{blob['ref']['$link']} ({blob['mimeType']}, {blob['size']} bytes)"[:200]


def _head(content: dict[str, Any], name: str) -> tuple[str, str]:
    rev = content.get("rev")
    if not isinstance(rev, str) or not is_tid(rev):
        raise ValueError("it names no revision")
    return _cid(content.get(name)), rev


def _cid(text: object) -> str:
    need(isinstance(text, str), "it names no CID")
    cid_bytes(str(text))
    return str(text)


ANSWER_LENGTH: Final = 500
"""Characters kept of a server's own words; enough for a reason, too few for a page of HTML."""

HIDDEN: Final = "[hidden]"

_LOOKED_AT: Final = 1 << 16
"""Characters of a server's words in which secrets are looked for: so many more than are kept that no part of a secret
that is cut here is among them."""

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


REPEATABLE: Final = frozenset({Call.READ, Call.UPLOAD, Call.SIGN_IN, Call.REFRESH, Call.ADMIN})
"""Calls that may be sent twice: they change no repository. Uploading a blob again is idempotent (atproto, Blobs); so is
setting the same password, and a second invite code is used by nobody."""

_WITH_TOKEN: Final = frozenset({Call.WRITE, Call.UPLOAD, Call.REFRESH})
_ALL: Final = frozenset(Call)


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal as it came over the wire.

    Args:
        status: HTTP status.
        error: The XRPC error name, or None when the body is not an XRPC error: then a proxy spoke, not the PDS.
        words: The server's own words, without secrets, at most `ANSWER_LENGTH` characters.
        retry_after: Seconds until the server wants to be asked again, where it said so.
    """

    status: int
    error: str | None
    words: str | None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of the table. An empty set of statuses or names fits all; `words` is searched for in the answer."""

    becomes: type[PipelineError]
    advice: str
    calls: frozenset[Call] = _ALL
    statuses: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None
    xrpc: bool | None = None

    def fits(self, call: Call, answer: Answer) -> bool:
        return (
            call in self.calls
            and (not self.statuses or answer.status in self.statuses)
            and (not self.names or answer.error in self.names)
            and (self.words is None or self.words.search(answer.words or "") is not None)
            and (self.xrpc is None or self.xrpc == (answer.error is not None))
        )


def _any_of(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_READS: Final = frozenset({Call.READ})
_WRITES: Final = frozenset({Call.WRITE})
_SENDS: Final = frozenset({Call.WRITE, Call.UPLOAD})
_SIGN_IN: Final = frozenset({Call.SIGN_IN})
_NEW_ACCOUNT: Final = frozenset({Call.NEW_ACCOUNT})
_ADMIN: Final = frozenset({Call.ADMIN})
_CLIENT_ERRORS: Final = frozenset(range(400, 500))
_SERVER_ERRORS: Final = frozenset(range(500, 600))
_REDIRECTS: Final = frozenset(range(300, 400))

_INACTIVE: Final = frozenset(
    f"{subject}{state}"
    for subject in ("Account", "Repo")
    for state in ("Deactivated", "Takedown", "Takendown", "Suspended", "Inactive")
)

_TABLE: Final = (
    _Rule(RateLimited, "Wait until the limit resets.", statuses=frozenset({429})),
    _Rule(
        Misconfigured,
        "PDS_ADMIN_PASSWORD is not the one this PDS was started with: correct it.",
        calls=_ADMIN,
        statuses=frozenset({401, 403}),
    ),
    _Rule(
        AccountUnknown,
        "Check the DID of the account, and that PDS_URL is the server that hosts it.",
        calls=_ADMIN,
        statuses=frozenset({400, 404}),
        words=_any_of(r"NotFound\b|account not found"),
        xrpc=True,
    ),
    # The reference PDS to names that are reserved, taken, too short or too long, and to those that are no handles.
    _Rule(
        HandleRefused,
        "Give the account another handle.",
        calls=_NEW_ACCOUNT | _ADMIN,
        statuses=_CLIENT_ERRORS,
        words=_any_of(r"InvalidHandle\b|HandleNotAvailable\b|handle already taken|valid handle"),
        xrpc=True,
    ),
    _Rule(
        AccountRefused,
        "Correct what it names, then run this again.",
        calls=_NEW_ACCOUNT | _ADMIN,
        statuses=_CLIENT_ERRORS,
        xrpc=True,
    ),
    _Rule(
        AccountInactive,
        "Reactivate the account, or leave it blocked.",
        statuses=_CLIENT_ERRORS,
        names=_INACTIVE,
    ),
    _Rule(
        AccountUnknown,
        "Check the DID of the account, and that PDS_URL is the server that hosts it.",
        statuses=_CLIENT_ERRORS,
        names=frozenset({"AccountNotFound", "RepoNotFound"}),
    ),
    _Rule(
        AccountUnknown,
        "Check the DID of the account, and that PDS_URL is the server that hosts it.",
        calls=_READS,
        statuses=frozenset({400, 404}),
        words=_any_of(r"could not find (repo|root|account|user)|invalid did"),
        xrpc=True,
    ),
    _Rule(
        TokenRefused,
        "The access is renewed by itself.",
        calls=_WITH_TOKEN,
        statuses=frozenset({400, 401, 403}),
        names=frozenset({"ExpiredToken", "InvalidToken"}),
    ),
    _Rule(
        Blocked,
        "Sign-in by password needs the second factor of this account to be off.",
        calls=_SIGN_IN,
        names=frozenset({"AuthFactorTokenRequired"}),
    ),
    _Rule(
        WrongPassword,
        "Store the account's current PDS password on the platform.",
        calls=_SIGN_IN,
        statuses=frozenset({401}),
        xrpc=True,
    ),
    _Rule(
        TokenRefused,
        "The access is renewed by itself.",
        calls=_WITH_TOKEN,
        statuses=frozenset({401}),
        xrpc=True,
    ),
    _Rule(
        TooLarge,
        "Send less at once.",
        calls=_SENDS,
        statuses=frozenset({413}),
    ),
    _Rule(
        TooLarge,
        "Send less at once.",
        calls=_SENDS,
        statuses=_CLIENT_ERRORS,
        names=frozenset({"PayloadTooLarge", "PayloadTooLargeError", "CommitTooBig", "BlobTooLarge", "RecordTooLarge"}),
    ),
    # The reference PDS to a commit over 2,000,000 bytes: 400 InvalidRequest "Too many writes. Max event size: 2MB".
    _Rule(
        TooLarge,
        "Send less at once.",
        calls=_SENDS,
        statuses=frozenset({400}),
        words=_any_of(
            r"too many writes|max event size|\b(payload|request|entity|body|commit)\b.{0,40}\btoo (large|big)\b"
        ),
        xrpc=True,
    ),
    _Rule(
        RepositoryMoved,
        "Read the repository again and plan anew.",
        calls=_WRITES,
        statuses=_CLIENT_ERRORS,
        names=frozenset({"InvalidSwap"}),
    ),
    _Rule(
        BlobMissing,
        "Upload the blob again in the same batch.",
        calls=_WRITES | _READS,
        statuses=_CLIENT_ERRORS,
        names=frozenset({"BlobNotFound"}),
    ),
    # The reference PDS to `getBlob`: 400 InvalidRequest "Blob not found".
    _Rule(
        BlobMissing,
        "Upload the blob again in the same batch.",
        calls=_READS,
        statuses=frozenset({400, 404}),
        words=_any_of(r"blob not found"),
        xrpc=True,
    ),
    # The reference PDS says 500 where a record exists or is missing, others say 409 or 400 (WRITE-7).
    _Rule(
        OutcomeUnknown,
        "Read the repository back: a record exists already, or is missing.",
        calls=_WRITES,
        statuses=frozenset({409}),
    ),
    _Rule(
        OutcomeUnknown,
        "Read the repository back: a record exists already, or is missing.",
        calls=_WRITES,
        statuses=frozenset({400, 404}),
        words=_any_of(
            r"RecordAlreadyExists|RecordNotFound|RecordExists"
            r"|\brecord\b.{0,200}\b(already exists|not found|does not exist)|could not (find|locate) record"
        ),
        xrpc=True,
    ),
    _Rule(
        ServerFailed,
        "Check that PDS_URL names a PDS that knows this call.",
        statuses=frozenset({501}),
        names=frozenset({"MethodNotImplemented"}),
    ),
    _Rule(
        ServiceUnreachable,
        "Set PDS_URL to the address it redirects to; redirects are not followed.",
        statuses=_REDIRECTS,
    ),
    _Rule(OutcomeUnknown, "Read the repository back before any retry.", calls=_WRITES, statuses=_SERVER_ERRORS),
    _Rule(
        Blocked,
        "Ask the operator of the PDS why this account may not do this.",
        calls=_SENDS | _SIGN_IN,
        statuses=frozenset({403}),
        xrpc=True,
    ),
    _Rule(
        Blocked,
        "Check DID and password of the account.",
        calls=_SIGN_IN,
        statuses=_CLIENT_ERRORS,
        xrpc=True,
    ),
    _Rule(TokenRefused, "The access is renewed by itself.", calls=frozenset({Call.REFRESH}), statuses=_CLIENT_ERRORS),
    _Rule(
        RecordRefused,
        "Correct the document, or the way it is mapped.",
        calls=_SENDS,
        statuses=_CLIENT_ERRORS,
        xrpc=True,
    ),
    _Rule(OutcomeUnknown, "Sign in with the new account to see whether it was made.", calls=_NEW_ACCOUNT),
    # A 4xx that is not an XRPC error comes from something in front of the PDS and blames no record.
    _Rule(OutcomeUnknown, "Read the repository back before any retry.", calls=_WRITES),
    _Rule(ServerFailed, "Try again later."),
)


def classify(call: Call, answer: Answer, subject: str) -> PipelineError:
    """The error an answer stands for.

    Args:
        call: What was asked.
        answer: The refusal.
        subject: The call and its target for people, e.g. `com.atproto.repo.applyWrites of did:plc:abc at http://pds`.
    """
    rule = next(rule for rule in _TABLE if rule.fits(call, answer))
    said = f": {answer.words}" if answer.words else ""
    message = f"{subject}: the server answered {answer.status}{said}. {rule.advice}"
    if issubclass(rule.becomes, Transient):
        return rule.becomes(message, status=answer.status, answer=answer.words, retry_after=answer.retry_after)
    return rule.becomes(message, status=answer.status, answer=answer.words)


def lost(call: Call, subject: str, reason: str, *, sent: bool) -> PipelineError:
    """The error of a request without an answer.

    Args:
        call: What was asked.
        subject: As for `classify`.
        reason: What broke, without secrets.
        sent: Whether any of the request may have reached the server.
    """
    if sent and call not in REPEATABLE:
        advice = "Sign in to see" if call is Call.NEW_ACCOUNT else "Read the repository back before any retry"
        return OutcomeUnknown(f"{subject}: {reason}. {advice}.")
    becomes = ServiceUnreachable if sent else NothingSent
    proxied = "the proxy and its variable, and " if " through the proxy " in reason else ""
    return becomes(f"{subject}: {reason}. Check {proxied}PDS_URL and that the server runs.")


def unfit(call: Call, subject: str, reason: ServerFailed) -> PipelineError:
    """The error of a request whose answer cannot be used: `reason`, or that its outcome is unknown.

    Args:
        call: What was asked.
        subject: As for `classify`.
        reason: An `OverLimit` or a `Malformed`, in a few words without secrets.
    """
    if call not in REPEATABLE:
        advice = "Sign in to see" if call is Call.NEW_ACCOUNT else "Read the repository back before any retry"
        return OutcomeUnknown(f"{subject}: {reason.message}. {advice}.", status=200)
    advice = "Check that PDS_URL is a PDS" if isinstance(reason, Malformed) else "Try again later, or raise the limit"
    return type(reason)(f"{subject}: {reason.message}. {advice}.", status=200)


def read_answer(status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Iterable[str]) -> Answer:
    """Make an `Answer` of a response that is not a success.

    Args:
        status: HTTP status.
        headers: Response headers; looked up in lower case, so a case-insensitive mapping or lower-case names.
        body: The body, or its beginning.
        now: Epoch seconds.
        secrets: Texts that must not be repeated, e.g. the password that was sent.
    """
    error: str | None = None
    message: str | None = None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        message = body.decode("utf-8", "replace").strip() or None
    else:
        if isinstance(content, dict) and isinstance(content.get("error"), str) and content["error"]:
            error = scrub(content["error"], secrets)
            said = content.get("message")
            message = said if isinstance(said, str) and said else None
        else:
            message = body.decode("utf-8", "replace")
    words = ": ".join(part for part in (error, message) if part)
    return Answer(status, error, scrub(words, secrets) if words else None, retry_after(headers, now))


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` without anything like a token and without `secrets`, at most `ANSWER_LENGTH` characters (ACCT-5)."""
    text = _JWT.sub(HIDDEN, conceal(text[:_LOOKED_AT], secrets, HIDDEN))
    return text if len(text) <= ANSWER_LENGTH else f"{text[: ANSWER_LENGTH - 3]}..."


_EARLIEST_EPOCH: Final = 1_000_000_000
"""`RateLimit-Reset` is epoch seconds on the reference PDS, seconds from now in the IETF draft."""

LONGEST: Final = 86_400.0
"""Seconds: the longest window of a PDS. A header that names a later time would silence it for good."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server wants to be asked again: the later of `Retry-After` and the reset of a spent limit.

    Args:
        headers: Response headers, by lower-case name.
        now: Epoch seconds.
    """
    waits = [wait for wait in (_retry_after_header(headers, now), _spent_reset(headers, now)) if wait is not None]
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


def _spent_reset(headers: Mapping[str, str], now: float) -> float | None:
    if headers.get("ratelimit-remaining", "0").strip() != "0":
        return None
    reset = reset_time(headers.get("ratelimit-reset"), now)
    return None if reset is None else max(reset - now, 0.0)


def _retry_after_header(headers: Mapping[str, str], now: float) -> float | None:
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(moment.timestamp() - now, 0.0)
