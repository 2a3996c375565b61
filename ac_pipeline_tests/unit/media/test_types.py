"""The five types: their records, and where their source media can be."""

from __future__ import annotations

from typing import Any

import pytest
from bson.code import Code

from ac_pipeline.errors import Misconfigured
from ac_pipeline.items import BlobRef, Derived, Record, Rendition
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.registry import MEDIA_TYPES, media_type, page_of
from ac_pipeline.media.tape import TAPE
from ac_pipeline_tests.unit.media.samples import ID, SUB, WHEN_TEXT, raw

OVEN = "https://at-blobs-aesthetic-computer.sfo3.digitaloceanspaces.com/tapes/Gif.mp4"


def made(cid: str, mime_type: str) -> Rendition:
    return Rendition(blob=BlobRef(cid, mime_type, 5), source="0" * 64, spec="test-1")


def record(media: MediaType, derived: Derived | None = None, **changes: Any) -> Record:
    return media.build_record(interpret(media, raw(media, **changes)), derived or Derived())


def keys(media: MediaType, **changes: Any) -> list[str]:
    return [f"{found.bucket}:{found.key}" for found in media.sources(interpret(media, raw(media, **changes)))]


def recordings(**changes: Any) -> list[str]:
    found = PAINTING.companions(interpret(PAINTING, raw(PAINTING, **changes))).get("recording", ())
    return [f"{place.bucket}:{place.key}" for place in found]


def verdict(media: MediaType, **changes: Any) -> tuple[Verdict, str]:
    document = interpret(media, raw(media, **changes))
    return document.verdict, document.reason


def test_the_types_have_their_order_and_their_names() -> None:
    assert [media.name for media in MEDIA_TYPES] == ["painting", "mood", "piece", "kidlisp", "tape"]
    assert media_type("tape") is TAPE
    with pytest.raises(Misconfigured, match="painting, mood, piece, kidlisp, tape"):
        media_type("tapes")


def test_a_painting_with_everything() -> None:
    """REC-4: addresses in the unified form."""
    derived = Derived(renditions={"thumbnail": made("bafkthumb", "image/png")}, found=frozenset({"recording"}))
    assert record(PAINTING, derived) == {
        "$type": "computer.aesthetic.painting",
        "slug": "2023.8.24.16.21.9.123",
        "code": "bef",
        "imageUrl": "https://aesthetic.computer/media/paintings/bef",
        "acUrl": "https://aesthetic.computer/#bef",
        "recordingUrl": "https://aesthetic.computer/media/paintings/bef.zip",
        "when": WHEN_TEXT,
        "ref": ID,
        "thumbnail": {"$type": "blob", "ref": {"$link": "bafkthumb"}, "mimeType": "image/png", "size": 5},
    }


def test_a_recording_that_is_not_confirmed_is_not_named() -> None:
    assert "recordingUrl" not in record(PAINTING)


def test_a_tape_with_everything() -> None:
    derived = Derived(renditions={"thumbnail": made("bafkp", "image/jpeg"), "video": made("bafkv", "video/mp4")})
    assert record(TAPE, derived) == {
        "$type": "computer.aesthetic.tape",
        "slug": "2025.10.14.09.08.07.006",
        "code": "Gif",
        "acUrl": "https://aesthetic.computer/!Gif",
        "when": WHEN_TEXT,
        "ref": ID,
        "video": {"$type": "blob", "ref": {"$link": "bafkv"}, "mimeType": "video/mp4", "size": 5},
        "thumbnail": {"$type": "blob", "ref": {"$link": "bafkp"}, "mimeType": "image/jpeg", "size": 5},
    }


def test_a_kidlisp() -> None:
    assert record(KIDLISP) == {
        "$type": "computer.aesthetic.kidlisp",
        "source": "(wipe blue)",
        "code": "cow",
        "acUrl": "https://aesthetic.computer/$cow",
        "when": WHEN_TEXT,
        "ref": ID,
    }


@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({}, "starfield"),
        ({"code": "abc", "bucket": "user-aesthetic-computer", "slug": "2023.8.24.16.21.9.123"}, None),
        ({"code": "abc", "slug": f"{SUB}/2026/02/03/abc", "source": "x", "hits": 3}, "2026/02/03/abc"),
        ({"user": ..., "code": "abc", "slug": "2026/02/03/abc", "anonymous": True}, "2026/02/03/abc"),
        ({"user": ..., "code": "abc", "slug": "abc", "oldSlug": "x", "extension": ".mjs", "type": "piece"}, "abc"),
        ({"code": 5}, "starfield"),
    ],
)
def test_pieces_of_every_shape_yield_slug_time_and_ref(changes: dict[str, Any], slug: str | None) -> None:
    """SRC-11, REC-6: 2023 import, upload, source publishing by users and guests, migrated; a code is not needed."""
    assert record(PIECE, **changes) == {
        "$type": "computer.aesthetic.piece",
        "slug": slug or changes["slug"],
        "when": WHEN_TEXT,
        "ref": ID,
    }


@pytest.mark.parametrize("text", ["finally awake", "  two\\nlines  ", "tab\tand\nbreak", "Grüße 🎈", "x" * 6_000])
def test_a_mood_is_published_as_it_is_stored(text: str) -> None:
    """SRC-7; facts, section 13: byte for byte. Its length is the lexicon's to judge (SRC-8)."""
    assert record(MOOD, mood=text) == {"$type": "computer.aesthetic.mood", "mood": text, "when": WHEN_TEXT, "ref": ID}


@pytest.mark.parametrize("mood", [..., None, "", "  "])
def test_text_is_a_fallback_only(mood: object) -> None:
    """SRC-7."""
    assert record(MOOD, mood=mood, text="other")["mood"] == "other"
    assert record(MOOD, mood="first", text="other")["mood"] == "first"


@pytest.mark.parametrize("text", [..., None, "", " \n\t"])
def test_a_mood_without_text_is_invalid(text: object) -> None:
    """SRC-7: a mood record without text is never written."""
    assert verdict(MOOD, mood=text)[0] is Verdict.INVALID


@pytest.mark.parametrize("media", [PAINTING, KIDLISP, TAPE], ids=lambda media: media.name)
@pytest.mark.parametrize("code", [..., None, "", "ab", "a" * 13, "a-b", "a b", "ab\n", "äbc", "undefined", "None", 5])
def test_an_item_that_needs_a_code_is_invalid_without_a_good_one(media: MediaType, code: object) -> None:
    """SRC-2: no address ever ends in `undefined` or `None`."""
    found, reason = verdict(media, code=code)
    assert found is Verdict.INVALID
    assert "code" in reason


@pytest.mark.parametrize("code", ["abc", "ABC", "a2345678901b", "nan", "null"])
def test_three_to_twelve_letters_and_digits_are_a_code(code: str) -> None:
    assert verdict(KIDLISP, code=code)[0] is Verdict.ELIGIBLE


@pytest.mark.parametrize("source", [..., None, ""])
def test_a_kidlisp_without_source_is_invalid(source: object) -> None:
    assert verdict(KIDLISP, source=source)[0] is Verdict.INVALID


def test_pages() -> None:
    pages = {media.name: page_of(media, interpret(media, raw(media)).code) for media in MEDIA_TYPES}
    assert pages == {
        "painting": "https://aesthetic.computer/#bef",
        "mood": None,
        "piece": None,
        "kidlisp": "https://aesthetic.computer/$cow",
        "tape": "https://aesthetic.computer/!Gif",
    }
    assert page_of(PIECE, "abc") == "https://aesthetic.computer/abc"
    assert page_of(PIECE, "undefined") is None


U, A, B = "user-aesthetic-computer", "art-aesthetic-computer", "at-blobs-aesthetic-computer"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"slug": "x"}, [f"{U}:{SUB}/painting/x.png", f"{U}:{SUB}/x.png"]),
        ({"slug": "x", "bucket": ...}, [f"{U}:{SUB}/painting/x.png", f"{U}:{SUB}/x.png"]),
        (
            {"slug": "x", "bucket": "old-aesthetic"},
            [f"old-aesthetic:{SUB}/painting/x.png", f"old-aesthetic:{SUB}/x.png"],
        ),
        ({"slug": f"{SUB}/chat/x"}, [f"{U}:{SUB}/chat/x.png"]),
        ({"slug": "Ab3dEf9h", "user": ..., "bucket": ...}, [f"{A}:Ab3dEf9h.png"]),
        ({"slug": "Ab3dEf9h:Zy8xWv7u", "user": ..., "bucket": ""}, [f"{A}:Ab3dEf9h.png"]),
    ],
)
def test_where_a_painting_can_be(changes: dict[str, Any], expected: list[str]) -> None:
    """MEDIA-3; facts, section 6: candidate keys in order, from the bucket in Mongo else the owner's kind."""
    assert keys(PAINTING, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"slug": "x"}, [f"{U}:{SUB}/painting/x.zip", f"{U}:{SUB}/x.zip"]),
        ({"slug": f"{SUB}/painting/x"}, [f"{U}:{SUB}/painting/x.zip"]),
        ({"slug": "Ab3dEf9h", "user": ..., "bucket": A}, []),
        ({"slug": "Ab3dEf9h:Zy8xWv7u", "user": ..., "bucket": A}, [f"{A}:Zy8xWv7u.zip"]),
    ],
)
def test_where_a_recording_can_be(changes: dict[str, Any], expected: list[str]) -> None:
    assert recordings(**changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"slug": "x"}, [f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"]),
        (
            {"slug": "star-1690000000000"},
            [
                f"{U}:{SUB}/star-1690000000000.zip",
                f"{U}:{SUB}/video/star-1690000000000.zip",
                f"{U}:{SUB}/star/1690000000000.zip",
            ],
        ),
        ({"slug": f"{SUB}/video/x"}, [f"{U}:{SUB}/video/x.zip"]),
        ({"slug": "Ab3dEf9h", "user": ...}, [f"{A}:Ab3dEf9h.zip"]),
        ({"slug": "x", "kind": "zip", "mp4Status": "failed"}, [f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"]),
        ({"slug": "x", "kind": "mp4"}, [f"{U}:{SUB}/x.mp4", f"{U}:{SUB}/video/x.mp4"]),
        (
            {"slug": "x", "kind": "mp4", "mp4Url": f"https://user.aesthetic.computer/{SUB.replace('|', '%7C')}/x.mp4"},
            [f"{U}:{SUB}/x.mp4", f"{U}:{SUB}/video/x.mp4"],
        ),
        ({"slug": "x", "kind": "mp4", "user": ...}, [f"{A}:x.mp4"]),
        (
            {"slug": "x", "mp4Status": "complete", "mp4Url": OVEN},
            [f"{B}:tapes/Gif.mp4", f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"],
        ),
        (
            {"slug": "x", "mp4Status": "complete", "mp4": OVEN},
            [f"{B}:tapes/Gif.mp4", f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"],
        ),
        ({"slug": "x", "mp4Status": "pending", "mp4Url": OVEN}, [f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"]),
        ({"slug": "x", "mp4Status": "complete"}, [f"{U}:{SUB}/x.zip", f"{U}:{SUB}/video/x.zip"]),
    ],
)
def test_where_a_tape_can_be(changes: dict[str, Any], expected: list[str]) -> None:
    """DEL-8, MEDIA-13: a finished MP4 first, then the ZIP; with no address in Mongo storage is asked all the same."""
    assert keys(TAPE, **changes) == expected


@pytest.mark.parametrize(
    "address", [OVEN, OVEN.replace("sfo3.", "sfo3.cdn."), OVEN + "?v=2", OVEN.replace("https", "http")]
)
def test_addresses_in_the_platforms_storage_become_objects(address: str) -> None:
    assert keys(TAPE, mp4Status="complete", mp4Url=address)[0] == f"{B}:tapes/Gif.mp4"


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/tapes/Gif.mp4",
        "http://169.254.169.254/latest/meta-data",
        "https://user.aesthetic.computer.example.com/x.mp4",
        "https://evil.sfo3.digitaloceanspaces.com/x.mp4",
        "https://user.aesthetic.computer@example.com/x.mp4",
        "https://x@user.aesthetic.computer/x.mp4",
        "https://user.aesthetic.computer:8443/x.mp4",
        "https://user.aesthetic.computer:port/x.mp4",
        "https://user.aesthetic.computer/../x.mp4",
        "https://user.aesthetic.computer/a/%2E%2E/x.mp4",
        "https://user.aesthetic.computer/a%2F..%2Fx.mp4",
        "https://user.aesthetic.computer/",
        "file:///etc/passwd",
        "https://[bad/x.mp4",
        "tapes/Gif.mp4",
    ],
)
def test_any_other_address_is_never_fetched_and_the_item_says_so(address: str) -> None:
    document = interpret(TAPE, raw(TAPE, slug="x", mp4Status="complete", mp4Url=address))
    assert [found.format for found in TAPE.sources(document)] == ["zip", "zip"]
    assert document.verdict is Verdict.ELIGIBLE
    assert ["mp4Url" in warning for warning in document.warnings] == [True]


@pytest.mark.parametrize("name", ["auth0%7Cffffffffffffffffffffffff", "auth0|f", "google-oauth2%7C1"])
def test_the_work_of_another_user_is_never_fetched_and_the_item_says_so(name: str) -> None:
    """MEDIA-12: only objects of its own user, where the address names one."""
    address = f"https://user.aesthetic.computer/{name}/x.mp4"
    document = interpret(TAPE, raw(TAPE, slug="x", mp4Status="complete", mp4Url=address))
    assert [found.format for found in TAPE.sources(document)] == ["zip", "zip"]
    assert document.warnings == ("`mp4Url` names an object of another user, so it is not fetched",)


@pytest.mark.parametrize("media", [PAINTING, TAPE], ids=lambda media: media.name)
@pytest.mark.parametrize("bucket", ["evil.example", "a/b", "UPPER", "ab", "-ab", "x" * 64, "a@b", 5])
def test_a_bucket_that_is_no_bucket_is_refused(media: MediaType, bucket: object) -> None:
    found, reason = verdict(media, bucket=bucket)
    assert found is Verdict.INVALID
    assert "`bucket`" in reason


@pytest.mark.parametrize("media", [PAINTING, TAPE], ids=lambda media: media.name)
@pytest.mark.parametrize("user", ["/", "a//b", ".."])
def test_an_owner_that_makes_no_object_key_makes_an_invalid_document(media: MediaType, user: str) -> None:
    """SRC-2, MEDIA-12: one odd document ends in quarantine; it does not stop its account."""
    found, reason = verdict(media, user=user)
    assert found is Verdict.INVALID
    assert "object key" in reason


def test_code_of_bson_names_no_work() -> None:
    """It is text to Python, and cannot be hashed: a whole user used to fail with it."""
    assert KIDLISP.identity({"code": "abc", "source": "(wipe blue)"}) is not None
    for name in KIDLISP.identity_fields:
        assert KIDLISP.identity({"code": "abc", "source": "(wipe blue)", name: Code("(wipe blue)")}) is None
