"""One step over a range of users: every user gets an event, and only users that have to be run again turn red. What is
done to a user is the caller's. Its data versions tell the UI that a user's partition is behind its documents
("Unsynced"); what a version is a hash of is `sync/planning/plan.py`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets import catalog
from ac_pipeline.defs.metadata import (
    Metadata,
    Summary,
    account_metadata,
    counts,
    error_metadata,
    failure_of,
    outcomes,
)
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.media.base import MediaType
from ac_pipeline.renditions.renderer import Recipe
from ac_pipeline.sync.planning.plan import Versions
from ac_pipeline.sync.report import Tally

_VERSION: Final = "dagster/data_version"
_NO_EVENT: Final = "NULL"
"""Dagster's word for a parent without any event."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The last event of one partition: its place in Dagster's log, and the data version it carries."""

    id: int
    version: str | None


@dataclass(slots=True)
class LastEvents:
    """The last events of some users' partitions, read an asset at a time, when they are first asked for.

    What a step observes is younger than what Dagster noted at its start: left to Dagster, what the step has just
    synchronised would be stale at once. So the pointer is read back after it (`look_again`).
    """

    instance: dg.DagsterInstance
    users: Sequence[str]  # Whose: partition keys
    _known: dict[tuple[dg.DagsterEventType, dg.AssetKey], dict[str, Seen]] = field(default_factory=dict)

    def observed(self, asset: dg.AssetKey) -> dict[str, Seen]:
        """Partition -> its last observation."""
        return self._of(dg.DagsterEventType.ASSET_OBSERVATION, asset)

    def materialized(self, asset: dg.AssetKey) -> dict[str, Seen]:
        """Partition -> its last materialisation."""
        return self._of(dg.DagsterEventType.ASSET_MATERIALIZATION, asset)

    def look_again(self, asset: dg.AssetKey, user: str) -> None:
        """An event of this user was logged just now: find its place in the log."""
        for (kind, known), seen in self._known.items():
            if known == asset:
                seen.update(self._read(kind, asset, [user]))

    def _of(self, kind: dg.DagsterEventType, asset: dg.AssetKey) -> dict[str, Seen]:
        if (kind, asset) not in self._known:
            self._known[kind, asset] = self._read(kind, asset, self.users)
        return self._known[kind, asset]

    def _read(self, kind: dg.DagsterEventType, asset: dg.AssetKey, users: Sequence[str]) -> dict[str, Seen]:
        if not users:
            return {}
        places = self.instance.get_latest_storage_id_by_partition(asset, kind, set(users))
        tags = self.instance.event_log_storage.get_latest_tags_by_partition(asset, kind, [_VERSION], list(users))
        return {user: Seen(place, tags.get(user, {}).get(_VERSION)) for user, place in places.items()}


def observation(media: MediaType, user: str, versions: Versions, counts: Mapping[str, int]) -> dg.AssetObservation:
    """What was seen of one user's documents of one type. `counts`: documents, and how many of them are eligible,
    withdrawn and invalid."""
    return dg.AssetObservation(
        catalog.source_key(media), partition=user, metadata=dict(counts), tags=_own(versions.documents)
    )


def tags(
    version: str | None, run_id: str, parents: Mapping[dg.AssetKey, tuple[Seen | None, str | None]]
) -> dict[str, str]:
    """Tags of a materialisation: its own data version (None when nothing can be said), and what of its parents it is
    made from: of each its last event and the version that was used. The run stands for the version of the code.

    A partition is stale when its parent has an event after the one named in its tags, with another data version
    (Dagster 1.13.27, by `staleStatus`); without tags it never is for an external parent. `MaterializeResult` over a
    range gives all its partitions the same ones: so every materialisation is logged by name. An asset as a whole is
    never stale, an external one neither, and a user without any materialisation is missing.
    """
    made = {"dagster/code_version": run_id, **_own(version)}
    for asset, (event, used) in parents.items():
        name = asset.to_user_string()
        made[f"dagster/input_data_version/{name}"] = used or "INITIAL"
        made[f"dagster/input_event_pointer/{name}"] = str(event.id) if event is not None else _NO_EVENT
    return made


def _own(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    return {_VERSION: version, "dagster/data_version_is_user_provided": "true"}


Context = dg.OpExecutionContext | dg.AssetExecutionContext
Work = Callable[[Sequence[Account]], Iterator[Outcome]]


@dataclass
class UsersOfRun:
    """Some users of a run: each is worked on, and gets an event that says how it ended."""

    context: Context  # Of the step or op
    pipeline: PipelineResource
    assets: Mapping[dg.AssetKey, MediaType]  # What the work is about: records or renditions assets, with their types
    users: Sequence[str]  # Partition keys
    emit: Callable[[dg.AssetMaterialization], None]  # What becomes of the materialisations of `assets`

    @cached_property
    def _events(self) -> LastEvents:
        return LastEvents(self.context.instance, self.users)

    def process(self, work: Work) -> dict[str, PipelineError]:
        """Do the work for every user, and log how it ended: nobody is left without an event (RUN-7). Returns what was
        wrong, by partition key: who is in it has to be run again and is observed, not materialised."""
        summary = Summary()
        ended: set[str] = set()
        try:
            known = self.pipeline.accounts()
            for user in self.users:
                if user not in known:
                    self._nobody(user)
                    ended.add(user)
            accounts = [known[user] for user in self.users if user in known]
            for number, outcome in enumerate(work(accounts), start=1):
                level = "ERROR" if outcome.report.error else "INFO"
                self.context.log.log(level, f"{number} of {len(accounts)}: {_line(outcome)}")
                summary.add(outcome.report)
                self._log_events(outcome)
                ended.add(outcome.account.key)
        except (Misconfigured, Transient) as stopped:
            for user in self.users:
                if user not in ended:
                    summary.failures[user] = stopped
                    for key in self.assets:
                        seen = dg.AssetObservation(key, partition=user, metadata=error_metadata(stopped))
                        self.context.log_event(seen)
        self.context.log.info(summary.sentence([media.name for media in self.assets.values()]))
        return summary.failures

    def _nobody(self, user: str) -> None:
        self.context.log.warning(f"{user}: no account has this key any more; nothing was done")
        note = "no account has this key any more: nothing was done, and the users sensor removes the key"
        for key in self.assets:
            self.emit(dg.AssetMaterialization(key, partition=user, metadata={"note": note}))

    def _log_events(self, outcome: Outcome) -> None:
        """The events about one user: documents first, which the others are made from."""
        user, report = outcome.account.key, outcome.report
        for key, media in self.assets.items():
            records = key == catalog.records_key(media)
            versions = report.versions.get(media.name)
            if versions is not None:
                self._observe(outcome, media, versions)
            metadata = account_metadata(self.pipeline, outcome, media, renditions=not records)
            if report.error is not None:
                metadata = {**error_metadata(report.error), **metadata}
                self.context.log_event(dg.AssetObservation(key, partition=user, metadata=metadata))
                continue
            blocked = records and report.blocked is not None
            if blocked:
                metadata = {"status": "blocked: nothing can be published until the account can be used", **metadata}
            if records and versions is not None:
                self._made_along_the_way(outcome, media, versions)
            self.emit(self._versioned(key, user, media, versions, metadata))
            if blocked and versions is not None and versions.documents is not None:
                # Shown as behind its documents: what is materialised here does not look like one that is well.
                seen = observation(media, user, replace(versions, documents=f"{versions.documents}-blocked"), {})
                self.context.log_event(seen)
                self._events.look_again(catalog.source_key(media), user)

    def _observe(self, outcome: Outcome, media: MediaType, versions: Versions) -> None:
        """Say what was seen of the documents, unless Dagster knows it already: an event costs 5 to 8 ms."""
        source, user = catalog.source_key(media), outcome.account.key
        known = self._events.observed(source).get(user)
        if versions.documents is None or (known is not None and known.version == versions.documents):
            return
        # Dagster tells from observations who is behind its documents, and from materialisations who was ever read.
        tally = outcome.report.tally(media.name)
        found = {name: getattr(tally, name) for name in ("documents", "eligible", "withdrawn", "invalid")}
        seen = observation(media, user, versions, found)
        self.context.log_event(seen)
        self.context.log_event(
            dg.AssetMaterialization(source, partition=user, metadata=seen.metadata, tags=dict(seen.tags))
        )
        self._events.look_again(source, user)

    def _made_along_the_way(self, outcome: Outcome, media: MediaType, versions: Versions) -> None:
        """A sync makes the renditions its records lack: then their own asset is not behind any more either."""
        made, user = catalog.rendition_key(media), outcome.account.key
        if made is None or versions.renditions is None:
            return
        known = self._events.materialized(made).get(user)
        if known is not None and known.version == versions.renditions:
            return
        metadata = {"made_by": "the records step, which makes what its records lack", **counts(outcome, media)}
        self.context.log_event(self._versioned(made, user, media, versions, metadata))
        self._events.look_again(made, user)

    def _versioned(
        self, key: dg.AssetKey, user: str, media: MediaType, versions: Versions | None, metadata: Metadata
    ) -> dg.AssetMaterialization:
        if versions is None:
            return dg.AssetMaterialization(key, partition=user, metadata=metadata)
        source, made = catalog.source_key(media), catalog.rendition_key(media)
        parents = {source: (self._events.observed(source).get(user), versions.documents)}
        own = versions.renditions
        if key == catalog.records_key(media):
            own = versions.records
            if made is not None:
                parents[made] = (self._events.materialized(made).get(user), versions.renditions)
        own_tags = tags(own, self.context.run.run_id, parents)
        return dg.AssetMaterialization(key, partition=user, metadata=metadata, tags=own_tags)


def _line(outcome: Outcome) -> str:
    """One line of the run's log about one user."""
    user, report = outcome.account.key, outcome.report
    if report.error is not None:
        return f"{user} has to be run again: {report.error.code}: {report.error.message}"
    if report.blocked is not None:
        return f"{user} is blocked: {report.blocked.message}"
    total = Tally()
    for tally in report.types.values():
        total.add(tally)
    return f"{user}: {outcomes(total)} ({report.seconds:.1f} s)"


Results = Iterator[dg.MaterializeResult]


def run_stage(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    assets: Mapping[dg.AssetKey, MediaType],  # The selected assets of this step, with their types
    work: Work,  # What is done to accounts; yields an outcome for each
    *,
    feeds: dg.AssetKey | None = None,  # The asset that waits for this step
) -> Results:
    """Do the work for every user of the run's partitions, and say of each how it ended.

    Dagster marks a whole range as materialised when a step returns a result, which has one data version for all
    (Dagster facts, "One user fails, the others do not"). So each good user is logged by name, each bad one observed,
    and a step with a bad one fails.

    Yields nothing, as a rule: the materialisations are logged. Only a step that feeds another one of the same run
    yields a result for each asset, when all users are well: Dagster skips what waits for a step without results. Raises
    dg.Failure: some users have to be run again; the others are materialised already. A retry of the step leaves out
    whoever is materialised in this run.
    """
    earlier = made_earlier(context, assets)
    users = [user for user in context.partition_keys if any((key, user) not in earlier for key in assets)]
    selected = context.run.asset_selection
    feeding = feeds is not None and (selected is None or feeds in selected)
    made: list[dg.AssetMaterialization] = []
    # Users are logged as they end, but for a step that another asset waits for: a backfill looks every 10 seconds, and
    # asks for the next stage of whoever is green by then, a run for each unbroken range of keys (17 runs in place of 5
    # were seen for 500 users). Such a step logs all at its end, in their order: a look in the middle cuts them once.
    batch = UsersOfRun(context, pipeline, assets, users, made.append if feeds is not None else context.log_event)
    failures: Mapping[str, PipelineError] | None = None
    try:
        failures = batch.process(work)
    finally:  # an interrupted run says what was done until then (GUARD-8)
        if failures is None or failures or not feeding:
            places = {user: place for place, user in enumerate(users)}
            for materialization in sorted(made, key=lambda each: places[str(each.partition)]):
                context.log_event(materialization)
    if failures:
        raise failure_of(failures, len(context.partition_keys))
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


def rendition_assets(retry_seconds: float = catalog.RETRY_SECONDS) -> list[dg.AssetsDefinition]:
    """The derived media as assets, one asset and step for each line of `RENDITIONS`: what has to be made of a picture
    or a tape before its record can be written. A records run launched alone makes what is missing by itself."""
    return [_rendition_asset(key, media, recipe, retry_seconds) for key, (media, recipe) in catalog.RENDITIONS.items()]


def _rendition_asset(key: dg.AssetKey, media: MediaType, recipe: Recipe, retry_seconds: float) -> dg.AssetsDefinition:
    with catalog.backfill_policy_is_beta():

        @dg.asset(
            key=key,
            partitions_def=catalog.users,
            deps=[catalog.source_key(media)],
            group_name=catalog.RENDITIONS_GROUP,
            description=recipe.description.format(type=media.name),
            owners=catalog.OWNERS,
            kinds=set(recipe.kinds),
            tags={"media_type": media.name},
            backfill_policy=dg.BackfillPolicy.multi_run(catalog.RENDITIONS_A_RUN),
            retry_policy=catalog.retries(catalog.RENDITION_RETRIES, retry_seconds),
            pool=catalog.ENCODING,
            output_required=False,
        )
        def render(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[PipelineResource]) -> Results:
            yield from run_stage(
                context,
                pipeline,
                {key: media},
                lambda accounts: pipeline.render(accounts, media, context.run.run_id),
                feeds=catalog.records_key(media),
            )

    return render
