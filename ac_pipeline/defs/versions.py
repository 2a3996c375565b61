"""Data versions in Dagster: what tells the UI that a user's partition is behind its documents ("Unsynced"). What a
version is a hash of is `sync/planning/plan.py`; which events are logged, and when, is `assets/stage.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.catalog import source_key
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.planning.plan import Versions

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
    return dg.AssetObservation(source_key(media), partition=user, metadata=dict(counts), tags=_own(versions.documents))


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
