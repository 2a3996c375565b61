"""`ac-pipeline snapshot` and `snapshots`: keep what a repository holds, and list what is kept."""

from __future__ import annotations

import click

from ac_pipeline.cli.output import print_json, steps, table
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.snapshot import open_vault, take_snapshot
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

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
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def snapshots(user: str | None, limit: int | None, as_json: bool) -> int:
    """List the snapshots, newest first."""
    with open_pipeline(load_settings()) as pipeline:
        account = pipeline.accounts.find(user).id if user is not None else None
        found = pipeline.snapshots.find(account=account, limit=limit)
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        table(f"{len(found)} snapshots", _COLUMNS, [_row(each) for each in found])
    return 0


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
