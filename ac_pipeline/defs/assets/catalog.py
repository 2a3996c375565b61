"""The partitions, keys and specs of all assets of a type, and numbers, with their reasons: how much one run takes on,
how often a step is tried, and how many run at once."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg

from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.renditions.renderer import Recipe, recipe_of

RENDITIONS: Final[Mapping[dg.AssetKey, tuple[MediaType, Recipe]]] = {
    dg.AssetKey(["renditions", f"{media.name}_{recipe.products}"]): (media, recipe)
    for media in MEDIA_TYPES
    if media.recipe is not None and (recipe := recipe_of(media.recipe))
}
"""The asset of each type whose records hold derived media."""


def rendition_key(media: MediaType) -> dg.AssetKey | None:
    """The asset that a type's records depend on, or None."""
    return next((key for key, (each, _) in RENDITIONS.items() if each is media), None)


USERS = "users"  # Name of the dimension in the instance

users = dg.DynamicPartitionsDefinition(name=USERS)

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
"""Tags of a run over all keys from one to another, both included, in the order in which keys were added."""

PARTITION = "dagster/partition"  # Tag of a run over one key


OWNERS = ["team:aesthetic-computer"]

DOCUMENTS_GROUP, RENDITIONS_GROUP, RECORDS_GROUP = "documents", "renditions", "records"
DERIVED_GROUP, OPERATIONS_GROUP = "derived", "operations"
"""Groups follow the flow, so that the collapsed graph reads documents -> renditions -> records -> derived."""


def source_key(media: MediaType) -> dg.AssetKey:
    return dg.AssetKey(["mongo", media.plural])


def records_key(media: MediaType) -> dg.AssetKey:
    return dg.AssetKey(["atproto", media.plural])


def source_assets() -> list[dg.AssetSpec]:
    """One external asset for each type, partitioned by user."""
    return [
        dg.AssetSpec(
            source_key(media),
            partitions_def=users,
            group_name=DOCUMENTS_GROUP,
            owners=OWNERS,
            kinds={"mongodb"},
            tags={"media_type": media.name},
            description=f"Source: documents of the {media.plural}. Each user's, in the MongoDB collection "
            f"`{media.collection}`, as the platform stores them. Written by the platform; the pipeline only adds the "
            "link of each record. A partition is filled when its documents were read, with their counts.",
        )
        for media in MEDIA_TYPES
    ]


def columns_of(lexicon: Mapping[str, Any]) -> dg.TableSchema:
    """The fields of a record as columns, from the document of its lexicon."""
    record = lexicon["defs"]["main"]["record"]
    columns = [
        dg.TableColumn(
            name,
            field.get("format") or field["type"],
            description=field.get("description"),
            constraints=dg.TableColumnConstraints(nullable=name not in record.get("required", ())),
        )
        for name, field in record["properties"].items()
    ]
    return dg.TableSchema(columns)


RENDITIONS_A_RUN: Final = 360
RECORDS_A_RUN: Final = 180
"""Users in one run of a backfill. Assets that depend on one another must differ here: that is what makes the backfill
daemon run them apart and ask for records only where the renditions succeeded (Dagster facts, "One user fails, the
others do not"). The daemon launches the types without renditions at once, and the others as soon as a run of renditions
is done, paintings and tapes apart when it looks in between. So the one number is a multiple of the other, and a full
backfill of 4,201 users is 12 + 24 + 24 = 60 runs, or 84 at worst (RUN-3)."""

ENCODING: Final = "encoding"
PDS: Final = "pds"
CHANGED: Final = "changed"
POOL_LIMITS: Final = {ENCODING: 1, PDS: 2, CHANGED: 2}
"""Runs at once in each pool. An encoding run fills the machine's cores by itself; the PDS's disk waits are hidden by
two runs of several users each. What users have just changed has a pool of its own, which no backfill can fill; with
the four runs at once of dagster.yaml one place is always left for it. Request rates are held in the client, not here
(RUN-8)."""

PRIORITY: Final = "dagster/priority"  # Tag by which the queue orders runs; backfills and schedules have 0
URGENT: Final = "10"

THUMBNAILS: Final = "/thumbnails/"  # Path below which our web server serves small pictures, by DID and CID

RETRY_SECONDS: Final = 20.0
RENDITION_RETRIES: Final = 2
"""For storage that did not answer: three attempts, `RETRY_SECONDS` and twice that apart."""
RECORD_RETRIES: Final = 3
"""For a PDS that restarts or a lease that another run holds: four attempts, up to four times `RETRY_SECONDS` apart."""


def retries(number: int, seconds: float) -> dg.RetryPolicy:
    return dg.RetryPolicy(number, delay=seconds, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def backfill_policy_is_beta() -> Iterator[None]:
    """Let an asset be defined with a backfill policy: the parameter is beta in Dagster 1.13 and warns once an asset."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Parameter `backfill_policy`", category=dg.BetaWarning)
        yield
