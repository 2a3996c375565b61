"""Whether a run could bring an item further: every state of document, link, ledger and account."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import AccountDeleted, NoCredentials
from ac_pipeline.items import Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, Link, Verdict
from ac_pipeline.mongo.changes.pending import Cause, Rule, mark_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ADA = Account("auth0|ada", "ada", did="did:plc:ada", password="pw")
RULE = Rule(NOW, {}, frozenset())
DOCUMENT = Document("mood", "0" * 24, ADA.id, None, 0, {}, "now")
LINK = Link("3kaaa", "at://did:plc:ada/computer.aesthetic.mood/3kaaa", "bafy", "did:plc:ada")
LINKED = replace(DOCUMENT, link=LINK)
WITHDRAWN = replace(LINKED, verdict=Verdict.WITHDRAWN)
NOT_OVER = sorted(set(State) - {State.DELETED})


def known(
    state: State,
    fingerprint: str = "now",
    *,
    cid: str | None = "bafy",
    deferred_until: datetime | None = None,
    withdrawn_at: datetime | None = None,
    error_class: str | None = None,
    credentials: str | None = None,
) -> LedgerEntry:
    failure = Failure(Stage.WRITE, error_class, "", payload_hash=credentials) if error_class is not None else None
    return LedgerEntry(
        item_id("mood", DOCUMENT.id),
        "mood",
        DOCUMENT.id,
        ADA.id,
        ADA.key,
        state,
        Stage.WRITE,
        did="did:plc:ada",
        fingerprint=fingerprint,
        cid=cid,
        failure=failure,
        deferred_until=deferred_until,
        withdrawn_at=withdrawn_at,
    )


@pytest.mark.parametrize(
    ("document", "entry", "cause"),
    [
        (DOCUMENT, None, Cause.NEW),
        (DOCUMENT, known(State.WRITTEN), Cause.NEW),
        (DOCUMENT, known(State.DELETED), Cause.NEW),
        (DOCUMENT, known(State.PENDING), Cause.NEW),
        (DOCUMENT, known(State.QUARANTINED), None),
        (DOCUMENT, known(State.QUARANTINED, "before"), Cause.NEW),
        (LINKED, None, None),
        (LINKED, known(State.WRITTEN), None),
        (LINKED, known(State.UNCHANGED), None),
        (LINKED, known(State.PENDING), None),
        (LINKED, known(State.WRITTEN, "before"), Cause.EDITED),
        (LINKED, known(State.QUARANTINED), None),
        (LINKED, known(State.QUARANTINED, "before"), Cause.EDITED),
        (LINKED, known(State.DEFERRED), Cause.EDITED),
        (LINKED, known(State.DELETED), Cause.NEW),
        (replace(DOCUMENT, link=replace(LINK, rkey=None)), None, Cause.NEW),
        (replace(DOCUMENT, link=replace(LINK, did="did:plc:other")), None, Cause.NEW),
        (replace(DOCUMENT, link=Link("3kaaa")), None, None),
        (WITHDRAWN, None, Cause.WITHDRAWN),
        (WITHDRAWN, known(State.QUARANTINED), Cause.WITHDRAWN),
        (WITHDRAWN, known(State.DEFERRED), Cause.WITHDRAWN),
        (replace(WITHDRAWN, link=Link(uri=LINK.uri)), None, Cause.WITHDRAWN),
        (replace(WITHDRAWN, link=None), None, None),
        (replace(WITHDRAWN, link=None), known(State.DELETED), None),
        *((replace(WITHDRAWN, link=None), known(state, "before"), Cause.WITHDRAWN) for state in NOT_OVER),
        (replace(DOCUMENT, verdict=Verdict.INVALID), None, Cause.UNREADABLE),
        (replace(DOCUMENT, verdict=Verdict.INVALID), known(State.QUARANTINED), None),
        (replace(DOCUMENT, verdict=Verdict.INVALID), known(State.QUARANTINED, "before"), Cause.UNREADABLE),
        (replace(LINKED, verdict=Verdict.OWNERSHIP_UNCLEAR), known(State.QUARANTINED), None),
        (replace(LINKED, verdict=Verdict.OWNERSHIP_UNCLEAR), None, Cause.UNREADABLE),
    ],
)
def test_what_a_document_needs_follows_from_its_state_and_what_the_ledger_knows(
    document: Document, entry: LedgerEntry | None, cause: Cause | None
) -> None:
    """SRC-5, LINK-3, DEL-1, DEL-2, WRITE-10, WRITE-14."""
    assert RULE.cause(ADA, document, entry) is cause


@pytest.mark.parametrize(("later", "waits"), [(timedelta(seconds=1), True), (timedelta(0), False), (None, False)])
@pytest.mark.parametrize("document", [DOCUMENT, LINKED, WITHDRAWN], ids=["new", "edited", "withdrawn"])
def test_what_waits_for_a_limit_is_left_until_then(document: Document, later: timedelta | None, waits: bool) -> None:
    """LIMIT-6, OPS-3."""
    until = NOW + later if later is not None else None
    waiting = known(State.DEFERRED, deferred_until=until, withdrawn_at=NOW if document is WITHDRAWN else None)
    assert (RULE.cause(ADA, document, waiting) is None) is waits
    assert (RULE.cause_of_gone(ADA, "mood", replace(waiting, withdrawn_at=NOW)) is None) is waits


@pytest.mark.parametrize("state", [State.DEFERRED, State.BLOCKED])
def test_what_is_removed_while_its_last_edit_waits_is_erased_at_once(state: State) -> None:
    """DEL-1: a spent limit, or an account that was refused, holds up new work and no erasure."""
    code = "wrong-password" if state is State.BLOCKED else "rate-limited"
    waiting = known(state, "before", error_class=code, deferred_until=NOW + timedelta(hours=20))
    assert RULE.cause(ADA, replace(LINKED, fingerprint="before"), waiting) is None
    assert RULE.cause(ADA, WITHDRAWN, waiting) is Cause.WITHDRAWN
    assert RULE.cause_of_gone(ADA, "mood", waiting) is Cause.GONE


def test_what_the_platform_is_done_with_before_its_time_is_work_at_once() -> None:
    """GUARD-6: and what it is not done with is work when the time is over."""
    waiting = known(State.DEFERRED, error_class="source-pending", deferred_until=NOW + timedelta(seconds=1))
    assert RULE.cause(ADA, DOCUMENT, waiting) is None
    assert RULE.cause(ADA, replace(DOCUMENT, fingerprint="complete"), waiting) is Cause.NEW
    assert RULE.cause(ADA, DOCUMENT, replace(waiting, deferred_until=NOW)) is Cause.NEW


@pytest.mark.parametrize("code", ["wrong-password", "account-inactive", "account-unknown"])
def test_an_account_that_the_pds_refuses_is_asked_for_again_when_it_changes_or_has_something_new(code: str) -> None:
    """ACCT-1, ACCT-2."""
    refused = known(State.BLOCKED, error_class=code)
    assert RULE.cause(ADA, DOCUMENT, refused) is None
    assert RULE.cause(ADA, LINKED, refused) is None
    assert RULE.cause(ADA, DOCUMENT, None) is Cause.NEW
    assert replace(RULE, changed=frozenset({ADA.id})).cause(ADA, DOCUMENT, refused) is Cause.NEW
    assert RULE.cause(replace(ADA, did="did:plc:new"), DOCUMENT, refused) is Cause.NEW


@pytest.mark.parametrize("code", ["no-credentials", "account-deleted", "on-hold"])
def test_a_block_that_is_over_in_mongo_or_the_ledger_makes_its_items_work_at_once(code: str) -> None:
    """ACCT-1, DEL-9."""
    assert RULE.cause(ADA, DOCUMENT, known(State.BLOCKED, error_class=code)) is Cause.NEW
    assert RULE.cause(ADA, LINKED, known(State.BLOCKED, error_class=code)) is Cause.EDITED


def test_a_blocked_account_gets_one_run_that_says_so_and_no_more() -> None:
    """RUN-7, ACCT-1."""
    blocked = replace(ADA, did=None, password=None, blocked=NoCredentials("nothing in Mongo"))
    assert RULE.cause(blocked, DOCUMENT, None) is Cause.NEW
    assert RULE.cause(blocked, WITHDRAWN, None) is None
    after = replace(RULE, blocked_before={(ADA.id, "no-credentials")})
    assert after.waits_for_account(blocked)
    assert after.cause(blocked, DOCUMENT, None) is None
    assert after.cause(ADA, DOCUMENT, None) is Cause.NEW
    other = replace(blocked, blocked=AccountDeleted("a state nobody knows"))
    assert not after.waits_for_account(other)


def test_types_on_hold_have_no_work_until_they_are_released() -> None:
    held = replace(RULE, paused={ADA.id: {"mood"}})
    assert held.cause(ADA, DOCUMENT, None) is None
    assert held.cause(ADA, replace(DOCUMENT, type="piece"), None) is Cause.NEW
    assert held.cause_of_gone(ADA, "mood", known(State.WRITTEN)) is None


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        (known(State.WRITTEN), Cause.GONE),
        (known(State.UNCHANGED), Cause.GONE),
        (known(State.QUARANTINED), Cause.GONE),
        (known(State.QUARANTINED, cid=None), None),
        (known(State.BLOCKED, cid=None), None),
        (known(State.DELETED), None),
        (known(State.DEFERRED, deferred_until=NOW + timedelta(hours=1), withdrawn_at=NOW), None),
        (known(State.DEFERRED, deferred_until=NOW + timedelta(hours=1)), Cause.GONE),
    ],
)
def test_a_document_that_is_gone_is_work_as_long_as_its_record_may_exist(
    entry: LedgerEntry, cause: Cause | None
) -> None:
    """DEL-4."""
    assert RULE.cause_of_gone(ADA, "mood", entry) is cause


def test_marks_tell_one_piece_of_work_from_another() -> None:
    marks = {mark_of(cause, fingerprint) for cause in Cause for fingerprint in ("one", "other")}
    assert len(marks) == 2 * len(Cause)


@pytest.mark.parametrize(
    ("document", "entry", "cause"),
    [
        (LINKED, None, Cause.NEW),
        (LINKED, known(State.WRITTEN), Cause.NEW),
        (LINKED, known(State.QUARANTINED), None),
        (LINKED, known(State.BLOCKED, error_class="account-inactive"), None),
        (LINKED, known(State.DEFERRED, deferred_until=NOW + timedelta(hours=1)), None),
        (replace(WITHDRAWN, link=None), None, None),
    ],
)
def test_what_is_linked_of_a_user_whom_no_sync_ever_read_is_looked_at(
    document: Document, entry: LedgerEntry | None, cause: Cause | None
) -> None:
    rule = replace(RULE, unsynchronised={ADA.id})
    assert rule.cause(ADA, document, entry) == cause
    assert replace(rule, paused={ADA.id: {"mood"}}).cause(ADA, document, entry) is None


def test_a_refused_password_is_work_as_soon_as_another_one_stands_in_mongo() -> None:
    """ACCT-1: as the engine decides it, whatever events were missed."""
    refused = known(State.BLOCKED, error_class="wrong-password", credentials=ADA.credentials)
    assert RULE.cause(ADA, LINKED, refused) is None
    assert RULE.cause(replace(ADA, password="another"), LINKED, refused) is Cause.EDITED
