"""One step over a range of users: every user gets an event, and only users that have to be run again turn red.

The shape is measured (Dagster facts, "One user fails, the others do not"): Dagster marks a whole range as materialised
when a step returns, and `MaterializeResult` names no partition. So a step whose users are all well returns; a step with
a bad user logs each good one by name, observes each bad one, and fails. What is done to a user is the caller's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.failures import Trouble, failure_of, trouble_of, trouble_of_error
from ac_pipeline.defs.metadata import Metadata, account_metadata, pictures_metadata, trouble_metadata
from ac_pipeline.defs.mirror import Mirror, Outcome
from ac_pipeline.errors import Misconfigured, Transient
from ac_pipeline.media.base import MediaType

Results = Iterator[dg.MaterializeResult]
Work = Callable[[Sequence[Account]], Iterator[Outcome]]


@dataclass(slots=True)
class _Ends:
    """How users ended: metadata by asset and user, and what was wrong by user."""

    earlier: dict[tuple[dg.AssetKey, str], Metadata]
    good: dict[tuple[dg.AssetKey, str], Metadata] = field(default_factory=dict)
    bad: dict[tuple[dg.AssetKey, str], Metadata] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)


def run_stage(
    context: dg.AssetExecutionContext,
    mirror: Mirror,
    assets: Mapping[dg.AssetKey, MediaType],
    work: Work,
    *,
    pictures: bool = False,
) -> Results:
    """Do the work for every user of the run's partitions, and say of each how it ended.

    Args:
        assets: The selected assets of this step, with their types.
        work: What is done to accounts; yields an outcome for each.
        pictures: Whether materialisations show some of the records' pictures.

    Yields:
        One result for each asset, when all users are well; they carry the metadata of all of them.

    Raises:
        dg.Failure: Some users have to be run again; the others are materialised already. A retry of the step leaves
            out whoever is materialised in this run.
    """
    ends = _Ends(earlier=_earlier(context, assets))
    users = [user for user in context.partition_keys if any((key, user) not in ends.earlier for key in assets)]
    try:
        _work(context, mirror, assets, work, users, ends, pictures=pictures)
    except (Misconfigured, Transient) as error:
        stopped = trouble_of_error(error)
        for user in users:
            if any((key, user) not in ends.good for key in assets):
                ends.troubles.setdefault(user, stopped)
    if not ends.troubles:
        for (key, user), metadata in {**ends.earlier, **ends.good}.items():
            context.add_asset_metadata(metadata, asset_key=key, partition_key=user)
        for key in assets:
            yield dg.MaterializeResult(asset_key=key)
        return
    for key in assets:
        for user in users:
            if user not in ends.troubles:
                context.log_event(dg.AssetMaterialization(key, partition=user, metadata=ends.good[key, user]))
                continue
            metadata = {**trouble_metadata(ends.troubles[user]), **ends.bad.get((key, user), {})}
            context.log_event(dg.AssetObservation(key, partition=user, metadata=metadata))
    raise failure_of(ends.troubles, len(context.partition_keys))


def _work(  # noqa: PLR0917 - one call, in one place
    context: dg.AssetExecutionContext,
    mirror: Mirror,
    assets: Mapping[dg.AssetKey, MediaType],
    work: Work,
    users: Sequence[str],
    ends: _Ends,
    *,
    pictures: bool,
) -> None:
    known = mirror.accounts()
    for user in users:
        if user not in known:
            context.log.warning(f"{user}: no account has this key any more; nothing was done")
            note = {"note": "no account has this key any more: nothing was done, and the users sensor removes the key"}
            ends.good.update({(key, user): dict(note) for key in assets})
    accounts = [known[user] for user in users if user in known]
    for number, outcome in enumerate(work(accounts), start=1):
        user = outcome.account.key
        trouble = trouble_of(outcome)
        context.log.log("ERROR" if trouble else "INFO", f"{number} of {len(accounts)}: {_line(outcome, trouble)}")
        if trouble is not None:
            ends.troubles[user] = trouble
        for key, media in assets.items():
            metadata = account_metadata(mirror, outcome, media)
            if trouble is not None:
                ends.bad[key, user] = metadata
                continue
            if pictures:
                metadata.update(pictures_metadata(mirror, outcome, media))
            ends.good[key, user] = metadata


def _earlier(
    context: dg.AssetExecutionContext, assets: Mapping[dg.AssetKey, MediaType]
) -> dict[tuple[dg.AssetKey, str], Metadata]:
    """Who was materialised by an earlier attempt of this step in this run, with what was said of them."""
    if context.retry_number == 0:
        return {}
    done: dict[tuple[dg.AssetKey, str], Metadata] = {}
    events = context.instance.get_records_for_run(context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    for record in events.records:
        made = record.asset_materialization
        if made is not None and made.asset_key in assets and made.partition is not None:
            done[made.asset_key, made.partition] = dict(made.metadata)
    return done


def _line(outcome: Outcome, trouble: Trouble | None) -> str:
    """One line of the run's log about one user."""
    user = outcome.account.key
    if trouble is not None:
        return f"{user} has to be run again: {trouble.code}: {trouble.message}"
    report = outcome.report
    if report is None:
        return user
    if report.blocked is not None:
        return f"{user} is blocked: {report.blocked.message}"
    tallies = report.types.values()
    counts = {
        "written": sum(tally.written for tally in tallies),
        "unchanged": sum(tally.unchanged for tally in tallies),
        "rendered": sum(tally.pending for tally in tallies),
        "deleted": sum(tally.deleted for tally in tallies),
        "deferred": sum(tally.deferred for tally in tallies),
        "quarantined": sum(tally.quarantined for tally in tallies),
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{user}: {said or 'nothing to do'} ({report.seconds:.1f} s)"
