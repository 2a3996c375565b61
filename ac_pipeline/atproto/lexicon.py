"""The lexicons, the only definition of what a record looks like: files, whole records, what changes between versions.

The language they are written in is `lexicon_rules.py`. The PDS knows none of these schemas and stores what it is given,
so a record that passes this gate wrongly is published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any, Final

from ac_pipeline.atproto.lexicon_rules import Check, Compiler
from ac_pipeline.atproto.syntax import is_nsid, is_record_key, is_tid
from ac_pipeline.errors import InvalidRecord, Misconfigured
from ac_pipeline.items import Record

_KEY_TYPES: Final = {"tid": is_tid, "nsid": is_nsid, "any": is_record_key}  # Types of record keys besides `literal:...`
_PACKAGE: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Lexicons:
    """A set of lexicons, compiled. Made by `load_lexicons` or `compile_lexicons`."""

    documents: Mapping[str, Mapping[str, Any]]  # NSID -> lexicon document of a record, as it is published
    _checks: Mapping[str, Check]
    # What else lay beside them -> why it is not used; a record may still refer to its definitions
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def validate(self, nsid: str, record: Record, rkey: str | None = None) -> None:
        """Check a record in JSON form, and its key when given (REC-1).

        Undeclared fields are legal as long as the data model can hold them. Raises InvalidRecord (the first broken
        rule: collection, path of the field, rule, what was found).
        """
        problems = self.problems(nsid, record, rkey)
        if problems:
            raise InvalidRecord(f"{nsid}: {problems[0]}")

    def problems(self, nsid: str, record: Record, rkey: str | None = None) -> list[str]:
        """Every rule that a record breaks, as `path: rule` (VERIFY-3); empty for a valid one."""
        found: list[str] = []
        check = self._check(nsid)
        try:
            check(record, "$", lambda path, problem: found.append(f"{path}: {problem}"))
        except RecursionError:
            found.append("$: nested too deeply to be checked")
        key_type: str = self.documents[nsid]["defs"]["main"]["key"]
        fits = _KEY_TYPES.get(key_type, is_record_key)
        if rkey is not None and not (fits(rkey) and key_type in (*_KEY_TYPES, f"literal:{rkey}")):
            found.append(f"record key {rkey[:80]!r} is not of type {key_type}")
        return found

    def undeclared(self, nsid: str, record: Record) -> list[str]:
        """Names of the record's own fields that its lexicon does not declare: a warning, not an error (REC-5)."""
        self._check(nsid)
        declared = self.documents[nsid]["defs"]["main"]["record"]["properties"]
        return [name for name in record if name not in declared and name != "$type"]

    def _check(self, nsid: str) -> Check:
        if nsid not in self._checks:
            raise InvalidRecord(f"{nsid}: there is no lexicon of this name; known are {', '.join(self._checks)}")
        return self._checks[nsid]


def load_lexicons(
    directory: Path | None = None,  # By default the one inside the installed package, else `lexicons/` of the checkout
    # NSIDs without which nothing can start; any other file is passed over when it cannot be used. None: every file is
    # needed that cannot be told to be something else.
    needed: Collection[str] | None = None,
    more: Iterable[Path] = (),  # Folders beside it, of types that live in other packages
) -> Lexicons:
    """Read and compile the record lexicons below a folder: `computer/aesthetic/mood.json` is `computer.aesthetic.mood`.
    One that defines no record (a permission set, shared definitions, a query) is passed over. Raises Misconfigured if
    there is no record lexicon, or a needed one is missing, is not JSON, does not lie where its id belongs, or is not
    proper."""
    installed = _PACKAGE / "lexicons"
    folder = directory or (installed if installed.is_dir() else _PACKAGE.parent / "lexicons")
    documents: dict[str, Any] = {}
    unusable: dict[str, str] = {}
    for expected, path in chain.from_iterable(map(_files, (folder, *more))):
        try:
            documents[expected] = _read(path, expected)
        except Misconfigured as error:
            if needed is None or expected in needed:
                raise
            unusable[expected] = error.message
    found = compile_lexicons(documents, needed)
    passed_over = {**unusable, **found.passed_over}
    missing = sorted(set(needed or ()) - found.documents.keys())
    if missing or not found.documents:
        named = "".join(f"; {name}: {reason}" for name, reason in passed_over.items() if not needed or name in missing)
        what = f"no lexicon of a record {', '.join(missing)}" if missing else "no lexicons"
        raise Misconfigured(f"{what} in {folder}: without them no record can be checked, so none is written{named}")
    return replace(found, passed_over=passed_over)


def compile_lexicons(documents: Mapping[str, Mapping[str, Any]], needed: Collection[str] | None = None) -> Lexicons:
    """Compile the lexicon documents that define a record. `needed`: as for `load_lexicons`. Raises Misconfigured: a
    needed document is not a proper lexicon; the message names document, definition and rule."""
    compiler = Compiler(documents)
    checks: dict[str, Check] = {}
    passed_over: dict[str, str] = {}
    for nsid, document in documents.items():
        try:
            if not _is_record(nsid, document):
                passed_over[nsid] = "defs.main is not a record"
                continue
            check = compiler.definition(nsid, "main")
            for name in document["defs"]:
                compiler.definition(nsid, name)
            checks[nsid] = check
        except Misconfigured as error:
            if needed is None or nsid in needed:
                raise
            passed_over[nsid] = error.message
    return Lexicons({nsid: documents[nsid] for nsid in checks}, checks, passed_over)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each JSON file below a folder, by the NSID that its place says."""
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and not path.name.startswith("."):
            yield ".".join(path.relative_to(folder).with_suffix("").parts), path


def _read(path: Path, expected: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise Misconfigured(f"{path}: not a readable JSON document: {error}") from error
    if not isinstance(document, dict):
        raise Misconfigured(f"{path}: a lexicon is a JSON object")
    if document.get("id") != expected:
        raise Misconfigured(f"{path}: the id is {document.get('id')!r}, but the place of the file says {expected!r}")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last of two equal names win; in a lexicon that would be a rule silently dropped."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"a name occurs twice among {', '.join(name for name, _ in pairs)}")
    return result


def _is_record(nsid: str, document: Mapping[str, Any]) -> bool:
    """True if the document defines a record; raises Misconfigured when it is no proper lexicon."""
    if document.get("lexicon") != 1 or document.get("id") != nsid or not is_nsid(nsid):
        raise Misconfigured(f"{nsid}: a lexicon starts with lexicon 1 and an id that is an NSID")
    definitions = document.get("defs")
    if not isinstance(definitions, dict) or not all(isinstance(schema, dict) for schema in definitions.values()):
        raise Misconfigured(f"{nsid}: defs is an object of definitions")
    for name, schema in definitions.items():
        if name != "main" and schema.get("type") == "record":
            raise Misconfigured(f"{nsid}: only defs.main can be a record, not {name}")
        if schema.get("type") in ("ref", "union", "unknown"):
            raise Misconfigured(f"{nsid}#{name}: a definition is not a {schema['type']}; use it where it is needed")
    is_record: bool = definitions.get("main", {}).get("type") == "record"
    if is_record and (unknown := document.keys() - {"lexicon", "id", "revision", "description", "defs"}):
        raise Misconfigured(f"{nsid}: unknown entries {', '.join(sorted(unknown))}")
    return is_record


Schema = Mapping[str, Any]


class Effect(StrEnum):
    """What a change means for those who use the published version."""

    BREAKING = "breaking"  # Existing data or programs fail
    WIDENING = "widening"  # Programs that know the published version may refuse new data
    COMPATIBLE = "compatible"  # Nobody notices


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the published version and ours."""

    path: str  # Where, such as `main.record.slug`
    effect: Effect
    what: str  # The difference in words


_WORDS: Final = ("description", "default", "knownValues", "revision")
_STRUCTURE: Final = frozenset({"type", "required", "properties", "items", "record"})


def _narrower(sign: int) -> Callable[[Any, Any], Effect]:
    """The effect of another limit: breaking where less is allowed than before."""

    def effect(old: Any, new: Any) -> Effect:
        tightened = new is not None and (old is None or sign * new < sign * old)
        return Effect.BREAKING if tightened else Effect.WIDENING

    return effect


def _fewer(old: Any, new: Any) -> Effect:
    """The effect of another list of what is allowed; without a list everything is."""
    if old is not None and new is not None and set(old) == set(new):
        return Effect.COMPATIBLE
    return Effect.BREAKING if new is not None and (old is None or not set(old) <= set(new)) else Effect.WIDENING


# Rule -> what it means that it has changed. A rule that is not here is taken for the worst.
_EFFECTS: Final[Mapping[str, Callable[[Any, Any], Effect]]] = {
    **dict.fromkeys(("maxLength", "maxGraphemes", "maximum", "maxSize"), _narrower(1)),
    **dict.fromkeys(("minLength", "minGraphemes", "minimum"), _narrower(-1)),
    **dict.fromkeys(("enum", "accept", "refs"), _fewer),
    "nullable": lambda old, new: _fewer(old or (), new or ()),
    **dict.fromkeys(
        ("format", "const", "closed"), lambda old, new: Effect.WIDENING if new is None else Effect.BREAKING
    ),
}


def changes(published: Schema, ours: Schema) -> list[Change]:
    """Every difference between the published version of a lexicon document and ours, in order of their paths."""
    before, after = published.get("defs", {}), ours.get("defs", {})
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(Change(name, Effect.BREAKING, "the definition is gone"))
        elif name not in before:
            found.append(Change(name, Effect.COMPATIBLE, "a new definition"))
        else:
            found.extend(_schemas(name, before[name], after[name]))
    found.extend(_words("", published, ours))
    return found


def _schemas(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    """Differences of two schemas at one place, and of all below them."""
    if before.get("type") != after.get("type"):
        yield Change(path, Effect.BREAKING, f"the type was {before.get('type')}, and is {after.get('type')}")
        return
    for name in sorted((before.keys() | after.keys()) - _STRUCTURE - {*_WORDS}):
        old, new = before.get(name), after.get(name)
        if old != new:
            effect = _EFFECTS[name](old, new) if name in _EFFECTS else Effect.BREAKING
            was, now = ("not set" if value is None else json.dumps(value) for value in (old, new))
            yield Change(path, effect, f"{name} was {was}, and is {now}")
    yield from _words(path, before, after)
    for name, place in (("record", f"{path}.record"), ("items", f"{path}[]")):
        if name in before or name in after:
            yield from _schemas(place, before.get(name, {}), after.get(name, {}))
    yield from _fields(path, before, after)


def _fields(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    old, new = before.get("properties", {}), after.get("properties", {})
    for name in sorted(old.keys() | new.keys()):
        place = f"{path}.{name}"
        needed, needs = name in before.get("required", ()), name in after.get("required", ())
        if name not in new:
            effect = Effect.BREAKING if needed else Effect.WIDENING
            yield Change(place, effect, f"the {'required ' if needed else ''}field is gone")
        elif name not in old:
            effect = Effect.BREAKING if needs else Effect.COMPATIBLE
            yield Change(place, effect, f"a new {'required' if needs else 'optional'} field")
        else:
            if needed != needs:
                yield Change(place, Effect.BREAKING, "was required" if needed else "is required now")
            yield from _schemas(place, old[name], new[name])


def _words(path: str, before: Schema, after: Schema) -> Iterator[Change]:
    for name in _WORDS:
        if before.get(name) != after.get(name):
            yield Change(path or name, Effect.COMPATIBLE, f"another {name}")
