"""The five lexicons as a gate: what passes, what does not, and how the refusal reads.

Every rule of the lexicon language is compared with the protocol's own validator in `contract/test_lexicon_oracle.py`;
here are the limits of our types and the messages; loading is in `test_lexicon_files.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.atproto.lexicon import Lexicons, load_lexicons
from ac_pipeline.atproto.syntax import blob_cid, record_cid
from ac_pipeline.errors import InvalidRecord
from ac_pipeline_tests.sample_records import KEY, NSIDS, PNG, REF, example

REQUIRED = {
    "painting": {"slug", "code", "imageUrl", "when", "ref"},
    "mood": {"mood", "when", "ref"},
    "piece": {"slug", "when", "ref"},
    "kidlisp": {"source", "code", "when", "ref"},
    "tape": {"slug", "code", "when", "video"},
}


@pytest.fixture(scope="module")
def lexicons() -> Lexicons:
    return load_lexicons()


@pytest.mark.parametrize("nsid", NSIDS)
def test_a_full_record_of_each_type_passes(lexicons: Lexicons, nsid: str) -> None:
    lexicons.validate(nsid, example(nsid), KEY)
    assert lexicons.problems(nsid, example(nsid), KEY) == []
    assert lexicons.undeclared(nsid, example(nsid)) == []


def test_the_project_has_exactly_the_five_lexicons(lexicons: Lexicons) -> None:
    assert sorted(lexicons.documents) == NSIDS


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in REQUIRED for field in sorted(REQUIRED[name])])
def test_a_record_without_a_required_field_never_leaves_our_side(lexicons: Lexicons, name: str, field: str) -> None:
    """REC-1, SRC-7 (a mood without text), MEDIA-7 (a tape without video)."""
    with pytest.raises(InvalidRecord, match=rf"computer\.aesthetic\.{name}: \$\.{field}: required and missing"):
        lexicons.validate(f"computer.aesthetic.{name}", example(name, **{field: ...}))


@pytest.mark.parametrize("nsid", NSIDS)
def test_a_record_with_its_required_fields_alone_passes(lexicons: Lexicons, nsid: str) -> None:
    needed = REQUIRED[nsid.rpartition(".")[2]] | {"$type"}
    lexicons.validate(nsid, {field: value for field, value in example(nsid).items() if field in needed}, KEY)


@pytest.mark.parametrize(("nsid", "field"), [(nsid, field) for nsid in NSIDS for field in example(nsid)])
def test_a_field_of_another_type_is_refused_wherever_it_stands(lexicons: Lexicons, nsid: str, field: str) -> None:
    """REC-1. `null` is a value, not an absent field."""
    for wrong in (None, 5, 1.5, True, ["text"], {"text": "text"}):
        with pytest.raises(InvalidRecord, match=rf"\$\.{field.replace('$', '[$]')}"):
            lexicons.validate(nsid, example(nsid, **{field: wrong}))


LIMITS = [
    ("painting", "slug", 128),
    ("painting", "code", 10),
    ("painting", "imageUrl", 512),
    ("painting", "recordingUrl", 512),
    ("painting", "ref", 24),
    ("mood", "mood", 5_000),
    ("piece", "slug", 100),
    ("piece", "ref", 24),
    ("kidlisp", "source", 50_000),
    ("kidlisp", "code", 10),
    ("kidlisp", "ref", 24),
]


@pytest.mark.parametrize(("name", "field", "limit"), LIMITS)
def test_limits_count_bytes_of_utf8_not_characters(lexicons: Lexicons, name: str, field: str, limit: int) -> None:
    """SRC-8: on the limit and one byte over it, in ASCII and in characters of two and four bytes."""
    nsid = f"computer.aesthetic.{name}"
    start = "https://a/" if field.endswith("Url") else ""
    room = limit - len(start)
    fitting = [
        start + "x" * room,
        start + "é" * (room // 2) + "x" * (room % 2),
        start + "😀" * (room // 4) + "x" * (room % 4),
    ]
    for text in fitting:
        assert len(text.encode()) == limit
        lexicons.validate(nsid, example(name, **{field: text}))
        with pytest.raises(InvalidRecord, match=rf"\$\.{field}: {limit + 1:,} bytes of UTF-8, at most {limit:,}"):
            lexicons.validate(nsid, example(name, **{field: text + "x"}))


@pytest.mark.parametrize("field", ["slug", "code", "ref"])
def test_the_texts_of_a_tape_have_no_limit(lexicons: Lexicons, field: str) -> None:
    lexicons.validate("computer.aesthetic.tape", example("tape", **{field: "x" * 100_000}))


@pytest.mark.parametrize(
    ("name", "field", "mime_type", "limit"),
    [
        ("painting", "thumbnail", "image/png", 1_048_576),
        ("painting", "thumbnail", "image/jpeg", 1_048_576),
        ("tape", "thumbnail", "image/jpeg", 1_048_576),
        ("tape", "video", "video/mp4", 52_428_800),
    ],
)
def test_blobs_are_held_to_their_size_and_kind(
    lexicons: Lexicons, name: str, field: str, mime_type: str, limit: int
) -> None:
    """REC-1, MEDIA-14: the PDS checks neither for a blob that was used before."""
    nsid = f"computer.aesthetic.{name}"
    blob = {**PNG, "mimeType": mime_type, "size": limit}
    lexicons.validate(nsid, example(name, **{field: blob}))
    with pytest.raises(InvalidRecord, match=rf"\$\.{field}\.size: {limit + 1:,} bytes, at most {limit:,}"):
        lexicons.validate(nsid, example(name, **{field: {**blob, "size": limit + 1}}))
    for other in ("application/zip", "image/gif", mime_type.upper(), f"{mime_type}; q=1"):
        with pytest.raises(InvalidRecord, match=rf"\$\.{field}\.mimeType: '{other}' is not one of .*{mime_type}"):
            lexicons.validate(nsid, example(name, **{field: {**blob, "mimeType": other}}))


@pytest.mark.parametrize(
    "broken",
    [
        {"$type": "Blob"},
        {"$type": ...},
        {"ref": {"$link": "bafkrei"}},
        {"ref": blob_cid(b"png")},
        {"ref": ...},
        {"mimeType": "png"},
        {"mimeType": 1},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": "10"},
        {"alt": "more"},
    ],
)
def test_a_blob_of_another_shape_is_refused(lexicons: Lexicons, broken: dict[str, Any]) -> None:
    blob = {field: value for field, value in {**PNG, **broken}.items() if value is not ...}
    with pytest.raises(InvalidRecord, match=r"\$\.thumbnail"):
        lexicons.validate("computer.aesthetic.painting", example("painting", thumbnail=blob))


@pytest.mark.parametrize(
    "when", ["2025-10-14", "2025-10-14T08:09:10", "2025-10-14T08:09Z", "2025-10-14T08:09:10-00:00", "gestern", ""]
)
def test_a_when_that_is_no_datetime_is_refused(lexicons: Lexicons, when: str) -> None:
    """REC-1, REC-2."""
    with pytest.raises(InvalidRecord, match=r"\$\.when: '.*' is not a valid datetime"):
        lexicons.validate("computer.aesthetic.mood", example("mood", when=when))


@pytest.mark.parametrize("url", ["aesthetic.computer/abc", "https://", "https://a b", ""])
def test_an_address_that_is_no_uri_is_refused(lexicons: Lexicons, url: str) -> None:
    with pytest.raises(InvalidRecord, match=r"\$\.imageUrl: '.*' is not a valid uri"):
        lexicons.validate("computer.aesthetic.painting", example("painting", imageUrl=url))


@pytest.mark.parametrize("rkey", ["", "self", "3jzfcijpj2z2", "zzzzzzzzzzzzz"])
def test_a_key_that_is_no_tid_is_refused(lexicons: Lexicons, rkey: str) -> None:
    """WRITE-2."""
    with pytest.raises(InvalidRecord, match=r"record key '.*' is not of type tid"):
        lexicons.validate("computer.aesthetic.mood", example("mood"), rkey)


@pytest.mark.parametrize("type_name", ["computer.aesthetic.piece", "computer.aesthetic.mood#main", "", ...])
def test_a_record_must_say_that_it_is_of_its_collection(lexicons: Lexicons, type_name: Any) -> None:
    with pytest.raises(InvalidRecord, match=r"\$\.\$type: expected computer.aesthetic.mood"):
        lexicons.validate("computer.aesthetic.mood", example("mood", **{"$type": type_name}))


@pytest.mark.parametrize("record", [None, [], "text", {"$link": record_cid({})}])
def test_what_is_not_a_map_is_no_record(lexicons: Lexicons, record: Any) -> None:
    with pytest.raises(InvalidRecord, match=r"computer\.aesthetic\.mood"):
        lexicons.validate("computer.aesthetic.mood", record)


def test_a_collection_without_a_lexicon_is_refused(lexicons: Lexicons) -> None:
    with pytest.raises(InvalidRecord, match=r"computer\.aesthetic\.clock: there is no lexicon"):
        lexicons.validate("computer.aesthetic.clock", {"$type": "computer.aesthetic.clock"})


def test_undeclared_fields_are_legal_and_listed(lexicons: Lexicons) -> None:
    """REC-5: a warning, not an error."""
    record = example("tape", zipUrl="https://a/b.zip", mongoId=REF, notes={"any": ["thing", PNG]})
    lexicons.validate("computer.aesthetic.tape", record)
    assert lexicons.undeclared("computer.aesthetic.tape", record) == ["zipUrl", "mongoId", "notes"]


@pytest.mark.parametrize("value", [1.5, 2**53, {"$link": "x"}, {"$bytes": 1}, {"$type": "blob"}, {"$type": ""}, [b""]])
def test_undeclared_fields_keep_to_the_data_model(lexicons: Lexicons, value: object) -> None:
    """REC-1: the PDS would answer 400 or 500."""
    with pytest.raises(InvalidRecord, match=r"\$\.extra"):
        lexicons.validate("computer.aesthetic.mood", example("mood", extra=value))


def test_text_without_a_utf8_form_is_refused(lexicons: Lexicons) -> None:
    with pytest.raises(InvalidRecord, match=r"\$\.mood: .*surrogate"):
        lexicons.validate("computer.aesthetic.mood", example("mood", mood="\ud83d"))


def test_a_record_nested_without_end_is_refused(lexicons: Lexicons) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRecord, match="too deeply"):
        lexicons.validate("computer.aesthetic.mood", example("mood", extra=deep))


def test_every_problem_of_an_old_record_is_listed(lexicons: Lexicons) -> None:
    """VERIFY-3: the shape that bulk restores left behind."""
    record = example("mood", mood=..., ref=..., text="x", when="yesterday", mongoId=1.5)
    assert lexicons.problems("computer.aesthetic.mood", record, "self") == [
        "$.mood: required and missing",
        "$.ref: required and missing",
        "$.when: 'yesterday' is not a valid datetime",
        "$.mongoId: ATProto has no floats, found 1.5",
        "record key 'self' is not of type tid",
    ]


def test_a_refusal_does_not_repeat_a_whole_text(lexicons: Lexicons) -> None:
    with pytest.raises(InvalidRecord) as caught:
        lexicons.validate("computer.aesthetic.mood", example("mood", when="x" * 10_000))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("nsid", NSIDS)
def test_every_field_is_described_for_people_and_keyed_by_tid(lexicons: Lexicons, nsid: str) -> None:
    main = lexicons.documents[nsid]["defs"]["main"]
    assert main["key"] == "tid"
    assert main["description"]
    assert all(field["description"] for field in main["record"]["properties"].values())
    assert set(main["record"]["required"]) == REQUIRED[nsid.rpartition(".")[2]]


@pytest.mark.parametrize("name", ["painting", "kidlisp", "tape"])
def test_the_page_of_an_item_is_declared_and_optional(lexicons: Lexicons, name: str) -> None:
    """REC-5."""
    nsid = f"computer.aesthetic.{name}"
    lexicons.validate(nsid, example(name, acUrl=...))
    with pytest.raises(InvalidRecord, match="acUrl"):
        lexicons.validate(nsid, example(name, acUrl="no address"))
