"""`docs/reference.md` and `.env.example`, made from the code, so that neither can say anything else than the code does.

Settings come from `Settings`, operations from their declarations with the command and the job that are made of them,
the rest from the command line and the Dagster definitions. `python -m ac_pipeline_tests.reference` (`make reference`)
writes both files; `unit/test_reference.py` fails when they are not what is made here.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import dagster as dg
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ac_pipeline import settings as sources
from ac_pipeline.cli.main import cli
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.checks import CHECKS
from ac_pipeline.operations.catalog import operations
from ac_pipeline.operations.declare import Declaration
from ac_pipeline.operations.parameters import Selected
from ac_pipeline.settings import Settings, Timetable
from ac_pipeline_tests.commands import inside

ROOT = Path(__file__).parents[1]
WIDTH = 120

GROUPS = {
    "mongodb_connection_string": "Required",
    "pds_url": "PDS and accounts",
    "ac_ledger_database": "Storage",
    "ac_lexicon_authority": "Lexicons and audit",
    "dagster_home": "Dagster and alerts",
    "ac_erase_copies": "Safeguards and checks",
    "ac_points_headroom": "Limits of the PDS and its relay",
    "ac_ffmpeg": "Work at once, and media",
    "ac_pds_timeout_seconds": "Time and size of answers",
    "ac_cron_sync": "Schedules: cron lines in UTC, read when the code location starts",
    "ac_log_format": "Logs",
}
"""Field of `Settings` -> the heading that begins with it."""

SETTINGS = """\
Read from the environment, then `.env.local` (written by `ac-pipeline local up`), then `.env`, however the pipeline is
started: what Dagster's own commands read from `.env` over the environment does not count. An empty value counts as not
set. A missing or wrong setting is one sentence that names it, with exit code 2.

Connections to the PDS, the storage, the relay and the webhook go through `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` of
the environment, in upper or lower case, but for the hosts of `NO_PROXY` and those of this machine."""

COMMANDS = """\
What an operator can do is declared once, as a command and as a job with the same parameters. The column "launchpad" is
the field of the job, with the value that stands in a launchpad which nobody has touched: as launched, jobs change
nothing. A job's config is written below its op:

```yaml
ops:
  wipe_one_user:
    config:
      user: ada
```

Every command of this section takes `--json`: one JSON document on stdout, and whatever else is said on stderr. Tables
in the terminal show their first 40 rows, JSON and CSV all. Exit codes:

| code | means |
|---|---|
| 0 | all well |
| 1 | finished with failed items or users, or a person has to look at something |
| 2 | wrong usage or settings, or a confirmation is missing |
| 3 | a service cannot be reached, also when only some users met it |
| 130 | Ctrl-C: the first one finishes the users under way and reports, a second one stops at once |"""

EXAMPLE = """\
# Copy to `.env` and fill in. The real environment wins over `.env.local` (written by `ac-pipeline local up`), and that
# over `.env`. Lines left empty count as not set. Made from `ac_pipeline/settings.py` by `make reference`.
#
# HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY count in the environment, in upper or lower case, and not in these
# files."""


class _Bare(Settings):
    """Settings without environment and files, to see what follows from others."""

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, **others: Any) -> Any:
        return (init_settings,)


# ------------------------------------------------------------------------------------------------------------ settings


def settings() -> Iterator[tuple[str, str, FieldInfo]]:
    """Heading, name and field of every setting, those of the schedules last."""
    fields = Settings.model_fields
    heading = ""
    for name in sorted(fields, key=lambda name: name in Timetable.model_fields):
        heading = GROUPS.get(name, heading)
        yield heading, name, fields[name]


def default_of(name: str, info: FieldInfo) -> str:
    """The default as one writes it; empty for none."""
    if info.is_required() or info.default is None:
        return ""
    value = info.default
    if value == "":  # it follows from another setting
        value = getattr(
            _Bare(
                mongodb_connection_string=SecretStr("mongodb://"),
                mongodb_name="{MONGODB_NAME}",
                dagster_home=Path("DAGSTER_HOME"),
            ),
            name,
        )
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def limits_of(info: FieldInfo) -> str:
    """Which numbers are taken, in words; empty for any."""
    limits = {
        key: getattr(each, key) for each in info.metadata for key in ("ge", "gt", "le", "lt") if hasattr(each, key)
    }
    low = f"{limits['ge']}" if "ge" in limits else f"more than {limits['gt']}" if "gt" in limits else ""
    high = f" to {limits['le']}" if "le" in limits else f" to below {limits['lt']}" if "lt" in limits else ""
    return f"{low}{high}" if high or not low or "gt" in limits else f"{low} or more"


@cache
def _meanings() -> Mapping[str, str]:
    """Field -> the docstring below it. Read here: where pydantic does, every process of ours takes 0.4 CPU s for it."""
    classes = [each for each in ast.parse(inspect.getsource(sources)).body if isinstance(each, ast.ClassDef)]
    return {
        field.target.id: inspect.cleandoc(said.value.value)
        for each in classes
        for field, said in pairwise(each.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
    }


def meaning_of(name: str, info: FieldInfo) -> str:
    secret = SecretStr in (info.annotation, *getattr(info.annotation, "__args__", ()))
    return f"{' '.join(_meanings().get(name, '').split())}{' A secret.' if secret else ''}"


def _settings_tables() -> Iterator[str]:
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for heading, name, info in settings():
        default = default_of(name, info)
        shown = f"`{default}`" if default else "required" if info.is_required() else "none"
        limits = limits_of(info)
        rows.setdefault(heading, []).append(
            (f"`{name.upper()}`", f"{shown} ({limits})" if limits else shown, meaning_of(name, info))
        )
    for heading, listed in rows.items():
        yield f"### {heading}"
        yield table(("variable", "default", "meaning"), listed)


# ------------------------------------------------------------------------------------------------- commands and jobs

Fields = Mapping[str, Any]
"""Name -> field of the launchpad, as Dagster has it."""

JSON = "as_json"
"""The parameter that every operation's command has besides its own."""


def _launchpad(job: dg.JobDefinition) -> tuple[str, Fields]:
    """A job's one configurable op, and its fields."""
    found: dict[str, Fields] = {}
    for node in job.nodes:
        schema = node.definition.config_schema if isinstance(node.definition, dg.OpDefinition) else None
        found[node.name] = getattr(schema.config_type, "fields", {}) if schema is not None else {}
    return max(found.items(), key=lambda each: len(each[1]))


def _field(name: str, fields: Fields) -> str:
    if name not in fields:
        return ""
    field = fields[name]
    return f"`{name}: {json.dumps(field.default_value)}`" if field.default_provided else f"`{name}` (required)"


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in inside(group).items():
        words = (*path, name)
        if isinstance(command, click.Group):
            yield from _commands(command, words)
        else:
            yield " ".join(words), command


def _rows(
    command: click.Command, fields: Fields, model: Mapping[str, FieldInfo], without: Collection[str] = ()
) -> list[tuple[str, str, str]]:
    """Option, field of the launchpad, and meaning of each parameter, as `--help` has them."""
    context, rows = click.Context(command), []
    for each in command.params:
        name = str(each.name)
        if name in without:
            continue
        if isinstance(each, click.Argument):
            meaning = str(model[name].description) if name in model else "Needed."
            rows.append((f"`{each.make_metavar(context)}`", _field(name, fields), meaning))
        else:
            written, help_ = each.get_help_record(context) or ("", "")
            rows.append((f"`{written}`", _field(name, fields), help_))
    return rows


def _options(rows: Iterable[tuple[str, str, str]], *, launched: bool) -> str:
    if launched:
        return table(("option", "launchpad", "meaning"), rows)
    return table(("option", "meaning"), [(written, help_) for written, _, help_ in rows])


def _operation(operation: Declaration[Any], command: click.Command, job: dg.JobDefinition | None) -> Iterator[str]:
    yield f"### ac-pipeline {operation.command}"
    yield from paragraphs(operation.help)
    op, fields = _launchpad(job) if job is not None else ("", {})
    model = operation.parameters.model_fields
    selects = Selected.model_fields.keys() <= model.keys()
    places = [f"Job `{operation.job}`, op `{op}`."] if job is not None else []
    places += [f"Its answers are the materialisations of `operations/{operation.asset}`."] if operation.asset else []
    places += ["Takes the [selectors](#selectors)."] if selects else []
    yield from paragraphs(" ".join(places))
    without = {JSON, *(Selected.model_fields if selects else ())}
    yield _options(_rows(command, fields, model, without), launched=job is not None)


def _operations(jobs: Mapping[str, dg.JobDefinition]) -> Iterator[str]:
    commands = dict(_commands(cli))
    selecting = next(each for each in operations() if each.job and each.parameters is Selected)
    yield "### Selectors"
    fields = _launchpad(jobs[selecting.job])[1]
    yield _options(_rows(commands[selecting.command], fields, Selected.model_fields, {JSON}), launched=True)
    for each in (each for each in operations() if each.command):
        yield from _operation(each, commands.pop(each.command), jobs.get(each.job))
    yield "## Other commands"
    for name, command in commands.items():
        yield f"### ac-pipeline {name}"
        yield from paragraphs(str(command.help))
        yield _options(_rows(command, {}, {}), launched=False)


def _other_jobs(jobs: Mapping[str, dg.JobDefinition]) -> Iterator[str]:
    declared = {each.job for each in operations() if each.command}
    for name, job in sorted(jobs.items()):
        if name not in declared and not name.startswith("__"):
            op, fields = _launchpad(job)
            yield f"### Job {name}"
            described = re.sub(r"\s*Its answer: \[[^]]*]\([^)]*\)\.", "", str(job.description))  # a link of the UI
            yield from paragraphs(f"{described} Op `{op}`.")
            yield table(("launchpad", "meaning"), [(_field(key, fields), fields[key].description) for key in fields])


def _by_themselves(repository: dg.RepositoryDefinition) -> Iterator[str]:
    statuses = (dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING)
    listed = [*sorted(repository.sensor_defs, key=lambda each: each.name), *repository.schedule_defs]
    rows = [
        (f"`{each.name}`", "on" if each.default_status in statuses else "off", str(each.description)) for each in listed
    ]
    yield "## Sensors and schedules"
    yield table(("name", "at first", "does"), rows)


def _assets(repository: dg.RepositoryDefinition) -> Iterator[str]:
    specs = {spec.key: spec for assets in repository.assets_defs_by_key.values() for spec in assets.specs}
    rows = [(f"`{key.to_user_string()}`", str(specs[key].description)) for key in sorted(specs)]
    yield "## Assets"
    yield table(("key", "is"), rows)
    yield "## Checks"
    yield "Of each `atproto/*`:"
    said = [(f"`{each.name}`", each.description.format(singular="item", plural="items")) for each in CHECKS]
    yield table(("name", "passes when"), said)


# ----------------------------------------------------------------------------------------------------------- the files


def reference() -> str:
    """The text of `docs/reference.md`."""
    repository = build_defs().get_repository_def()
    jobs = {job.name: job for job in repository.get_all_jobs()}
    parts = [
        "<!-- Made from the code by `make reference`: change it there. -->",
        "# Reference",
        "Settings, commands, jobs and what stands in Dagster, as the code declares them. How to do a task is in the\n"
        "[operators' guide](operators-guide.md).",
        "- [Settings](#settings)\n- [Commands and their jobs](#commands-and-their-jobs)\n"
        "- [Other commands](#other-commands)\n- [Other jobs](#other-jobs)\n"
        "- [Sensors and schedules](#sensors-and-schedules)\n- [Assets](#assets)\n- [Checks](#checks)",
        "## Settings",
        SETTINGS,
        *_settings_tables(),
        "## Commands and their jobs",
        COMMANDS,
        *_operations(jobs),
        "## Other jobs",
        *_other_jobs(jobs),
        *_by_themselves(repository),
        *_assets(repository),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def env_example() -> str:
    """The text of `.env.example`."""
    parts, heading = [EXAMPLE], ""
    for group, name, info in settings():
        if group != heading:
            heading = group
            parts.append(f"\n# --- {group} ".ljust(WIDTH + 1, "-") + "\n")
        default = default_of(name, info)
        parts += [f"# {line}" for line in _wrapped(meaning_of(name, info), WIDTH - 2)]
        parts += [f"# Default: {default}"] if default else []
        parts.append(f"{name.upper()}=")
    return "\n".join(parts) + "\n"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; nothing without rows."""
    lines = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    head = list(columns)
    written = [f"| {' | '.join(cells)} |" for cells in [head, *lines]]
    return "\n".join([written[0], "|---" * len(head) + "|", *written[1:]]) if lines else ""


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text, wrapped anew."""
    for part in text.split("\n\n"):
        if part.strip():
            yield "\n".join(_wrapped(part, WIDTH))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


FILES = {ROOT / "docs" / "reference.md": reference, ROOT / ".env.example": env_example}
"""Each file that is made, with what makes it."""


if __name__ == "__main__":
    for path, make in FILES.items():
        path.write_text(make())
