"""The entry point of `ac-pipeline`: its commands, and exit codes for every way it can end (design, section 5).

Commands are made when they are asked for: help and version import no operation and no client of a service.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

from ac_pipeline.cli.ledger import ledger
from ac_pipeline.cli.local import local
from ac_pipeline.cli.output import say
from ac_pipeline.errors import FAILED, INTERRUPTED, UNREACHABLE, USAGE, WELL, Misconfigured, PipelineError, Transient
from ac_pipeline.operations.catalog import CATALOG, Entry

_READING = {"audit", "item", "items", "plans", "snapshots", "status", "verify"}
_GROUPS = {
    "accounts": "Who can be mirrored and who cannot, and what changes that. Without a further word: `list`.",
    "lexicons": "The definitions of the records: check them, publish them.",
}


_EXAMPLES = {"dagster": "ac-pipeline dagster dev"}


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
        for name, group in self.commands.items():
            if isinstance(group, click.Group):
                heading = name.capitalize()
                groups[heading] = [
                    (f"{name} {each}", made.get_short_help_str(200)) for each, made in group.commands.items()
                ]
                examples[heading] = f"ac-pipeline {groups[heading][0][0]}"
            else:
                groups[name.capitalize()] = [(name, group.get_short_help_str(200))]
                examples[name.capitalize()] = _EXAMPLES[name]
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


for command in (ledger, local):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit. What may write says to stderr first which PDS and which database it works on."""
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
    except Misconfigured as error:
        say(f"Error: {error.message}", err=True)
        return USAGE
    except Transient as error:
        say(f"Error: {error.message}", err=True)
        return UNREACHABLE
    except PipelineError as error:
        say(f"Error: {error.message}", err=True)
        return FAILED
    return result if isinstance(result, int) else WELL
