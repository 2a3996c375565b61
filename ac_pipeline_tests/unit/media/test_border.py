"""The border: whatever BSON value stands in a field, there is a verdict, and nobody else is affected."""

from __future__ import annotations

import pytest
from bson import SON, Code, Int64
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.documents import interpret, read_link
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.registry import page_of
from ac_pipeline.media.tape import TAPE
from ac_pipeline_tests.bson_values import VALUES, any_value, nested
from ac_pipeline_tests.unit.media.samples import ALL, ID, raw
from ac_pipeline_tests.unit.sync.world import WHEN, World

each_type = pytest.mark.parametrize("media", ALL, ids=lambda media: media.name)
NEEDED = {"painting": "code", "mood": "mood", "piece": "slug", "kidlisp": "source", "tape": "slug"}
ODD = {name: value for name, value in VALUES.items() if value is not None and type(value) is not str}


@given(data=st.data(), media=st.sampled_from(ALL))
def test_any_value_in_any_field_has_a_verdict_that_can_be_stored_and_shown(
    data: st.DataObject, media: MediaType
) -> None:
    """BORDER-1: of documents, links and ids; the verdict, its reason and the id are texts that Mongo takes."""
    names = st.sampled_from((*media.fields, *media.link_homes, "_id"))
    changes = data.draw(st.dictionaries(names, any_value, max_size=5))
    parts = st.sampled_from(("rkey", "uri", "cid", "did"))
    homes = data.draw(
        st.dictionaries(st.sampled_from(media.link_homes), st.dictionaries(parts, any_value, max_size=4), max_size=2)
    )
    document = interpret(media, raw(media, **(changes | homes)), account_did="did:plc:guest")
    link = document.link
    for text in (document.id, document.code, document.owner, document.reason, *document.warnings,
                 *((link.rkey, link.uri, link.cid, link.did) if link else ())):  # fmt: skip
        assert text is None or (type(text) is str and text.encode() is not None)
    assert document.reason or document.verdict in {Verdict.ELIGIBLE, Verdict.WITHDRAWN}
    if document.verdict is Verdict.ELIGIBLE:
        media.sources(document)
        media.companions(document)
        page_of(media, document.code)


@each_type
@pytest.mark.parametrize("depth", [100, 3_000])
def test_nesting_deeper_than_a_server_stores_is_a_verdict_too(media: MediaType, depth: int) -> None:
    """BORDER-1."""
    for name in (*media.fields, *media.link_homes, "_id"):
        assert interpret(media, raw(media, **{name: nested(depth)})).fingerprint


@each_type
@pytest.mark.parametrize("value", ODD.values(), ids=list(ODD))
def test_a_value_of_another_type_where_a_text_is_needed_is_invalid_by_field_type_and_remedy(
    media: MediaType, value: object
) -> None:
    """BORDER-1: the driver's subclasses of text, numbers and bytes are no exception."""
    document = interpret(media, raw(media, **{NEEDED[media.name]: value}))
    assert document.verdict is Verdict.INVALID
    assert f"`{NEEDED[media.name]}` is of type" in document.reason
    assert "correct it in Mongo" in document.reason


@each_type
def test_a_code_is_no_text_in_any_field(media: MediaType) -> None:
    """BORDER-1: `code: Code("jsz")` used to end every command with a TypeError."""
    document = interpret(media, raw(media, code=Code("jsz")))
    said = document.reason + " ".join(document.warnings)
    if "code" in media.fields:
        assert "`code` is of type Code, not a text" in said
    assert document.code is None


def test_a_field_that_a_record_can_do_without_is_passed_over_with_a_warning() -> None:
    """BORDER-1: a piece needs no code."""
    document = interpret(PIECE, raw(PIECE, code=Code("jsz")))
    assert document.verdict is Verdict.ELIGIBLE
    assert document.warnings == ("`code` is of type Code, not a text, and passed over: correct it in Mongo",)


def test_times_and_sizes_of_a_baked_tape_are_no_oddities() -> None:
    """BORDER-1, MEDIA-21: no operator is told to correct what the platform writes."""
    baked = {"mp4StartedAt": WHEN, "mp4CompletedAt": WHEN, "mp4Size": Int64(12_345)}
    assert interpret(TAPE, raw(TAPE, **baked)).warnings == ()
    (warning,) = interpret(TAPE, raw(TAPE, **(baked | {"mp4Size": [1]}))).warnings
    assert warning == "`mp4Size` is of type list, not a time or a number, and passed over: correct it in Mongo"


def test_a_corrected_value_is_a_change() -> None:
    """BORDER-1, OPS-3: the text instead of the Code of the same letters is tried again."""
    wrong, right = (interpret(PAINTING, raw(PAINTING, code=code)) for code in (Code("jsz"), "jsz"))
    assert wrong.verdict is Verdict.INVALID
    assert right.verdict is Verdict.ELIGIBLE
    assert wrong.fingerprint != right.fingerprint


def test_long_integers_and_ordered_documents_are_what_they_extend() -> None:
    plain = interpret(MOOD, raw(MOOD, when=1_760_432_887_006, atproto={"rkey": "3k"}))
    driver = interpret(MOOD, raw(MOOD, when=Int64(1_760_432_887_006), atproto=SON([("rkey", "3k")])))
    assert driver == plain


def test_a_link_part_of_another_type_is_no_link() -> None:
    """BORDER-1: nothing is written under a key that is no text."""
    assert read_link({"atproto": {"rkey": Code("3kabc")}}, ("atproto",)) is None
    assert read_link({"atproto": [{"rkey": "3kabc"}]}, ("atproto",)) is None
    assert read_link({"atproto": "3kabc"}, ("atproto",)) is None


def test_an_id_that_only_looks_like_an_object_id_is_never_taken_for_it() -> None:
    """BORDER-1: the valid document beside it keeps its item."""
    valid, other = interpret(MOOD, raw(MOOD)), interpret(MOOD, raw(MOOD, _id=ID))
    assert (valid.verdict, other.verdict) == (Verdict.ELIGIBLE, Verdict.INVALID)
    assert valid.id != other.id
    assert "`_id` is of type str, not an ObjectId" in other.reason


@each_type
def test_the_neighbours_of_odd_documents_are_published_and_the_odd_ones_quarantined(media: MediaType) -> None:
    """BORDER-1: one user's whole sync, with a document for each BSON type in each field the type needs."""
    world = World()
    user = world.user()
    good = world.add(media.name, user)
    odd = [world.add(media.name, user, **{NEEDED[media.name]: value}) for value in ODD.values()]
    for value in VALUES.values():
        world.change(media.name, good, atproto={"rkey": value, "uri": value})
        report = world.sync(user)
        assert report.error is None
        assert report.tally(media.name).quarantined == len(odd)
        assert set(world.by_ref(user, media.name)) == {good}
        link = world.link(media.name, good)
        assert link is not None
        assert link.rkey in world.records(user, media.name)


def test_values_are_named_by_item_in_the_report() -> None:
    """BORDER-1."""
    world = World()
    user = world.user()
    item = world.add("painting", user, code=Code("jsz"))
    (failure,) = world.sync(user).failures
    assert failure.item == f"painting:{item}"
    assert "`code` is of type Code, not a text: correct it in Mongo" in failure.message
