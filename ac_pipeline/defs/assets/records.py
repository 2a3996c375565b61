"""The records on the PDS as assets, one for each type, made by one step, so that a repository is read and written once
a run; and the job `sync_changed_users`, which does the same for users who are neighbours in no range."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets import catalog
from ac_pipeline.defs.assets.stage import UsersOfRun, Work, made_earlier, run_stage
from ac_pipeline.defs.checks import check_events, evaluate_checks, record_checks
from ac_pipeline.defs.metadata import failure_of
from ac_pipeline.defs.pipeline import PIPELINE, PipelineResource
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import lexicons_of_types

STEP: Final = "atproto_records"
SYNC_CHANGED_USERS: Final = "sync_changed_users"
CHANGED_STEP: Final = "changed_users_records"
FULL: Final = "full"  # Name of the field below, for run configs


class RecordsConfig(dg.Config):
    """What a person can set in the launchpad."""

    full: bool = Field(
        default=False,
        description="Compare every document and record of each user, also of those in whom nothing seems changed. "
        "The nightly schedule does; it costs one read of the whole repository for each user, and one question to "
        "storage for each item with media: what was replaced there is rendered anew.",
    )
    renditions: bool = Field(
        default=False,
        description="Make every thumbnail and video of these users again from its source, whatever is known of it.",
    )
    blobs: bool = Field(
        default=False,
        description="Ask the PDS for every picture and video as well, and upload again what it has lost: one small "
        "request for each.",
    )
    sweep: int | None = Field(
        default=None,
        ge=0,
        description="Delete so many records without a document of this run's users although the database is doubted. "
        "The check collection_intact says why they are kept; with another number than there are, the run fails and "
        "says it.",
    )

    def work(self, pipeline: PipelineResource, types: Sequence[MediaType], run_id: str) -> Work:
        chosen: dict[str, Any] = {name: getattr(self, name) for name in RecordsConfig.model_fields}
        selection = Selection(types=tuple(types), **chosen)
        return lambda accounts: pipeline.sync(accounts, selection, run_id)


class ChangedUsersConfig(RecordsConfig):
    """Whom a run is about, and the same."""

    users: list[str] = Field(
        description='Partition keys of the users to synchronise, for example ["ada", "art-guest"].'
    )


def run_config(users: list[str]) -> dict[str, object]:
    """The run config of `sync_changed_users` that names these users."""
    return {"ops": {CHANGED_STEP: {"config": {"users": users}}}}


def record_assets(retry_seconds: float = catalog.RETRY_SECONDS) -> dg.AssetsDefinition:
    """The records asset of each type, with their checks. `retry_seconds`: before the first retry of the step."""
    with catalog.backfill_policy_is_beta():

        @dg.multi_asset(
            name=STEP,
            specs=_specs(),
            check_specs=record_checks(),
            partitions_def=catalog.users,
            can_subset=True,
            backfill_policy=dg.BackfillPolicy.multi_run(catalog.RECORDS_A_RUN),
            retry_policy=catalog.retries(catalog.RECORD_RETRIES, retry_seconds),
            pool=catalog.PDS,
        )
        def atproto_records(
            context: dg.AssetExecutionContext, config: RecordsConfig, pipeline: dg.ResourceParam[PipelineResource]
        ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
            keys = context.selected_asset_keys
            selected = {key: media for media in MEDIA_TYPES if (key := catalog.records_key(media)) in keys}
            work = config.work(pipeline, tuple(selected.values()), context.run.run_id)
            try:
                if selected:
                    yield from run_stage(context, pipeline, selected, work)
            except dg.Failure as failure:
                if not failure.allow_retries or context.retry_number >= catalog.RECORD_RETRIES:  # at the last attempt
                    with suppress(dg.Failure):
                        yield from evaluate_checks(pipeline, context.selected_asset_check_keys)
                raise
            yield from evaluate_checks(pipeline, context.selected_asset_check_keys)

    return atproto_records


def _specs() -> list[dg.AssetSpec]:
    lexicons = lexicons_of_types()
    specs = []
    for media in MEDIA_TYPES:
        made = catalog.rendition_key(media)
        specs.append(
            dg.AssetSpec(
                catalog.records_key(media),
                deps=[catalog.source_key(media), *([made] if made is not None else [])],
                group_name=catalog.RECORDS_GROUP,
                owners=catalog.OWNERS,
                kinds={"atproto"},
                tags={"media_type": media.name},
                metadata={"dagster/column_schema": catalog.columns_of(lexicons.documents[media.nsid])},
                skippable=True,
                description=f"Target: records of the {media.plural}. The user's records `{media.nsid}` on the PDS, "
                f"equal to the eligible {media.plural} in Mongo, each once. Synchronising an unchanged user writes "
                "nothing.",
            )
        )
    return specs


def changed_users_job(pipeline_resource: object, retry_seconds: float = catalog.RETRY_SECONDS) -> dg.JobDefinition:
    """The job `sync_changed_users`: one run over users whose partition keys are no range, for a run each costs 1.5 CPU
    seconds before it begins. Of each user it says the same as the step of the assets. It targets no partition, so its
    failure turns none red: who still has work afterwards gets a run of the partition from the sensor. The resource
    `pipeline` is given here, because a job that waits for the resources of the definitions is copied together with its
    sensor, and Dagster 1.13 warns of a beta parameter then. `retry_seconds`: before the first retry of its op."""

    policy = catalog.retries(catalog.RECORD_RETRIES, retry_seconds)

    @dg.op(name=CHANGED_STEP, retry_policy=policy, pool=catalog.CHANGED, out=dg.Out(dg.Nothing))
    def changed_users_records(
        context: dg.OpExecutionContext, config: ChangedUsersConfig, pipeline: dg.ResourceParam[PipelineResource]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Synchronise the users the config names, and let the checks say what is quarantined now. Raises dg.Failure:
        some users have to be run again; a retry leaves out whoever is materialised in this run."""
        assets = {catalog.records_key(media): media for media in MEDIA_TYPES}
        asked = list(dict.fromkeys(config.users))
        earlier = made_earlier(context, assets)
        left = [user for user in asked if any((key, user) not in earlier for key in assets)]
        work = config.work(pipeline, MEDIA_TYPES, context.run.run_id)
        failures = UsersOfRun(context, pipeline, assets, left, context.log_event).process(work)
        yield from check_events(pipeline, MEDIA_TYPES)
        if failures:
            raise failure_of(failures, len(asked))

    @dg.job(
        name=SYNC_CHANGED_USERS,
        resource_defs={PIPELINE: pipeline_resource},
        description="Makes the records of the users in its config equal to their documents. new_content_sensor "
        "launches it for users whose documents changed; it can be launched by hand for any users.",
    )
    def sync_changed_users() -> None:
        changed_users_records()

    return sync_changed_users
