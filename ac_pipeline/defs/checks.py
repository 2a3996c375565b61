"""Checks: what a person must look at although every partition is green. They look at what the ledger and the receipts
say, which is cheap; the job `verify_users` reads the repositories. Each can also be executed alone from the UI."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Final

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.metadata import (
    ALL_FAILED_ITEMS,
    LINKED,
    ROWS,
    Metadata,
    by_number,
    coded,
    dagster_failures,
    escaped,
    items_links,
    items_table,
    record_link,
    table_of,
)
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.errors import AccountDeleted, Blocked, InvalidRecord, NoCredentials, Paused
from ac_pipeline.items import Finding, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.items import Standing
from ac_pipeline.mongo.ledger.receipts import Aspect, Part, Receipt
from ac_pipeline.operations.inspection.verification import Findings, findings
from ac_pipeline.settings import Allowance

FEW_BLOCKED: Final = 2  # So many blocked accounts are never an error by their share, unless they are all there are
_SUDDEN: Final = Allowance(percent=2)
_SUDDEN_LEAST: Final = 5
_LATELY: Final = timedelta(days=1)
"""More than a fiftieth of all accounts, and more than five, blocked within a day are one event."""

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR

NAMED: Final = 200  # Partition keys a result names besides its table

_JUST_NOW: Final = timedelta(seconds=2)  # A look at a collection reads every id of it: the checks of one run share it

_RECORD_STATES: Final = ("missing", "extra", "different", "duplicates")
_COLUMNS = ("user", "state", "reason", "repair", "verified", "item", "uri")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: of what the ledger says, or of one aspect of the last verifications."""

    name: str
    judge: Callable[[Question], dg.AssetCheckResult]
    description: str  # What it says and what to do, with `{singular}` and `{plural}` for the type
    aspect: Aspect | None = None
    what: str = ""  # What an aspect counts
    todo: str = ""  # What to do about what is wrong
    states: Sequence[str] = ()  # Counted in every result, so that the UI can draw them over time

    def is_about(self, media: MediaType) -> bool:
        """False for blobs, of a type whose records hold none."""
        return self.aspect is not Aspect.BLOBS or bool(media.blobs)


@dataclass(frozen=True, slots=True)
class Question:
    """A check of one type at one moment."""

    check: Check
    media: MediaType
    pipeline: PipelineResource
    findings: Findings  # What all receipts say
    run: Sequence[str] | None  # Partition keys that this run has verified; None for a run that verified nobody
    counts: Callable[[], Mapping[str, Mapping[State, int]]]  # The ledger's entries, counted once for all checks

    def standing(self, state: State) -> Sequence[Standing]:
        """Whose items of the type are in a state, and why, without the items themselves."""
        return self.pipeline.open().ledger.standing(state, self.media.name)

    def answer(
        self, description: str, metadata: Metadata, *, passed: bool, severity: dg.AssetCheckSeverity = ERROR
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=records_key(self.media),
            check_name=self.check.name,
            passed=passed,
            severity=severity,
            description=description,
            metadata=metadata,
        )


def _no_quarantined_items(question: Question) -> dg.AssetCheckResult:
    """Fails with every quarantined item; as an error beyond `AC_QUARANTINE_THRESHOLD`, else as a warning (OPS-1)."""
    pipeline, standing = question.pipeline.open(), question.standing(State.QUARANTINED)
    count = sum(each.items for each in standing)
    allowed = pipeline.settings.ac_quarantine_threshold
    # The items are counted only where a share of them is asked for: it takes the ledger a look at each.
    shared = count and allowed.percent is not None
    of = sum(question.counts().get(question.media.name, {}).values()) if shared else 0
    described = (
        f"Quarantined: {count}, in partitions: {_users(standing)}. Correct the documents or the stored media the table "
        "names: each item is tried again when its document changes, or at once by the job retry_items."
        if count
        else "No item is quarantined."
    )
    metadata = {
        "quarantined": count,
        "threshold": str(allowed),
        **_of_items(question, State.QUARANTINED, standing),
    }
    severity = WARN if allowed.covers(count, of) else ERROR
    return question.answer(described, metadata, passed=not count, severity=severity)


def _nothing_deferred(question: Question) -> dg.AssetCheckResult:
    """Warns of every deferred item, with the moment the last of them will fit."""
    standing = question.standing(State.DEFERRED)
    count = sum(each.items for each in standing)
    until = max((each.until for each in standing if each.until is not None), default=None)
    # Items of accounts that were blocked meanwhile wait no less, and not for the limit alone.
    blocked = [each for each in question.standing(State.BLOCKED) if each.until is not None]
    described = "Nothing waits."
    if blocked:
        described = f"What was deferred in partitions: {len(blocked)} is blocked meanwhile: see {ACCOUNTS_USABLE}."
    if count:
        when = f"The last is due at {until:%Y-%m-%d %H:%M} UTC." if until is not None else "The next run tries them."
        described = (
            f"Deferred: {count}, in partitions: {_users(standing)}. {when} Nothing is to be done: schedules pick them "
            "up."
        )
    metadata = {
        "deferred": count,
        **({"fits_at": dg.MetadataValue.timestamp(until)} if until is not None else {}),
        **_of_items(question, State.DEFERRED, standing),
    }
    return question.answer(described, metadata, passed=not count and not blocked, severity=WARN)


def _users(standing: Sequence[Standing]) -> int:
    return len({each.user for each in standing})


def _of_items(question: Question, state: State, standing: Sequence[Standing]) -> Metadata:
    """Whose items they are (the partition keys, and the classes of their errors: VERIFY-12), and the first of them."""
    classes: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for each in standing:
        classes[each.error_class or "unknown"] += each.items
        users[each.user] += each.items
    found: Metadata = {"looked_at": "all users", "users": len(users)}
    if not users:
        return found
    find = question.pipeline.open().ledger.find
    rows = list(find(states={state}, types={question.media.name}, limit=ROWS))
    return {
        **found,
        "partitions": dg.MetadataValue.json(dict(users.most_common(NAMED))),
        "error_classes": dg.MetadataValue.json(dict(classes.most_common())),
        "items": items_table(rows, users=True),
        "items_links": items_links(question.pipeline, rows),
        "all_failed_items": dg.MetadataValue.asset(ALL_FAILED_ITEMS),
        **_not_shown(users.total(), len(rows)),
    }


def _not_shown(count: int, shown: int) -> Metadata:
    return {"items_not_shown": count - shown} if count > shown else {}


def _accounts_usable(question: Question) -> dg.AssetCheckResult:
    """Warns of blocked accounts; fails as an error when they are many, or became many within a day (SEEN-1)."""
    accounts = [account for account in question.pipeline.accounts().values() if not account.owner_deleted]
    unusable = sorted(_unusable(question, accounts), key=lambda each: (-each["items"], each["user"]))
    lost = [each for each in unusable if each["lost"]]
    allowed = question.pipeline.open().settings.ac_blocked_threshold
    lately = [each for each in lost if each["since"] is not None and each["since"] > datetime.now(UTC) - _LATELY]
    many = len(lost) > FEW_BLOCKED or len(lost) == len(accounts)
    sudden = len(lately) > _SUDDEN_LEAST and not _SUDDEN.covers(len(lately), len(accounts))
    error = bool(lost) and (sudden or (many and not allowed.covers(len(lost), len(accounts))))
    causes, waiting = Counter(each["class"] for each in unusable), sum(each["items"] for each in unusable)
    described, blocked = f"All {len(accounts)} accounts can be used.", dict[str, Any]()
    if unusable:
        described = (
            f"Blocked: {len(unusable)} of {len(accounts)} accounts "
            f"({by_number(causes)}), "
            f"{len(lately)} of them within a day; items that wait: {waiting}. "
            + ("So many at once have one cause: check PDS_URL and the users in Mongo. " if sudden else "")
            + "The job list_accounts says what each needs; they are picked up by themselves once they are right."
        )
        rows = [{**each, "since": _minute(each["since"])} for each in unusable[:ROWS]]
        blocked = {
            "error_classes": dg.MetadataValue.json(dict(causes.most_common())),
            "partitions": dg.MetadataValue.json([each["user"] for each in unusable[:NAMED]]),
            "blocked_accounts": table_of(rows, ("user", "items", "class", "message", "since")),
        }
    metadata = {
        "blocked": len(unusable),
        "blocked_lately": len(lately),
        "accounts": len(accounts),
        "items_waiting": waiting,
        "threshold": str(allowed),
        "looked_at": "all users",
        **blocked,
    }
    return question.answer(described, metadata, passed=not unusable, severity=ERROR if error else WARN)


def _unusable(question: Question, accounts: Iterable[Account]) -> Iterator[dict[str, Any]]:
    """A line for each account that is blocked: whoever Mongo says is, and whoever the PDS refused at the last run.

    `lost` is true if it could be used before; a new user whom the platform has made no PDS account could not.
    """
    waiting: dict[str, list[Standing]] = defaultdict(list)
    for each in question.standing(State.BLOCKED):
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
        yield {
            "user": account.key,
            "items": sum(each.items for each in standing),
            "class": cause,
            "message": blocked.message if blocked is not None else refused[0].message,
            "since": min((each.since for each in standing if each.since is not None), default=None),
            "lost": account.did is not None or any(each.mirrored for each in standing),
        }


def _of_collection(question: Question, place: int, well: str) -> dg.AssetCheckResult:
    """Fails, as an error, by one of the two problems that a collection, compared with what there was, can have: it is
    so much smaller, or so many records have lost their documents, that records without a document are kept; or nothing
    new has come for AC_SILENT_DAYS where there used to be some."""
    safeguard = question.pipeline.open().safeguard
    look = safeguard.look(question.media, within=_JUST_NOW)
    problem = safeguard.problems(look)[place]
    metadata = {
        "documents": look.documents,
        "documents_expected": look.expected,
        "records_without_document": look.lost,
        **({"newest": dg.MetadataValue.timestamp(look.newest / 1000)} if look.newest is not None else {}),
    }
    return question.answer(problem or well, metadata, passed=problem is None)


_Line = tuple[Finding, str]  # One thing that is wrong, and since when that is known


def _verified(question: Question) -> dg.AssetCheckResult:
    """What the last verifications of all users say of one aspect."""
    check, media = question.check, question.media.name
    total = next(each for cell, each in question.findings.totals.items() if cell == (media, check.aspect))
    found = [each for each in question.findings.unsound if (each.type, each.aspect) == (media, check.aspect)]
    lines = [(wrong, _minute(each.at)) for each in found for wrong in each.part.wrong]
    refused, refused_lines = _refused(question) if check.aspect is Aspect.LEXICON else (Counter[str](), [])
    users = Counter({each.user: each.part.unsound for each in found}) + refused
    states = sum((Counter(each.part.states) for each in found), +Counter({"refused": refused.total()}))
    metadata = {
        "users_verified": total.users,
        "expected": total.expected,
        "verified": total.expected - sum(each.part.expected - each.part.sound for each in found),
        **{name: states.get(name, 0) for name in check.states},
        **states,
        **({"warnings": total.warnings} if total.warnings else {}),
        **({"oldest_verification": dg.MetadataValue.timestamp(total.oldest)} if total.oldest is not None else {}),
        "looked_at": "the last verification of every user",
        **({"partitions": dg.MetadataValue.json(dict(users.most_common(NAMED)))} if users else {}),
        **({"verified_now": dg.MetadataValue.json(list(question.run[:NAMED]))} if question.run is not None else {}),
        **_listed(question.pipeline, [*refused_lines, *lines], users.total()),
    }
    if users:
        counted = by_number(states)
        described = f"Wrong {check.what}: {users.total()} ({counted}), in partitions: {len(users)}. {check.todo}"
        return question.answer(described, metadata, passed=False)
    if not total.users:
        described = "Nobody was verified yet: launch the job verify_users. Nothing is known to be wrong."
        return question.answer(described, metadata, passed=False, severity=WARN)
    since = f", the longest ago on {total.oldest:%Y-%m-%d}" if total.oldest is not None else ""
    described = f"All {total.expected} are right. Users verified: {total.users}{since}."
    return question.answer(described, metadata, passed=True)


def _refused(question: Question) -> tuple[Counter[str], list[_Line]]:
    """Records that were built and did not satisfy their lexicon: they were never written (REC-1)."""
    users = Counter[str]()
    for each in question.standing(State.QUARANTINED):
        if each.error_class == InvalidRecord.code:
            users[each.user] += each.items
    if not users:
        return users, []
    lines = []
    find, types = question.pipeline.open().ledger.find, {question.media.name}
    for entry in find(states={State.QUARANTINED}, error_class=InvalidRecord.code, types=types, limit=ROWS):
        reason, uris = entry.failure.message if entry.failure else "", (entry.uri,) if entry.uri else ()
        finding = Finding(entry.item, entry.partition, "refused", reason, "correct the document", uris)
        lines.append((finding, _minute(entry.updated_at)))
    return users, lines


def part_metadata(pipeline: PipelineResource, receipt: Receipt, media: MediaType) -> Metadata:
    """What a verification found of one user's items of one type; nothing where all of it is right."""
    parts = {aspect: part for (type_, aspect), part in receipt.parts.items() if type_ == media.name}
    unsound = sum(part.unsound for part in parts.values())
    if not unsound:
        return {}
    records, blobs = parts.get(Aspect.RECORDS, Part()), parts.get(Aspect.BLOBS, Part())
    lines = [(wrong, _minute(receipt.at)) for part in parts.values() for wrong in part.wrong]
    return {
        "status": "verified: not all is as it should be",
        "expected": records.expected,
        "verified": records.sound,
        **{name: records.states.get(name, 0) for name in _RECORD_STATES},
        "blobs_expected": blobs.expected,
        "blobs_verified": blobs.sound,
        "links_wrong": parts.get(Aspect.LINKS, Part()).unsound,
        "wrong_shaped": parts.get(Aspect.LEXICON, Part()).unsound,
        **_listed(pipeline, lines, unsound),
    }


def _listed(pipeline: PipelineResource, lines: Sequence[_Line], count: int) -> Metadata:
    """What is wrong as a table, and its records as links."""
    if not lines:
        return {}
    shown = lines[:ROWS]
    links = [
        f"- {coded(each.item)} of {escaped(each.user)}: {escaped(each.state)}: {escaped(each.reason)} · "
        + record_link(pipeline, each.uri)
        for each, _ in shown[:LINKED]
    ]
    rows = [
        {"verified": known, **{name: str(value or "") for name, value in each.to_json().items()}}
        for each, known in shown
    ]
    return {
        "items": table_of(rows, _COLUMNS),
        "items_links": dg.MetadataValue.md("\n".join(links)),
        **_not_shown(count, len(shown)),
    }


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else ""


NO_QUARANTINED_ITEMS: Final = "no_quarantined_items"
NOTHING_DEFERRED: Final = "nothing_deferred"
ACCOUNTS_USABLE: Final = "accounts_usable"
COLLECTION_INTACT: Final = "collection_intact"
INPUT_ARRIVES: Final = "input_arrives"
RECORDS_MATCH_DOCUMENTS: Final = "records_match_documents"
LINKS_CONSISTENT: Final = "links_consistent"
BLOBS_PRESENT: Final = "blobs_present"
LEXICON_VALID: Final = "lexicon_valid"

_BY_JOB = (
    "The job verify_users finds out, once a week by its schedule; here, and after every run, its last findings are "
    "looked at again, without those that a sync has settled since."
)

CHECKS: Final = (
    Check(
        NO_QUARANTINED_ITEMS,
        _no_quarantined_items,
        "No {singular} of any user is quarantined: held back for an error that no retry helps. The items that are "
        "stand in the table with their reason; each is tried again when its document changes, or at once by the job "
        "retry_items or `ac-pipeline retry`. AC_QUARANTINE_THRESHOLD says from how many on it is an error.",
    ),
    Check(
        NOTHING_DEFERRED,
        _nothing_deferred,
        "No {singular} of any user waits for a limit of the PDS or for another attempt. A warning: nothing is to be "
        "done, the result says until when.",
    ),
    Check(
        ACCOUNTS_USABLE,
        _accounts_usable,
        "Every account can be written to. A warning while some are blocked: without a password, refused by the PDS, "
        "or unknown to it; their {plural} wait. An error when they are more than AC_BLOCKED_THRESHOLD, or when many "
        "became so within a day: then one cause is likely, such as PDS_URL or the users collection.",
    ),
    Check(
        COLLECTION_INTACT,
        partial(_of_collection, place=0, well="The collection holds what it should."),
        "The collection of the {plural} holds what it held, within AC_MAX_ORPHAN_SHARE, and so do the documents of the "
        "records that are known. Otherwise the database is doubted: no record is deleted because its document is gone "
        "until the collection recovers, or a person names the number in the field `sweep` of the run.",
    ),
    Check(
        INPUT_ARRIVES,
        partial(_of_collection, place=1, well="Nothing is missed."),
        "A new {singular} has come within AC_SILENT_DAYS, if some used to: otherwise what writes the collection on the "
        "platform may have stopped.",
    ),
    Check(
        RECORDS_MATCH_DOCUMENTS,
        _verified,
        "Every eligible document has exactly one record with exactly its content, and no other record is there. "
        f"{_BY_JOB}",
        aspect=Aspect.RECORDS,
        what="records or documents without one",
        todo="Launch sync_users or sync_changed_users for the users in the table with `full: true`, then verify_users "
        "for them; what is still there then says why it stays.",
        states=_RECORD_STATES,
    ),
    Check(
        LINKS_CONSISTENT,
        _verified,
        f"Every link in Mongo names the record of its own document, and every record is linked. {_BY_JOB}",
        aspect=Aspect.LINKS,
        what="links",
        todo="A sync with `full: true` mends them, and so does `ac-pipeline links --heal`.",
    ),
    Check(
        BLOBS_PRESENT,
        _verified,
        f"Every picture and video that a record refers to can be downloaded from the PDS. {_BY_JOB}",
        aspect=Aspect.BLOBS,
        what="blobs",
        todo="Launch sync_users or sync_changed_users for the users in the table with `blobs: true`, or run "
        "`ac-pipeline sync --blobs`: it uploads them again. verify_users then sees them.",
        states=("missing",),
    ),
    Check(
        LEXICON_VALID,
        _verified,
        "Every record satisfies its lexicon: those on the PDS, in the form of today, and those that were built and "
        f"refused for it, which are never written. {_BY_JOB}",
        aspect=Aspect.LEXICON,
        what="records",
        todo="A sync updates wrong-shaped records in place; for a refused one its document has to be corrected.",
    ),
)


def record_checks() -> list[dg.AssetCheckSpec]:
    """The checks of all records assets: each is about all users, with the partition keys in its table (VERIFY-12).

    Of a check with partitions of its own (a preview in Dagster 1.13.27) the asset's page shows the partition evaluated
    last, so that a failed user hides behind a later one; it cannot be executed from the UI, and costs an event a user.
    """
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=records_key(media),
            description=check.description.format(singular=media.name, plural=media.plural),
        )
        for media in MEDIA_TYPES
        for check in CHECKS
        if check.is_about(media)
    ]


def evaluate_checks(
    pipeline: PipelineResource, selected: Iterable[dg.AssetCheckKey], run: Sequence[str] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks on ledger and receipts as they are now; dg.Failure is raised where these could not
    be read. `run`: partition keys that this run has verified; None for a run that verified nobody.

    Every step that writes the records does, before it may fail: a check of its own would be skipped for the whole range
    as soon as one user fails, and one that is left out shows as "not evaluated" from the next materialisation on.
    """
    chosen = {(key.asset_key, key.name) for key in selected}
    wanted = {
        media: [each for each in CHECKS if each.is_about(media) and (records_key(media), each.name) in chosen]
        for media in MEDIA_TYPES
    }
    with dagster_failures():
        found, counts = Findings({}), cache(lambda: pipeline.open().ledger.counts())  # noqa: PLW0108  (opened when asked)
        if any(check.aspect for checks in wanted.values() for check in checks):
            opened = pipeline.open()
            found = findings(opened.receipts, opened.ledger, [media for media, checks in wanted.items() if checks])
        for media, checks in wanted.items():
            for check in checks:
                yield check.judge(Question(check, media, pipeline, found, run, counts))


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
