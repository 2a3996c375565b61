"""`ac-pipeline local`: the services and demo data of a developer's machine.

What it calls needs the optional extra `local`, so it is imported only when one of these commands runs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import click

from ac_pipeline.cli.output import print_json, say, table
from ac_pipeline.errors import Misconfigured

users_option = click.option(
    "--users", type=click.IntRange(1), default=60, show_default=True, help="Users besides the guest; at least 8."
)
items_option = click.option(
    "--items", type=click.IntRange(1), default=2500, show_default=True, help="Documents, about; at least 100."
)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"ac_pipeline.local.{name}")
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{error.name} is not installed: the local services need `pip install .[local]`.") from None


@click.group()
def local() -> None:
    """The local services, on 127.0.0.1 with their data under .local/, and demo data for them."""


@local.command(epilog="Example: ac-pipeline local up")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def up(as_json: bool) -> int:
    """Start MongoDB, PDS and object storage in the background, and write their addresses to .env.local."""
    addresses = _module("services.stack").LocalServices(Path.cwd()).up()
    shown = {"mongodb": addresses.mongo, "database": addresses.database, "pds": addresses.pds, "media": addresses.media}
    if as_json:
        print_json(shown)
    else:
        table("Local services", ["service", "address"], list(shown.items()))
    return 0


@local.command(epilog="Example: ac-pipeline local down")
def down() -> int:
    """Stop the services; their data stays."""
    stopped = _module("services.stack").LocalServices(Path.cwd()).down()
    say(f"Stopped: {', '.join(stopped) or 'nothing was running'}.", err=True)
    return 0


@local.command(epilog="Example: ac-pipeline local seed --users 20 --items 500")
@users_option
@items_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def seed(users: int, items: int, as_json: bool) -> int:
    """Fill the local services with demo data, the same at every call."""
    summary = _module("seed.fill").seed(
        _module("services.stack").LocalServices(Path.cwd()).up(), users=users, items=items
    )
    if as_json:
        print_json(summary.to_json())
    else:
        say(*summary.describe().split("\n"))
    return 0


@local.command(epilog="Example: ac-pipeline local demo --no-ui")
@users_option
@items_option
@click.option("--ui/--no-ui", default=True, help="Leave the Dagster UI running after the summary.")
def demo(users: int, items: int, ui: bool) -> int:
    """Services, demo data, the full backfill through Dagster, verification and a summary."""
    code: int = _module("demo").run_demo(users=users, items=items, ui=ui)
    return code
