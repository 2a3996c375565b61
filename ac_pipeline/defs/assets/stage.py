"""One step over a range of users: every user gets an event, and only users that have to be run again turn red.

The shape is measured (Dagster facts, "One user fails, the others do not"): Dagster marks a whole range as materialised
when a step returns a result, and a result names no partition and has one data version for all. So each good user is
logged by name, each bad one observed, and a step with a bad one fails. What is done to a user is the caller's.

Users are logged as they end, but for a step that another asset waits for: a backfill looks every 30 seconds, and asks
for the next stage of whoever is green by then, a run for each unbroken range of keys (17 runs in place of 5 were seen
for 500 users). Such a step logs all at its end, in the order of keys: a look in the middle cuts the range once.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from ac_pipeline.defs.assets.turns import Context, Turns, Work
from ac_pipeline.defs.failures import Trouble, failure_of
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.media.base import MediaType

Results = Iterator[dg.MaterializeResult]


def run_stage(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    assets: Mapping[dg.AssetKey, MediaType],
    work: Work,
    *,
    feeds: dg.AssetKey | None = None,
    pictures: bool = False,
) -> Results:
    """Do the work for every user of the run's partitions, and say of each how it ended.

    Args:
        assets: The selected assets of this step, with their types.
        work: What is done to accounts; yields an outcome for each.
        feeds: The asset that waits for this step.
        pictures: Whether materialisations show some of the records' pictures.

    Yields:
        Nothing, as a rule: the materialisations are logged. Only a step that feeds another one of the same run yields
        a result for each asset, when all users are well: Dagster skips what waits for a step without results.

    Raises:
        dg.Failure: Some users have to be run again; the others are materialised already. A retry of the step leaves
            out whoever is materialised in this run.
    """
    earlier = made_earlier(context, assets)
    users = [user for user in context.partition_keys if any((key, user) not in earlier for key in assets)]
    selected = context.run.asset_selection
    feeding = feeds is not None and (selected is None or feeds in selected)
    made: list[dg.AssetMaterialization] = []
    turns = Turns(context, pipeline, assets, users, pictures=pictures, emit=made.append if feeds is not None else None)
    troubles: Mapping[str, Trouble] | None = None
    try:
        troubles = turns.take(work)
    finally:  # an interrupted run says what was done until then (GUARD-8)
        if troubles is None or troubles or not feeding:
            places = {user: place for place, user in enumerate(users)}
            for materialization in sorted(made, key=lambda each: places[str(each.partition)]):
                context.log_event(materialization)
    if troubles:
        raise failure_of(troubles, len(context.partition_keys))
    if feeding:
        yield from _results(context, assets, [*earlier.values(), *made])


def _results(
    context: dg.AssetExecutionContext, assets: Mapping[dg.AssetKey, MediaType], made: list[dg.AssetMaterialization]
) -> Results:
    """All that was made as results. Over a range they have no data versions of their own: a result has one for all."""
    if len(context.partition_keys) == 1:
        for each in made:
            yield dg.MaterializeResult(asset_key=each.asset_key, metadata=each.metadata, tags=each.tags)
        return
    for each in made:
        context.add_asset_metadata(dict(each.metadata), asset_key=each.asset_key, partition_key=each.partition)
    for key in assets:
        yield dg.MaterializeResult(asset_key=key)


def made_earlier(
    context: Context, assets: Mapping[dg.AssetKey, MediaType]
) -> dict[tuple[dg.AssetKey, str], dg.AssetMaterialization]:
    """Who was materialised by an earlier attempt of this step or op in this run."""
    if context.retry_number == 0:
        return {}
    done: dict[tuple[dg.AssetKey, str], dg.AssetMaterialization] = {}
    events = context.instance.get_records_for_run(context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    for record in events.records:
        made = record.asset_materialization
        if made is not None and made.asset_key in assets and made.partition is not None:
            done[made.asset_key, made.partition] = made
    return done
