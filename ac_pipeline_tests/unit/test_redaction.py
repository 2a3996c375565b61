"""What is removed from texts before they leave, and what stays."""

from __future__ import annotations

import pytest

from ac_pipeline.redaction import REMOVED, Redactor

WORD = "hunter2-Zq"


@pytest.mark.parametrize(
    "secret",
    [
        WORD,
        f"mongodb+srv://reader:{WORD}@cluster.example/?retryWrites=true",
        f"postgresql+psycopg2://dagster:{WORD}@127.0.0.1/dagster",
        f"postgresql+psycopg2://dagster:{WORD}@127.0.0.1:54x/dagster",
    ],
)
def test_a_known_value_and_the_password_of_a_known_address_are_never_seen(secret: str) -> None:
    """ACCT-5."""
    redact = Redactor([secret])
    for text in (f"refused: {secret}.", f"password {WORD} is wrong", f"host=x pw {WORD}"):
        assert WORD not in redact(text)
    assert WORD not in repr(redact)


def test_a_value_is_found_percent_encoded_and_plain() -> None:
    redact = Redactor(["mongodb://reader:p%40ss%2Fword@host/db", "a b/c d"])
    assert redact("p@ss/word and p%40ss%2Fword and a%20b%2Fc%20d") == f"{REMOVED} and {REMOVED} and {REMOVED}"


@pytest.mark.parametrize(
    "text",
    [
        f"could not connect to mongodb://reader:{WORD}@host:27017/db",
        f"could not connect to https://:{WORD}@host/",
        f"GET https://host/x?token={WORD}&page=2",
        f"Authorization: Bearer {WORD}",
        f"authorization: Basic {WORD}==",
        f"connect(host='h', password='{WORD}', port=1)",
        f"PGPASSWORD={WORD} psql",
        f"""{{"accessJwt": "{WORD}", "handle": "ada"}}""",
        f"""{{'password': '{WORD}'}}""",
        f"jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJkaWQ6cGxjOmEifQ.{WORD}",
        f"x-ratelimit-bypass-key={WORD}",
    ],
)
def test_what_has_the_shape_of_a_secret_is_removed_without_being_known(text: str) -> None:
    assert WORD not in Redactor()(text)
    assert REMOVED in Redactor()(text)


@pytest.mark.parametrize(
    "text",
    [
        "wrong-password: the PDS refuses @ada (401 AuthenticationRequired: Invalid identifier or password)",
        "no candidate in https://user-aesthetic-computer.sfo3.digitaloceanspaces.com/auth0|1/painting/a.png",
        "did:plc:abc has at://did:plc:abc/computer.aesthetic.mood/3kabc",
        "ada: the PDS answered 502; ExpiredToken",
        "2 of 4 users have to be run again (server-failed 2). ada@example: timeout",
    ],
)
def test_ordinary_words_stay_as_they_are(text: str) -> None:
    assert Redactor()(text) == text


@pytest.mark.parametrize(("secret", "seen"), [("abc", True), ("abcd", False)])
def test_a_value_too_short_to_be_a_secret_is_not_looked_for(secret: str, seen: bool) -> None:
    assert (secret in Redactor([secret])(f"x{secret}x")) == seen
