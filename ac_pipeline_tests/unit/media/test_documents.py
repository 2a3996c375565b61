"""What a document means: verdicts, owners, fingerprints."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.eligibility import is_guest
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.registry import page_of
from ac_pipeline.media.tape import TAPE
from ac_pipeline_tests.unit.media.samples import ALL, ID, SUB, WHEN, raw

each_type = pytest.mark.parametrize("media", ALL, ids=lambda media: media.name)
GUEST_DID = "did:plc:guest"
FLAGS = ("nuked", "deleted", "private", "draft", "hidden")


@each_type
def test_a_sound_document_is_eligible(media: MediaType) -> None:
    document = interpret(media, raw(media))
    assert (document.verdict, document.reason, document.warnings) == (Verdict.ELIGIBLE, "", ())
    assert (document.type, document.id, document.owner) == (media.name, ID, SUB)


@each_type
@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_is_true_withdraws_a_document_of_any_type(media: MediaType, flag: str) -> None:
    """SRC-5: nuked, deleted, private, draft and hidden work gets no record."""
    document = interpret(media, raw(media, **{flag: True}))
    assert (document.verdict, document.reason) == (Verdict.WITHDRAWN, flag)
    assert interpret(media, raw(media, **{flag: False})).verdict is Verdict.ELIGIBLE
    assert interpret(media, raw(media, **{flag: None})).verdict is Verdict.ELIGIBLE


@each_type
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"visibility": "private"}, "visibility: private"),
        ({"visibility": "unlisted"}, "visibility: unlisted"),
        ({"visibility": ""}, "visibility: "),
        ({"visibility": 1}, "visibility: not public"),
        ({"status": "wip"}, "work in progress"),
    ],
)
def test_what_is_not_public_or_not_finished_is_withdrawn(media: MediaType, fields: dict[str, Any], reason: str) -> None:
    """SRC-5, SRC-6: the visibility rule holds for every type."""
    document = interpret(media, raw(media, **fields))
    assert (document.verdict, document.reason) == (Verdict.WITHDRAWN, reason)


@each_type
@pytest.mark.parametrize(
    "fields", [{"visibility": None}, {"visibility": "public"}, {"status": "done"}, {"status": None}]
)
def test_what_is_public_and_finished_is_eligible(media: MediaType, fields: dict[str, Any]) -> None:
    assert interpret(media, raw(media, **fields)).verdict is Verdict.ELIGIBLE


def test_a_painting_appears_once_it_is_sealed() -> None:
    """SRC-6: while it is in progress it is withdrawn; sealed, it is eligible under its real slug."""
    progress = raw(PAINTING, slug="wip/x1y2", status="wip", wip={"id": "x1y2"})
    assert interpret(PAINTING, progress).verdict is Verdict.WITHDRAWN
    sealed = {**progress, "status": "done", "slug": "2026.2.3.4.5.6.789"}
    assert interpret(PAINTING, sealed).verdict is Verdict.ELIGIBLE


def test_a_slug_of_a_work_in_progress_that_is_not_marked_as_one_is_not_published() -> None:
    """SRC-3, SRC-6: there is no object behind it."""
    document = interpret(PAINTING, raw(PAINTING, slug="wip/x1y2"))
    assert document.verdict is Verdict.INVALID
    assert "wip/x1y2" in document.reason


@each_type
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["true", 1, 1.0, {}, []])
def test_a_flag_of_another_type_publishes_nothing_and_removes_nothing(
    media: MediaType, flag: str, value: object
) -> None:
    document = interpret(media, raw(media, **{flag: value}))
    assert document.verdict is Verdict.INVALID
    assert flag in document.reason
    assert type(value).__name__ in document.reason


@each_type
def test_work_of_a_deleted_owner_is_withdrawn(media: MediaType) -> None:
    """DEL-9: nothing is published for an account that is deleted or scheduled for it."""
    assert interpret(media, raw(media), owner_deleted=True).verdict is Verdict.WITHDRAWN


@pytest.mark.parametrize("user", [None, ""])
def test_missing_null_and_empty_users_are_guests(user: str | None) -> None:
    """SRC-4: one definition of a guest."""
    assert is_guest(user)
    for media in (PAINTING, PIECE, KIDLISP, TAPE):
        document = interpret(media, raw(media, user=user))
        assert (document.owner, document.verdict) == (None, Verdict.ELIGIBLE)
        assert document.fingerprint == interpret(media, raw(media, user=...)).fingerprint


@pytest.mark.parametrize("user", [" ", SUB, "art-guest", 0, False])
def test_anything_else_is_no_guest(user: object) -> None:
    assert not is_guest(user)


@pytest.mark.parametrize("user", [..., None, ""])
def test_a_mood_without_user_is_invalid(user: object) -> None:
    """Moods are never anonymous (aesthetic-computer facts, 2.3)."""
    document = interpret(MOOD, raw(MOOD, user=user))
    assert document.verdict is Verdict.INVALID
    assert "never anonymous" in document.reason


@each_type
@pytest.mark.parametrize("when", [..., None, "soon", 5, {}])
def test_without_a_readable_when_the_id_tells_the_time_and_the_item_is_flagged(media: MediaType, when: object) -> None:
    """SRC-1: missing or unreadable, `when` becomes the ObjectId's time, with a warning, and the item stays eligible."""
    document = interpret(media, raw(media, when=when))
    assert document.when == 0x65F0C0FF * 1000
    assert document.verdict is Verdict.ELIGIBLE
    assert any("`when`" in warning for warning in document.warnings)


def test_views_change_nothing() -> None:
    """SRC-9: `hits` and `lastAccessed` change at every view of a kidlisp."""
    before = interpret(KIDLISP, raw(KIDLISP))
    after = interpret(KIDLISP, raw(KIDLISP, hits=99, lastAccessed=WHEN + timedelta(days=1), kept={"x": 1}))
    assert before == after


@each_type
def test_links_and_stored_forms_of_one_content_have_one_fingerprint(media: MediaType) -> None:
    """SRC-9: the pipeline's own write-back is no change, nor is another form of the same time."""
    first = interpret(media, raw(media))
    other = raw(media, when="2025-10-14T09:08:07.006Z", atproto={"rkey": "3k"}, hidden=None, draft=False)
    assert interpret(media, other).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("media", "change"),
    [(PAINTING, {"bucket": "x-y-z"}), (PAINTING, {"slug": "other"}), (MOOD, {"mood": "other"}), (PIECE, {"slug": "b"})]
    + [(KIDLISP, {"source": "(ink)"}), (TAPE, {"mp4Status": "complete"}), (TAPE, {"mp4Url": "https://x"})]
    + [(media, change) for media in ALL for change in ({"nuked": True}, {"when": WHEN + timedelta(milliseconds=1)})]
    + [(media, {"user": "auth0|other"}) for media in ALL],
)
def test_every_synced_field_changes_the_fingerprint(media: MediaType, change: dict[str, Any]) -> None:
    assert interpret(media, raw(media, **change)).fingerprint != interpret(media, raw(media)).fingerprint


def test_fingerprints_are_the_same_on_every_host() -> None:
    """REC-3: canonical JSON; another form of it would make every item look changed once."""
    canonical = '{"mood":"finally awake","user":"auth0|63effeeb2a7d55f8098d62f9","when":1760432887006}'
    assert interpret(MOOD, raw(MOOD)).fingerprint == sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("codes", [("abc", "ABC")])
def test_codes_that_differ_in_case_are_two_and_one_code_can_be_of_every_type(codes: tuple[str, str]) -> None:
    """SRC-10: items are known by type and id, never by code alone."""
    lower, upper = (interpret(PAINTING, raw(PAINTING, code=code)) for code in codes)
    assert (lower.code, upper.code) == codes
    assert lower.fingerprint != upper.fingerprint
    assert {interpret(media, raw(media, code="abc")).type for media in ALL} == {media.name for media in ALL}


def test_kidlisp_of_a_vanished_owner_is_held_back() -> None:
    """DEL-10: no `user`, and a link into a repository that is not the guests'."""
    link = {"rkey": "3k", "uri": "at://did:plc:gone/computer.aesthetic.kidlisp/3k"}
    document = interpret(KIDLISP, raw(KIDLISP, user=..., atproto=link), account_did=GUEST_DID)
    assert document.verdict is Verdict.OWNERSHIP_UNCLEAR
    assert "did:plc:gone" in document.reason


@pytest.mark.parametrize(
    ("media", "user", "did"),
    [
        (KIDLISP, ..., GUEST_DID),
        (KIDLISP, ..., ...),
        (KIDLISP, SUB, "did:plc:gone"),
        (PAINTING, ..., "did:plc:gone"),
    ],
)
def test_other_links_hold_nothing_back(media: MediaType, user: object, did: object) -> None:
    """DEL-10: a guest's own link, a link of unknown repository (the plan's to judge), an owner's link, another type."""
    link = {name: value for name, value in {"rkey": "3k", "did": did}.items() if value is not ...}
    document = interpret(media, raw(media, user=user, atproto=link), account_did=GUEST_DID)
    assert document.verdict is Verdict.ELIGIBLE


@each_type
@pytest.mark.parametrize("value", [5, 1.5, True, [], {}, ObjectId(ID), datetime(2025, 1, 1, tzinfo=UTC), b"x"])
def test_a_wrong_type_is_named_with_its_field(media: MediaType, value: object) -> None:
    field = {"mood": "mood", "kidlisp": "source"}.get(media.name, "slug")
    document = interpret(media, raw(media, **{field: value}))
    assert document.verdict is Verdict.INVALID
    assert f"`{field}`" in document.reason
    assert type(value).__name__ in document.reason


@each_type
def test_an_owner_of_another_type_is_invalid_and_no_guest(media: MediaType) -> None:
    document = interpret(media, raw(media, user=7))
    assert (document.verdict, document.owner) == (Verdict.INVALID, "7")
    assert "`user`" in document.reason


@each_type
@pytest.mark.parametrize("id", [ID, "x", 5, None])
def test_an_id_that_is_no_object_id_is_invalid(media: MediaType, id: object) -> None:
    document = interpret(media, raw(media, _id=id))
    assert document.verdict is Verdict.INVALID
    assert "ObjectId" in document.reason


def test_bytes_that_were_not_utf8_are_invalid() -> None:
    document = interpret(MOOD, raw(MOOD, mood=b"caf\xe9".decode(errors="surrogateescape")))
    assert document.verdict is Verdict.INVALID
    assert "UTF-8" in document.reason


odd = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        1.5,
        float("nan"),
        b"\xff",
        [],
        [{}],
        {},
        {"rkey": {}},
        {"uri": 5},
        ObjectId(ID),
        WHEN,
    ]
) | st.text(max_size=12)


@given(data=st.data(), media=st.sampled_from(ALL))
def test_no_document_can_make_the_interpretation_fail(data: st.DataObject, media: MediaType) -> None:
    """Whatever the fields hold, there is a verdict, and a reason with each that is not eligible."""
    names = st.sampled_from((*media.fields, *media.link_homes))
    changes = data.draw(st.dictionaries(names, odd, max_size=4))
    document = interpret(media, raw(media, **changes), account_did=GUEST_DID)
    assert document.reason or document.verdict is Verdict.ELIGIBLE
    if document.verdict is Verdict.ELIGIBLE:
        media.sources(document)
        media.companions(document)
        page_of(media, document.code)
