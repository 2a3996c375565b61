"""Advice can be followed: every command, option, job and launchpad field that a message or a guide names is there.

What following it does is tested where it is done: `integration/test_operators_guide.py` runs the guide, the tests of
each operation what its messages say. Those of the checks are in `integration/test_dagster_verification.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import dagster as dg
import pytest

from ac_pipeline.cli.main import cli
from ac_pipeline.definitions import build_defs
from ac_pipeline_tests.commands import inside

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [path for path in sorted((ROOT / "ac_pipeline").rglob("*.py")) if "local" not in path.parts]

COMMAND = re.compile(r"(?<![\w/=@-])ac-pipeline((?: +(?:--?)?[A-Za-z][\w-]*| +[A-Z$'{][^\s`,;)]*)+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
NOT_OURS = {"--uri", "--db", "--help", "--format", "--prepare-only", "--project", "--host", "--port", "--workspace"}
NOT_OURS |= {"--grace"}
NOT_OURS |= {"--multiprocessing-fork", "--module-name", "--attribute", "--location-name", "--container-context"}
NOT_OURS |= {"--log-format", "--db-pool-max-overflow", "--profile"}  # Dagster, docker
NOT_OURS |= {"--app", "--disable-prefetch", "--include"}  # Celery
NOT_OURS |= {"--require-hashes", "--requirement", "--no-deps", "--no-build-isolation"}  # pip
NOT_OURS |= {"--system", "--home-dir", "--mode", "--now", "--build", "--detach"}  # useradd, install, systemctl, docker
NOT_OURS |= {"--namespace", "--from-env-file", "--kustomize", "--watch"}  # kubectl
"""Options of other programs, and of `ac_pipeline.defs.home`."""
JOB = re.compile(r"(?:\bjobs?|\b[Ll]aunch(?: the job)?) `?([a-z]+_[a-z_]+)`?")
FIELD = re.compile(r"`([a-z_]+): (?:true|false)`|\b(?:with|launch with) (confirm|dry_run|full|blobs) (?:true|false)\b")


def texts(path: Path) -> Iterator[str]:
    """The texts a person may read: those of a page, or the strings of a module, with X for what is filled in."""
    if path.suffix == ".md":
        yield path.read_text()
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def wrong(line: str) -> str:
    """What is wrong with the words behind `ac-pipeline`, or ""."""
    command: click.Command = cli
    for word in line.split():
        if word.startswith("--"):
            if word not in options_of(command):
                return f"{command.name} has no option {word}"
        elif word in inside(command):
            command = inside(command)[word]
        elif isinstance(command, click.Group) and command is cli and word.islower():
            return f"there is no command {word}"
    return ""


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@cache
def all_options() -> frozenset[str]:
    def below(command: click.Command) -> set[str]:
        return options_of(command).union(*(below(each) for each in inside(command).values()))

    return frozenset(below(cli))


@cache
def jobs() -> dict[str, frozenset[str]]:
    """Every job's name, with the names of all fields that its ops and assets take."""
    definitions = build_defs()
    found = {}
    for job in definitions.resolve_all_job_defs():
        fields: set[str] = set()
        for node in job.nodes:
            schema = node.definition.config_schema if isinstance(node.definition, dg.OpDefinition) else None
            fields |= set(getattr(schema.config_type, "fields", {})) if schema is not None else set()
        found[job.name] = frozenset(fields)
    return found


@pytest.mark.parametrize("path", [*GUIDES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    """SEEN-4: commands with their options, options alone, jobs, and fields of the launchpad."""
    fields = frozenset[str]().union(*jobs().values())
    found = []
    for text in texts(path):
        found += [f"{line}: {why}" for line in COMMAND.findall(text) if (why := wrong(line))]
        found += [f"{name}: no command has it" for name in set(OPTION.findall(text)) - all_options() - NOT_OURS]
        found += [f"{name}: no such job" for name in JOB.findall(text) if name not in jobs()]
        found += [
            f"{name}: no job has it" for each in FIELD.findall(text) for name in each if name and name not in fields
        ]
    assert found == []


def test_the_walk_finds_what_is_not_there() -> None:
    """It would be worth nothing if it passed everything."""
    assert wrong(" sync --blobs --user ada") == ""
    assert "no option --blob" in wrong(" sync --blob")
    assert "no command synch" in wrong(" synch")
    assert COMMAND.findall("run `ac-pipeline accounts rotate --user X --confirm`.") == [
        " accounts rotate --user X --confirm"
    ]
    assert {"full", "blobs"} <= jobs()["sync_users"]
    assert {"full", "blobs", "users"} <= jobs()["sync_changed_users"]
    assert "overwrite" in jobs()["restore_user"]
