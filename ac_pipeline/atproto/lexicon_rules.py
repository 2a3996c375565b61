"""The lexicon language: a definition becomes a function that checks values.

Records, objects, arrays, references and unions, and the check that a schema is a proper one. Compiling happens once,
at load, so that checking a record is a few function calls. Single fields are `lexicon_fields.py`; files and whole
records are `lexicon.py`. Values are in JSON form; every rule is enforced, nothing is coerced or defaulted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ac_pipeline.atproto.lexicon_fields import (
    SIMPLE_TYPES,
    Check,
    Report,
    Schema,
    bounds,
    check_free,
    check_size,
    expect_shape,
    is_map,
    kind_of,
    shorten,
)
from ac_pipeline.errors import Misconfigured


class Compiler:
    """Compiles the definitions of a set of lexicon documents; references between them are resolved here.

    Args:
        documents: NSID -> lexicon document.

    Raises:
        Misconfigured: From `definition`, when a schema is not a proper one. The message names the place.
    """

    def __init__(self, documents: Mapping[str, Schema]) -> None:
        self._documents = documents
        self._checks: dict[str, Check | None] = {}

    def definition(self, nsid: str, name: str) -> Check:
        """The check of one definition (a record's includes its `$type`); compiled once, reachable from itself."""
        full = f"{nsid}#{name}"
        if full not in self._checks:
            self._checks[full] = None  # being compiled: a definition that refers to itself finds it later
            try:
                self._checks[full] = self._compile_definition(nsid, name)
            except Misconfigured:
                del self._checks[full]  # whoever else refers to it is told, too
                raise
        ready = self._checks[full]
        return ready if ready is not None else self._deferred(full)

    def _deferred(self, full: str) -> Check:
        def check(value: Any, path: str, report: Report) -> None:
            compiled = self._checks[full]
            if compiled is None:
                raise Misconfigured(f"{full}: used before it was compiled")
            compiled(value, path, report)

        return check

    def _compile_definition(self, nsid: str, name: str) -> Check:
        place = f"{nsid}#{name}"
        schema = self._lookup(nsid, name, place)
        type_name = nsid if name == "main" else place
        kind = schema.get("type")
        if kind == "record":
            expect_shape(schema, place, {"key": str, "record": dict, "description": str}, required=("key", "record"))
            check_key_type(schema["key"], place)
            if schema["record"].get("type") != "object":
                raise Misconfigured(f"{place}: the shape of a record is an object")
            return _typed(type_name, self._object(nsid, schema["record"], place), required=True)
        if kind == "token":
            expect_shape(schema, place, {"description": str})
            return _token(type_name)
        if kind == "object":
            return _typed(type_name, self._object(nsid, schema, place), required=False)
        if kind in ("ref", "union"):
            raise Misconfigured(f"{place}: a definition is not a {kind}; use it where the {kind} is needed")
        return self._field(nsid, schema, place)

    def _lookup(self, nsid: str, name: str, place: str) -> Schema:
        schema = self._documents.get(nsid, {}).get("defs", {}).get(name)
        if not isinstance(schema, dict):
            raise Misconfigured(f"{place}: there is no such definition in the loaded lexicons")
        return schema

    def _field(self, nsid: str, schema: object, place: str) -> Check:
        if not isinstance(schema, dict):
            raise Misconfigured(f"{place}: a schema is an object with a type")
        match schema.get("type"):
            case "object":
                return self._object(nsid, schema, place)
            case "array":
                return self._array(nsid, schema, place)
            case "ref":
                return self._ref(nsid, schema, place)
            case "union":
                return self._union(nsid, schema, place)
            case kind if isinstance(kind, str) and kind in SIMPLE_TYPES:
                return SIMPLE_TYPES[kind](schema, place)
            case kind:
                raise Misconfigured(f"{place}: {kind!r} is not a type that a field can have")

    def _object(self, nsid: str, schema: Schema, place: str) -> Check:
        expect_shape(
            schema,
            place,
            {"properties": dict, "required": list, "nullable": list, "description": str},
            required=("properties",),
        )
        properties = schema["properties"]
        for rule in ("required", "nullable"):
            unknown = [name for name in schema.get(rule, ()) if name not in properties]
            if unknown:
                raise Misconfigured(
                    f"{place}: {rule} names {', '.join(map(repr, unknown))}, which no property declares"
                )
        checks = {name: self._field(nsid, field, f"{place}.{name}") for name, field in properties.items()}
        return _object(checks, tuple(schema.get("required", ())), frozenset(schema.get("nullable", ())))

    def _array(self, nsid: str, schema: Schema, place: str) -> Check:
        expect_shape(
            schema,
            place,
            {"items": dict, "minLength": int, "maxLength": int, "description": str},
            required=("items",),
        )
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
        expect_shape(schema, place, {"ref": str, "description": str}, required=("ref",))
        target, name = _target(nsid, schema["ref"])
        return self.definition(target, name)

    def _union(self, nsid: str, schema: Schema, place: str) -> Check:
        expect_shape(schema, place, {"refs": list, "closed": bool, "description": str}, required=("refs",))
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
            if not is_map(value):
                return report(path, f"expected an object with $type, found {kind_of(value)}")
            kind = value.get("$type")
            if not isinstance(kind, str) or not kind:
                return report(f"{path}.$type", f"expected the name of a type, found {kind!r}")
            if kind in members:
                return members[kind](value, path, report)
            if closed:
                return report(f"{path}.$type", f"{kind!r} is not one of {', '.join(sorted(members))}")
            return check_free(value, path, report)

        return check


def check_key_type(key: object, place: str) -> None:
    """Raises Misconfigured unless `key` is a record key type: any, tid, nsid or `literal:...`."""
    if key not in ("any", "tid", "nsid") and not (isinstance(key, str) and key.startswith("literal:") and key[8:]):
        raise Misconfigured(f"{place}: {key!r} is not a type of record key")


def _token(name: str) -> Check:
    def check(value: Any, path: str, report: Report) -> None:
        if value != name:
            report(path, f"expected the token {name}, found {shorten(value)}")

    return check


def _typed(name: str, inner: Check, *, required: bool) -> Check:
    def check(value: Any, path: str, report: Report) -> None:
        if type(value) is dict and value.get("$type") != name and (required or "$type" in value):
            report(f"{path}.$type", f"expected {name}, found {shorten(value.get('$type'))}")
        inner(value, path, report)

    return check


def _object(checks: Mapping[str, Check], required: tuple[str, ...], nullable: frozenset[str]) -> Check:
    def check(value: Any, path: str, report: Report) -> None:
        if not is_map(value):
            return report(path, f"expected an object, found {kind_of(value)}")
        for name in required:
            if name not in value:
                report(f"{path}.{name}", "required and missing")
        for name, item in value.items():
            field_check = checks.get(name)
            if field_check is None:
                if name != "$type":
                    check_free(item, f"{path}.{name}", report)
            elif item is not None or name not in nullable:
                field_check(item, f"{path}.{name}", report)
        return None

    return check


def _target(nsid: str, ref: object) -> tuple[str, str]:
    """Document and definition that a reference in document `nsid` means."""
    if not isinstance(ref, str) or not ref.strip("#"):
        raise Misconfigured(f"{nsid}: {ref!r} is not a reference")
    document, _, name = ref.partition("#")
    return document or nsid, name or "main"
