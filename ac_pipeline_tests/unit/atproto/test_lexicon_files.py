"""Loading lexicons: where the files lie, and which documents are refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.atproto.lexicon import compile_lexicons, load_lexicons
from ac_pipeline.errors import InvalidRecord, Misconfigured

KEY = "3jzfcijpj2z2a"


def lexicon(**changes: Any) -> dict[str, Any]:
    """A small proper lexicon with one field `a`; `field` and `record` change its parts."""
    field = changes.pop("field", {"type": "string"})
    record = {"type": "object", "required": ["a"], "properties": {"a": field}, **changes.pop("record", {})}
    main = {"type": "record", "key": "tid", "record": record, **changes.pop("main", {})}
    return {"lexicon": 1, "id": "com.example.thing", "defs": {"main": main, **changes.pop("defs", {})}, **changes}


def write(folder: Path, document: object, place: str = "com/example/thing.json") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return folder


def test_lexicons_of_another_folder_are_read(tmp_path: Path) -> None:
    lexicons = load_lexicons(write(tmp_path, lexicon()))
    lexicons.validate("com.example.thing", {"$type": "com.example.thing", "a": "b"})


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_nothing_starts_without_lexicons(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misconfigured, match="no lexicons in"):
        load_lexicons(tmp_path / name)


def test_a_file_must_lie_where_its_id_says(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"'com\.example\.thing'.*'com\.example\.other'"):
        load_lexicons(write(tmp_path, lexicon(), "com/example/other.json"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"lexicon": 1, "lexicon": 1}'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match=r"thing\.json"):
        load_lexicons(write(tmp_path, text))


def test_a_rule_written_twice_is_refused(tmp_path: Path) -> None:
    """JSON would let the last one win, and nobody would see which."""
    text = json.dumps(lexicon()).replace('"key": "tid"', '"key": "tid", "key": "tid"')
    with pytest.raises(Misconfigured, match="a name occurs twice"):
        load_lexicons(write(tmp_path, text))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (lexicon(lexicon=2), "lexicon 1"),
        (lexicon(id="thing"), "NSID"),
        (lexicon(extra=1), "unknown entries extra"),
        (lexicon(defs={"main": {"type": "object", "properties": {}}}), "defs.main is not a record"),
        (lexicon(defs={"other": {"type": "record", "key": "tid", "record": {}}}), "only defs.main"),
        (lexicon(defs={"other": "text"}), "defs is an object"),
        (lexicon(defs={"other": {"type": "ref", "ref": "#main"}}), "not a ref"),
        (lexicon(defs={"other": {"type": "query"}}), "'query' is not a type"),
        ({**lexicon(), "defs": []}, "defs is an object"),
        (lexicon(main={"key": "uuid"}), "'uuid' is not a type of record key"),
        (lexicon(main={"key": "literal:"}), "record key"),
        (lexicon(main={"record": {"type": "array", "items": {"type": "string"}}}), "is an object"),
        (lexicon(main={"record": 5}), "record is 5"),
        (lexicon(record={"required": ["a", "b"]}), "required names 'b'"),
        (lexicon(record={"nullable": ["b"]}), "nullable names 'b'"),
        (lexicon(record={"required": "a"}), "required is 'a'"),
        (lexicon(record={"properties": []}), "properties is"),
        (lexicon(field="string"), "an object with a type"),
        (lexicon(field={}), "None is not a type"),
        (lexicon(field={"type": ["string"]}), "is not a type"),
        (lexicon(field={"type": "text"}), "'text' is not a type"),
        (lexicon(field={"type": "record"}), "'record' is not a type"),
        (lexicon(field={"type": "token"}), "'token' is not a type"),
        (lexicon(field={"type": "string", "maxLenght": 5}), "'maxLenght' is not a rule"),
        (lexicon(field={"type": "string", "maxLength": "5"}), "expected int"),
        (lexicon(field={"type": "string", "maxLength": True}), "expected int"),
        (lexicon(field={"type": "string", "maxLength": -1}), "nothing lies between"),
        (lexicon(field={"type": "string", "minLength": 2, "maxLength": 1}), "nothing lies between"),
        (lexicon(field={"type": "string", "minGraphemes": 2, "maxGraphemes": 1}), "nothing lies between"),
        (lexicon(field={"type": "string", "format": "date"}), "'date' is not a string format"),
        (lexicon(field={"type": "string", "enum": []}), "enum lists"),
        (lexicon(field={"type": "string", "enum": ["a", 1]}), "enum lists"),
        (lexicon(field={"type": "string", "enum": ["a"], "const": "b"}), "not in enum"),
        (lexicon(field={"type": "integer", "minimum": 2, "maximum": 1}), "range from 2 to 1"),
        (lexicon(field={"type": "integer", "maximum": 2**53}), r"2\*\*53"),
        (lexicon(field={"type": "integer", "enum": [True]}), "enum lists"),
        (lexicon(field={"type": "blob", "accept": ["png"]}), "MIME types"),
        (lexicon(field={"type": "blob", "maxSize": -1}), "nothing lies between"),
        (lexicon(field={"type": "array"}), "items is missing"),
        (lexicon(field={"type": "array", "items": {"type": "string", "format": "x"}}), r"a\[\]: 'x' is not"),
        (lexicon(field={"type": "ref"}), "ref is missing"),
        (lexicon(field={"type": "ref", "ref": "#other"}), "com.example.thing#other: there is no such definition"),
        (lexicon(field={"type": "ref", "ref": "com.example.other"}), "com.example.other#main: there is no such"),
        (lexicon(field={"type": "ref", "ref": "#"}), "not a reference"),
        (lexicon(field={"type": "union", "refs": ["#other"]}), "no such definition"),
        (lexicon(field={"type": "union", "refs": ["#t"]}, defs={"t": {"type": "token"}}), "neither an object nor"),
        (lexicon(field={"type": "union", "refs": [], "closed": True}), "can never be met"),
    ],
)
def test_an_improper_lexicon_is_refused_before_anything_starts(
    tmp_path: Path, document: dict[str, Any], words: str
) -> None:
    """A rule that is misspelt or cannot be met would be a rule that nobody enforces."""
    with pytest.raises(Misconfigured, match=words):
        load_lexicons(write(tmp_path, document, f"{str(document['id']).replace('.', '/')}.json"))


OURS = load_lexicons()
BESIDE = {
    "a permission set": {"main": {"type": "permission-set", "title": "t", "permissions": []}},
    "shared definitions": {
        "point": {"type": "object", "properties": {"x": {"type": "ref", "ref": "org.example.other"}}}
    },
    "a query": {"main": {"type": "query", "parameters": {"type": "params", "properties": {}}}},
    "a procedure": {"main": {"type": "procedure"}},
    "a subscription": {"main": {"type": "subscription", "message": {"schema": {"type": "union", "refs": []}}}},
    "nothing": {},
}


def our_folder(folder: Path) -> Path:
    for nsid, document in OURS.documents.items():
        write(folder, document, f"{nsid.replace('.', '/')}.json")
    return folder


@pytest.mark.parametrize("needed", [None, list(OURS.documents)])
@pytest.mark.parametrize("definitions", BESIDE.values(), ids=BESIDE)
def test_a_lexicon_that_is_no_record_definition_is_passed_over(
    tmp_path: Path, definitions: dict[str, Any], needed: list[str] | None
) -> None:
    """Such files lie beside record lexicons wherever these are published from; they stop nothing."""
    other = {
        "lexicon": 1,
        "id": "computer.aesthetic.beside",
        "$type": "com.atproto.lexicon.schema",
        "defs": definitions,
    }
    loaded = load_lexicons(write(our_folder(tmp_path), other, "computer/aesthetic/beside.json"), needed)
    assert loaded.documents == OURS.documents
    assert list(loaded.passed_over) == ["computer.aesthetic.beside"]


def test_a_record_may_refer_to_definitions_that_lie_beside_it(tmp_path: Path) -> None:
    shared = {"lexicon": 1, "id": "com.example.defs", "defs": {"short": {"type": "string", "maxLength": 3}}}
    write(tmp_path, shared, "com/example/defs.json")
    loaded = load_lexicons(write(tmp_path, lexicon(field={"type": "ref", "ref": "com.example.defs#short"})))
    assert loaded.problems("com.example.thing", {"$type": "com.example.thing", "a": "abcd"}) != []
    assert loaded.problems("com.example.thing", {"$type": "com.example.thing", "a": "abc"}) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"name": "package"}', '{"id": "a.b.c"}', "\udcff"])
def test_another_file_that_cannot_be_used_stops_nothing_and_is_named(tmp_path: Path, text: str) -> None:
    """What is needed is there: the rest is said, and passed over."""
    path = our_folder(tmp_path) / "computer" / "aesthetic" / "other.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "README.md").write_text("no lexicon")
    (tmp_path / "computer" / "aesthetic" / "._mood.json").write_bytes(b"\0\5\x16")
    loaded = load_lexicons(tmp_path, list(OURS.documents))
    assert loaded.documents == OURS.documents
    assert list(loaded.passed_over) == ["computer.aesthetic.other"]


@pytest.mark.parametrize(
    "text", ["", "{", json.dumps({"lexicon": 1, "id": "computer.aesthetic.mood", "defs": {}}), None]
)
def test_one_that_is_needed_and_cannot_be_used_is_named(tmp_path: Path, text: str | None) -> None:
    """One of the five: broken, no record definition any more, or gone."""
    path = our_folder(tmp_path) / "computer" / "aesthetic" / "mood.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(Misconfigured, match=r"computer.aesthetic.mood"):
        load_lexicons(tmp_path, list(OURS.documents))


def test_a_needed_lexicon_that_refers_to_a_broken_one_is_refused(tmp_path: Path) -> None:
    """Whatever is compiled first."""
    broken = {"lexicon": 1, "id": "com.example.a", "defs": {"main": {"type": "record", "key": "tid", "record": {}}}}
    write(tmp_path, broken, "com/example/a.json")
    write(tmp_path, lexicon(field={"type": "ref", "ref": "com.example.a"}))
    with pytest.raises(Misconfigured, match=r"com\.example\.a"):
        load_lexicons(tmp_path, ["com.example.thing"])


@pytest.mark.parametrize(
    ("key_type", "good", "bad"),
    [
        ("tid", KEY, "self"),
        ("any", "any:thing", "a/b"),
        ("nsid", "com.example.thing", "thing"),
        ("literal:self", "self", "other"),
    ],
)
def test_keys_are_of_the_type_that_the_lexicon_names(key_type: str, good: str, bad: str) -> None:
    lexicons = compile_lexicons({"com.example.thing": lexicon(main={"key": key_type})})
    record = {"$type": "com.example.thing", "a": "b"}
    lexicons.validate("com.example.thing", record, good)
    with pytest.raises(InvalidRecord, match=f"not of type {key_type}"):
        lexicons.validate("com.example.thing", record, bad)


def test_inline_objects_nulls_and_tokens_are_checked_too() -> None:
    """Types that the protocol's validator builds only elsewhere, or not at all."""

    def ref(target: str) -> dict[str, str]:
        return {"type": "ref", "ref": target}

    point = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}, "none": {"type": "null"}}}
    lexicons = compile_lexicons({
        "com.example.thing": lexicon(
            field=point,
            record={"properties": {"a": point, "t": ref("#loud"), "again": ref("#main")}},
            defs={"loud": {"type": "token"}},
        )
    })  # fmt: skip
    good = {"$type": "com.example.thing", "a": {"x": 1, "none": None}, "t": "com.example.thing#loud"}
    assert lexicons.problems("com.example.thing", {**good, "again": good}) == []
    bad = {**good, "a": {"x": "1", "none": 0}, "t": "#loud", "again": {**good, "$type": "other", "a": {}}}
    assert lexicons.problems("com.example.thing", bad) == [
        "$.a.x: expected an integer, found text",
        "$.a.none: expected null, found an integer",
        "$.t: expected the token com.example.thing#loud, found '#loud'",
        "$.again.$type: expected com.example.thing, found 'other'",
        "$.again.a.x: required and missing",
    ]
