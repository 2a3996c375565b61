"""Sessions: one sign-in per DID, renewed in time, never too often, and never shown."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, BrokenBarrierError

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.sessions import (
    REFRESH_MARGIN,
    REFUSAL_SECONDS,
    Sessions,
    Tokens,
    expires_at,
)
from ac_pipeline.atproto.xrpc_errors import TokenRefused
from ac_pipeline.errors import AccountInactive, NoCredentials, PipelineError, RateLimited, WrongPassword
from ac_pipeline_tests.memory_sessions import MemorySessionStore

DAY = 86_400.0
START = 1_795_233_892.0
ALICE = Account(id="auth0|1", key="alice", did="did:plc:alice", password="correct horse")
BOB = Account(id="auth0|2", key="bob", did="did:plc:bob", password="battery staple")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def token(name: str, expiry: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"jti": name, "exp": expiry}).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{claims}.c2ln"


class Server:
    """Signs in by the rules of the reference PDS: access for two hours, refresh for ninety days."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.fail_refresh: PipelineError | None = None
        self.fail_create: PipelineError | None = None

    def create_session(self, did: str, password: str) -> Tokens:
        self.calls.append(f"create {did}")
        if self.fail_create:
            raise self.fail_create
        return self._tokens()

    def refresh_session(self, did: str, refresh: str) -> Tokens:
        self.calls.append(f"refresh {did}")
        if self.fail_refresh:
            raise self.fail_refresh
        return self._tokens()

    def _tokens(self) -> Tokens:
        name = str(len(self.calls))
        return Tokens(token(f"a{name}", self.clock.now + 7200), token(f"r{name}", self.clock.now + 90 * DAY))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Server:
    return Server(clock)


@pytest.fixture
def store() -> MemorySessionStore:
    return MemorySessionStore()


@pytest.fixture
def sessions(store: MemorySessionStore, server: Server, clock: Clock) -> Sessions:
    return Sessions(store, server, clock=clock)


def test_three_hundred_calls_make_one_sign_in(sessions: Sessions, server: Server) -> None:
    """LIMIT-7: given a user with 300 items, then at most one login per run."""
    assert len({sessions.access(ALICE) for _ in range(300)}) == 1
    assert server.calls == ["create did:plc:alice"]


def test_two_threads_that_ask_at_once_make_one_sign_in(store: MemorySessionStore, clock: Clock) -> None:
    """LIMIT-7: a second sign-in would meet the first one; none does."""
    meeting = Barrier(2)
    met: list[str] = []

    class Slow(Server):
        def create_session(self, did: str, password: str) -> Tokens:
            with suppress(BrokenBarrierError):
                meeting.wait(timeout=0.2)
                met.append(did)
            return super().create_session(did, password)

    slow = Slow(clock)
    sessions = Sessions(store, slow, clock=clock)
    with ThreadPoolExecutor(4) as pool:
        tokens = set(pool.map(lambda _: sessions.access(ALICE), range(4)))

    assert met == []
    assert len(tokens) == 1
    assert slow.calls == ["create did:plc:alice"]


def test_each_account_has_its_own_session(sessions: Sessions, server: Server) -> None:
    assert sessions.access(ALICE) != sessions.access(BOB)
    assert server.calls == ["create did:plc:alice", "create did:plc:bob"]


def test_a_later_run_takes_the_tokens_of_an_earlier_one(
    sessions: Sessions, store: MemorySessionStore, server: Server, clock: Clock
) -> None:
    """LIMIT-7: tokens are reused across runs."""
    first = sessions.access(ALICE)

    assert Sessions(store, server, clock=clock).access(ALICE) == first
    assert server.calls == ["create did:plc:alice"]


@pytest.mark.parametrize(("left", "renewed"), [(REFRESH_MARGIN + 1, False), (REFRESH_MARGIN, True), (-5.0, True)])
def test_a_session_is_renewed_shortly_before_it_expires(
    sessions: Sessions, server: Server, clock: Clock, left: float, renewed: bool
) -> None:
    """LIMIT-7: by `refreshSession`, not by another login."""
    first = sessions.access(ALICE)
    clock.now = START + 7200 - left

    assert (sessions.access(ALICE) != first) == renewed
    assert server.calls == ["create did:plc:alice", *(["refresh did:plc:alice"] if renewed else [])]


def test_a_refused_token_is_renewed_once_for_all_who_held_it(sessions: Sessions, server: Server) -> None:
    """LIMIT-7: refreshed on `ExpiredToken`."""
    first = sessions.access(ALICE)

    second = sessions.access(ALICE, refused=first)

    assert second != first
    assert sessions.access(ALICE, refused=first) == second
    assert server.calls == ["create did:plc:alice", "refresh did:plc:alice"]


def test_what_another_process_renewed_is_taken_over(
    sessions: Sessions, store: MemorySessionStore, server: Server, clock: Clock
) -> None:
    first = sessions.access(ALICE)
    other = Sessions(store, server, clock=clock).access(ALICE, refused=first)

    assert sessions.access(ALICE, refused=first) == other
    assert server.calls == ["create did:plc:alice", "refresh did:plc:alice"]


def test_a_refused_refresh_leads_to_one_sign_in(sessions: Sessions, store: MemorySessionStore, server: Server) -> None:
    first = sessions.access(ALICE)
    server.fail_refresh = TokenRefused("revoked")

    second = sessions.access(ALICE, refused=first)

    assert server.calls == ["create did:plc:alice", "refresh did:plc:alice", "create did:plc:alice"]
    stored = store.load("did:plc:alice")
    assert stored is not None
    assert stored.access == second != first


def test_an_expired_refresh_token_is_not_even_tried(sessions: Sessions, server: Server, clock: Clock) -> None:
    sessions.access(ALICE)
    clock.now = START + 91 * DAY

    sessions.access(ALICE)

    assert server.calls == ["create did:plc:alice", "create did:plc:alice"]


def test_a_blocked_account_is_told_so_and_keeps_nothing(
    sessions: Sessions, store: MemorySessionStore, server: Server
) -> None:
    """ACCT-2: that account is blocked, all others continue."""
    server.fail_create = WrongPassword("no")
    with pytest.raises(WrongPassword):
        sessions.access(ALICE)
    server.fail_create = None

    assert store.load("did:plc:alice") is None
    assert sessions.access(BOB)


def test_an_account_that_is_inactive_at_renewal_is_not_signed_in_again(sessions: Sessions, server: Server) -> None:
    """ACCT-2"""
    first = sessions.access(ALICE)
    server.fail_refresh = AccountInactive("taken down")

    with pytest.raises(AccountInactive):
        sessions.access(ALICE, refused=first)

    assert server.calls == ["create did:plc:alice", "refresh did:plc:alice"]


@pytest.mark.parametrize(
    ("account", "missing"),
    [
        (Account(id="auth0|3", key="carol", password="x"), "DID"),
        (Account(id="auth0|3", key="carol", did="did:plc:carol"), "password"),
        (Account(id="auth0|3", key="carol", did="did:plc:carol", password=""), "password"),
    ],
)
def test_without_credentials_nobody_is_asked(
    sessions: Sessions, server: Server, account: Account, missing: str
) -> None:
    """ACCT-1: blocked with a reason, no login."""
    with pytest.raises(NoCredentials, match=f"carol has no PDS {missing}"):
        sessions.access(account)
    assert server.calls == []


@pytest.mark.parametrize(("made", "window"), [(30, 300.0), (300, DAY)])
def test_sign_ins_stay_under_the_limits_of_the_pds(server: Server, clock: Clock, made: int, window: float) -> None:
    """LIMIT-7: never over 30 logins per 5 minutes or 300 per day; refused before sending."""
    step = 0.0 if made == 30 else 12.0
    sessions = Sessions(MemorySessionStore(), server, clock=clock)
    server.fail_create = WrongPassword("no")
    for number in range(made):
        with pytest.raises(WrongPassword):
            sessions.access(replace(ALICE, password=f"guess {number}"))
        clock.now += step

    with pytest.raises(RateLimited, match="signed in too often") as caught:
        sessions.access(ALICE)
    assert len(server.calls) == made
    assert caught.value.retry_after == START + window - clock.now

    with pytest.raises(WrongPassword):
        sessions.access(BOB)
    clock.now = START + window - 1
    with pytest.raises(RateLimited):
        sessions.access(ALICE)
    clock.now = START + window
    with pytest.raises(WrongPassword):
        sessions.access(ALICE)
    assert len(server.calls) == made + 2


def test_sign_ins_of_all_runs_count_together(server: Server, clock: Clock) -> None:
    """LIMIT-7, RUN-8: each run is a process of its own, and the store is what they share."""
    store = MemorySessionStore()
    server.fail_create = WrongPassword("no")
    for _ in range(30):
        with pytest.raises(WrongPassword):
            Sessions(store, server, clock=clock).access(ALICE)
    with pytest.raises(RateLimited):
        Sessions(store, server, clock=clock).access(ALICE)
    assert len(server.calls) == 30


def test_a_refused_password_is_tried_once_a_minute_and_another_at_once(
    sessions: Sessions, server: Server, clock: Clock
) -> None:
    """ACCT-1, ACCT-2, LIMIT-7: every batch and upload of a run hears the refusal, the PDS is asked once."""
    server.fail_create = WrongPassword("no")
    for _ in range(5):
        with pytest.raises(WrongPassword, match="no"):
            sessions.access(ALICE)
    assert len(server.calls) == 1

    clock.now += REFUSAL_SECONDS
    with pytest.raises(WrongPassword):
        sessions.access(ALICE)
    assert len(server.calls) == 2

    server.fail_create = None
    assert sessions.access(replace(ALICE, password="corrected"))


def test_no_representation_shows_a_token() -> None:
    """ACCT-5"""
    tokens = Tokens("eyJaccess", "eyJrefresh")

    assert "eyJ" not in f"{tokens} {tokens!r} {[tokens]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (token("x", 5.0), 5.0),
        (token("x", 5), 5.0),
        ("opaque", None),
        ("a.b.c", None),
        ("a." + base64.urlsafe_b64encode(b"[1]").decode() + ".c", None),
        ("a." + base64.urlsafe_b64encode(b'{"exp":"soon"}').decode() + ".c", None),
        ("a." + base64.urlsafe_b64encode(b'{"exp":true}').decode() + ".c", None),
        ("", None),
    ],
)
def test_the_expiry_of_a_token_is_read_where_it_has_one(text: str, expected: float | None) -> None:
    assert expires_at(text) == expected


def test_sign_ins_of_a_clock_that_was_wrong_do_not_count(server: Server, clock: Clock) -> None:
    """LIMIT-7."""
    store = MemorySessionStore()
    for _ in range(300):
        store.count_sign_in(str(ALICE.did), clock.now + 365 * DAY, 300)
    assert Sessions(store, server, clock=clock).access(ALICE)
