"""The job `sync_changed_users`: one run over users who have nothing in common but that something of theirs changed.

Their partition keys are no range, so that no ranged run can be about them; a run each costs 1.5 CPU seconds before it
begins. The op does what the step of `records.py` does, by the same turns, and says of each user the same: a
materialisation of each records asset, or an observation with what went wrong. It targets no partition, so its failure
turns none red: who still has work afterwards gets a run of the partition from the sensor.
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.assets.records import BLOBS_FIELD, SWEEP_FIELD
from ac_pipeline.defs.assets.stage import Turns, made_earlier
from ac_pipeline.defs.checks import check_events
from ac_pipeline.defs.metadata import failure_of
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.policies import CHANGED, RETRY_SECONDS, record_retries
from ac_pipeline.defs.resources import PIPELINE
from ac_pipeline.media.registry import MEDIA_TYPES

SYNC_CHANGED_USERS: Final = "sync_changed_users"
CHANGED_STEP: Final = "changed_users_records"


class ChangedUsersConfig(dg.Config):
    """Whom the run is about."""

    users: list[str] = Field(
        description='Partition keys of the users to synchronise, for example ["ada", "art-guest"].'
    )
    full: bool = Field(default=False, description="Compare every document and record, also where nothing changed.")
    blobs: bool = Field(default=False, description=BLOBS_FIELD)
    sweep: int | None = Field(default=None, ge=0, description=SWEEP_FIELD)


def changed_users_job(pipeline_resource: object, retry_seconds: float = RETRY_SECONDS) -> dg.JobDefinition:
    """The job.

    Args:
        pipeline_resource: The resource `pipeline`. Given here, because a job that waits for the resources of the
            definitions is copied together with its sensor, and Dagster 1.13 warns of a beta parameter then.
        retry_seconds: Before the first retry of its op.
    """

    @dg.op(
        name=CHANGED_STEP,
        retry_policy=record_retries(retry_seconds),
        pool=CHANGED,
        out=dg.Out(dg.Nothing),
    )
    def changed_users_records(
        context: dg.OpExecutionContext, config: ChangedUsersConfig, pipeline: dg.ResourceParam[PipelineResource]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Synchronise the users the config names, and let the checks say what is quarantined now.

        Raises:
            dg.Failure: Some users have to be run again; a retry leaves out whoever is materialised in this run.
        """
        assets = {records_key(media): media for media in MEDIA_TYPES}
        asked = list(dict.fromkeys(config.users))
        earlier = made_earlier(context, assets)
        users = [user for user in asked if any((key, user) not in earlier for key in assets)]
        turns = Turns(context, pipeline, assets, users, pictures=True)
        troubles = turns.take(
            lambda accounts: pipeline.sync(
                accounts,
                MEDIA_TYPES,
                context.run.run_id,
                full=config.full,
                blobs=config.blobs,
                sweep=config.sweep,
            )
        )
        yield from check_events(pipeline, MEDIA_TYPES)
        if troubles:
            raise failure_of(troubles, len(asked))

    @dg.job(
        name=SYNC_CHANGED_USERS,
        resource_defs={PIPELINE: pipeline_resource},
        description="Makes the records of the users in its config equal to their documents. new_content_sensor "
        "launches it for users whose documents changed; it can be launched by hand for any users.",
    )
    def sync_changed_users() -> None:
        changed_users_records()

    return sync_changed_users


def run_config(users: list[str]) -> dict[str, object]:
    """The run config that names these users."""
    return {"ops": {CHANGED_STEP: {"config": {"users": users}}}}
