"""`ac-pipeline ledger`: copies of the ledger as a file, for a back-up or another database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ac_pipeline.cli.output import say
from ac_pipeline.errors import Misconfigured, PipelineError

if TYPE_CHECKING:
    from pymongo.database import Database


def _database() -> Database[dict[str, object]]:
    from ac_pipeline.mongo.database import connect  # noqa: PLC0415 - `--help` shall not wait for it
    from ac_pipeline.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    mongo = connect(
        settings.mongodb_connection_string.get_secret_value(), selection_seconds=settings.ac_mongo_timeout_seconds
    )
    return mongo[settings.ac_ledger_database]


@click.group()
def ledger() -> None:
    """Copies of the ledger: item states, holds, audit, plans, the list of snapshots; no sessions and no leases."""


@ledger.command("export")
@click.argument("file", type=click.Path(path_type=Path))
def export(file: Path) -> int:
    """Write the whole ledger to a new file, a line of Extended JSON for each document."""
    from ac_pipeline.mongo.ledger.whole import export_ledger  # noqa: PLC0415

    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as output:
            lines = sum(1 for line in export_ledger(_database()) if output.write(f"{line}\n"))
    except OSError as error:
        raise Misconfigured(f"{file} cannot be written: {error.strerror}.") from None
    except PipelineError:
        file.unlink()  # half a copy is none, and would be in the way of the next attempt
        raise
    say(f"Exported {lines - 1} documents to {file}.", err=True)
    return 0


@ledger.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> int:
    """Fill an empty ledger with what was exported."""
    from ac_pipeline.mongo.ledger.whole import import_ledger  # noqa: PLC0415

    try:
        with file.open(encoding="utf-8") as lines:
            count = import_ledger(_database(), lines)
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}.") from None
    say(f"Imported {count} documents.", err=True)
    return 0
