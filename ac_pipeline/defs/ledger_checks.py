"""Checks on what the ledger knows: items that wait for a person, items that wait for a limit, and collections that
are not what they were.

Each looks at all users, whoever the run was about. Which checks there are is `checks.py`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.metadata import ROWS, Metadata, entry_row, items_links, items_table
from ac_pipeline.defs.mirror import CollectionState, Mirror
from ac_pipeline.items import State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger import Standing

NO_QUARANTINED_ITEMS: Final = "no_quarantined_items"
NOTHING_DEFERRED: Final = "nothing_deferred"
COLLECTION_INTACT: Final = "collection_intact"
INPUT_ARRIVES: Final = "input_arrives"

NAMED: Final = 200
"""Partition keys a result names besides its table."""


def no_quarantined_items(mirror: Mirror, media: MediaType) -> dg.AssetCheckResult:
    """Fails with every quarantined item; as an error beyond `AC_QUARANTINE_THRESHOLD`, else as a warning (OPS-1)."""
    standing = mirror.standing(media, State.QUARANTINED)
    count = sum(each.items for each in standing)
    allowed = mirror.allowance()
    # The items are counted only where a share of them is asked for: it takes the ledger a look at each.
    of = mirror.known_items(media) if count and allowed.percent is not None else 0
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
            **_items(mirror, media, State.QUARANTINED, count),
        },
    )


def nothing_deferred(mirror: Mirror, media: MediaType) -> dg.AssetCheckResult:
    """Warns of every deferred item, with the moment the last of them will fit."""
    standing = mirror.standing(media, State.DEFERRED)
    count = sum(each.items for each in standing)
    until = max((each.until for each in standing if each.until is not None), default=None)
    users = len({each.user for each in standing})
    described = "Nothing waits."
    if count:
        when = f"The rest fits at {until:%Y-%m-%d %H:%M} UTC." if until is not None else "The next run tries them."
        described = f"Deferred: {count}, in partitions: {users}. {when} Nothing is to be done: schedules pick them up."
    return dg.AssetCheckResult(
        passed=not count,
        asset_key=records_key(media),
        check_name=NOTHING_DEFERRED,
        severity=dg.AssetCheckSeverity.WARN,
        description=described,
        metadata={
            "deferred": count,
            **({"fits_at": dg.MetadataValue.timestamp(until)} if until is not None else {}),
            **of_users(standing),
            **_items(mirror, media, State.DEFERRED, count),
        },
    )


def collection_intact(mirror: Mirror, media: MediaType) -> dg.AssetCheckResult:
    """Fails, as an error, while the collection is so much smaller, or so many records have lost their documents, that
    records without a document are kept."""
    seen = mirror.last_look(media)
    return _of_collection(media, COLLECTION_INTACT, seen, seen.doubt, "The collection holds what it should.")


def input_arrives(mirror: Mirror, media: MediaType) -> dg.AssetCheckResult:
    """Fails, as an error, when nothing new has come for AC_SILENT_DAYS where there used to be some."""
    seen = mirror.last_look(media)
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


def _items(mirror: Mirror, media: MediaType, state: State, count: int) -> Metadata:
    if not count:
        return {}
    entries = list(mirror.items(media, state, ROWS))
    rows = [entry_row(media, entry) for entry in entries]
    return {
        "items": items_table(rows, narrow=True),
        "items_links": items_links(mirror, rows, [entry.history for entry in entries]),
        **({"items_not_shown": count - len(rows)} if count > len(rows) else {}),
    }
