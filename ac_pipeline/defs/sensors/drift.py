"""The drift sensor: asks for a sync of users whose repository somebody else has touched. It is the safety net under the
real-time writer and every other client: it needs only the revision of each repository (VERIFY-9, VERIFY-10)."""

import base64
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.defs import jobs
from ac_pipeline.defs.assets.catalog import USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.sensors.content import log_users
from ac_pipeline.items import RepositoryCheckpoint

ASK_AGAIN: Final = 3_600
"""Seconds after which a drift that is still there is asked about again: its run failed, or its account was blocked."""

MOST_REMEMBERED: Final = 20_000
"""Requests of the last hour that are remembered, 8 bytes each in the cursor; beyond that, new ones wait."""

_HASH_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Drift:
    """One user whose repository is not as we left it."""

    key: str  # The user's partition key
    did: str  # The repository
    left: str  # The revision our last sync left
    found: str  # The one it has now


@dataclass(slots=True)
class DriftPlan:
    """What one look at all repositories amounts to."""

    now: float  # Of this look, epoch seconds
    drifted: list[Drift] = field(default_factory=list)  # To be run now, in the order of the partition keys
    busy: list[str] = field(default_factory=list)  # Drifted users with a queued or started run: it will find it
    # Drifted users for whose revision a run was requested less than `ASK_AGAIN` ago, and did not help
    asked: list[str] = field(default_factory=list)
    # Users we take for ready whose repository the PDS does not serve, with its word for it
    inactive: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # Users we have synchronised whom the PDS does not list any more
    # Earlier requests that still count: hash of repository and revision -> epoch seconds
    remembered: dict[bytes, int] = field(default_factory=dict)

    def cursor(self, requested: Iterable[Drift]) -> str:
        """What the next look has to know, once runs were requested for these."""
        asked = self.remembered | {_hash(each): int(self.now) for each in requested}
        by_time: dict[int, list[bytes]] = {}
        for name, at in sorted(asked.items()):
            by_time.setdefault(at, []).append(name)
        packed = {str(at): base64.b64encode(b"".join(names)).decode("ascii") for at, names in by_time.items()}
        return json.dumps(packed, separators=(",", ":"))


def plan_drift(
    accounts: Mapping[str, Account],
    existing: Sequence[str],
    repositories: Iterable[RepositoryStatus],
    *,
    marks: Mapping[str, RepositoryCheckpoint],
    busy: Collection[str],
    cursor: str | None,
    now: float,
) -> DriftPlan:
    """Compare the revision of every repository the PDS hosts with the one our last sync left.

    Left out are repositories that no account of ours has, those we never synchronised (that is the backfill's), blocked
    accounts, and those whose sync ended after `now`, the epoch seconds at which the look began. `accounts` and `busy`
    go by partition key, `marks` by DID; who is busy was read before `repositories` and `marks`. `cursor` is what
    `DriftPlan.cursor` said at the last look, None at the first.
    """
    owners = {account.did: key for key, account in accounts.items() if account.did and account.blocked is None}
    places = {key: place for place, key in enumerate(existing)}
    before, plan = _recall(cursor, now), DriftPlan(now)
    listed: set[str] = set()
    for repository in repositories:
        listed.add(repository.did)
        key, mark = owners.get(repository.did), marks.get(repository.did)
        if key is None:
            continue
        if not repository.active:
            plan.inactive.append((key, repository.status or "inactive"))
            continue
        if key not in places or mark is None or mark.rev == repository.rev or mark.at.timestamp() >= now:
            continue
        drift = Drift(key, repository.did, mark.rev, repository.rev)
        name = _hash(drift)
        if name in before:
            plan.remembered[name] = before[name]
        if key in busy:
            plan.busy.append(key)
        elif name in before:
            plan.asked.append(key)
        else:
            plan.drifted.append(drift)
    plan.drifted.sort(key=lambda each: places[each.key])
    del plan.drifted[max(0, MOST_REMEMBERED - len(plan.remembered)) :]
    plan.gone = [key for did, key in owners.items() if did in marks and did not in listed]
    return plan


def _recall(cursor: str | None, now: float) -> dict[bytes, int]:
    """The requests that still count; a cursor that cannot be read counts as none: that costs a run too many."""
    found: dict[bytes, int] = {}
    try:
        packed = json.loads(cursor) if cursor else {}
        for at, joined in packed.items():
            names = base64.b64decode(joined)
            if now - ASK_AGAIN < int(at) <= now:
                found.update((names[i : i + _HASH_BYTES], int(at)) for i in range(0, len(names), _HASH_BYTES))
    except (ValueError, AttributeError, TypeError):
        return {}
    return found


def _hash(drift: Drift) -> bytes:
    return sha256(f"{drift.did} {drift.found}".encode()).digest()[:_HASH_BYTES]


def make_drift_sensor(changed_users: dg.JobDefinition, clock: Callable[[], float] = time.time) -> dg.SensorDefinition:
    def look(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]) -> dg.SensorResult:
        """One look at all repositories. A failed read fails the tick and requests nothing."""
        now = clock()
        existing = context.instance.get_dynamic_partitions(USERS)
        # In this order: a sync that ends while we look is busy here, or too young there.
        busy = jobs.busy_keys(context.instance, existing).ahead
        opened = pipeline.open()
        repositories, marks = list(opened.server.list_repositories()), opened.ledger.checkpoints()
        accounts = pipeline.accounts()
        plan = plan_drift(accounts, existing, repositories, marks=marks, busy=busy, cursor=context.cursor, now=now)
        requested = plan.drifted[: jobs.RUNS_A_TICK * jobs.USERS_A_RUN]
        _log(context, plan, len(plan.drifted) - len(requested))
        tags, keys = {jobs.REASON: "drift"}, [each.key for each in requested]
        runs = [jobs.request_together(group, tags) for group in jobs.in_groups(keys)]
        return dg.SensorResult(
            run_requests=[jobs.request_alone(keys[0], tags)] if len(keys) == 1 else runs,
            cursor=plan.cursor(requested),
            skip_reason=None if requested else dg.SkipReason(_quiet(plan, len(marks))),
        )

    return dg.sensor(
        name="drift_sensor",
        jobs=[jobs.sync_users, changed_users],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Compares the revision of every repository on the PDS with the one our last sync left, and "
        "launches a sync for users whose repository another client has changed. Costs one request for each 1,000 "
        "repositories. A drift that is still there after an hour is asked about again.",
    )(look)


def _log(context: dg.SensorEvaluationContext, plan: DriftPlan, left: int) -> None:
    """The tick's log: who drifted, and what a person may have to look at."""
    revisions = [f"{each.key} ({each.left} -> {each.found})" for each in plan.drifted]
    log_users(context, [(logging.INFO, revisions, "{} repositories were changed by somebody else")])
    if left:
        context.log.info(f"{left} of them follow in the next tick.")
    inactive = [f"{key} ({status})" for key, status in plan.inactive]
    lines = (
        (logging.INFO, plan.busy, "{} drifted users are being synchronised or wait for it"),
        (logging.INFO, plan.asked, "{} drifted users were asked for in the last hour"),
        (logging.WARNING, inactive, "The PDS does not serve {} repositories of accounts in use"),
        (logging.ERROR, plan.gone, "The PDS no longer lists {} repositories that we filled"),
    )
    log_users(context, lines)


def _quiet(plan: DriftPlan, marked: int) -> str:
    waiting = len(plan.busy) + len(plan.asked)
    if waiting:
        return f"{waiting} repositories were changed by somebody else; a sync of each is under way or was tried."
    return f"All {marked} repositories are as their last sync left them."
