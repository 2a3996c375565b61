"""Data versions in Dagster: what tells the UI that a user's partition is behind its documents ("Unsynced").

What a version is a hash of is `sync/planning/plan.py`; which events are logged, and when, is `assets/stage.py`.

Measured on Dagster 1.13.27, with `staleStatus` of real instances:

- Dagster compares events, not versions: a partition is stale when its parent has an event after the one named in the
  partition's own tags, with another data version than that one. A materialisation without these tags is never stale
  for an external parent, and `MaterializeResult` over a range gives all its partitions the same version and the same
  pointers. So every materialisation is logged by name, with tags of its own.
- An observation that a step logs for itself is younger than what Dagster noted at the start of the step: left to
  Dagster, what the step has just synchronised would be stale at once. So the pointer is read back after it.
- What shows: `mongo/X` observed with new documents (by a sensor, or by a step that then failed for the user) makes
  `renditions/*` and `atproto/*` of that user stale until their next success, in single and in ranged runs; a rendition
  made anew makes its record stale.
- What does not: an asset as a whole is never stale, only its partitions' pages say so (Dagster asks no more of
  partitioned assets); an external asset never is; a user without any materialisation is missing, not stale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.catalog import source_key
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.planning.plan import Versions

_PAGES: Final = 3
"""Pages of events that are looked through for the last one of each user. Whoever is not found there counts as unknown:
the documents are observed once more, which is harmless, and the partition is not stale before its next run."""

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
    """The last events of some users' partitions, read an asset at a time, when they are first asked for."""

    instance: dg.DagsterInstance
    users: Sequence[str]  # Whose: partition keys
    _known: dict[tuple[bool, dg.AssetKey], dict[str, Seen]] = field(default_factory=dict)

    def observed(self, asset: dg.AssetKey) -> dict[str, Seen]:
        """Partition -> its last observation."""
        return self._of(asset, made=False)

    def materialized(self, asset: dg.AssetKey) -> dict[str, Seen]:
        """Partition -> its last materialisation."""
        return self._of(asset, made=True)

    def look_again(self, asset: dg.AssetKey, user: str) -> None:
        """An event of this user was logged just now: find its place in the log."""
        for made in (False, True):
            if (made, asset) in self._known:
                self._known[made, asset].update(self._read(asset, [user], made=made))

    def _of(self, asset: dg.AssetKey, *, made: bool) -> dict[str, Seen]:
        if (made, asset) not in self._known:
            self._known[made, asset] = self._read(asset, self.users, made=made)
        return self._known[made, asset]

    def _read(self, asset: dg.AssetKey, users: Sequence[str], *, made: bool) -> dict[str, Seen]:
        fetch = self.instance.fetch_materializations if made else self.instance.fetch_observations
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=list(users))
        found: dict[str, Seen] = {}
        cursor = None
        for _ in range(_PAGES if users else 0):
            page = fetch(wanted, limit=2 * len(users), cursor=cursor)
            for record in page.records:
                event = record.asset_materialization or record.asset_observation
                if event is not None and event.partition is not None:
                    found.setdefault(event.partition, Seen(record.storage_id, (event.tags or {}).get(_VERSION)))
            if len(found) == len(users) or not page.has_more:
                break
            cursor = page.cursor
        return found


def observation(media: MediaType, user: str, versions: Versions, counts: Mapping[str, int]) -> dg.AssetObservation:
    """What was seen of one user's documents of one type.

    Args:
        counts: Documents, and how many of them are eligible, withdrawn and invalid.
    """
    return dg.AssetObservation(source_key(media), partition=user, metadata=dict(counts), tags=_own(versions.documents))


def tags(
    version: str | None, run_id: str, parents: Mapping[dg.AssetKey, Seen | None], seen: Mapping[dg.AssetKey, str | None]
) -> dict[str, str]:
    """Tags of a materialisation: its own data version, and what of its parents it is made from.

    Args:
        version: Its data version, or None when nothing can be said.
        run_id: Stands for the version of the code, as Dagster has it for assets without one.
        parents: Each parent, with its last event.
        seen: Each parent, with the version that was used.
    """
    made = {"dagster/code_version": run_id, **_own(version)}
    for asset, event in parents.items():
        name = asset.to_user_string()
        made[f"dagster/input_data_version/{name}"] = seen.get(asset) or "INITIAL"
        made[f"dagster/input_event_pointer/{name}"] = str(event.id) if event is not None else _NO_EVENT
    return made


def _own(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    return {_VERSION: version, "dagster/data_version_is_user_provided": "true"}
