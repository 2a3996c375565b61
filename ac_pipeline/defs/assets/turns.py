"""Users taking their turns in a step or op, and the events that say how each one's turn ended.

Each user's events are logged by name as soon as the turn is over, so that a killed run keeps them. What is done to a
user is the caller's, and so is what the whole amounts to: an asset's step is `stage.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import rendition_key
from ac_pipeline.defs.assets.sources import records_key, source_key
from ac_pipeline.defs.failures import Trouble, trouble_of, trouble_of_error
from ac_pipeline.defs.metadata import (
    Metadata,
    account_metadata,
    counts,
    pictures_metadata,
    source_counts,
    trouble_metadata,
)
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.defs.versions import LastEvents, Seen, observation, tags
from ac_pipeline.errors import Misconfigured, Transient
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.plan import Versions

Context = dg.OpExecutionContext | dg.AssetExecutionContext
Work = Callable[[Sequence[Account]], Iterator[Outcome]]


@dataclass(slots=True)
class Turns:
    """The turns of some users.

    Args:
        context: Of the step or op.
        pipeline: The pipeline.
        assets: What a turn is about: records or renditions assets, with their types.
        users: Partition keys.
        pictures: Whether materialisations show some of the records' pictures.
        emit: What becomes of the materialisations of `assets`; by default they are logged at once.
    """

    context: Context
    pipeline: PipelineResource
    assets: Mapping[dg.AssetKey, MediaType]
    users: Sequence[str]
    pictures: bool = False
    emit: Callable[[dg.AssetMaterialization], None] | None = None
    _events: LastEvents = field(init=False)

    def __post_init__(self) -> None:
        self._events = LastEvents(self.context.instance, self.users)

    def take(self, work: Work) -> dict[str, Trouble]:
        """Let every user have a turn, and log how each one ended: nobody is left without an event (RUN-7).

        Args:
            work: What is done to accounts; yields an outcome for each.

        Returns:
            What was wrong, by partition key: who is in it has to be run again and is observed, not materialised.
        """
        troubles: dict[str, Trouble] = {}
        ended: set[str] = set()
        try:
            known = self.pipeline.accounts()
            for user in self.users:
                if user not in known:
                    self._nobody(user)
                    ended.add(user)
            accounts = [known[user] for user in self.users if user in known]
            for number, outcome in enumerate(work(accounts), start=1):
                user, trouble = outcome.account.key, trouble_of(outcome)
                level = "ERROR" if trouble else "INFO"
                self.context.log.log(level, f"{number} of {len(accounts)}: {_line(outcome, trouble)}")
                if trouble is not None:
                    troubles[user] = trouble
                self._tell(outcome, trouble)
                ended.add(user)
        except (Misconfigured, Transient) as error:
            stopped = trouble_of_error(error)
            for user in self.users:
                if user not in ended:
                    troubles[user] = stopped
                    for key in self.assets:
                        self.context.log_event(
                            dg.AssetObservation(key, partition=user, metadata=trouble_metadata(stopped))
                        )
        return troubles

    def _nobody(self, user: str) -> None:
        self.context.log.warning(f"{user}: no account has this key any more; nothing was done")
        note = "no account has this key any more: nothing was done, and the users sensor removes the key"
        for key in self.assets:
            self._materialize(dg.AssetMaterialization(key, partition=user, metadata={"note": note}))

    def _tell(self, outcome: Outcome, trouble: Trouble | None) -> None:
        """The events about one user: documents first, which the others are made from."""
        user = outcome.account.key
        for key, media in self.assets.items():
            metadata = account_metadata(self.pipeline, outcome, media)
            versions = outcome.report.versions.get(media.name)
            if versions is not None:
                self._observe(outcome, media, versions)
            if trouble is not None:
                metadata = {**trouble_metadata(trouble), **metadata}
                self.context.log_event(dg.AssetObservation(key, partition=user, metadata=metadata))
                continue
            if self.pictures:
                metadata.update(pictures_metadata(self.pipeline, outcome, media))
            if key == records_key(media) and versions is not None:
                self._made_along_the_way(outcome, media, versions)
            self._materialize(self._versioned(key, user, media, versions, metadata))

    def _observe(self, outcome: Outcome, media: MediaType, versions: Versions) -> None:
        """Say what was seen of the documents, unless Dagster knows it already: an event costs 5 to 8 ms."""
        source, user = source_key(media), outcome.account.key
        known = self._events.observed(source).get(user)
        if versions.documents is None or (known is not None and known.version == versions.documents):
            return
        self.context.log_event(observation(media, user, versions, source_counts(outcome, media)))
        self._events.look_again(source, user)

    def _made_along_the_way(self, outcome: Outcome, media: MediaType, versions: Versions) -> None:
        """A sync makes the renditions its records lack: then their own asset is not behind any more either."""
        made, user = rendition_key(media), outcome.account.key
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
        source, made = source_key(media), rendition_key(media)
        used = {source: versions.documents}
        parents: dict[dg.AssetKey, Seen | None] = {source: self._events.observed(source).get(user)}
        own = versions.renditions
        if key == records_key(media):
            own = versions.records
            if made is not None:
                used[made] = versions.renditions
                parents[made] = self._events.materialized(made).get(user)
        told = tags(own, self.context.run.run_id, parents, used)
        return dg.AssetMaterialization(key, partition=user, metadata=metadata, tags=told)

    def _materialize(self, made: dg.AssetMaterialization) -> None:
        (self.emit or self.context.log_event)(made)


def _line(outcome: Outcome, trouble: Trouble | None) -> str:
    """One line of the run's log about one user."""
    user = outcome.account.key
    if trouble is not None:
        return f"{user} has to be run again: {trouble.code}: {trouble.message}"
    report = outcome.report
    if report.blocked is not None:
        return f"{user} is blocked: {report.blocked.message}"
    tallies = report.types.values()
    numbers = {
        "written": sum(tally.written for tally in tallies),
        "unchanged": sum(tally.unchanged for tally in tallies),
        "rendered": sum(tally.pending for tally in tallies),
        "deleted": sum(tally.deleted for tally in tallies),
        "deferred": sum(tally.deferred for tally in tallies),
        "quarantined": sum(tally.quarantined for tally in tallies),
    }
    said = ", ".join(f"{count} {name}" for name, count in numbers.items() if count)
    return f"{user}: {said or 'nothing to do'} ({report.seconds:.1f} s)"
