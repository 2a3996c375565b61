"""The entry point of `ac-pipeline`: exit codes for every way it can end (design, section 5), and its commands, made
when they are asked for: help and version import no client of a service. Here are those that are no operations:
Dagster's start, copies of the ledger, and the local services (optional extra `local`)."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ac_pipeline.cli.output import print_json, say, table
from ac_pipeline.errors import FAILED, INTERRUPTED, UNREACHABLE, USAGE, WELL, Misconfigured, PipelineError, Transient
from ac_pipeline.logs import use_json
from ac_pipeline.operations.catalog import CATALOG, Entry

if TYPE_CHECKING:
    from pymongo.database import Database

_HELP = {"-h", "--help", "--version"}
_READING = {"audit", "item", "items", "metrics", "plans", "snapshots", "status", "verify"}
_GROUPS = {
    "accounts": "Who can be mirrored and who cannot, and what changes that. Without a further word: `list`.",
    "lexicons": "The definitions of the records: check them, publish them.",
}


_EXAMPLES = {"dagster": "ac-pipeline dagster dev", "metrics": "ac-pipeline metrics --once"}


class CatalogGroup(click.Group):
    """The commands of the catalog whose first words are these; a group that has a `list` stands for it."""

    def __init__(self, name: str | None = None, *, words: str = "", **more: object) -> None:
        super().__init__(name, **more)  # type: ignore[arg-type]
        self.words = words

    def _below(self) -> Iterator[tuple[str, Entry]]:
        """What follows these words in a command, and the command."""
        for each in CATALOG:
            if each.command and each.command.startswith(self.words):
                yield each.command.removeprefix(self.words).strip(), each

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys([*(rest.split()[0] for rest, _ in self._below()), *self.commands]))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in self.list_commands(ctx):
            return self.commands.get(cmd_name)
        words = f"{self.words} {cmd_name}".strip()
        entry = next((each for each in CATALOG if each.command == words), None)
        if entry is None:
            return CatalogGroup(cmd_name, words=words, help=_GROUPS[words])
        from ac_pipeline.cli.from_operations import command_of  # noqa: PLC0415 - with it come all clients

        made = command_of(entry.declaration())
        made.epilog, made.short_help = f"Example: {example(entry)}", entry.summary
        return made

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = self.list_commands(ctx)
        named = args[:1] and args[0] in {*known, *ctx.help_option_names}
        if "list" in known and not named and not ctx.resilient_parsing:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By group, each with its sentence as a whole, and an example."""
        groups: dict[str, list[tuple[str, str]]] = {}
        examples: dict[str, str] = {}
        for rest, each in self._below():
            groups.setdefault(each.group, []).append((rest, each.summary))
            examples.setdefault(each.group, example(each))
        for name, made in self.commands.items():
            below = made.commands if isinstance(made, click.Group) else {"": made}
            rows = [(f"{name} {word}".strip(), each.get_short_help_str(200)) for word, each in below.items()]
            groups[name.capitalize()] = rows
            examples[name.capitalize()] = _EXAMPLES.get(name, f"ac-pipeline {rows[0][0]}")
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl(rows)
                formatter.write_paragraph()
                formatter.write_text(f"Example: {examples[heading]}")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands without importing them; options as click has them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]


def example(entry: Entry) -> str:
    return f"ac-pipeline {entry.command} {entry.example}".strip()


@click.group(cls=CatalogGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ac-pipeline")
def cli() -> None:
    """Carry Aesthetic Computer's paintings, moods, pieces, kidlisp and tapes from MongoDB to an ATProto PDS.

    Settings come from the environment, .env.local and .env. `ac-pipeline COMMAND --help` says more of each command.
    Exit codes: 0 all well, 1 finished with failed items, 2 wrong usage or settings, 3 a service is unreachable, 130
    interrupted by Ctrl-C: the first one finishes the users under way, a second one stops at once.
    """


@cli.command("dagster")
@click.argument("part", type=click.Choice(["dev", "prepare", "webserver", "daemon", "code-server", "worker"]))
@click.option("--workspace", help="Another workspace.yaml than our own.")
@click.option("--host", help="Address of the UI, or of the code server; 127.0.0.1 by default.")
@click.option("--port", type=int, help="Its port: 3000, of the code server 4000.")
@click.option("--read-only", is_flag=True, help="A UI that launches and changes nothing.")
def dagster(part: str, read_only: bool, **options: object) -> None:
    """Start Dagster on these settings: UI, daemon and code server together (dev), one of them, or a worker of Celery
    for runs. Each of these first does what `prepare` does alone: writes DAGSTER_HOME, makes the tables and sets the
    limits of the pools.
    """
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    words = [part, *given, *(["--read-only"] if read_only else [])]
    os.execv(sys.executable, [sys.executable, "-m", "ac_pipeline.defs.home", *words])  # noqa: S606 - our own module


file_argument = click.argument("file", type=click.Path(path_type=Path))
users_option = click.option(
    "--users", type=click.IntRange(1), default=60, show_default=True, help="Users besides the guest; at least 8."
)
items_option = click.option(
    "--items", type=click.IntRange(1), default=2500, show_default=True, help="Documents, about; at least 100."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _database() -> Database[dict[str, object]]:
    from ac_pipeline.mongo.database import connect  # noqa: PLC0415 - `--help` shall not wait for it
    from ac_pipeline.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    mongo = connect(
        settings.mongodb_connection_string.get_secret_value(), selection_seconds=settings.ac_mongo_timeout_seconds
    )
    return mongo[settings.ac_ledger_database]


@cli.group()
def ledger() -> None:
    """Copies of the ledger: item states, holds, audit, plans, the list of snapshots; no leases and no secrets."""


@ledger.command()
@file_argument
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
@file_argument
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


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"ac_pipeline.local.{name}")
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{error.name} is not installed: the local services need `pip install .[local]`.") from None


def _local_services() -> Any:
    return _module("services.stack").LocalServices(Path.cwd())


@cli.group()
def local() -> None:
    """The local services, on 127.0.0.1 with their data under .local/, and demo data for them."""


@local.command(epilog="Example: ac-pipeline local up")
@json_option
def up(as_json: bool) -> int:
    """Start MongoDB, PDS and object storage in the background, and write their addresses to .env.local."""
    addresses = _local_services().up()
    shown = {"mongodb": addresses.mongo, "database": addresses.database, "pds": addresses.pds, "media": addresses.media}
    if as_json:
        print_json(shown)
    else:
        table("Local services", ["service", "address"], list(shown.items()))
    return 0


@local.command(epilog="Example: ac-pipeline local down")
def down() -> int:
    """Stop the services; their data stays."""
    stopped = _local_services().down()
    say(f"Stopped: {', '.join(stopped) or 'nothing was running'}.", err=True)
    return 0


@local.command(epilog="Example: ac-pipeline local seed --users 20 --items 500")
@users_option
@items_option
@json_option
def seed(users: int, items: int, as_json: bool) -> int:
    """Fill the local services with demo data, the same at every call."""
    summary = _module("seed.fill").seed(_local_services().up(), users=users, items=items)
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


@cli.command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address it answers at.")
@click.option("--port", type=int, default=9464, show_default=True, help="Its port.")
@click.option(
    "--every", type=click.FloatRange(0), default=60.0, show_default=True, help="Seconds that a count is good for."
)
@click.option("--once", is_flag=True, help="Print everything and end.")
def metrics(host: str, port: int, every: float, *, once: bool) -> None:
    """Serve the mirror in numbers, in Prometheus's text format: totals by type, ages, accounts, what the limits of the
    PDS have left, and requests, bytes and encodings of all runs. Until Ctrl-C.
    """
    from ac_pipeline.cli.from_operations import opened  # noqa: PLC0415 - with it come all clients
    from ac_pipeline.operations.metrics import Counts, serve  # noqa: PLC0415

    with opened() as pipeline:
        counts = Counts(pipeline, every)
        if once:
            counts.count()
            click.echo(counts.text(), nl=False)
            return
        say(f"Metrics at http://{host}:{port}/metrics.", err=True)
        serve(counts, host, port)


def main() -> None:
    """Run the command line and exit. What may write says to stderr first which PDS and which database it works on."""
    if sys.argv[1:] and _HELP.isdisjoint(sys.argv):
        from ac_pipeline.settings import load_timetable  # noqa: PLC0415 - which no help needs

        with suppress(Misconfigured):  # the command says so
            if load_timetable().ac_log_format == "json":
                use_json()
    if sys.argv[1:2] and sys.argv[1] not in _READING:
        log = logging.getLogger("ac_pipeline.wiring")
        log.setLevel(logging.INFO)
        log.addHandler(logging.StreamHandler())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal has no letters for is no reason to end
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    if code == INTERRUPTED:  # at once: whatever is still under way is as safe as after a kill
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; its exit code. Errors go to stderr as one sentence."""
    try:
        result = cli.main(arguments, prog_name="ac-pipeline", standalone_mode=False)
    except click.exceptions.Abort as error:
        say("Interrupted; what was committed is kept, the next run does the rest.", err=True)
        return INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else FAILED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        say(*shown.getvalue().removesuffix("\n").split("\n"), err=True)
        return USAGE
    except PipelineError as error:
        say(f"Error: {error.message}", err=True)
        return USAGE if isinstance(error, Misconfigured) else UNREACHABLE if isinstance(error, Transient) else FAILED
    return result if isinstance(result, int) else WELL
