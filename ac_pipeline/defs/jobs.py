"""The jobs: sets of assets that people, schedules and sensors launch together."""

from typing import Final

import dagster as dg

SYNC_USERS: Final = "sync_users"

# Without the renditions: in one run of both stages, one user's failing rendition would skip the records of the whole
# range (Dagster facts, "One user fails, the others do not"), and a records run makes missing renditions by itself.
sync_users = dg.define_asset_job(
    SYNC_USERS,
    selection=dg.AssetSelection.key_prefixes("atproto"),
    description="Makes the records of some users equal to their documents, missing renditions included. To fill the "
    "renditions assets as well, launch a backfill of both: it runs the two stages apart.",
)

UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of a run that may still touch its partitions."""
