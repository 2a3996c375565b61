"""What answers of a PDS become: the table of `answers.py`, and that no secret survives it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from ac_pipeline.atproto.xrpc_errors import (
    ANSWER_LENGTH,
    Answer,
    Call,
    NothingSent,
    TokenRefused,
    classify,
    lost,
    read_answer,
    retry_after,
    scrub,
)
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
    WrongPassword,
)

NOW = 1_795_233_892.0


def refusal(call: Call, status: int, error: str | None, message: str = "") -> PipelineError:
    body = json.dumps({"error": error, "message": message}).encode() if error else message.encode()
    answer = read_answer(status, {}, body, now=NOW, secrets=())
    return classify(call, answer, "com.atproto.repo.applyWrites for did:plc:a at https://pds")


@pytest.mark.parametrize(
    ("call", "status", "error", "message", "expected"),
    [
        # accounts
        (Call.SIGN_IN, 401, "AuthenticationRequired", "Invalid identifier or password", WrongPassword),
        (Call.SIGN_IN, 401, "AccountTakedown", "Account has been taken down", AccountInactive),
        (Call.SIGN_IN, 401, "AuthFactorTokenRequired", "A sign in code has been sent", Blocked),
        (Call.SIGN_IN, 400, "InvalidRequest", "Input/identifier must be a string", Blocked),
        (Call.WRITE, 401, "AccountDeactivated", "Account is deactivated", AccountInactive),
        (Call.WRITE, 403, "AccountSuspended", "", AccountInactive),
        (Call.UPLOAD, 401, "AccountTakedown", "", AccountInactive),
        (Call.REFRESH, 401, "AccountTakedown", "", AccountInactive),
        (Call.READ, 400, "RepoDeactivated", "Repo has been deactivated: did:plc:a", AccountInactive),
        (Call.READ, 400, "RepoTakendown", "", AccountInactive),
        (Call.READ, 400, "RepoSuspended", "", AccountInactive),
        (Call.WRITE, 403, "AccountNotFound", "Account not found", AccountUnknown),
        (Call.WRITE, 400, "AccountNotFound", "", AccountUnknown),
        (Call.READ, 400, "RepoNotFound", "Could not find repo for DID: did:plc:a", AccountUnknown),
        (Call.READ, 404, "RepoNotFound", "", AccountUnknown),
        (Call.READ, 404, "InvalidRequest", "Could not find root for DID: did:plc:a", AccountUnknown),
        (
            Call.READ,
            400,
            "InvalidRequest",
            'Invalid params: Invalid DID (got "x")',
            AccountUnknown,
        ),
        (Call.WRITE, 403, "Forbidden", "not for you", Blocked),
        # accounts that are being made or changed
        (Call.NEW_ACCOUNT, 400, "HandleNotAvailable", "Reserved handle", HandleRefused),
        (Call.NEW_ACCOUNT, 400, "InvalidHandle", "Handle too short", HandleRefused),
        (Call.NEW_ACCOUNT, 400, "InvalidRequest", "Handle already taken: a.test", HandleRefused),
        (Call.NEW_ACCOUNT, 400, "InvalidRequest", "Input/handle must be a valid handle", HandleRefused),
        (Call.NEW_ACCOUNT, 400, "InvalidRequest", "Email already taken: a@example.test", AccountRefused),
        (Call.NEW_ACCOUNT, 400, "InvalidInviteCode", "No invite code provided", AccountRefused),
        (Call.NEW_ACCOUNT, 429, "RateLimitExceeded", "", RateLimited),
        (Call.NEW_ACCOUNT, 500, "InternalServerError", "", OutcomeUnknown),
        (Call.NEW_ACCOUNT, 403, None, "a proxy", OutcomeUnknown),
        (Call.ADMIN, 401, "AuthenticationRequired", "", Misconfigured),
        (Call.ADMIN, 400, "NotFound", "Account not found", AccountUnknown),
        (Call.ADMIN, 400, "InvalidRequest", "Invalid password length.", AccountRefused),
        (Call.ADMIN, 502, None, "", ServerFailed),
        # tokens
        (Call.WRITE, 400, "ExpiredToken", "Token has expired", TokenRefused),
        (Call.WRITE, 401, "ExpiredToken", "", TokenRefused),
        (Call.WRITE, 400, "InvalidToken", "Token could not be verified", TokenRefused),
        (Call.WRITE, 401, "AuthenticationRequired", "", TokenRefused),
        (Call.UPLOAD, 401, "AuthMissing", "", TokenRefused),
        (Call.REFRESH, 400, "ExpiredToken", "Token has been revoked", TokenRefused),
        (Call.REFRESH, 400, "InvalidRequest", "", TokenRefused),
        # the repository and its records
        (Call.WRITE, 400, "InvalidSwap", "Commit was at bafy", RepositoryMoved),
        (Call.WRITE, 409, "InvalidSwap", "Commit was at bafy", RepositoryMoved),
        (Call.WRITE, 400, "BlobNotFound", "Could not find blob: bafk", BlobMissing),
        (Call.WRITE, 400, "InvalidRequest", "Expected one of null (got 1.5) at $.writes[0].value.f", RecordRefused),
        (Call.WRITE, 422, "Unprocessable", "", RecordRefused),
        (Call.UPLOAD, 400, "InvalidMimeType", "", RecordRefused),
        (Call.WRITE, 400, "RecordAlreadyExists", "", OutcomeUnknown),
        (Call.WRITE, 400, "InvalidRequest", "Record already exists", OutcomeUnknown),
        (Call.WRITE, 404, "InvalidRequest", "Could not locate record: at://x", OutcomeUnknown),
        (Call.WRITE, 409, "Conflict", "", OutcomeUnknown),
        (Call.READ, 400, "InvalidRequest", "Blob not found", BlobMissing),
        (Call.READ, 404, "BlobNotFound", "", BlobMissing),
        # sizes
        (Call.WRITE, 413, "PayloadTooLargeError", "request entity too large", TooLarge),
        (Call.WRITE, 413, None, "<html>413 Request Entity Too Large</html>", TooLarge),
        (Call.UPLOAD, 413, "PayloadTooLarge", "request entity too large", TooLarge),
        (Call.WRITE, 400, "PayloadTooLarge", "", TooLarge),
        (Call.WRITE, 400, "CommitTooBig", "", TooLarge),
        (Call.WRITE, 400, "InvalidRequest", "Too many writes. Max event size: 2MB", TooLarge),
        (Call.WRITE, 400, "InvalidRequest", "Too many writes. Max: 200", TooLarge),
        (Call.WRITE, 400, "InvalidRequest", "the integer is too large", RecordRefused),
        # limits
        (Call.WRITE, 429, "RateLimitExceeded", "Rate Limit Exceeded", RateLimited),
        (Call.SIGN_IN, 429, "RateLimitExceeded", "", RateLimited),
        (Call.READ, 429, None, "slow down", RateLimited),
        # servers, and what stands before them
        (Call.WRITE, 499, None, "", OutcomeUnknown),
        (Call.WRITE, 500, "InternalServerError", "Internal Server Error", OutcomeUnknown),
        (Call.WRITE, 502, None, "<html>Bad Gateway</html>", OutcomeUnknown),
        (Call.WRITE, 599, None, "", OutcomeUnknown),
        (Call.WRITE, 501, "MethodNotImplemented", "", ServerFailed),
        (Call.READ, 500, "InternalServerError", "", ServerFailed),
        (Call.READ, 503, None, "", ServerFailed),
        (Call.UPLOAD, 500, "InternalServerError", "", ServerFailed),
        (Call.SIGN_IN, 502, None, "", ServerFailed),
        (Call.REFRESH, 500, None, "", ServerFailed),
        (Call.WRITE, 403, None, "<html>Attention required</html>", OutcomeUnknown),
        (Call.WRITE, 404, None, "not found", OutcomeUnknown),
        (Call.READ, 404, None, "not found", ServerFailed),
        (Call.SIGN_IN, 401, None, "<html>proxy login</html>", ServerFailed),
        (Call.WRITE, 301, None, "", ServiceUnreachable),
        (Call.READ, 307, None, "", ServiceUnreachable),
        (Call.READ, 204, None, "", ServerFailed),
        (Call.WRITE, 204, None, "", OutcomeUnknown),
    ],
)
def test_every_refusal_has_one_meaning(
    call: Call, status: int, error: str | None, message: str, expected: type[PipelineError]
) -> None:
    """ACCT-2, WRITE-5, WRITE-6, WRITE-7, WRITE-8: status and error name decide, for each kind of call."""
    found = refusal(call, status, error, message)

    assert type(found) is expected
    assert found.status == status
    if error:
        assert error in (found.answer or "")
        assert message in (found.answer or "")
        assert (error in found.message) is (expected not in (AccountInactive, AccountUnknown, WrongPassword))


@pytest.mark.parametrize(
    ("call", "status", "error", "message", "expected"),
    [
        (
            Call.READ,
            400,
            "RepoTakendown",
            "Repo has been takendown: did:plc:a",
            "is takendown: reactivate the account",
        ),
        (Call.SIGN_IN, 401, "AccountDeactivated", "", "is deactivated: reactivate the account"),
        (
            Call.READ,
            400,
            "RepoNotFound",
            "Could not find repo for DID: did:plc:a",
            "is not hosted there: check the DID",
        ),
        (Call.SIGN_IN, 401, "AuthenticationRequired", "Invalid identifier or password", "refuses the password: store"),
    ],
)
def test_what_is_wrong_with_an_account_is_said_in_no_words_of_the_protocol(
    call: Call, status: int, error: str, message: str, expected: str
) -> None:
    """SEEN-1: an operator reads which account on which PDS it is, what its state is, and what to do."""
    assert refusal(call, status, error, message).message.startswith(f"did:plc:a at https://pds {expected}")


def test_an_answer_names_the_call_the_account_and_what_to_do() -> None:
    found = refusal(Call.WRITE, 400, "BlobNotFound", "Could not find blob: bafk")

    assert found.message == (
        "com.atproto.repo.applyWrites for did:plc:a at https://pds: the server answered 400: "
        "BlobNotFound: Could not find blob: bafk. Upload the blob again in the same batch."
    )
    assert found.answer == "BlobNotFound: Could not find blob: bafk"


@pytest.mark.parametrize(
    ("call", "sent", "expected"),
    [
        (Call.WRITE, True, OutcomeUnknown),
        (Call.WRITE, False, NothingSent),
        (Call.READ, True, ServiceUnreachable),
        (Call.READ, False, NothingSent),
        (Call.UPLOAD, True, ServiceUnreachable),
        (Call.SIGN_IN, True, ServiceUnreachable),
        (Call.REFRESH, True, ServiceUnreachable),
    ],
)
def test_only_a_write_that_may_have_arrived_has_an_unknown_outcome(
    call: Call, sent: bool, expected: type[PipelineError]
) -> None:
    """WRITE-8: a timeout or a broken connection during a write is read back; a refused connection sent nothing."""
    assert type(lost(call, "x", "no answer", sent=sent)) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"ratelimit-reset": str(int(NOW) + 40)}, 40.0),
        ({"ratelimit-reset": "40"}, 40.0),
        ({"ratelimit-reset": str(int(NOW) - 40)}, 0.0),
        ({"ratelimit-reset": "-1"}, None),
        ({"ratelimit-reset": "nan"}, None),
        ({"ratelimit-reset": "inf"}, None),
        ({"ratelimit-reset": "40", "ratelimit-remaining": "0"}, 40.0),
        ({"ratelimit-reset": "40", "ratelimit-remaining": "1"}, None),
        ({"ratelimit-reset": "40", "retry-after": "30"}, 40.0),
        ({"ratelimit-reset": "30", "retry-after": "40"}, 40.0),
        ({}, None),
    ],
)
def test_a_server_says_when_to_come_back_in_either_header(headers: dict[str, str], expected: float | None) -> None:
    """LIMIT-1: the later of `Retry-After` and the reset of a spent limit counts."""
    assert retry_after(headers, NOW) == expected


def test_a_rate_limit_carries_its_waiting_time() -> None:
    answer = read_answer(429, {"retry-after": "17"}, b"{}", now=NOW, secrets=())

    found = classify(Call.WRITE, answer, "x")

    assert isinstance(found, RateLimited)
    assert found.retry_after == 17.0


def test_secrets_are_taken_out_of_the_server_s_words() -> None:
    """ACCT-5: a server that repeats the password or a token does not get it into our messages."""
    token = "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6ImNvbSJ9.fk0WxMZWKJOcE3F0wtLNp-tcjaY07"
    body = json.dumps({"error": "Odd-hunter2", "message": f"hunter2-long and hunter2 and Bearer {token}!"}).encode()

    answer = read_answer(400, {}, body, now=NOW, secrets=("hunter2", "hunter2-long", ""))
    found = classify(Call.WRITE, answer, "x")

    for text in (str(found), repr(found), found.answer or "", repr(answer)):
        assert "hunter2" not in text
        assert "eyJ" not in text
        assert "fk0Wx" not in text
    assert answer.words == "Odd-[hidden]: [hidden] and [hidden] and Bearer [hidden]!"


@pytest.mark.parametrize(("length", "kept"), [(ANSWER_LENGTH, ANSWER_LENGTH), (ANSWER_LENGTH + 1, ANSWER_LENGTH)])
def test_a_server_s_words_are_shortened(length: int, kept: int) -> None:
    found = scrub("x" * length, ())

    assert len(found) == kept
    assert found.endswith("...") == (length > ANSWER_LENGTH)


def test_a_secret_at_the_edge_of_the_shortened_words_does_not_leak_in_part() -> None:
    """ACCT-5"""
    assert "hun" not in scrub("x" * (ANSWER_LENGTH - 5) + "hunter2hunter2", ("hunter2",))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"error": 5}', b'{"error": ""}', b"\xff\xfe", b'{"error"'])
def test_a_body_that_is_no_xrpc_error_blames_nobody(body: bytes) -> None:
    answer = read_answer(400, {}, body, now=NOW, secrets=())

    assert answer.error is None
    assert type(classify(Call.WRITE, answer, "x")) is OutcomeUnknown
    assert isinstance(answer, Answer)
