"""CIDs, encoding, keys and times: the values that make a second run find nothing to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from atproto_core.cid import CID
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.atproto.syntax import (
    MAX_INTEGER,
    at_uri,
    blob_cid,
    cid_bytes,
    cid_text,
    decode_record,
    document_tid,
    encode_record,
    is_record_key,
    is_tid,
    parse_datetime,
    record_address,
    record_cid,
    tid,
)
from ac_pipeline.errors import InvalidRecord
from ac_pipeline.media.times import format_when
from ac_pipeline_tests.sample_records import tid_time

RECORD_CID = "bafyreidykglsfhoixmivffc5uwhcgshx4j465xwqntbmu43nb2dzqwfvae"
BLOB_CID = "bafkreiccldh766hwcnuxnf2wh6jgzepf2nlu2lvcllt63eww5p6chi4ity"
OID = "65f0c0ffee65f0c0ffee65f0"
MOOD = "computer.aesthetic.mood"

# The protocol's interoperability vectors for the data model (atproto, interop-test-files, data-model-fixtures).
VECTORS = [
    (
        {
            "string": "abc",
            "unicode": "a~öñ©⽘☎𓋓😀👨‍👩‍👧‍👧",
            "integer": 123,
            "bool": True,
            "null": None,
            "array": ["abc", "def", "ghi"],
            "object": {"string": "abc", "number": 123, "bool": True, "arr": ["abc", "def", "ghi"]},
        },
        "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq",
    ),
    (
        {
            "a": {"$link": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"},
            "b": {"$bytes": "nFERjvLLiw9qm45JrqH9QTzyC2Lu1Xb4ne6+sBrCzI0"},
            "c": {"$type": "blob", "ref": {"$link": BLOB_CID}, "mimeType": "image/jpeg", "size": 10000},
        },
        "bafyreihldkhcwijkde7gx4rpkkuw7pl6lbyu5gieunyc7ihactn5bkd2nm",
    ),
]


def json_values() -> st.SearchStrategy[Any]:
    keys = st.text(max_size=8).filter(lambda key: key not in ("$link", "$bytes"))
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-MAX_INTEGER, MAX_INTEGER)
        | st.text(max_size=20)
        | st.binary(max_size=40).map(lambda data: {"$link": blob_cid(data)})
        | st.just({"$bytes": "AQI"})
    )
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@pytest.mark.parametrize(("record", "cid"), VECTORS)
def test_records_get_the_cids_of_the_protocols_own_vectors(record: dict[str, Any], cid: str) -> None:
    """REC-3: the same content has the same CID everywhere."""
    assert record_cid(record) == cid
    assert decode_record(encode_record(record)) == record


def test_blobs_and_records_without_content_have_their_well_known_cids() -> None:
    assert blob_cid(b"") == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert record_cid({}) == "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"


@given(st.binary(max_size=100))
def test_the_atproto_package_reads_our_cids_as_we_do(data: bytes) -> None:
    cid = CID.decode(blob_cid(data))
    assert (cid.version, cid.codec) == (1, 0x55)
    assert cid.encode() == cid_text(cid_bytes(blob_cid(data))) == blob_cid(data)


@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key not in ("$link", "$bytes")), json_values()))
def test_a_record_comes_back_from_its_encoding_as_it_was(record: dict[str, Any]) -> None:
    """REC-3."""
    before = copy.deepcopy(record)
    assert decode_record(encode_record(record)) == record == before


@given(st.permutations(["b", "aa", "a", "$type", "ä", "z"]))
def test_the_order_of_fields_does_not_change_a_cid(names: list[str]) -> None:
    """REC-3."""
    assert record_cid(dict.fromkeys(names, 1)) == record_cid(dict.fromkeys(sorted(names), 1))


@pytest.mark.parametrize("number", [MAX_INTEGER, -MAX_INTEGER, 0, True])
def test_integers_up_to_the_limit_are_encoded(number: int) -> None:
    assert decode_record(encode_record({"n": number})) == {"n": number}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (MAX_INTEGER + 1, r"\$\.field\[0\]: .*2\*\*53"),
        (-MAX_INTEGER - 1, r"2\*\*53"),
        (2**70, r"2\*\*53"),
        (1.5, "no floats"),
        (float("nan"), "no floats"),
        (b"raw", "cannot hold bytes"),
        (("a", "b"), "cannot hold tuple"),
        ({1: "a"}, "keys are text"),
        ("\ud800", "cannot be encoded"),
        ({"$link": "nonsense"}, "not a CIDv1"),
        ({"$link": RECORD_CID.upper()}, "not a CIDv1"),
        ({"$link": "b" + RECORD_CID[1:].upper()}, "not a CIDv1"),
        ({"$link": RECORD_CID + "aa"}, "not a CIDv1"),
        ({"$link": "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"}, "not a CIDv1"),
        ({"$link": RECORD_CID, "more": 1}, "nothing else"),
        ({"$link": 5}, "nothing else"),
        ({"$bytes": "!"}, "base64"),
        ({"$bytes": "AA="}, "base64"),
        ({"$bytes": "AQI", "more": 1}, "nothing else"),
    ],
)
def test_what_the_data_model_lacks_is_refused_before_it_is_sent(value: object, words: str) -> None:
    """REC-1."""
    with pytest.raises(InvalidRecord, match=words):
        encode_record({"field": [value]})


def test_bytes_that_are_a_cid_are_refused_because_they_would_become_a_link() -> None:
    import base64

    disguised = base64.b64encode(cid_bytes(RECORD_CID)).decode()
    with pytest.raises(InvalidRecord, match="encoded as a link"):
        encode_record({"field": {"$bytes": disguised}})
    with pytest.raises(InvalidRecord, match="cannot be told from a link"):
        decode_record(b"\xa1\x61a\x58\x24" + cid_bytes(RECORD_CID))


@pytest.mark.parametrize("record", [{"$link": RECORD_CID}, {"$bytes": "AQI"}, [], "text", None])
def test_only_a_map_is_a_record(record: Any) -> None:
    with pytest.raises(InvalidRecord, match="a record is a map"):
        encode_record(record)


def test_a_record_that_is_nested_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(InvalidRecord, match="too deeply"):
        encode_record(deep)
    with pytest.raises(InvalidRecord, match="not valid DAG-CBOR"):
        decode_record(b"\xa1\x61a" * 100_000 + b"\x01")


@pytest.mark.parametrize("encoded", [b"", b"\x81\x01", b"\xa1\x61a", b"\xa2\x61a\x01\x61a\x02", b"\xa1\x61a\x01\x01"])
def test_damaged_encodings_are_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidRecord):
        decode_record(encoded)


def test_old_records_with_floats_can_still_be_looked_at() -> None:
    """LINK-9's basis: an odd record on the PDS does not stop the reading of the others."""
    assert decode_record(b"\xa1\x61a\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00") == {"a": 1.5}


# ---------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("nsid", "oid", "when", "salt", "key"),
    [
        (MOOD, OID, 1_700_000_000_000, 0, "3ke6kg3wkrj23"),
        (MOOD, OID, 1_700_000_000_000, 1, "3ke6kg3wkh4iw"),
        ("computer.aesthetic.tape", OID, 1_700_000_000_000, 0, "3ke6kg3wk3tbt"),
        ("computer.aesthetic.painting", "0" * 24, 0, 0, "2222222223wjh"),
        ("computer.aesthetic.painting", "0" * 24, -1, 0, "2222222223wjh"),
        ("computer.aesthetic.painting", "0" * 24, 9_007_199_254_739, 0, "bzzzzzzzy5ojh"),
        ("computer.aesthetic.painting", "0" * 24, 9_007_199_254_740, 0, "bzzzzzzzy5ojh"),
        ("computer.aesthetic.painting", "0" * 24, 10**18, 0, "bzzzzzzzy5ojh"),
    ],
)
def test_the_key_of_a_document_never_changes(nsid: str, oid: str, when: int, salt: int, key: str) -> None:
    """WRITE-2, WRITE-3: worked out by hand from the formula; a change here would publish everything twice."""
    assert document_tid(nsid, oid, when, salt) == key


@given(
    st.integers(-(10**15), 10**15),
    st.binary(min_size=12, max_size=12).map(bytes.hex),
    st.integers(0, 9),
)
def test_every_document_has_a_key_that_keeps_its_millisecond(when: int, oid: str, salt: int) -> None:
    """WRITE-2: clamped to what a TID can hold."""
    key = document_tid(MOOD, oid, when, salt)
    assert is_tid(key)
    assert is_record_key(key)
    assert tid_time(key) // 1000 == min(max(when, 0), 9_007_199_254_739)


def test_documents_of_one_millisecond_get_different_keys() -> None:
    """WRITE-3: also one document in two types, and the next salt."""
    keys = {document_tid(MOOD, f"{number:024x}", 1_700_000_000_000) for number in range(500)}
    assert len(keys) == 500
    assert (
        document_tid(MOOD, OID, 0) != document_tid("computer.aesthetic.piece", OID, 0) != document_tid(MOOD, OID, 0, 1)
    )


@given(
    st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 1023)),
    st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 1023)),
)
def test_tids_sort_as_text_the_way_they_sort_in_time(left: tuple[int, int], right: tuple[int, int]) -> None:
    assert (tid(*left) < tid(*right)) is (left < right)
    assert tid_time(tid(*left)) == left[0]


def test_the_protocols_example_tid_is_read_as_its_time() -> None:
    assert tid_time("3jzfcijpj2z2a") == 1_688_137_381_887_007


@pytest.mark.parametrize(("micros", "clock"), [(-1, 0), (2**53, 0), (0, -1), (0, 1024)])
def test_a_tid_outside_its_bits_is_refused(micros: int, clock: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        tid(micros, clock)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3jzfcijpj2z2",
        "3jzfcijpj2z2aa",
        "3jzfcijpj2z21",
        "zzzzzzzzzzzzz",
        "kjzfcijpj2z2a",
        "3JZFCIJPJ2Z2A",
        "3jzfcijpj2z2a\n",
    ],
)
def test_what_only_resembles_a_tid_is_none(text: str) -> None:
    assert not is_tid(text)


@pytest.mark.parametrize("text", ["3jzfcijpj2z2a", "7777777777777", "jzzzzzzzzzzzz"])
def test_tids_of_the_vectors_are_accepted(text: str) -> None:
    assert is_tid(text)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("self", True), ("a", True), ("a" * 512, True), ("a" * 513, False), ("", False), (".", False), ("..", False),
        ("...", True), (".a", True), ("A-z0._:~", True), ("a/b", False), ("a b", False), ("ä", False), ("a\n", False),
    ],
)  # fmt: skip
def test_record_keys_have_the_protocols_characters_and_length(text: str, valid: bool) -> None:
    assert is_record_key(text) is valid


def test_the_address_of_a_record_is_its_repository_collection_and_key() -> None:
    assert at_uri("did:plc:abc", MOOD, "3jzfcijpj2z2a") == "at://did:plc:abc/computer.aesthetic.mood/3jzfcijpj2z2a"


# ---------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (5, "1970-01-01T00:00:00.005Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_datetimes_have_milliseconds_padded_with_zeros_in_utc(ms: int, text: str) -> None:
    """REC-2."""
    assert format_when(ms) == text
    assert parse_datetime(text) == ms


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_time_is_read_back_from_its_datetime(ms: int) -> None:
    """REC-2."""
    assert parse_datetime(format_when(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:00.1Z", 100),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("1970-01-01T00:00:00.000+00:00", 0),
        ("1970-01-01T00:00:00.000000000000000000001Z", 0),
    ],
)
def test_other_writers_datetimes_are_understood(text: str, ms: int) -> None:
    """REC-7's basis: times are compared, not their spelling."""
    assert parse_datetime(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "", "1970-01-01", "1970-01-01T00:00Z", "1970-01-01T00:00:00", "1970-01-01 00:00:00Z", "1970-01-01t00:00:00z",
        "1970-13-01T00:00:00Z", "1970-02-30T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:60Z", "0000-01-01T00:00:00Z", "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00Z\n", "١٩٧٠-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_datetime_of_a_record_is_none(text: str) -> None:
    assert parse_datetime(text) is None


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        (
            "at://did:plc:abc/computer.aesthetic.mood/3k~1",
            "https://pds.example/xrpc/com.atproto.repo.getRecord"
            "?repo=did%3Aplc%3Aabc&collection=computer.aesthetic.mood&rkey=3k~1",
        ),
        ("at://ada.example/computer.aesthetic.mood/3k", None),
        ("at://did:plc:abc/computer.aesthetic.mood", None),
        ("https://example.org/a/b", None),
        ("", None),
    ],
)
def test_a_record_has_an_address_that_browsers_open(uri: str, address: str | None) -> None:
    assert record_address("https://pds.example", uri) == address
