"""Reading a repository: everything right comes out, nothing wrong does. A failed read is never an empty one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import libipld
import pytest
from atproto_core.car import CAR
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.atproto.repository import Repository, read_repository
from ac_pipeline.atproto.syntax import blob_cid, cid_bytes, cid_text, document_tid, record_cid
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.errors import InvalidRecord, RepositoryMoved, RepositoryUnreadable
from ac_pipeline.items import Record
from ac_pipeline_tests.car_builder import (
    DID,
    REV,
    CarBuilder,
    Node,
    build_car,
    build_repository,
    cid_of,
    frame,
    layer_of,
    plant,
)

MOOD, TAPE = "computer.aesthetic.mood", "computer.aesthetic.tape"
HEAD = record_cid({"new": "head"})


def mood(number: int) -> Record:
    return {"$type": MOOD, "mood": f"mood {number}", "when": "2025-10-14T00:00:00.000Z", "ref": f"{number:024x}"}


def path(number: int, nsid: str = MOOD) -> str:
    return f"{nsid}/{document_tid(nsid, f'{number:024x}', 1_760_000_000_000 + number)}"


def moods(count: int) -> dict[str, Record]:
    return {path(number): mood(number) for number in range(count)}


def blob(data: bytes) -> dict[str, Any]:
    return {"$type": "blob", "ref": {"$link": blob_cid(data)}, "mimeType": "video/mp4", "size": len(data)}


def with_layers(layers: Callable[[str], int], count: int = 60) -> bytes:
    return CarBuilder(moods(count), layers=layers).car()


def test_a_repository_is_read_with_owner_head_and_every_record() -> None:
    """VERIFY-4: enough records for several layers and compressed keys."""
    records = {**moods(300), path(1, TAPE): {"$type": TAPE, "video": blob(b"a")}}
    builder = CarBuilder(records)
    root, _ = builder.parts()
    repository = read_repository(builder.car())
    assert (repository.did, repository.rev, repository.commit) == (DID, REV, cid_text(root))
    assert repository.records == {path: record_cid(record) for path, record in records.items()}
    assert {path: repository.value(path) for path in repository.records} == records
    assert max(layer_of(path) for path in records) >= 3


def test_an_empty_repository_is_valid() -> None:
    repository = build_repository({})
    assert dict(repository.records) == {}
    assert list(repository.collection(MOOD)) == []
    assert repository.blobs() == set()


def test_the_records_of_a_collection_come_sorted_by_key_and_alone() -> None:
    records = {**moods(50), path(3, TAPE): {}, f"{MOOD}s/self": {}, "computer.aesthetic.moo/self": {}}
    found = list(build_repository(records).collection(MOOD))
    assert found == sorted((path.partition("/")[2], record_cid(record)) for path, record in moods(50).items())


def test_blobs_are_found_in_any_record_at_any_depth() -> None:
    repository = build_repository({
        path(1): mood(1),
        path(2): {"video": blob(b"a"), "text": "blob"},
        path(3): {"list": [{"inner": blob(b"b")}, blob(b"a")], "link": {"$link": blob_cid(b"no blob")}},
        "org.example.other/self": {"image": blob(b"c")},
    })  # fmt: skip
    assert repository.blobs() == {blob_cid(b"a"), blob_cid(b"b"), blob_cid(b"c")}


def test_a_record_without_json_form_stops_nobody_but_who_asks_for_it() -> None:
    """LINK-9's basis."""
    odd = libipld.encode_dag_cbor([1, 2])
    with pytest.raises(InvalidRecord, match="a record is a map"):
        _with_raw_record(odd).value(path(9))
    assert _with_raw_record(odd).value(path(1)) == mood(1)


def _with_raw_record(data: bytes) -> Repository:
    records = {**moods(5), path(9): {"replaced": True}}
    builder = CarBuilder(records)
    blocks: dict[bytes, bytes] = {}
    builder.tree(blocks)
    entries = [
        (key, cid_bytes(record_cid(value)) if key != path(9) else cid_of(data))
        for key, value in sorted(records.items())
    ]
    root, all_blocks = builder.parts(plant(entries, max(map(layer_of, records))))
    return read_repository(builder.framed(root, {**all_blocks, cid_of(data): data}.items()))


@given(st.randoms(use_true_random=False), st.integers(0, 80))
@settings(max_examples=40, deadline=None)
def test_the_order_and_repetition_of_blocks_do_not_matter(shuffled: random.Random, count: int) -> None:
    """VERIFY-4."""
    builder = CarBuilder(moods(count))
    root, blocks = builder.parts()
    pairs = [*blocks.items(), *shuffled.sample(sorted(blocks.items()), len(blocks) // 2)]
    shuffled.shuffle(pairs)
    assert read_repository(builder.framed(root, pairs)) == build_repository(moods(count))


KEYS = st.from_regex(r"(com\.example|org\.a)\.[a-c]{1,3}/[a-z0-9._:~-]{1,12}", fullmatch=True).filter(
    lambda key: key.rpartition("/")[2] not in (".", "..")
)


@given(st.sets(KEYS, max_size=120))
@settings(max_examples=60, deadline=None)
def test_any_set_of_keys_is_read_as_it_was_built(keys: set[str]) -> None:
    """VERIFY-4: against an independent builder."""
    records: dict[str, Record] = {key: {"key": key} for key in keys}
    repository = build_repository(records)
    assert list(repository.records) == sorted(keys)
    assert {key: repository.value(key) for key in keys} == records


def test_records_that_share_their_content_share_a_block() -> None:
    repository = build_repository({path(number): mood(0) for number in range(20)})
    assert len(repository.records) == 20
    assert set(repository.records.values()) == {record_cid(mood(0))}


def test_blocks_that_nothing_refers_to_are_ignored_once_verified() -> None:
    builder = CarBuilder(moods(3))
    root, blocks = builder.parts()
    raw = b"a blob"
    extra = [
        (cid_bytes(record_cid({"left": "over"})), libipld.encode_dag_cbor({"left": "over"})),
        (cid_bytes(blob_cid(raw)), raw),
    ]
    assert len(read_repository(builder.framed(root, [*extra, *blocks.items()])).records) == 3


def test_the_atproto_package_reads_the_same_blocks() -> None:
    """A second opinion on framing, CIDs and the tree's own fields."""
    builder = CarBuilder(moods(40))
    theirs = CAR.from_bytes(builder.car())
    root, blocks = builder.parts()
    assert theirs.root == cid_text(root) == read_repository(builder.car()).commit
    assert {cid.encode() for cid in theirs.blocks} == {cid_text(cid) for cid in blocks}


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_car_cut_at_any_byte_is_refused() -> None:
    """VERIFY-4: also where the cut falls between two blocks."""
    car = build_car(moods(8))
    for length in range(len(car)):
        with pytest.raises(RepositoryUnreadable):
            read_repository(car[:length])


def test_one_changed_byte_anywhere_is_noticed() -> None:
    """VERIFY-4: no changed byte yields another repository; in a length or the header it may at most change nothing."""
    car = build_car(moods(4))
    right = read_repository(car)
    for position in range(len(car)):
        changed = car[:position] + bytes([car[position] ^ 1]) + car[position + 1 :]
        try:
            assert read_repository(changed) == right
        except RepositoryUnreadable:
            continue


@pytest.mark.parametrize("missing", range(20))
def test_a_car_without_one_of_its_blocks_is_refused(missing: int) -> None:
    """VERIFY-4: commit, node or record."""
    builder = CarBuilder(moods(14))
    root, blocks = builder.parts()
    left_out = sorted(blocks)[missing % len(blocks)]
    with pytest.raises(RepositoryUnreadable, match="missing from the CAR"):
        read_repository(builder.framed(root, [pair for pair in blocks.items() if pair[0] != left_out]))


def test_a_block_under_another_blocks_cid_is_refused() -> None:
    """VERIFY-4: libipld does not compare a block with its CID."""
    builder = CarBuilder(moods(2))
    root, blocks = builder.parts()
    first, second = (cid_bytes(record_cid(mood(number))) for number in (0, 1))
    blocks[first], blocks[second] = blocks[second], blocks[first]
    with pytest.raises(RepositoryUnreadable, match="does not hold what its CID says"):
        read_repository(builder.framed(root, blocks.items()))


@pytest.mark.parametrize(
    "car", [b"", b"\x00", b"\xff" * 20, b'{"error":"RepoNotFound"}', b"<html></html>", b"\x80\x00"]
)
def test_an_answer_that_is_no_car_is_refused(car: bytes) -> None:
    """DEL-5's basis: an error page is not an empty repository."""
    with pytest.raises(RepositoryUnreadable):
        read_repository(car)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"version": 2}, "version 1"),
        ({"version": "1"}, "version 1"),
        ({"roots": []}, "exactly one root"),
        ({"roots": [cid_bytes(HEAD), cid_bytes(HEAD)]}, "exactly one root"),
        ({"roots": [cid_bytes(blob_cid(b""))]}, "exactly one root"),
        ({"roots": ["text"]}, "exactly one root"),
        ({"roots": [cid_bytes(HEAD)]}, "commit is missing"),
        ({"roots": [cid_bytes(record_cid(mood(0)))]}, "not a commit"),
    ],
)
def test_a_car_with_another_header_is_refused(header: dict[str, Any], words: str) -> None:
    with pytest.raises(RepositoryUnreadable, match=words):
        read_repository(CarBuilder(moods(2), header=header).car())


def test_a_block_of_an_unknown_kind_is_refused() -> None:
    builder = CarBuilder({})
    root, blocks = builder.parts()
    sha512 = b"\x01\x71\x13\x40" + bytes(64)
    with pytest.raises(RepositoryUnreadable, match="unknown kind"):
        read_repository(builder.framed(root, [*blocks.items(), (sha512, b"")]))


def test_a_length_with_needless_bytes_is_refused() -> None:
    car = build_car(moods(1))
    assert car[0] < 0x80
    with pytest.raises(RepositoryUnreadable, match="garbled at byte 2"):
        read_repository(bytes([car[0] | 0x80, 0]) + car[1:])


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ({"version": 2}, "not a commit of version 3"),
        ({"version": ...}, "not a commit"),
        ({"did": ...}, "not a commit"),
        ({"data": ...}, "not a commit"),
        ({"rev": ...}, "not a commit"),
        ({"prev": ...}, "not a commit"),
        ({"sig": ...}, "not a commit"),
        ({"did": "someone"}, "does not name its repository"),
        ({"did": 5}, "does not name its repository"),
        ({"rev": "later"}, "does not name its repository"),
        ({"rev": 5}, "does not name its repository"),
        ({"data": None}, "does not name its tree"),
        ({"data": cid_bytes(blob_cid(b""))}, "does not name its tree"),
        ({"data": cid_bytes(HEAD)}, "missing from the CAR"),
        ({"prev": "x"}, "does not name its tree"),
        ({"sig": b""}, "not signed"),
        ({"sig": "text"}, "not signed"),
    ],
)
def test_a_commit_that_is_not_whole_is_refused(commit: dict[str, Any], words: str) -> None:
    with pytest.raises(RepositoryUnreadable, match=words):
        read_repository(CarBuilder(moods(2), commit=commit).car())


@pytest.mark.parametrize("commit", [{"prev": cid_bytes(HEAD)}, {"later": "field"}])
def test_a_commit_may_have_a_predecessor_and_fields_of_the_future(commit: dict[str, Any]) -> None:
    assert len(read_repository(CarBuilder(moods(2), commit=commit).car()).records) == 2


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(lambda key: 0, id="all in one layer"),
        pytest.param(lambda key: layer_of(key) + (layer_of(key) > 0), id="an empty layer above the lowest"),
        pytest.param(lambda key: layer_of(key) + (key == path(7)), id="one key one layer up"),
        pytest.param(lambda key: max(layer_of(key) - 1, 0), id="the top two layers merged"),
    ],
)
def test_a_tree_with_a_key_in_the_wrong_layer_is_refused(layers: Callable[[str], int]) -> None:
    """VERIFY-4."""
    assert len(read_repository(with_layers(layer_of)).records) == 60
    with pytest.raises(RepositoryUnreadable, match=r"lies in layer|without records|holds no record"):
        read_repository(with_layers(layers))


def leaf_keys(count: int) -> list[str]:
    """Keys of the lowest layer, sorted."""
    return sorted(key for key in moods(200) if layer_of(key) == 0)[:count]


def car_of(tree: Node, records: dict[str, Record] | None = None) -> bytes:
    return CarBuilder(records if records is not None else {key: mood(0) for key in leaf_keys(4)}).car(tree)


def leaf(*keys: str, left: Node | None = None) -> Node:
    cid = cid_bytes(record_cid(mood(0)))
    return Node(left, tuple((key, cid, None) for key in keys))


def test_keys_out_of_order_or_twice_are_refused() -> None:
    """VERIFY-4."""
    a, b, c, d = leaf_keys(4)
    assert list(read_repository(car_of(leaf(a, b, c, d))).records) == [a, b, c, d]
    with pytest.raises(RepositoryUnreadable, match="out of order"):
        read_repository(car_of(leaf(a, c, b, d)))
    with pytest.raises(RepositoryUnreadable, match="repeats what it shares"):
        read_repository(car_of(leaf(a, a)))


def test_keys_out_of_order_between_nodes_are_refused() -> None:
    top = min(key for key in moods(400) if layer_of(key) == 1)
    records = {key: mood(0) for key in moods(400)}
    after = [key for key in sorted(records) if layer_of(key) == 0 and key > top][:2]
    cid = cid_bytes(record_cid(mood(0)))
    right = Node(None, ((top, cid, leaf(*after)),))
    assert list(read_repository(car_of(right, records)).records) == [top, *after]
    with pytest.raises(RepositoryUnreadable, match="out of order"):
        read_repository(car_of(Node(leaf(*after), ((top, cid, None),)), records))
    with pytest.raises(RepositoryUnreadable, match="out of order"):
        read_repository(car_of(Node(leaf(*after), ((top, cid, leaf(*after)),)), records))


def test_nodes_without_records_are_refused() -> None:
    a, b, *_ = leaf_keys(4)
    with pytest.raises(RepositoryUnreadable, match="holds no record"):
        read_repository(car_of(Node(leaf(a, b), ())))
    with pytest.raises(RepositoryUnreadable, match="without records"):
        read_repository(car_of(leaf(a, b, left=Node())))
    top = next(key for key in moods(400) if layer_of(key) == 1)
    with pytest.raises(RepositoryUnreadable, match="without records"):
        read_repository(car_of(leaf(top, left=Node()), {top: mood(0)}))


@pytest.mark.parametrize(
    "key", ["mood", "/a", "a/", f"{MOOD}/a/b", f"{MOOD}/..", f"{MOOD}/ä", f"{MOOD}/a b", f"{MOOD}/{'a' * 513}", "1/2"]
)
def test_a_key_that_is_no_collection_and_record_key_is_refused(key: str) -> None:
    with pytest.raises(RepositoryUnreadable, match="is not a collection and a record key"):
        read_repository(CarBuilder({key: mood(0)}).car())


RECORD = cid_bytes(record_cid(mood(0)))
FIRST = leaf_keys(1)[0].encode()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ([], "fields e and l"),
        ({"e": []}, "fields e and l"),
        ({"l": None, "e": [], "x": 1}, "fields e and l"),
        ({"l": None, "e": None}, "fields e and l"),
        ({"l": None, "e": [5]}, "k, p, t and v"),
        ({"l": None, "e": [{"p": 0, "k": FIRST, "v": RECORD}]}, "k, p, t and v"),
        ({"l": None, "e": [{"p": 1, "k": FIRST, "v": RECORD, "t": None}]}, "does not complete"),
        ({"l": None, "e": [{"p": -1, "k": FIRST, "v": RECORD, "t": None}]}, "does not complete"),
        ({"l": None, "e": [{"p": False, "k": FIRST, "v": RECORD, "t": None}]}, "does not complete"),
        ({"l": None, "e": [{"p": 0, "k": FIRST.decode(), "v": RECORD, "t": None}]}, "does not complete"),
        ({"l": None, "e": [{"p": 0, "k": FIRST, "v": None, "t": None}]}, "is missing from the CAR"),
        ({"l": None, "e": [{"p": 0, "k": FIRST, "v": "text", "t": None}]}, "is missing from the CAR"),
        ({"l": None, "e": [{"p": 0, "k": FIRST, "v": cid_bytes(blob_cid(b"")), "t": None}]}, "is missing from"),
        ({"l": None, "e": [{"p": 0, "k": FIRST, "v": RECORD, "t": 5}]}, "node of the tree is missing"),
        ({"l": "text", "e": [{"p": 0, "k": FIRST, "v": RECORD, "t": None}]}, "node of the tree is missing"),
    ],
)
def test_a_node_of_another_shape_is_refused(node: object, words: str) -> None:
    """VERIFY-4."""
    data = libipld.encode_dag_cbor(node)
    builder = CarBuilder({leaf_keys(1)[0]: mood(0)}, commit={"data": cid_of(data)})
    root, blocks = builder.parts()
    with pytest.raises(RepositoryUnreadable, match=words):
        read_repository(builder.framed(root, [*blocks.items(), (cid_of(data), data)]))


def test_a_block_that_is_no_dag_cbor_is_refused_where_the_tree_needs_it() -> None:
    data = b"\xff\xff"
    builder = CarBuilder({}, commit={"data": cid_of(data)})
    root, blocks = builder.parts()
    with pytest.raises(RepositoryUnreadable, match="not valid DAG-CBOR"):
        read_repository(builder.framed(root, [*blocks.items(), (cid_of(data), data)]))
    with pytest.raises(RepositoryUnreadable, match="not valid DAG-CBOR"):
        read_repository(frame({"version": 1, "roots": [cid_of(data)]}, [(cid_of(data), data)]))


# ------------------------------------------------------------------------------------------ after an acknowledged batch


def test_after_a_batch_the_repository_is_what_a_new_read_would_give() -> None:
    """WRITE-1's basis: no second read after our own writes."""
    first = {key: value for key, value in moods(30).items() if key != path(0)}
    before = build_repository(first)
    writes = [
        Write("create", MOOD, path(0).rpartition("/")[2], mood(0)),
        Write("update", MOOD, path(3).rpartition("/")[2], mood(99)),
        Write("delete", MOOD, path(4).rpartition("/")[2]),
    ]
    after = before.with_writes(Commit(HEAD, "3kaaaaaaaaab2", (record_cid(mood(0)), record_cid(mood(99)), None)), writes)
    expected = {**moods(30), path(3): mood(99)}
    del expected[path(4)]
    assert (after.did, after.commit, after.rev, after.data) == (DID, HEAD, "3kaaaaaaaaab2", None)
    assert after.records == build_repository(expected).records
    assert {key: after.value(key) for key in after.records} == expected
    assert list(after.collection(MOOD)) == list(build_repository(expected).collection(MOOD))
    assert before == build_repository(first)


def test_a_write_given_a_new_life_in_one_batch_is_followed_in_order() -> None:
    key = path(0).rpartition("/")[2]
    writes = [Write("delete", MOOD, key), Write("create", MOOD, key, mood(7))]
    after = build_repository(moods(1)).with_writes(Commit(HEAD, REV, (None, record_cid(mood(7)))), writes)
    assert after.value(path(0)) == mood(7)


@pytest.mark.parametrize(
    ("write", "cids"),
    [
        (Write("create", MOOD, path(0).rpartition("/")[2], mood(0)), (record_cid(mood(0)),)),
        (Write("update", MOOD, path(8).rpartition("/")[2], mood(8)), (record_cid(mood(8)),)),
        (Write("delete", MOOD, path(8).rpartition("/")[2]), (None,)),
        (Write("create", MOOD, path(8).rpartition("/")[2], mood(8)), (record_cid(mood(9)),)),
        (Write("create", MOOD, path(8).rpartition("/")[2], mood(8)), (None,)),
        (Write("create", MOOD, path(8).rpartition("/")[2], mood(8)), ()),
    ],
)
def test_an_answer_that_does_not_fit_asks_for_a_new_read(write: Write, cids: tuple[str | None, ...]) -> None:
    """WRITE-9's basis: somebody else wrote, or the PDS stored something else."""
    with pytest.raises(RepositoryMoved, match="read it again"):
        build_repository(moods(2)).with_writes(Commit(HEAD, REV, cids), [write])


def test_a_value_belongs_to_who_asked_for_it() -> None:
    repository = build_repository(moods(1))
    repository.value(path(0))["mood"] = "changed"
    assert repository.value(path(0)) == mood(0)
    with pytest.raises(KeyError):
        repository.value(path(1))
