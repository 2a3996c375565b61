"""The lexicon language: a definition becomes a function that checks values, and is checked to be a proper one itself.

Compiling happens once, at load, so that checking a record is a few function calls. Values are in JSON form; every rule
is enforced, nothing is coerced or defaulted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import regex

from ac_pipeline.atproto.syntax import FORMATS, MAX_INTEGER, bytes_of, is_cid, to_ipld
from ac_pipeline.errors import InvalidRecord, Misconfigured

Schema = Mapping[str, Any]
Report = Callable[[str, str], None]  # Takes note of the path of a field and the rule it breaks
Check = Callable[[Any, str, Report], None]  # Checks a value that stands at a path

_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "text",
    list: "an array",
    dict: "an object",
}
_GRAPHEME: Final = regex.compile(r"\X")
_BLOB_KEYS: Final = frozenset({"$type", "ref", "mimeType", "size"})
_LENGTHS: Final = {"minLength": int, "maxLength": int}
# Type of a schema -> its rules and their types, besides `type` and `description`
_RULES: Final[Mapping[str, Mapping[str, type]]] = {
    "string": {"format": str, "const": str, "default": str, "enum": list, "knownValues": list}
    | {"minGraphemes": int, "maxGraphemes": int, **_LENGTHS},
    "integer": {"minimum": int, "maximum": int, "const": int, "default": int, "enum": list},
    "boolean": {"const": bool, "default": bool},
    "blob": {"accept": list, "maxSize": int},
    "bytes": _LENGTHS,
    "array": {"items": dict, **_LENGTHS},
    "object": {"properties": dict, "required": list, "nullable": list},
    "ref": {"ref": str},
    "union": {"refs": list, "closed": bool},
    "record": {"key": str, "record": dict},
    "cid-link": {},
    "unknown": {},
    "null": {},
    "token": {},
}
_REQUIRED: Final = {"array": "items", "object": "properties", "ref": "ref", "union": "refs", "record": "key record"}


def expect_shape(schema: Schema, place: str) -> None:
    """Raises Misconfigured unless a schema of a known type has the required rules, and only known ones of the right
    type: one that is not known here would be a rule that nobody enforces."""
    kind = schema["type"]
    known = {**_RULES[kind], "type": str, "description": str}
    for rule in _REQUIRED.get(kind, "").split():
        if rule not in schema:
            raise Misconfigured(f"{place}: {rule} is missing")
    for rule, value in schema.items():
        if rule not in known:
            raise Misconfigured(f"{place}: {rule!r} is not a rule of type {kind!r}")
        if type(value) is not known[rule]:
            raise Misconfigured(f"{place}: {rule} is {value!r}, expected {known[rule].__name__}")


def bounds(schema: Schema, place: str, low: str, high: str) -> tuple[int, int]:
    """Two limits of a schema, the missing ones filled in; raises Misconfigured when nothing can lie between them."""
    least, most = schema.get(low, 0), schema.get(high, MAX_INTEGER)
    if not 0 <= least <= most <= MAX_INTEGER:
        raise Misconfigured(f"{place}: nothing lies between {low} {least} and {high} {most}")
    return least, most


def check_size(size: int, unit: str, limits: tuple[int, int], path: str, report: Report) -> None:
    least, most = limits
    if size > most:
        report(path, f"{size:,} {unit}, at most {most:,}")
    elif size < least:
        report(path, f"{size:,} {unit}, at least {least:,}")


def is_map(value: object) -> bool:
    """True if a JSON value is a map of the data model: links and bytes only look like one."""
    return isinstance(value, dict) and "$link" not in value and "$bytes" not in value


def kind_of(value: object) -> str:
    if isinstance(value, dict) and not is_map(value):
        return "a link" if "$link" in value else "bytes"
    return _KINDS.get(type(value), type(value).__name__)


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_free(value: Any, path: str, report: Report) -> None:
    """Check a value that no schema describes: only the data model's own rules (no floats, proper links and blobs)."""
    if not isinstance(value, str):
        try:
            to_ipld(value, path)
        except InvalidRecord as error:
            report(path, error.message.removeprefix(f"{path}: "))
        else:
            _check_types(value, path, report)


def _check_types(value: Any, path: str, report: Report) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_types(item, f"{path}[{index}]", report)
    elif isinstance(value, dict) and "$link" not in value and "$bytes" not in value:
        kind = value.get("$type", "none")
        if kind == "blob":
            _check_blob(value, path, report)
        elif not isinstance(kind, str) or not kind:
            report(f"{path}.$type", f"expected the name of a type, found {kind!r}")
        else:
            for key, item in value.items():
                _check_types(item, f"{path}.{key}", report)


def _string(schema: Schema, place: str) -> Check:
    least, most = bounds(schema, place, "minLength", "maxLength")
    graphemes = bounds(schema, place, "minGraphemes", "maxGraphemes")
    counts_graphemes = "minGraphemes" in schema or "maxGraphemes" in schema
    allowed = _allowed(schema, place, str)
    name = schema.get("format")
    if name is not None and name not in FORMATS:
        raise Misconfigured(f"{place}: {name!r} is not a string format")
    matches = FORMATS[name] if name is not None else None

    def check(value: Any, path: str, report: Report) -> None:
        if not isinstance(value, str):
            return report(path, f"expected text, found {kind_of(value)}")
        size = len(value)
        if not value.isascii():
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                return report(path, "the text holds half of a surrogate pair and has no UTF-8 form")
        if not least <= size <= most:
            return check_size(size, "bytes of UTF-8", (least, most), path, report)
        if counts_graphemes:
            check_size(len(_GRAPHEME.findall(value)), "graphemes", graphemes, path, report)
        if allowed is not None and value not in allowed:
            return report(path, f"{shorten(value)} is not one of {shorten(sorted(allowed))}")
        if matches is not None and not matches(value):
            return report(path, f"{shorten(value)} is not a valid {name}")
        return None

    return check


def _integer(schema: Schema, place: str) -> Check:
    least, most = schema.get("minimum", -MAX_INTEGER), schema.get("maximum", MAX_INTEGER)
    if not -MAX_INTEGER <= least <= most <= MAX_INTEGER:
        raise Misconfigured(f"{place}: the range from {least} to {most} is empty or beyond 2**53 - 1")
    allowed = _allowed(schema, place, int)

    def check(value: Any, path: str, report: Report) -> None:
        if type(value) is not int and not (type(value) is float and value.is_integer()):
            report(path, f"expected an integer, found {kind_of(value)}")
        elif not least <= value <= most:
            report(path, f"{value} is outside {least} to {most}")
        elif allowed is not None and value not in allowed:
            report(path, f"{value} is not one of {shorten(sorted(allowed))}")

    return check


def _boolean(schema: Schema, place: str) -> Check:
    const = schema.get("const")

    def check(value: Any, path: str, report: Report) -> None:
        if type(value) is not bool:
            report(path, f"expected true or false, found {kind_of(value)}")
        elif const is not None and value is not const:
            report(path, f"expected {const}, found {value}")

    return check


def _blob(schema: Schema, place: str) -> Check:
    if not all(isinstance(pattern, str) and "/" in pattern for pattern in schema.get("accept", ())):
        raise Misconfigured(f"{place}: accept lists MIME types")
    limits = bounds(schema, place, "minSize", "maxSize")
    patterns = tuple(schema["accept"]) if "accept" in schema else ("*/*",)
    exact = frozenset(patterns)
    families = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("/*") and pattern != "*/*")

    def check(value: Any, path: str, report: Report) -> None:
        if _check_blob(value, path, report):
            mime_type = value["mimeType"]
            if mime_type not in exact and "*/*" not in exact and not (families and mime_type.startswith(families)):
                report(f"{path}.mimeType", f"{shorten(mime_type)} is not one of {', '.join(patterns)}")
            check_size(value["size"], "bytes", limits, f"{path}.size", report)

    return check


def _check_blob(value: Any, path: str, report: Report) -> bool:
    """The shape of a blob reference: nothing missing, nothing extra, a CID, a size, something like a MIME type."""
    if not isinstance(value, dict) or value.get("$type") != "blob" or value.keys() != _BLOB_KEYS:
        found = f"an object with {', '.join(map(str, value))}" if isinstance(value, dict) else kind_of(value)
        report(path, f"expected a blob ($type blob, ref, mimeType, size), found {found}")
        return False
    mime_type, size = value["mimeType"], value["size"]
    if not _is_link(value["ref"]):
        wrong, expected = "ref", "the link of a blob"
    elif not isinstance(mime_type, str) or "/" not in mime_type:
        wrong, expected = "mimeType", "a MIME type"
    elif type(size) is not int or not 0 <= size <= MAX_INTEGER:
        wrong, expected = "size", "a size in bytes"
    else:
        return True
    report(f"{path}.{wrong}", f"expected {expected}, found {shorten(value[wrong])}")
    return False


def _bytes(schema: Schema, place: str) -> Check:
    limits = bounds(schema, place, "minLength", "maxLength")

    def check(value: Any, path: str, report: Report) -> None:
        raw = bytes_of(value) if isinstance(value, dict) else None
        if raw is None:
            report(path, f"expected bytes, found {shorten(value)}")
        else:
            check_size(len(raw), "bytes", limits, path, report)

    return check


def _check_unknown(value: Any, path: str, report: Report) -> None:
    if is_map(value):
        check_free(value, path, report)
    else:
        report(path, f"expected an object, found {kind_of(value)}")


def _expected(words: str, fits: Callable[[Any], bool], said: Callable[[object], str]) -> Check:
    """The check of a value that fits or does not; `said`: how what was found is named."""

    def check(value: Any, path: str, report: Report) -> None:
        if not fits(value):
            report(path, f"expected {words}, found {said(value)}")

    return check


def _allowed(schema: Schema, place: str, kind: type) -> frozenset[Any] | None:
    """The values that `enum` and `const` leave, or None for all."""
    listed = schema.get("enum")
    if listed is not None and not (listed and all(type(value) is kind for value in listed)):
        raise Misconfigured(f"{place}: enum lists values of type {kind.__name__}")
    if "const" not in schema:
        return None if listed is None else frozenset(listed)
    if listed is not None and schema["const"] not in listed:
        raise Misconfigured(f"{place}: const {schema['const']!r} is not in enum")
    return frozenset({schema["const"]})


def _is_link(value: object) -> bool:
    link = value.get("$link") if isinstance(value, dict) and len(value) == 1 else None
    return isinstance(link, str) and is_cid(link)


# Types that need no other definition: name -> compiler of a schema (schema, place in the document)
_SIMPLE: Final[Mapping[str, Callable[[Schema, str], Check]]] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "blob": _blob,
    "bytes": _bytes,
    "cid-link": lambda schema, place: _expected("a link", _is_link, shorten),
    "unknown": lambda schema, place: _check_unknown,
    "null": lambda schema, place: _expected("null", lambda value: value is None, kind_of),
}


class Compiler:
    """Compiles the definitions of lexicon documents, given by NSID; references between them are resolved here. Raises
    Misconfigured when a schema is not a proper one; the message names the place."""

    def __init__(self, documents: Mapping[str, Schema]) -> None:
        self._documents = documents
        self._checks: dict[str, Check] = {}

    def definition(self, nsid: str, name: str) -> Check:
        """The check of one definition (a record's includes its `$type`); compiled once, reachable from itself."""
        full = f"{nsid}#{name}"
        if full not in self._checks:
            self._checks[full] = partial(self._later, full)  # a definition that refers to itself finds it later
            try:
                self._checks[full] = self._compile_definition(nsid, name)
            except Misconfigured:
                del self._checks[full]  # whoever else refers to it is told, too
                raise
        return self._checks[full]

    def _later(self, full: str, value: Any, path: str, report: Report) -> None:
        self._checks[full](value, path, report)

    def _compile_definition(self, nsid: str, name: str) -> Check:
        place = f"{nsid}#{name}"
        schema = self._lookup(nsid, name, place)
        type_name = nsid if name == "main" else place
        kind = schema.get("type")
        if kind in ("ref", "union"):
            raise Misconfigured(f"{place}: a definition is not a {kind}; use it where the {kind} is needed")
        if kind == "record":
            expect_shape(schema, place)
            key = schema["key"]
            if key not in ("any", "tid", "nsid") and not (key.startswith("literal:") and key[8:]):
                raise Misconfigured(f"{place}: {key!r} is not a type of record key")
            if schema["record"].get("type") != "object":
                raise Misconfigured(f"{place}: the shape of a record is an object")
            return _typed(type_name, self._field(nsid, schema["record"], place), required=True)
        if kind == "token":
            expect_shape(schema, place)
            return _expected(f"the token {type_name}", lambda value: value == type_name, shorten)
        check = self._field(nsid, schema, place)
        return _typed(type_name, check, required=False) if kind == "object" else check

    def _lookup(self, nsid: str, name: str, place: str) -> Schema:
        schema = self._documents.get(nsid, {}).get("defs", {}).get(name)
        if not isinstance(schema, dict):
            raise Misconfigured(f"{place}: there is no such definition in the loaded lexicons")
        return schema

    def _field(self, nsid: str, schema: object, place: str) -> Check:
        if not isinstance(schema, dict):
            raise Misconfigured(f"{place}: a schema is an object with a type")
        kind = schema.get("type")
        compound = {"object": self._object, "array": self._array, "ref": self._ref, "union": self._union}
        if not isinstance(kind, str) or not (kind in compound or kind in _SIMPLE):
            raise Misconfigured(f"{place}: {kind!r} is not a type that a field can have")
        expect_shape(schema, place)
        return _SIMPLE[kind](schema, place) if kind in _SIMPLE else compound[kind](nsid, schema, place)

    def _object(self, nsid: str, schema: Schema, place: str) -> Check:
        properties = schema["properties"]
        for rule in ("required", "nullable"):
            unknown = ", ".join(repr(name) for name in schema.get(rule, ()) if name not in properties)
            if unknown:
                raise Misconfigured(f"{place}: {rule} names {unknown}, which no property declares")
        checks = {name: self._field(nsid, field, f"{place}.{name}") for name, field in properties.items()}
        required, nullable = tuple(schema.get("required", ())), frozenset(schema.get("nullable", ()))

        def check(value: Any, path: str, report: Report) -> None:
            if not is_map(value):
                return report(path, f"expected an object, found {kind_of(value)}")
            for name in required:
                if name not in value:
                    report(f"{path}.{name}", "required and missing")
            for name, item in value.items():
                if name in checks:
                    if item is not None or name not in nullable:
                        checks[name](item, f"{path}.{name}", report)
                elif name != "$type":
                    check_free(item, f"{path}.{name}", report)
            return None

        return check

    def _array(self, nsid: str, schema: Schema, place: str) -> Check:
        limits = bounds(schema, place, "minLength", "maxLength")
        item_check = self._field(nsid, schema["items"], f"{place}[]")

        def check(value: Any, path: str, report: Report) -> None:
            if type(value) is not list:
                return report(path, f"expected an array, found {kind_of(value)}")
            check_size(len(value), "items", limits, path, report)
            for index, item in enumerate(value):
                item_check(item, f"{path}[{index}]", report)
            return None

        return check

    def _ref(self, nsid: str, schema: Schema, place: str) -> Check:
        return self.definition(*_target(nsid, schema["ref"]))

    def _union(self, nsid: str, schema: Schema, place: str) -> Check:
        closed = schema.get("closed", False)
        if closed and not schema["refs"]:
            raise Misconfigured(f"{place}: a closed union without members can never be met")
        members: dict[str, Check] = {}
        for ref in schema["refs"]:
            target, name = _target(nsid, ref)
            if self._lookup(target, name, f"{target}#{name}").get("type") not in ("object", "record"):
                raise Misconfigured(f"{place}: {ref!r} is neither an object nor a record")
            members[target if name == "main" else f"{target}#{name}"] = self.definition(target, name)

        def check(value: Any, path: str, report: Report) -> None:
            kind = value.get("$type") if is_map(value) else None
            if not is_map(value):
                report(path, f"expected an object with $type, found {kind_of(value)}")
            elif not isinstance(kind, str) or not kind:
                report(f"{path}.$type", f"expected the name of a type, found {kind!r}")
            elif closed and kind not in members:
                report(f"{path}.$type", f"{kind!r} is not one of {', '.join(sorted(members))}")
            else:
                members.get(kind, check_free)(value, path, report)

        return check


def _typed(name: str, inner: Check, *, required: bool) -> Check:
    def check(value: Any, path: str, report: Report) -> None:
        if type(value) is dict and value.get("$type") != name and (required or "$type" in value):
            report(f"{path}.$type", f"expected {name}, found {shorten(value.get('$type'))}")
        inner(value, path, report)

    return check


def _target(nsid: str, ref: object) -> tuple[str, str]:
    """Document and definition that a reference in document `nsid` means."""
    if not isinstance(ref, str) or not ref.strip("#"):
        raise Misconfigured(f"{nsid}: {ref!r} is not a reference")
    document, _, name = ref.partition("#")
    return document or nsid, name or "main"
