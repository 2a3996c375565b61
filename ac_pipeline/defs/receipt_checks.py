"""Checks on what the last verification of each user found, and on what the ledger knows of refused records.

Each looks at the receipts of all users, so that a run over some of them never hides what was found of the others. No
repository is read here: the job `verify_users` does that, and calls these afterwards. Which checks there are is
`checks.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.ledger_checks import NAMED
from ac_pipeline.defs.metadata import LINKED, ROWS, Metadata, coded, escaped, link
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Finding, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.receipts import Aspect, Part, Receipt, Total
from ac_pipeline.operations.receipts import Findings

RECORDS_MATCH_DOCUMENTS: Final = "records_match_documents"
LINKS_CONSISTENT: Final = "links_consistent"
BLOBS_PRESENT: Final = "blobs_present"
LEXICON_VALID: Final = "lexicon_valid"

ASPECTS: Final[Mapping[str, Aspect]] = {
    RECORDS_MATCH_DOCUMENTS: Aspect.RECORDS,
    LINKS_CONSISTENT: Aspect.LINKS,
    BLOBS_PRESENT: Aspect.BLOBS,
    LEXICON_VALID: Aspect.LEXICON,
}

_WORDS: Final[Mapping[Aspect, tuple[str, str]]] = {
    Aspect.RECORDS: (
        "records or documents without one",
        "Launch sync_users or sync_changed_users for the users in the table with `full: true`, then verify_users for "
        "them; what is still there then says why it stays.",
    ),
    Aspect.LINKS: ("links", "A sync with `full: true` mends them, and so does `ac-pipeline links --heal`."),
    Aspect.BLOBS: (
        "blobs",
        "Launch sync_users or sync_changed_users for the users in the table with `blobs: true`, or run "
        "`ac-pipeline sync --blobs`: it uploads them again. verify_users then sees them.",
    ),
    Aspect.LEXICON: (
        "records",
        "A sync updates wrong-shaped records in place; for a refused one its document has to be corrected.",
    ),
}
"""What is counted, and what to do about what is wrong."""

_STATES: Final[Mapping[Aspect, tuple[str, ...]]] = {
    Aspect.RECORDS: ("missing", "extra", "different", "duplicates"),
    Aspect.LINKS: (),
    Aspect.BLOBS: ("missing",),
    Aspect.LEXICON: (),
}
"""States that are counted in every result, so that the UI can draw them over time."""

_COLUMNS = ("user", "item", "state", "reason", "repair", "uri", "verified")
_SCHEMA = dg.TableSchema(columns=[dg.TableColumn(name) for name in _COLUMNS])


_Line = tuple[Finding, str]
"""One thing that is wrong, and since when that is known."""


def verified(
    pipeline: PipelineResource, media: MediaType, check: str, findings: Findings, run: Sequence[str] | None = None
) -> dg.AssetCheckResult:
    """The result of one check on one type.

    Args:
        findings: What all receipts say.
        run: Partition keys that this run has verified; None for a run that verified nobody.
    """
    aspect = ASPECTS[check]
    total = findings.totals[media.name, aspect]
    found = [each for each in findings.unsound if (each.type, each.aspect) == (media.name, aspect)]
    lines = [(wrong, f"{each.at:%Y-%m-%d %H:%M}") for each in found for wrong in each.part.wrong]
    refused, refused_lines = _refused(pipeline, media) if aspect is Aspect.LEXICON else (Counter[str](), [])
    users = Counter({each.user: each.part.unsound for each in found}) + refused
    states = sum(
        (Counter(each.part.states) for each in found), Counter({"refused": refused.total()} if refused else {})
    )
    passed, severity, described = _verdict(aspect, total, users, states)
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=records_key(media),
        check_name=check,
        severity=severity,
        description=described,
        metadata={
            "users_verified": total.users,
            "expected": total.expected,
            "verified": total.expected - sum(each.part.expected - each.part.sound for each in found),
            **{name: states.get(name, 0) for name in _STATES[aspect]},
            **states,
            **({"warnings": total.warnings} if total.warnings else {}),
            **({"oldest_verification": dg.MetadataValue.timestamp(total.oldest)} if total.oldest is not None else {}),
            "looked_at": "the last verification of every user",
            **({"partitions": dg.MetadataValue.json(dict(users.most_common(NAMED)))} if users else {}),
            **({"verified_now": dg.MetadataValue.json(list(run[:NAMED]))} if run is not None else {}),
            **_listed(pipeline, [*refused_lines, *lines], users.total()),
        },
    )


def part_metadata(pipeline: PipelineResource, receipt: Receipt, parts: Mapping[Aspect, Part]) -> Metadata:
    """What a verification found of one user's items of one type.

    Args:
        receipt: Of the user.
        parts: Those of its parts that are of this type.
    """
    records, blobs = parts.get(Aspect.RECORDS, Part()), parts.get(Aspect.BLOBS, Part())
    known = f"{receipt.at:%Y-%m-%d %H:%M}"
    lines = [(wrong, known) for part in parts.values() for wrong in part.wrong]
    return {
        "status": "verified: not all is as it should be",
        "expected": records.expected,
        "verified": records.sound,
        **{name: records.states.get(name, 0) for name in _STATES[Aspect.RECORDS]},
        "blobs_expected": blobs.expected,
        "blobs_verified": blobs.sound,
        "links_wrong": parts.get(Aspect.LINKS, Part()).unsound,
        "wrong_shaped": parts.get(Aspect.LEXICON, Part()).unsound,
        **_listed(pipeline, lines, sum(part.unsound for part in parts.values())),
    }


def _verdict(
    aspect: Aspect, total: Total, users: Counter[str], states: Counter[str]
) -> tuple[bool, dg.AssetCheckSeverity, str]:
    """Whether the check passes, how bad it is, and what an operator reads."""
    what, todo = _WORDS[aspect]
    if users:
        counted = ", ".join(f"{name} {number}" for name, number in states.most_common())
        text = f"Wrong {what}: {users.total()} ({counted}), in partitions: {len(users)}. {todo}"
        return False, dg.AssetCheckSeverity.ERROR, text
    if not total.users:
        text = "Nobody was verified yet: launch the job verify_users. Nothing is known to be wrong."
        return False, dg.AssetCheckSeverity.WARN, text
    since = f", the longest ago on {total.oldest:%Y-%m-%d}" if total.oldest is not None else ""
    return True, dg.AssetCheckSeverity.ERROR, f"All {total.expected} are right. Users verified: {total.users}{since}."


def _refused(pipeline: PipelineResource, media: MediaType) -> tuple[Counter[str], list[_Line]]:
    """Records that were built and did not satisfy their lexicon: they were never written (REC-1)."""
    users = Counter[str]()
    for each in pipeline.standing(media, State.QUARANTINED):
        if each.error_class == InvalidRecord.code:
            users[each.user] += each.items
    if not users:
        return users, []
    entries = pipeline.items(media, State.QUARANTINED, ROWS, error_class=InvalidRecord.code)
    return users, [
        (
            Finding(
                entry.item,
                entry.partition,
                "refused",
                entry.failure.message if entry.failure is not None else "",
                "correct the document",
                (entry.uri,) if entry.uri else (),
            ),
            f"{entry.updated_at:%Y-%m-%d %H:%M}" if entry.updated_at is not None else "",
        )
        for entry in entries
    ]


def _listed(pipeline: PipelineResource, lines: Sequence[_Line], count: int) -> Metadata:
    """What is wrong as a table, and its records as links."""
    if not lines:
        return {}
    shown = lines[:ROWS]
    links = [
        f"- {coded(each.item)} of {escaped(each.user)}: {escaped(each.state)}: {escaped(each.reason)} · "
        + (link(each.uri, pipeline.record_address(each.uri)) if each.uri else "no record")
        for each, _ in shown[:LINKED]
    ]
    rows = [
        {"verified": known, **{name: str(value or "") for name, value in each.to_json().items()}}
        for each, known in shown
    ]
    return {
        "items": dg.MetadataValue.table(
            [dg.TableRecord({name: row[name] for name in _COLUMNS}) for row in rows], schema=_SCHEMA
        ),
        "items_links": dg.MetadataValue.md("\n".join(links)),
        **({"items_not_shown": count - len(shown)} if count > len(shown) else {}),
    }
