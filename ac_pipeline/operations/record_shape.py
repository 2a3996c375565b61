"""The form of a record: whether it satisfies its lexicon, and what of it older writers left in a form that is not ours.

Pure. Which state of its link that makes is `link_states.py`'s. Sources: acceptance, VERIFY-3; historical forms of
records: aesthetic-computer facts, section 7.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.errors import InvalidDocument
from ac_pipeline.items import Derived, Record
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.plan import Existing, Wanted


@dataclass(frozen=True, slots=True)
class Shape:
    """How the form of a record deviates: `problems` break the lexicon, `forms` are what older writers left."""

    problems: tuple[str, ...] = ()
    forms: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        return bool(self.problems or self.forms)

    @property
    def words(self) -> str:
        return "; ".join(filter(None, [self.forms, *self.problems]))


def shape_of(lexicons: Lexicons, media: MediaType, record: Existing, wanted: Wanted | None) -> Shape:
    """The form of a record against its lexicon and, where that is known, against what would be written.

    Args:
        wanted: What its document would give; None for a record that no document wants.
    """
    nsid = media.nsid
    problems = tuple(lexicons.problems(nsid, record.value))
    warnings = [f"`{name}` is not declared" for name in lexicons.undeclared(nsid, record.value)]
    # A key stays what it is, whatever its form: no update can change it.
    warnings += [problem for problem in lexicons.problems(nsid, record.value, record.rkey) if problem not in problems]
    forms = "" if wanted is None else _forms(lexicons, media, record.value, wanted)
    return Shape(problems, forms, tuple(warnings))


def _forms(lexicons: Lexicons, media: MediaType, value: Record, wanted: Wanted) -> str:
    """Fields in a form that is not ours, in words.

    Without renditions, fields that follow from media are judged by their presence, and companions not at all.
    """
    if wanted.record is not None:
        least = most = wanted.record
        unjudged: set[str] = set()
    elif wanted.unrendered:
        try:
            least = media.build_record(wanted.document, Derived())
            most = media.build_record(wanted.document, Derived(found=frozenset(media.companions(wanted.document))))
        except InvalidDocument:
            return ""
        unjudged = {blob.name for blob in media.blobs}
    else:
        return ""
    lacks = sorted({*least, *unjudged} - value.keys())
    extra = sorted(value.keys() - most.keys() - unjudged)
    rules: Mapping[str, Mapping[str, object]] = lexicons.documents[media.nsid]["defs"]["main"]["record"]["properties"]
    other = sorted(
        name
        for name in most.keys() & value.keys()
        if value[name] != most[name] and _is_form(rules.get(name, {}), name, value[name], wanted.document)
    )
    parts = (("lacks", lacks), ("has extra", extra), ("has another form of", other))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)


def _is_form(rule: Mapping[str, object], name: str, found: object, document: Document) -> bool:
    """Whether another value of a field is another way to say the same: an address, a blob, a value as stored."""
    return rule.get("type") == "blob" or rule.get("format") == "uri" or found == document.fields.get(name)
