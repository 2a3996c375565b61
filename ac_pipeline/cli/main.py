"""The entry point of `ac-pipeline`: its commands, and exit codes for every way it can end (design, section 5).

Commands live in their own modules. This one only assembles them and turns errors into one sentence and a number.
"""

from __future__ import annotations

import io
import logging
import os
import sys

import click

from ac_pipeline.cli.from_operations import commands_of
from ac_pipeline.cli.ledger import ledger
from ac_pipeline.cli.local import local
from ac_pipeline.cli.output import say
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.operations.catalog import OPERATIONS
from ac_pipeline.operations.declare import FAILED, INTERRUPTED, UNREACHABLE, USAGE, WELL

_READING = {"audit", "item", "items", "plans", "snapshots", "status", "verify"}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ac-pipeline")
def cli() -> None:
    """Carry Aesthetic Computer's paintings, moods, pieces, kidlisp and tapes from MongoDB to an ATProto PDS.

    Settings come from the environment, .env.local and .env. Exit codes: 0 all well, 1 finished with failed items,
    2 wrong usage or settings, 3 a service is unreachable, 130 interrupted by Ctrl-C: the first one finishes the users
    under way, a second one stops at once.
    """


@cli.command("dagster")
@click.argument("part", type=click.Choice(["dev", "prepare", "webserver", "daemon", "code-server"]))
@click.option("--workspace", help="Another workspace.yaml than our own.")
@click.option("--host", help="Address of the UI, or of the code server; 127.0.0.1 by default.")
@click.option("--port", type=int, help="Its port: 3000, of the code server 4000.")
@click.option("--read-only", is_flag=True, help="A UI that launches and changes nothing.")
def dagster(part: str, read_only: bool, **options: object) -> None:
    """Dagster on these settings: UI, daemon and code server together (dev), or one of them. Each of these first does
    what `prepare` does alone: writes DAGSTER_HOME, makes the tables and sets the limits of the pools.
    """
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    words = [part, *given, *(["--read-only"] if read_only else [])]
    os.execv(sys.executable, [sys.executable, "-m", "ac_pipeline.defs.home", *words])  # noqa: S606 - our own module


for command in (*commands_of(OPERATIONS), ledger, local):
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
