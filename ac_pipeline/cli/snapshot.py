"""`ac-pipeline snapshot` and `snapshots`: keep what a repository holds, list what is kept, and let it go."""

from __future__ import annotations

import shlex

import click

from ac_pipeline.cli.output import print_json, say, steps, table
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.forget import Forgetting, chosen_snapshots, forget, plan_forgetting
from ac_pipeline.operations.snapshot import open_vault, take_snapshot
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

_NOT_CONFIRMED = 2

type_option = click.option(
    "--type", "types", multiple=True, type=click.Choice([media.name for media in MEDIA_TYPES]), help="Only this type."
)
why_option = click.option("--why", default="", metavar="TEXT", help="Your reason, for the audit.")

_COLUMNS = ("snapshot", "user", "taken (UTC)", "records", "blobs", "bytes", "for", "usable")


def media_types(names: tuple[str, ...]) -> tuple[MediaType, ...]:
    """The types of these names in their usual order; all of them when none is named."""
    return tuple(media for media in MEDIA_TYPES if not names or media.name in names)


@click.command()
@click.argument("user")
@type_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def snapshot(user: str, types: tuple[str, ...], as_json: bool) -> int:
    """Keep what USER's repository holds, records and blobs, and verify it by reading it back.

    Nothing else is changed. `ac-pipeline restore USER --from SNAPSHOT` brings it back.
    """
    with open_pipeline(load_settings()) as pipeline, steps() as told:
        account = pipeline.accounts.find(user)
        taken = take_snapshot(open_vault(pipeline), account, media_types(types), progress=told)
    if as_json:
        print_json(taken.to_json())
    else:
        table("Snapshot", _COLUMNS, [_row(taken)])
    return 0


@click.command()
@click.option("--user", metavar="KEY", help="Only those of this user.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The newest N only.")
@click.option("--forget", "ids", multiple=True, metavar="ID", help="Delete this snapshot; repeatable.")
@click.option("--forget-user", metavar="KEY", help="Delete every snapshot of this user, or of a purged one's DID.")
@click.option("--confirm", is_flag=True, help="Do it.")
@why_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def snapshots(
    *,
    user: str | None,
    limit: int | None,
    ids: tuple[str, ...],
    forget_user: str | None,
    confirm: bool,
    why: str,
    as_json: bool,
) -> int:
    """List the snapshots, newest first; or delete some for good.

    --forget and --forget-user delete records and blobs that no other snapshot needs. Without --confirm they only say
    what would be deleted.
    """
    if ids and forget_user is not None:
        raise click.UsageError("Choose either --forget or --forget-user.")
    if ids or forget_user is not None:
        if user is not None or limit is not None:
            raise click.UsageError("--user and --limit are for the list: say --forget ID or --forget-user KEY.")
        return _forget(ids, forget_user, confirm=confirm, why=why, as_json=as_json)
    if confirm:
        raise click.UsageError("--confirm is for --forget and --forget-user.")
    with open_pipeline(load_settings()) as pipeline:
        account = pipeline.accounts.find(user).id if user is not None else None
        found = pipeline.snapshots.find(account=account, limit=limit)
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        table(f"{len(found)} snapshots", _COLUMNS, [_row(each) for each in found])
    return 0


def _forget(ids: tuple[str, ...], user: str | None, *, confirm: bool, why: str, as_json: bool) -> int:
    with open_pipeline(load_settings()) as pipeline, steps() as told:
        vault = open_vault(pipeline)
        chosen = chosen_snapshots(pipeline.snapshots, pipeline.accounts, ids=ids, user=user)
        if not confirm:
            plan = plan_forgetting(vault, chosen, pipeline.accounts.all())
            parts = ["--forget-user", user] if user is not None else [part for id in ids for part in ("--forget", id)]
            command = shlex.join(["ac-pipeline", "snapshots", *parts, "--confirm"])
            if as_json:
                print_json({**plan.to_json(), "command": command})
            else:
                _show_forgetting("Would be deleted (nothing was)", plan)
                say("To do it:", "", f"  {command}")
            return _NOT_CONFIRMED
        done = forget(vault, chosen, pipeline.accounts.all, why=why, progress=told)
    if as_json:
        print_json(done.to_json())
    else:
        _show_forgetting("Deleted", done)
    return 0


def _show_forgetting(title: str, found: Forgetting) -> None:
    table(title, _COLUMNS, [_row(each) for each in found.snapshots])
    say(f"{found.blobs} blobs go with them; {found.shared} stay, because other snapshots need them.")
    if found.last_copies:
        say(
            f"{found.last_copies} records are neither on the PDS nor in another snapshot, and have no document in "
            "Mongo: these are their last copies."
        )
    for id in found.lost:
        say(f"Which blobs snapshot {id} had cannot be read any more: blobs that were only its stay in the store.")


def _row(snapshot: Snapshot) -> list[object]:
    purpose = "" if snapshot.wipe is None else "a wipe, unfinished" if snapshot.open else "a wipe"
    return [
        snapshot.id,
        snapshot.user,
        f"{snapshot.when:%Y-%m-%d %H:%M:%S}",
        sum(snapshot.records.values()),
        snapshot.blobs,
        snapshot.bytes,
        purpose,
        "yes" if snapshot.complete else "no: incomplete",
    ]
