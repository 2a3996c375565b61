"""Help: whole sentences by group, an example each, and none of the clients imported for it."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ac_pipeline.cli.main import cli
from ac_pipeline.operations.catalog import CATALOG, Entry

COMMANDS = [each for each in CATALOG if each.command]
HEAVY = ("dagster", "pymongo", "httpx", "pydantic", "av", "PIL", "numpy", "ac_pipeline.wiring", "ac_pipeline.settings")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["accounts", "--help"]])
def test_help_and_version_import_no_operation_and_no_client(words: list[str]) -> None:
    """Looked at by name: a time would differ from machine to machine."""
    script = f"import sys\nfrom ac_pipeline.cli.main import run\nrun({words})\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "ac_pipeline.operations.catalog" in modules
    operations = {f"ac_pipeline.operations.{each.place.partition(':')[0]}" for each in CATALOG}
    assert not {*HEAVY, *operations, "ac_pipeline.operations.declare"} & set(modules)


def test_all_commands_are_listed_with_their_sentence_as_a_whole() -> None:
    out = " ".join(CliRunner().invoke(cli, ["--help"], terminal_width=80).output.split())
    for each in COMMANDS:
        assert f"{each.command} {each.summary}" in out
        assert each.summary.endswith(".")
    for words in (
        "dagster",
        "metrics",
        "ledger export",
        "ledger import",
        "local up",
        "local down",
        "local seed",
        "local demo",
    ):
        assert words in out
    assert "..." not in out.replace("[ARGS]...", "")
    assert out.count("Example: ac-pipeline ") == len({each.group for each in CATALOG}) + 4


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda each: each.command)
def test_the_example_of_a_command_can_be_given_to_it(entry: Entry) -> None:
    assert entry.declaration().command == entry.command
    command: click.Command | None = cli
    for name in entry.command.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    command.make_context(entry.command, entry.example.split())
    assert f"Example: ac-pipeline {entry.command}" in str(command.epilog)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ac-pipeline re", ["renditions", "restore", "restore-documents", "retry"]),
        ("ac-pipeline accounts ro", ["rotate"]),
    ],
)
def test_a_shell_completes_commands(words: str, expected: list[str]) -> None:
    given = {"_AC_PIPELINE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = CliRunner().invoke(cli, env=given, prog_name="ac-pipeline")
    assert sorted(line.partition(",")[2] for line in done.output.splitlines()) == expected
