"""The protocol's own fixtures: what every implementation accepts, refuses and computes (BORDER-4).

The files are those of `interop/README.md`. Where this package is narrower on purpose, it is listed with the reason.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import libipld
import pytest

from ac_pipeline.atproto.lexicon import Lexicons, compile_lexicons
from ac_pipeline.atproto.lexicon_rules import check_free
from ac_pipeline.atproto.repository import key_depth, read_repository, read_tree
from ac_pipeline.atproto.syntax import FORMATS, cid_bytes, cid_text, decode_record, encode_record, record_cid
from ac_pipeline.errors import InvalidRecord, Misconfigured, RepositoryUnreadable
from ac_pipeline_tests.car_builder import Blocks, CarBuilder, cid_of, encode_node, layer_of, plant

FIXTURES = Path(__file__).parent / "interop"

_OTHER_CID = "the data model blesses one kind of CID, in two codecs; nothing here could verify another"
NARROWER = {
    ("cid", "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"): _OTHER_CID,  # dag-pb
    ("cid", "bafybeie5gq4jxvzmsym6hjlwxej4rwdoxt7wadqvmmwbqi7r27fclha2va"): _OTHER_CID,  # dag-pb
    ("cid", "zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7"): _OTHER_CID,  # base58
    ("cid", "zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz"): _OTHER_CID,  # base58
    ("cid", "z7x3CtScH765HvShXT"): _OTHER_CID,  # base58
    ("cid", "mBcDxtdWx0aWhhc2g+"): _OTHER_CID,  # base64
    ("cid", "7134036155352661643226414134664076"): _OTHER_CID,  # base8
    ("cid", "f017012202c5f688262e0ece8569aa6f94d60aad55ca8d9d83734e4a7430d0cff6588ec2b"): _OTHER_CID,  # base16
}
"""What is valid in the fixtures and refused here: (format, text) -> why."""

_FORMATS = {"atidentifier": "at-identifier", "aturi": "at-uri", "recordkey": "record-key"}


def load(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


def syntax() -> list[Any]:
    """Format, text, and whether it is valid; lines with `#` are remarks."""
    found = []
    for path in sorted((FIXTURES / "syntax").glob("*.txt")):
        name, _, verdict = path.stem.split("_")
        for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if text and not text.startswith("#"):
                format_ = _FORMATS.get(name, name)
                found.append(pytest.param(format_, text, verdict == "valid", id=f"{path.stem}:{number}"))
    return found


@pytest.mark.parametrize(("format_", "text", "valid"), syntax())
def test_the_syntax_of_identifiers(format_: str, text: str, valid: bool) -> None:
    """BORDER-4."""
    assert FORMATS[format_](text) is (valid and (format_, text) not in NARROWER)


def test_every_narrowing_is_of_a_fixture() -> None:
    """BORDER-4: none outlives what it was listed for."""
    assert NARROWER.keys() <= {tuple(case.values[:2]) for case in syntax() if case.values[2]}


@pytest.mark.parametrize("case", load("data-model/data-model-fixtures.json"), ids=["values", "links", "nested"])
def test_records_have_the_same_bytes_and_cids_everywhere(case: dict[str, Any]) -> None:
    """BORDER-4."""
    encoded = encode_record(case["json"])
    assert base64.b64encode(encoded).decode().rstrip("=") == case["cbor_base64"].rstrip("=")
    assert record_cid(case["json"]) == case["cid"]
    assert decode_record(encoded) == case["json"]


def accepts(value: Any) -> bool:
    """Whether the data model, as this package has it, holds a value as a record."""
    problems: list[str] = []
    check_free(value, "$", lambda path, problem: problems.append(problem))
    try:
        encode_record(value)
    except InvalidRecord:
        return False
    return not problems


@pytest.mark.parametrize("verdict", ["valid", "invalid"])
def test_the_data_model(verdict: str) -> None:
    """BORDER-4."""
    cases = load(f"data-model/data-model-{verdict}.json")
    assert [case["note"] for case in cases if accepts(case["json"]) is not (verdict == "valid")] == []


def proper(document: dict[str, Any]) -> bool:
    try:
        compile_lexicons({str(document["id"]): document})
    except Misconfigured:
        return False
    return True


@pytest.mark.parametrize("verdict", ["valid", "invalid"])
def test_lexicon_documents(verdict: str) -> None:
    """BORDER-4: those that define no record are proper, too."""
    cases = load(f"lexicon/lexicon-{verdict}.json")
    assert [case["name"] for case in cases if proper(case["lexicon"]) is not (verdict == "valid")] == []


@pytest.fixture(scope="module")
def catalog() -> Lexicons:
    documents = [load(f"lexicon/catalog/{path.name}") for path in (FIXTURES / "lexicon" / "catalog").iterdir()]
    return compile_lexicons({document["id"]: document for document in documents})


@pytest.mark.parametrize("verdict", ["valid", "invalid"])
def test_record_data(catalog: Lexicons, verdict: str) -> None:
    """BORDER-4: beside a permission set, a query, a procedure and a subscription, which are passed over."""
    assert (list(catalog.documents), len(catalog.passed_over)) == (["example.lexicon.record"], 4)
    cases = load(f"lexicon/record-data-{verdict}.json")
    wrong = [
        case["name"]
        for case in cases
        if (not catalog.problems("example.lexicon.record", case["data"], case.get("rkey"))) is not (verdict == "valid")
    ]
    assert wrong == []


# ------------------------------------------------------------------------------------------------------------- the tree


@pytest.mark.parametrize("case", load("mst/key_heights.json"), ids=lambda case: case["key"] or "empty")
def test_the_layer_of_a_key(case: dict[str, Any]) -> None:
    """BORDER-4."""
    assert key_depth(case["key"].encode()) == case["height"]


def tree_of(keys: list[str], leaf: str) -> tuple[bytes, Blocks]:
    """Root and blocks of the tree of these keys, each with the same record; the reader looks at no record."""
    blocks: Blocks = {cid_bytes(leaf): b""}
    node = plant([(key, cid_bytes(leaf)) for key in sorted(keys)], max(map(layer_of, keys)))
    assert node is not None
    return encode_node(node, blocks), blocks


def test_the_example_keys_are_read_from_their_layers() -> None:
    """BORDER-4: the digit of each is its layer."""
    keys = (FIXTURES / "mst" / "example_keys.txt").read_text(encoding="utf-8").split()
    assert [key_depth(key.encode()) for key in keys] == [int(key[1]) for key in keys]
    root, blocks = tree_of(keys, record_cid({}))
    assert list(read_tree(root, blocks)) == sorted(keys)


@pytest.mark.parametrize(
    "case",
    [case for case in load("mst/common_prefix.json") if case["left"] < case["right"] and "\0" not in case["right"]],
    ids=lambda case: f"{case['left']}-{case['right']}",
)
def test_keys_share_exactly_their_common_prefix(case: dict[str, Any]) -> None:
    """BORDER-4: of keys in rising order, as a tree has them, and without NUL, which no record key holds."""
    number = next(n for n in range(1_000) if not any(layer_of(f"a.b/{n}{case[side]}") for side in ("left", "right")))
    left, right = (f"a.b/{number}{case[side]}".encode() for side in ("left", "right"))
    shared = len(f"a.b/{number}") + case["len"]
    record = cid_bytes(record_cid({}))

    def car(prefix: int) -> bytes:
        first = {"p": 0, "k": left, "v": record, "t": None}
        node = libipld.encode_dag_cbor({"l": None, "e": [first, {**first, "p": prefix, "k": right[prefix:]}]})
        builder = CarBuilder({"a.b/other": {}}, commit={"data": cid_of(node)})
        root, blocks = builder.parts()
        return builder.framed(root, [*blocks.items(), (cid_of(node), node)])

    assert list(read_repository(car(shared)).records) == [left.decode(), right.decode()]
    with pytest.raises(RepositoryUnreadable, match="repeats what it shares"):
        read_repository(car(shared - 1))


@pytest.mark.parametrize("case", load("firehose/commit-proof-fixtures.json"), ids=lambda case: case["comment"])
def test_trees_have_the_roots_of_the_commit_proofs(case: dict[str, Any]) -> None:
    """BORDER-4: before and after each commit. Proofs themselves nothing here makes or checks: repositories are read
    whole."""
    before = list(case["keys"])
    after = [key for key in [*before, *case["adds"]] if key not in case["dels"]]
    for keys, expected in ((before, case["rootBeforeCommit"]), (after, case["rootAfterCommit"])):
        root, blocks = tree_of(keys, case["leafValue"])
        assert cid_text(root) == expected
        assert list(read_tree(root, blocks)) == sorted(keys)
    assert set(case["blocksInProof"]) <= {cid_text(cid) for cid in blocks}
