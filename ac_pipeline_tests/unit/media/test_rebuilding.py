"""From a record back to its document: the rebuilt document gives the very same record."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import assume, given
from hypothesis import strategies as st

from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Derived
from ac_pipeline.media.base import Verdict
from ac_pipeline.media.documents import documents, interpret, lost_fields, shared_fields, source_hash
from ac_pipeline.media.registry import MEDIA_TYPES, media_type

OWNER = "auth0|" + "5" * 24
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
NAMES = st.from_regex(r"[0-9A-Za-z]{3,12}", fullmatch=True)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)).map(  # noqa: DTZ001 - Mongo's dates are naive
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
CONTENT = {
    "mood": st.fixed_dictionaries({"mood": TEXTS}),
    "piece": st.fixed_dictionaries({"slug": NAMES}, optional={"code": NAMES}),
    "kidlisp": st.fixed_dictionaries({"source": TEXTS, "code": NAMES}),
    "painting": st.fixed_dictionaries({"slug": NAMES, "code": NAMES}, optional={"bucket": st.just("some-bucket")}),
    "tape": st.fixed_dictionaries({"slug": NAMES, "code": NAMES}, optional={"kind": st.just("mp4")}),
}


@pytest.mark.parametrize("name", CONTENT)
@given(data=st.data(), owner=st.sampled_from([OWNER, None]), when=TIMES, qualified=st.booleans())
def test_a_rebuilt_document_gives_the_same_record(
    name: str, data: st.DataObject, owner: str | None, when: datetime, qualified: bool
) -> None:
    """WRITE-1: record -> document -> record, byte for byte, for every type that can be rebuilt."""
    media = media_type(name)
    assume(owner is not None or media.anonymous)
    raw: dict[str, Any] = {"_id": ObjectId(), "when": when, **data.draw(CONTENT[name])}
    if owner is not None:
        raw["user"] = owner
        if qualified and "slug" in raw:
            raw["slug"] = f"{owner}/chat/{raw['slug']}"
    document = interpret(media, raw)
    assume(document.verdict is Verdict.ELIGIBLE)
    record = media.build_record(document, Derived())
    for fields in documents(media, record, owner):
        again = interpret(media, {"_id": raw["_id"], **({"user": owner} if owner else {}), **fields})
        assert again.verdict is Verdict.ELIGIBLE
        assert record_cid(media.build_record(again, Derived())) == record_cid(record)
        assert again.when == document.when


def test_a_dated_slug_gives_its_code_and_its_owner_back() -> None:
    (piece,) = documents(media_type("piece"), {"slug": "2026/02/03/abcd"}, OWNER)
    assert piece == {"slug": f"{OWNER}/2026/02/03/abcd", "code": "abcd"}
    (guests,) = documents(media_type("piece"), {"slug": "2026/02/03/abcd"}, None)
    assert guests == {"slug": "2026/02/03/abcd", "code": "abcd"}
    (bare,) = documents(media_type("piece"), {"slug": "wand"}, OWNER)
    assert bare == {"slug": "wand"}


@pytest.mark.parametrize(
    ("source", "trimmed"),
    [
        ("(a)", "(a)"),
        (" \t\n(a)\r\u00a0", "(a)"),
        ("\ufeff(a)\u2029", "(a)"),
        ("\x1c(a)\x85", "\x1c(a)\x85"),
    ],
)
def test_the_hash_of_a_program_is_that_of_javascripts_trim(source: str, trimmed: str) -> None:
    """Facts, section 3.4: Python strips other characters."""
    assert source_hash(source) == sha256(trimmed.encode()).hexdigest()
    fields = shared_fields(media_type("kidlisp"), {"source": source}, OWNER)
    assert fields == {"source": source, "hash": source_hash(source)}


def test_times_become_dates_and_unreadable_ones_are_left_to_the_object_id() -> None:
    media = media_type("mood")
    assert shared_fields(media, {"when": "2025-10-14T09:08:07.006Z"}, OWNER) == {
        "when": datetime(2025, 10, 14, 9, 8, 7, 6_000, UTC)
    }
    assert shared_fields(media, {"when": "yesterday"}, OWNER) == {}


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_record_without_its_content_cannot_give_a_document(media: Any) -> None:
    with pytest.raises(InvalidRecord, match="its record holds no"):
        documents(media, {"when": "2025-10-14T09:08:07.006Z", "ref": "5" * 24}, OWNER)


def test_what_a_record_never_held_is_named() -> None:
    piece, kidlisp = media_type("piece"), media_type("kidlisp")
    assert "source" in lost_fields(piece, {"slug": "wand"})
    assert "code" not in lost_fields(piece, {"slug": "wand", "code": "abc"})
    assert {"hits", "kept"} <= set(lost_fields(kidlisp, {}))


def test_each_type_is_removed_by_the_flag_of_the_platform() -> None:
    flags = {media.name: media.removed_by for media in MEDIA_TYPES}
    assert flags == dict.fromkeys(("painting", "piece", "kidlisp", "tape"), "nuked") | {"mood": "deleted"}
