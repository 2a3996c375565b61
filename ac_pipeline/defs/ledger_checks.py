"""Checks on what the ledger knows: items that wait for a person, for a limit, or for their account, and collections
that are not what they were.

Each looks at all users, whoever the run was about. Which checks there are is `checks.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.metadata import ROWS, Metadata, entry_row, items_links, items_table
from ac_pipeline.defs.pipeline import CollectionState, PipelineResource
from ac_pipeline.errors import AccountDeleted, Blocked, NoCredentials, OnHold
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger import Standing
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
        if each.error_class not in {OnHold.code, AccountDeleted.code}:
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
