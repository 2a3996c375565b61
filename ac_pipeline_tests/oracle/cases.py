"""What the two validators are asked: records of the five types, and of a lexicon that uses every rule of the language.

Also the cases in which they differ on purpose. Data only; the comparison is `contract/test_lexicon_oracle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ac_pipeline.atproto.syntax import blob_cid, record_cid
from ac_pipeline_tests.sample_records import KEY, MP4, NSIDS, PNG, example

EVERYTHING = "com.example.everything"
OTHER = "com.example.other"
FORMATS = [
    "at-identifier", "at-uri", "cid", "datetime", "did", "handle", "language", "nsid", "record-key", "tid", "uri",
]  # fmt: skip
LINK = {"$link": record_cid({})}


def ref(target: str) -> dict[str, str]:
    return {"type": "ref", "ref": target}


SYNTHETIC: dict[str, dict[str, Any]] = {
    EVERYTHING: {
        "lexicon": 1,
        "id": EVERYTHING,
        "revision": 1,
        "description": "One field of every kind",
        "defs": {
            "main": {
                "type": "record",
                "key": "any",
                "record": {
                    "type": "object",
                    "required": ["text"],
                    "nullable": ["maybe"],
                    "properties": {
                        "text": {"type": "string"},
                        "bytesOfText": {"type": "string", "minLength": 2, "maxLength": 6},
                        "graphemes": {"type": "string", "minGraphemes": 2, "maxGraphemes": 3},
                        "enum": {"type": "string", "enum": ["a", "b"]},
                        "const": {"type": "string", "const": "c"},
                        "known": {"type": "string", "knownValues": ["a"], "maxLength": 5},
                        "integer": {"type": "integer"},
                        "range": {"type": "integer", "minimum": -2, "maximum": 3},
                        "integerEnum": {"type": "integer", "enum": [1, 2]},
                        "integerConst": {"type": "integer", "const": 7},
                        "boolean": {"type": "boolean"},
                        "booleanConst": {"type": "boolean", "const": True},
                        "list": {"type": "array", "items": {"type": "integer"}, "minLength": 1, "maxLength": 3},
                        "points": {"type": "array", "items": ref("#point")},
                        "blob": {"type": "blob"},
                        "image": {"type": "blob", "accept": ["image/*"], "maxSize": 100},
                        "anyBlob": {"type": "blob", "accept": ["*/*"]},
                        "link": {"type": "cid-link"},
                        "bytes": {"type": "bytes", "minLength": 1, "maxLength": 3},
                        "unknown": {"type": "unknown"},
                        "maybe": {"type": "string"},
                        "point": ref("#point"),
                        "code": ref("#code"),
                        "token": ref("#token"),
                        "elsewhere": ref(f"{OTHER}#main"),
                        "open": {"type": "union", "refs": ["#point", "#circle"]},
                        "closed": {"type": "union", "refs": ["#point", f"{OTHER}#part"], "closed": True},
                        **{name: {"type": "string", "format": name} for name in FORMATS},
                    },
                },
            },
            "point": {
                "type": "object",
                "required": ["x"],
                "properties": {"x": {"type": "integer"}, "next": ref("#point")},
            },
            "circle": {"type": "object", "properties": {"radius": {"type": "integer"}}},
            "code": {"type": "string", "maxLength": 3},
            "token": {"type": "token"},
        },
    },
    OTHER: {
        "lexicon": 1,
        "id": OTHER,
        "defs": {
            "main": {
                "type": "record",
                "key": "literal:self",
                "record": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
            },
            "part": {"type": "object", "required": ["part"], "properties": {"part": {"type": "string"}}},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """One record to judge."""

    name: str
    nsid: str
    record: Any
    rkey: str | None = None

    def question(self) -> dict[str, Any]:
        return {"nsid": self.nsid, "record": self.record, **({} if self.rkey is None else {"rkey": self.rkey})}


def own(type_name: str, label: str, rkey: str | None = None, /, **changes: Any) -> Case:
    return Case(f"{type_name}: {label}", f"computer.aesthetic.{type_name}", example(type_name, **changes), rkey)


def png(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**PNG, **changes}.items() if value is not ...}


OF_THE_FIVE_TYPES = [
    *(Case(f"{nsid}: full", nsid, example(nsid), KEY) for nsid in NSIDS),
    *(
        own(nsid.rpartition(".")[2], f"without {name}", **{name: ...})
        for nsid in NSIDS
        for name in example(nsid)
    ),
    own("painting", "slug of 128 bytes", slug="x" * 128),
    own("painting", "slug of 129 bytes", slug="x" * 129),
    own("painting", "code of 11 bytes", code="x" * 11),
    own("painting", "code of 5 characters, 10 bytes", code="é" * 5),
    own("painting", "code of 6 characters, 12 bytes", code="é" * 6),
    own("painting", "imageUrl of 512 bytes", imageUrl="https://a/" + "x" * 502),
    own("painting", "imageUrl of 513 bytes", imageUrl="https://a/" + "x" * 503),
    own("painting", "imageUrl without scheme", imageUrl="aesthetic.computer/abc"),
    own("painting", "recordingUrl with a space", recordingUrl="https://a/b c"),
    own("painting", "acUrl empty", acUrl=""),
    own("painting", "ref of 25 bytes", ref="x" * 25),
    own("painting", "thumbnail as JPEG", thumbnail=png(mimeType="image/jpeg")),
    own("painting", "thumbnail as GIF", thumbnail=png(mimeType="image/gif")),
    own("painting", "thumbnail on the limit", thumbnail=png(size=1_048_576)),
    own("painting", "thumbnail over the limit", thumbnail=png(size=1_048_577)),
    own("painting", "thumbnail null", thumbnail=None),
    own("painting", "thumbnail with another field", thumbnail=png(alt="more")),
    own("painting", "thumbnail without size", thumbnail=png(size=...)),
    own("painting", "thumbnail of negative size", thumbnail=png(size=-1)),
    own("painting", "thumbnail of dag-cbor", thumbnail=png(ref=LINK)),
    own("painting", "thumbnail with its CID as text", thumbnail=png(ref=blob_cid(b"png"))),
    own("painting", "thumbnail in the old form", thumbnail={"cid": blob_cid(b"png"), "mimeType": "image/png"}),
    own("painting", "thumbnail without $type", thumbnail=png(**{"$type": ...})),
    own("mood", "5,000 bytes", mood="x" * 5_000),
    own("mood", "5,001 bytes", mood="x" * 5_001),
    own("mood", "1,250 emoji, 5,000 bytes", mood="😀" * 1_250),
    own("mood", "1,251 emoji, 5,004 bytes", mood="😀" * 1_251),
    own("mood", "empty", mood=""),
    own("mood", "a number", mood=5),
    own("mood", "with undeclared text and mongoId", text="x", mongoId="y"),
    own("mood", "undeclared null", extra=None),
    own("mood", "undeclared float", extra=1.5),
    own("mood", "undeclared broken blob", extra={"$type": "blob"}),
    own("mood", "undeclared $type that is no text", extra={"$type": 5}),
    own("mood", "key is no TID", "self"),
    own("mood", "key with a first letter too high", "zzzzzzzzzzzzz"),
    own("mood", "$type of another", **{"$type": "computer.aesthetic.piece"}),
    own("mood", "$type with #main", **{"$type": "computer.aesthetic.mood#main"}),
    own("mood", "half of a surrogate pair", mood="\ud83d"),
    own("piece", "slug of 100 bytes", slug="x" * 100),
    own("piece", "slug of 101 bytes", slug="x" * 101),
    own("kidlisp", "source of 50,000 bytes", source="é" * 25_000),
    own("kidlisp", "source of 50,001 bytes", source="é" * 25_000 + "x"),
    own("tape", "slug without limit", slug="x" * 10_000),
    own("tape", "video on the limit", video={**MP4, "size": 52_428_800}),
    own("tape", "video over the limit", video={**MP4, "size": 52_428_801}),
    own("tape", "video as a picture", video=PNG),
    own("tape", "video null", video=None),
    *(
        own("mood", f"when {when}", when=when)
        for when in (
            "2025-10-14T08:09:10Z", "2025-10-14T08:09:10.1234567Z", "2025-10-14T08:09:10+02:00",
            "2025-10-14T08:09:10-00:00", "2025-10-14T08:09Z", "2025-10-14T08:09:10", "2025-10-14", "",
            "2025-13-14T08:09:10Z", "2025-10-32T08:09:10Z", "2025-02-30T08:09:10Z", "2025-10-14T24:00:00Z",
            "2025-10-14T08:09:60Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59-01:00", "2025-10-14T08:09:10+0200", "2025-10-14T08:09:10." + "1" * 43 + "Z",
            "2025-10-14T08:09:10." + "1" * 44 + "Z", "2025-10-14T08:09:10,5Z", " 2025-10-14T08:09:10Z",
            "2025-10-14t08:09:10z",
        )
    ),
]  # fmt: skip

LONG = "a" * 63
POINT, CIRCLE, PART = f"{EVERYTHING}#point", f"{EVERYTHING}#circle", f"{OTHER}#part"
CID_V0 = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"
CID_BASE58 = "zdpuAyvkgEDQm9TenwGkd5eNaosSxjgEYd8QatfPetgB1CdEZ"
FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{GIRL}"
ENGLAND = "\N{WAVING BLACK FLAG}" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng\x7f")
CONJUNCT = "\u0915\u094d\u0937\u093f"
"""Devanagari: two consonants that are one grapheme since Unicode 15.1."""
FLAGS = "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in "DEFRITES")

# fmt: off
RULES: dict[str, list[Any]] = {
    "text": ["", None],
    "bytesOfText": ["x", "xx", "x" * 6, "x" * 7, "ééé", "éééx", "é", "😀"],
    "graphemes": [
        "x", "xx", "xxx", "xxxx", FAMILY, FAMILY * 2, FAMILY * 4,
        "e\u0301" * 3, "e\u0301" * 4, "\r\n", FLAGS,
        ENGLAND * 3, ENGLAND * 4, "\N{THUMBS UP SIGN}\U0001f3fd" * 4,
        CONJUNCT * 3, CONJUNCT * 4, "\u1100\u1161\u11a8" * 3,
    ],
    "enum": ["a", "b", "c", "", None],
    "const": ["c", "d"],
    "known": ["a", "other", "another"],
    "integer": [0, 2**53 - 1, 2**53, -(2**53) + 1, -(2**53), True, "1", 1.5, 1.0, None],
    "range": [-3, -2, 3, 4],
    "integerEnum": [1, 3, True],
    "integerConst": [7, 8],
    "boolean": [True, False, 0, "true", None],
    "booleanConst": [True, False],
    "list": [[], [1], [1, 2, 3], [1, 2, 3, 4], ["1"], [None], {"0": 1}, None],
    "points": [[], [{"x": 1}], [{"x": 1}, {}], [{"x": "1"}]],
    "blob": [
        PNG, MP4, png(size=2**53 - 1), png(size=0), png(mimeType="png"), "x", png(ref=...), png(ref=None), png(ref={}),
        png(size="1"), png(size=1.5),
    ],
    "image": [
        png(size=100), png(size=101), {**MP4, "size": 1}, png(size=1, mimeType="image/svg+xml"),
        png(size=1, mimeType="imagery/png"), png(size=1, mimeType="image/"),
    ],
    "anyBlob": [MP4],
    "link": [
        LINK, {"$link": blob_cid(b"")}, {"$link": "bafy"}, {"$link": ""}, record_cid({}), {**LINK, "x": 1},
        {"$link": CID_V0}, {"$link": CID_BASE58},
    ],
    "bytes": [
        *({"$bytes": text} for text in ("AQ", "AQ==", "AQ=", "AQID", "AQIDBA", "", "_w", "/w", "A Q", "A", 5)),
        {"$bytes": "AQ", "x": 1}, "AQ", None,
    ],
    "unknown": [
        {}, {"a": [1, {"b": None}]}, {"$type": "any.thing"}, {"$type": ""}, {"$type": 5}, {"a": 1.5}, {"a": LINK}, LINK,
        {"$bytes": "AQ"}, PNG, [], "x", None,
    ],
    "maybe": [None, "x", 5],
    "point": [
        {"x": 1}, {}, {"x": 1, "y": "more"}, {"x": 1, "next": {"x": 2, "next": {"x": 3}}}, {"x": 1, "next": {}},
        {"$type": POINT, "x": 1}, {"$type": CIRCLE, "x": 1}, {"$type": "", "x": 1}, LINK, [], None,
    ],
    "code": ["abc", "abcd", 5],
    "token": [f"{EVERYTHING}#token", "#token", "token", 5],
    "elsewhere": [{"$type": OTHER, "n": 1}, {"n": 1}, {"$type": OTHER}, {"$type": f"{OTHER}#main", "n": 1}],
    "open": [
        {"$type": POINT, "x": 1}, {"$type": POINT}, {"$type": CIRCLE}, {"$type": CIRCLE, "radius": "1"},
        {"$type": "any.thing", "a": 1}, {"$type": "any.thing", "a": 1.5}, {"$type": "#point", "x": 1}, {"x": 1},
        {"$type": 5}, {}, "x", LINK, None,
    ],
    "closed": [
        {"$type": POINT, "x": 1}, {"$type": PART, "part": "x"}, {"$type": PART}, {"$type": CIRCLE},
        {"$type": "any.thing"}, {"x": 1},
    ],
    "at-identifier": ["did:plc:abc", "alice.test", "did:", "alice", "did:plc", ""],
    "at-uri": [
        "at://did:plc:abc", "at://alice.test/com.example.thing/self", "at://did:plc:abc/com.example.thing", "at://",
        "at://did:plc:abc/", "at://did:plc:abc/thing", "at://did:plc:abc/com.example.thing/a/b", "http://alice.test",
        "at://did:plc:abc/com.example.thing/a b", "at://did:plc:abc/com.example.thing/..", "AT://did:plc:abc",
        "at://did:plc:abc/com.example.thing/self?q=1", "at://did:plc:abc/com.example.thing/self#/text", "at://alice",
        "at://did:plc:abc/com.example.thing/self#text", "at://did:plc:abc/com.example.thing/self\n",
    ],
    "cid": [record_cid({}), blob_cid(b""), record_cid({}).upper(), "bafy", "", CID_V0, CID_BASE58],
    "did": [
        "did:plc:abc", "did:web:a.b%3A80", "did:plc:", "did:PLC:abc", "did:plc:abc:", "did:plc:a b", "DID:plc:abc",
        "did:plc:abc%", "did:x9:abc", "did:plc:" + "a" * 2040, "did:plc:" + "a" * 2041, "did:plc:abc\n",
    ],
    "handle": [
        "alice.test", "a.b.c.test", "alice", ".test", "alice.", "al_ice.test", "-a.test", "a-.test", "alice.9st",
        "9.st", "XN--a.test", f"{LONG}.test", f"{LONG}a.test", ".".join(["a" * 49] * 5) + ".com", "älice.test",
        "alice.test\n",         ".".join(["a" * 49] * 5) + ".comm",
    ],
    "language": [
        "de", "de-CH", "zh-Hant-TW", "sr-Latn", "DE", "d", "deutsch", "jaja", "i-klingon", "i-default", "x-private",
        "de-", "de--CH", "sl-rozaj-biske-1994", "sl-rozaj-rozaj", "en-a-bbb-x-a-ccc", "en-a-bbb-a-ccc", "en-x", "de_CH",
        "es-419", "zh-yue-HK", "zh-cmn-Hans-CN", "en-GB-oed", "EN-GB-oed", "\u212adf", "de-1\u212aab", "de-DE-1996", "",
        "de-CH-1996-1996",
    ],
    "nsid": [
        "com.example.thing", "com.example", "com.exa-mple.thing", "com.example.thi-ng", "9com.example.thing", "",
        "com.9example.thing", "com.example.9thing", "com.-example.thing", f"com.{LONG}.thing", f"com.{LONG}a.thing",
        f"com.example.{LONG}", f"com.example.{LONG}a", f"{LONG}a.example.thing", "com..thing", "com.example.thing\n",
        ".".join([LONG] * 4) + ".thing", ".".join([LONG] * 5), ".".join([LONG] * 4) + "." + "a" * 62,
    ],
    "record-key": ["self", "a:b~c._-", ".", "..", "", "a/b", "x" * 513, "#a", "a\n"],
    "tid": [KEY, "self", "", "zzzzzzzzzzzzz", "jzzzzzzzzzzzz", KEY.upper(), f"{KEY}\n"],
    "uri": [
        "https://a.b/c?d#e", "mailto:a@b", "at://alice.test", "a:b", "a:", "https:///a", "https://", "//a", "a", "",
        "9a:b", "a_b:c", "git+ssh://a", "https://ä.b/ö", "https://a b", " https://a", "https://a\u00a0b", "ä:b",
        "https://a\ufeff", "https://a\n", "javascript:alert(1)", "https://" + "a" * 8184, "https://" + "a" * 8185,
    ],
}
# fmt: on
"""Field of `EVERYTHING` -> values to try."""


def with_field(name: str, value: Any) -> Case:
    record = {"$type": EVERYTHING, "text": "", name: value}
    return Case(f"{name}: {value!r}", EVERYTHING, record)


NO_RECORDS: tuple[Any, ...] = (None, [], "x", 5, LINK)

OF_EVERY_RULE = [
    *(with_field(name, value) for name, values in RULES.items() for value in values),
    *(
        Case(f"key: {rkey!r}", EVERYTHING, {"$type": EVERYTHING, "text": ""}, rkey)
        for rkey in ("a", "", ".", "..", "a/b", "x" * 512, "x" * 513, "~:._-")
    ),
    *(Case(f"literal key: {rkey!r}", OTHER, {"$type": OTHER, "n": 1}, rkey) for rkey in ("self", "other", "")),
    Case("record: no $type", EVERYTHING, {"text": ""}),
    *(Case(f"record: {value!r}", EVERYTHING, value) for value in NO_RECORDS),
]

CASES = [*OF_THE_FIVE_TYPES, *OF_EVERY_RULE]

_ONE_KIND_OF_CID = (
    "the data model names one kind of CID, and libipld would keep another one apart from its bytes only by luck"
)

STRICTER: dict[str, str] = {
    "mood: half of a surrogate pair": "such text has no UTF-8 form, hence no record",
    "mood: when 2025-02-30T08:09:10Z": "the day does not exist; JavaScript takes it for 2 March",
    f"link: {{'$link': '{CID_V0}'}}": _ONE_KIND_OF_CID,
    f"link: {{'$link': '{CID_BASE58}'}}": _ONE_KIND_OF_CID,
    f"cid: '{CID_V0}'": _ONE_KIND_OF_CID,
    "bytes: {'$bytes': 'AQ='}": "half a padding is not base64",
    "bytes: {'$bytes': '_w'}": "the data model has the plain alphabet of base64, not the one for URLs",
    "at-uri: 'at://did:plc:abc/com.example.thing/self#/text'": "a record refers to a record, not into it",
    "uri: '9a:b'": "a scheme starts with a letter (RFC 3986)",
    "uri: 'a_b:c'": "a scheme has no underscore (RFC 3986)",
    f"uri: 'https://{'a' * 8185}'": "the specification limits URIs to 8 KiB",
}
"""Cases that the protocol's validator accepts and ours refuses, with the reason."""

LOOSER: dict[str, str] = {
    "painting: thumbnail of dag-cbor": "valid in the protocol's interop fixtures (record-data-valid)",
    "uri: 'git+ssh://a'": "a scheme may have `+`, `-` and `.` (RFC 3986, and the interop fixtures)",
}
"""Cases that the protocol's validator refuses and ours accepts, with the reason."""
