"""Checks: what a person must look at although every partition is green. Which there are, and how they are evaluated.

Each check is one per asset, over all users, with the partition keys in its table and metadata (VERIFY-12). Measured on
Dagster 1.13.27, a check with partitions of its own (`AssetCheckSpec(partitions_def=...)`, a preview) holds up in a
partly failing range when it is logged by name, but: its summary on the asset's page is that of the partition evaluated
last, so that a failed user hides behind a later one who is well; it cannot be executed from the UI; and it costs one
event for each user and check, as much as all of a user's other events together.

All are evaluated by every step that writes the records, before it may fail: a check of its own would be skipped for the
whole range as soon as one user fails, and one that is left out shows as "not evaluated" from the next materialisation
on. They look at what the ledger and the receipts say, which is cheap; the job `verify_users` reads the repositories.
Each can also be executed alone from the UI.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.metadata import (
    LINKED,
    ROWS,
    Metadata,
    coded,
    dagster_failures,
    entry_row,
    escaped,
    items_links,
    items_table,
    link,
)
from ac_pipeline.defs.pipeline import CollectionState, PipelineResource
from ac_pipeline.errors import AccountDeleted, Blocked, InvalidRecord, NoCredentials, Paused
from ac_pipeline.items import Finding, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.items import Standing
from ac_pipeline.mongo.ledger.receipts import Aspect, Part, Receipt, Total
from ac_pipeline.operations.inspection.verification import Findings
from ac_pipeline.settings import Allowance

NO_QUARANTINED_ITEMS: Final = "no_quarantined_items"
NOTHING_DEFERRED: Final = "nothing_deferred"
ACCOUNTS_USABLE: Final = "accounts_usable"

FEW_BLOCKED: Final = 2
"""So many blocked accounts are never an error by their share, unless they are all there are."""
_SUDDEN: Final = Allowance(percent=2)
_SUDDEN_LEAST: Final = 5
_LATELY: Final = timedelta(days=1)
"""More than a fiftieth of all accounts, and more than five, blocked within a day are one event."""
COLLECTION_INTACT: Final = "collection_intact"
INPUT_ARRIVES: Final = "input_arrives"

NAMED: Final = 200
"""Partition keys a result names besides its table."""


def no_quarantined_items(pipeline: PipelineResource, media: MediaType) -> dg.AssetCheckResult:
    """Fails with every quarantined item; as an error beyond `AC_QUARANTINE_THRESHOLD`, else as a warning (OPS-1)."""
    standing = pipeline.standing(media, State.QUARANTINED)
    count = sum(each.items for each in standing)
    allowed = pipeline.allowance()
    # The items are counted only where a share of them is asked for: it takes the ledger a look at each.
    of = pipeline.known_items(media) if count and allowed.percent is not None else 0
    severity = dg.AssetCheckSeverity.WARN if allowed.covers(count, of) else dg.AssetCheckSeverity.ERROR
    users = len({each.user for each in standing})
    described = (
        f"Quarantined: {count}, in partitions: {users}. Correct the documents or the stored media the table names: "
        "each item is tried again when its document changes, or at once by the job retry_items."
        if count
        else "No item is quarantined."
    )
    return dg.AssetCheckResult(
        passed=not count,
        asset_key=records_key(media),
        check_name=NO_QUARANTINED_ITEMS,
        severity=severity,
        description=described,
        metadata={
            "quarantined": count,
            "threshold": str(allowed),
            **of_users(standing),
            **_items(pipeline, media, State.QUARANTINED, count),
        },
    )


def nothing_deferred(pipeline: PipelineResource, media: MediaType) -> dg.AssetCheckResult:
    """Warns of every deferred item, with the moment the last of them will fit."""
    standing = pipeline.standing(media, State.DEFERRED)
    count = sum(each.items for each in standing)
    until = max((each.until for each in standing if each.until is not None), default=None)
    users = len({each.user for each in standing})
    # Items of accounts that were blocked meanwhile wait no less, and not for the limit alone.
    blocked = [each for each in pipeline.standing(media, State.BLOCKED) if each.until is not None]
    described = "Nothing waits."
    if blocked:
        described = f"What was deferred in partitions: {len(blocked)} is blocked meanwhile: see {ACCOUNTS_USABLE}."
    if count:
        when = f"The last is due at {until:%Y-%m-%d %H:%M} UTC." if until is not None else "The next run tries them."
        described = f"Deferred: {count}, in partitions: {users}. {when} Nothing is to be done: schedules pick them up."
    return dg.AssetCheckResult(
        passed=not count and not blocked,
        asset_key=records_key(media),
        check_name=NOTHING_DEFERRED,
        severity=dg.AssetCheckSeverity.WARN,
        description=described,
        metadata={
            "deferred": count,
            **({"fits_at": dg.MetadataValue.timestamp(until)} if until is not None else {}),
            **of_users(standing),
            **_items(pipeline, media, State.DEFERRED, count),
        },
    )


@dataclass(frozen=True, slots=True)
class _Unusable:
    """An account that cannot be used.

    Args:
        cause: Class of the reason.
        items: How many of its items of the type wait.
        since: Since when it is known, where it is.
        lost: Whether it could be used before; a new user whom the platform has made no PDS account could not.
    """

    user: str
    cause: str
    reason: str
    items: int = 0
    since: datetime | None = None
    lost: bool = True


def accounts_usable(pipeline: PipelineResource, media: MediaType) -> dg.AssetCheckResult:
    """Warns of blocked accounts; fails as an error when they are many, or became many within a day (SEEN-1)."""
    accounts = [account for account in pipeline.accounts().values() if not account.owner_deleted]
    unusable = sorted(_unusable(pipeline, media, accounts), key=lambda each: (-each.items, each.user))
    lost, allowed = [each for each in unusable if each.lost], pipeline.blocked_allowance()
    lately = [each for each in lost if each.since is None or each.since > datetime.now(UTC) - _LATELY]
    many = len(lost) > FEW_BLOCKED or len(lost) == len(accounts)
    sudden = len(lately) > _SUDDEN_LEAST and not _SUDDEN.covers(len(lately), len(accounts))
    error = bool(lost) and (sudden or (many and not allowed.covers(len(lost), len(accounts))))
    causes = Counter(each.cause for each in unusable)
    described = f"All {len(accounts)} accounts can be used."
    if unusable:
        described = (
            f"Blocked: {len(unusable)} of {len(accounts)} accounts "
            f"({', '.join(f'{cause} {number}' for cause, number in causes.most_common())}), "
            f"{len(lately)} of them within a day; items that wait: {sum(each.items for each in unusable)}. "
            + ("So many at once have one cause: check PDS_URL and the users in Mongo. " if sudden else "")
            + "The job list_accounts says what each needs; they are picked up by themselves once they are right."
        )
    table = dg.TableSchema(columns=[dg.TableColumn(name) for name in ("user", "items", "class", "message", "since")])
    rows = [
        dg.TableRecord(
            {
                "user": each.user,
                "items": each.items,
                "class": each.cause,
                "message": each.reason,
                "since": f"{each.since:%Y-%m-%d %H:%M}" if each.since is not None else "",
            }
        )
        for each in unusable[:ROWS]
    ]
    return dg.AssetCheckResult(
        passed=not unusable,
        asset_key=records_key(media),
        check_name=ACCOUNTS_USABLE,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        description=described,
        metadata={
            "blocked": len(unusable),
            "blocked_lately": len(lately),
            "accounts": len(accounts),
            "items_waiting": sum(each.items for each in unusable),
            "threshold": str(allowed),
            "looked_at": "all users",
            **({"error_classes": dg.MetadataValue.json(dict(causes.most_common()))} if unusable else {}),
            **({"partitions": dg.MetadataValue.json([each.user for each in unusable[:NAMED]])} if unusable else {}),
            **({"blocked_accounts": dg.MetadataValue.table(rows, schema=table)} if unusable else {}),
        },
    )


def collection_intact(pipeline: PipelineResource, media: MediaType) -> dg.AssetCheckResult:
    """Fails, as an error, while the collection is so much smaller, or so many records have lost their documents, that
    records without a document are kept."""
    seen = pipeline.last_look(media)
    return _of_collection(media, COLLECTION_INTACT, seen, seen.doubt, "The collection holds what it should.")


def input_arrives(pipeline: PipelineResource, media: MediaType) -> dg.AssetCheckResult:
    """Fails, as an error, when nothing new has come for AC_SILENT_DAYS where there used to be some."""
    seen = pipeline.last_look(media)
    return _of_collection(media, INPUT_ARRIVES, seen, seen.silence, "Nothing is missed.")


def _of_collection(
    media: MediaType, name: str, seen: CollectionState, problem: str | None, well: str
) -> dg.AssetCheckResult:
    look = seen.look
    return dg.AssetCheckResult(
        passed=problem is None,
        asset_key=records_key(media),
        check_name=name,
        severity=dg.AssetCheckSeverity.ERROR,
        description=problem or well,
        metadata={
            "documents": look.documents,
            "documents_expected": look.expected,
            "records_without_document": look.lost,
            **({"newest": dg.MetadataValue.timestamp(look.newest / 1000)} if look.newest is not None else {}),
        },
    )


def _unusable(pipeline: PipelineResource, media: MediaType, accounts: Sequence[Account]) -> Iterator[_Unusable]:
    """Who is blocked: whoever Mongo says is, and whoever the PDS refused at the last run."""
    waiting: dict[str, list[Standing]] = defaultdict(list)
    for each in pipeline.standing(media, State.BLOCKED):
        if each.error_class not in {Paused.code, AccountDeleted.code}:
            waiting[each.user].append(each)
    for account in accounts:
        standing, blocked = waiting.get(account.key, []), account.blocked
        refused = [each for each in standing if each.error_class != NoCredentials.code]
        # Who has credentials again is picked up by the next run; who never had a PDS account and has nothing of this
        # type to publish is not missed here.
        if not (refused if blocked is None else standing or account.did is not None):
            continue
        cause = blocked.code if blocked is not None else refused[0].error_class or Blocked.code
        yield _Unusable(
            account.key,
            cause,
            blocked.message if blocked is not None else "The PDS refused the account at the last run.",
            sum(each.items for each in standing),
            min((each.since for each in standing if each.since is not None), default=None),
            account.did is not None or any(each.mirrored for each in standing),
        )


def of_users(standing: Sequence[Standing]) -> Metadata:
    """Whose items they are: the partition keys, and the classes of their errors (VERIFY-12)."""
    classes: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for each in standing:
        classes[each.error_class or "unknown"] += each.items
        users[each.user] += each.items
    found: Metadata = {"looked_at": "all users", "users": len(users)}
    if users:
        found["partitions"] = dg.MetadataValue.json(dict(users.most_common(NAMED)))
        found["error_classes"] = dg.MetadataValue.json(dict(classes.most_common()))
    return found


def _items(pipeline: PipelineResource, media: MediaType, state: State, count: int) -> Metadata:
    if not count:
        return {}
    entries = list(pipeline.items(media, state, ROWS))
    rows = [entry_row(media, entry) for entry in entries]
    return {
        "items": items_table(rows, narrow=True),
        "items_links": items_links(pipeline, rows, [entry.history for entry in entries]),
        **({"items_not_shown": count - len(rows)} if count > len(rows) else {}),
    }


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


_BY_JOB = (
    "The job verify_users finds out, once a week by its schedule; here, and after every run, its last findings are "
    "looked at again, without those that a sync has settled since."
)
_LEDGER_CHECKS: Final[Mapping[str, Callable[[PipelineResource, MediaType], dg.AssetCheckResult]]] = {
    NO_QUARANTINED_ITEMS: no_quarantined_items,
    NOTHING_DEFERRED: nothing_deferred,
    ACCOUNTS_USABLE: accounts_usable,
    COLLECTION_INTACT: collection_intact,
    INPUT_ARRIVES: input_arrives,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        name: Its name.
        description: What it says and what to do, with `{singular}` and `{plural}` for the type.
        blobs: Whether it is only about types whose records hold blobs.
    """

    name: str
    description: str
    blobs: bool = False


CHECKS: Final = (
    Check(
        NO_QUARANTINED_ITEMS,
        "No {singular} of any user is quarantined: held back for an error that no retry helps. The items that are "
        "stand in the table with their reason; each is tried again when its document changes, or at once by the job "
        "retry_items or `ac-pipeline retry`. AC_QUARANTINE_THRESHOLD says from how many on it is an error.",
    ),
    Check(
        NOTHING_DEFERRED,
        "No {singular} of any user waits for a limit of the PDS or for another attempt. A warning: nothing is to be "
        "done, the result says until when.",
    ),
    Check(
        ACCOUNTS_USABLE,
        "Every account can be written to. A warning while some are blocked: without a password, refused by the PDS, "
        "or unknown to it; their {plural} wait. An error when they are more than AC_BLOCKED_THRESHOLD, or when many "
        "became so within a day: then one cause is likely, such as PDS_URL or the users collection.",
    ),
    Check(
        COLLECTION_INTACT,
        "The collection of the {plural} holds what it held, within AC_MAX_ORPHAN_SHARE, and so do the documents of the "
        "records that are known. Otherwise the database is doubted: no record is deleted because its document is gone "
        "until the collection recovers, or a person names the number in the field `sweep` of the run.",
    ),
    Check(
        INPUT_ARRIVES,
        "A new {singular} has come within AC_SILENT_DAYS, if some used to: otherwise what writes the collection on the "
        "platform may have stopped.",
    ),
    Check(
        RECORDS_MATCH_DOCUMENTS,
        "Every eligible document has exactly one record with exactly its content, and no other record is there. "
        f"{_BY_JOB}",
    ),
    Check(
        LINKS_CONSISTENT,
        f"Every link in Mongo names the record of its own document, and every record is linked. {_BY_JOB}",
    ),
    Check(
        BLOBS_PRESENT,
        f"Every picture and video that a record refers to can be downloaded from the PDS. {_BY_JOB}",
        blobs=True,
    ),
    Check(
        LEXICON_VALID,
        "Every record satisfies its lexicon: those on the PDS, in the form of today, and those that were built and "
        f"refused for it, which are never written. {_BY_JOB}",
    ),
)


def record_checks() -> list[dg.AssetCheckSpec]:
    """The checks of all records assets."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=records_key(media),
            description=check.description.format(singular=media.name, plural=media.plural),
        )
        for media in MEDIA_TYPES
        for check in CHECKS
        if media.blobs or not check.blobs
    ]


def evaluate_checks(
    pipeline: PipelineResource, selected: Collection[dg.AssetCheckKey], run: Sequence[str] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks on ledger and receipts as they are now.

    Args:
        run: Partition keys that this run has verified; None for a run that verified nobody.

    Raises:
        dg.Failure: Ledger or receipts could not be read.
    """
    with dagster_failures():
        wanted = {spec.key for spec in record_checks()} & set(selected)
        types = [media for media in MEDIA_TYPES if any(key.asset_key == records_key(media) for key in wanted)]
        findings = pipeline.findings(types) if any(key.name in ASPECTS for key in wanted) else None
        for media in types:
            for check in CHECKS:
                if dg.AssetCheckKey(records_key(media), check.name) not in wanted:
                    continue
                if check.name in _LEDGER_CHECKS:
                    yield _LEDGER_CHECKS[check.name](pipeline, media)
                elif findings is not None:
                    yield verified(pipeline, media, check.name, findings, run)


def check_events(
    pipeline: PipelineResource, types: Collection[MediaType], run: Sequence[str] | None = None
) -> Iterator[dg.AssetCheckEvaluation]:
    """The results of all checks on these types as events of a plain op, which has no check outputs."""
    keys = {records_key(media) for media in types}
    wanted = [spec.key for spec in record_checks() if spec.asset_key in keys]
    for result in evaluate_checks(pipeline, wanted, run):
        if result.asset_key is not None and result.check_name is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )
