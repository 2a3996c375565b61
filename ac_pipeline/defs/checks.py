"""Checks: what a person must look at although every partition is green.

They are evaluated by the step that writes the records, before it may fail: a check of its own would be skipped for
the whole range as soon as one user fails. Each can also be executed alone from the UI.
"""

from collections import Counter
from collections.abc import Collection, Iterator

import dagster as dg

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.failures import dagster_failures
from ac_pipeline.defs.metadata import ROWS, items_table, quarantined_row
from ac_pipeline.defs.mirror import Mirror
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES

NO_QUARANTINED_ITEMS = "no_quarantined_items"


def record_checks() -> list[dg.AssetCheckSpec]:
    """One check for each records asset, over all users."""
    return [
        dg.AssetCheckSpec(
            NO_QUARANTINED_ITEMS,
            asset=records_key(media),
            description=f"No {media.name} of any user is quarantined. The items that are stand in the table with their "
            "reason; each is tried again when its document changes, or by `ac-pipeline retry`.",
        )
        for media in MEDIA_TYPES
    ]


def evaluate_checks(mirror: Mirror, selected: Collection[dg.AssetCheckKey]) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks on the ledger as it is now."""
    for media in MEDIA_TYPES:
        if dg.AssetCheckKey(records_key(media), NO_QUARANTINED_ITEMS) in selected:
            yield _no_quarantined_items(mirror, media)


def _no_quarantined_items(mirror: Mirror, media: MediaType) -> dg.AssetCheckResult:
    classes: Counter[str] = Counter()
    partitions: set[str] = set()
    shown: list[dict[str, str | int]] = []
    with dagster_failures():
        for entry in mirror.quarantined(media):
            classes[entry.failure.error_class if entry.failure else "unknown"] += 1
            partitions.add(entry.partition)
            if len(shown) < ROWS:
                shown.append(quarantined_row(media, entry))
    count = classes.total()
    return dg.AssetCheckResult(
        passed=not count,
        asset_key=records_key(media),
        check_name=NO_QUARANTINED_ITEMS,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"Quarantined: {count}, in partitions: {len(partitions)}." if count else "No item is quarantined.",
        metadata={
            "quarantined": count,
            "users": len(partitions),
            "error_classes": dg.MetadataValue.json(dict(classes)),
            **({"items": items_table(shown)} if shown else {}),
            **({"items_not_shown": count - ROWS} if count > ROWS else {}),
        },
    )
