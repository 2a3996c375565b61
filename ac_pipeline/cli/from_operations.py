"""Commands made from operations: options from the parameters, one way to print every report. What an operation does and
says is `operations/`; here are only the terminal and the exit code."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from rich.console import Console

from ac_pipeline.cli.output import SHOWN, Rows, about_users, csv_row, print_json, say, table, visible
from ac_pipeline.errors import FAILED, USAGE, WELL
from ac_pipeline.operations.declare import Declaration, Report, Table, Work, command_line, exit_code, wrong_confirmation
from ac_pipeline.operations.parameters import Parameters, hint, option_name
from ac_pipeline.progress import progress

if TYPE_CHECKING:
    from ac_pipeline.wiring import Pipeline

Opens = Callable[[], "AbstractContextManager[Pipeline]"]


def opened() -> AbstractContextManager[Pipeline]:
    """The pipeline that the settings name; with it come all clients, which no help needs."""
    from ac_pipeline.settings import load_settings  # noqa: PLC0415
    from ac_pipeline.wiring import open_pipeline  # noqa: PLC0415

    return open_pipeline(load_settings())


def command_of(operation: Declaration[Any], opens: Opens = opened) -> click.Command:
    """The command of an operation, under the last of its words. `opens`: opens the pipeline it works with."""

    def call(*, as_json: bool, as_csv: bool = False, **values: Any) -> int:
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        parameters = operation.parse(given)
        return run_operation(operation, parameters, opens, as_json=as_json, as_csv=as_csv)

    fields = operation.parameters.model_fields
    parts: list[click.Parameter] = [_parameter(name, info) for name, info in fields.items()]
    parts.append(click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on stdout."))
    if operation.csv:
        parts.append(click.Option(["--csv", "as_csv"], is_flag=True, help="All rows as CSV on stdout."))
    return click.Command(operation.command.split()[-1], callback=call, params=parts, help=operation.help)


def run_operation(
    operation: Declaration[Any], parameters: Parameters, opens: Opens, *, as_json: bool, as_csv: bool = False
) -> int:
    """Run an operation, print its report, and return the exit code."""
    from ac_pipeline.wiring import new_run_id  # noqa: PLC0415

    quiet = as_json or as_csv
    with opens() as pipeline, progress(Console(stderr=True), partial(say, err=True)) as shown:
        target = pipeline.settings.destination

        def tell(what: str, done: int, total: int) -> None:
            shown(visible(what), done, total)

        report = operation.run(Work(pipeline, new_run_id(), tell, partial(say, err=quiet)), parameters)
    to_do_it = command_line(operation.command, parameters, confirm=report.confirm) if report.confirm is not None else ""
    if as_csv:
        print_csv(next(each for each in report.tables if each.name == operation.csv))
    else:
        limit = getattr(parameters, "limit", None) or 0
        print_report(report, to_do_it, as_json=as_json, target=target, limit=limit)
    given = wrong_confirmation(parameters, report)
    if given is not None:
        say(f"Error: --confirm {given} is not the right one, {report.confirm}: nothing was done.", err=True)
        return USAGE
    if report.failed:
        say(f"Error: {report.headline}", err=True)
    return (
        report.exit_code
        if report.exit_code > FAILED
        else exit_code(report.exit_code == WELL, (each.error for each in report.left_out))
    )


def print_report(report: Report, to_do_it: str = "", *, as_json: bool, target: str = "", limit: int = 0) -> None:
    """Print a report for people, or as the one JSON document. `to_do_it`: the command that does what was only looked
    at, or "". `target`: PDS and database that it is about. `limit`: so many items are shown to people; 0 for the usual
    number."""
    if as_json:
        document: object = report.json
        if isinstance(report.json, Mapping):
            given = {"target": target} if target else {}
            done = {"confirm": report.confirm, "command": to_do_it} if to_do_it else {}
            document = {name: _rows(value) for name, value in {**given, **report.json, **done}.items()}
        print_json(_rows(document))
        return
    for each in report.tables:
        if each.count:
            number = limit if limit and "item" in each.columns else max(SHOWN, limit)
            columns, rows = _first(each, number)
            table(each.title, columns, rows)
            if each.count > number:
                say(f"... and {each.count - number} more: --json lists all of them.", "")
    about_users((each.user, f"left out: {each.message}") for each in report.left_out)
    say(*(part for line in report.lines for part in line.split("\n")))
    if not report.failed:
        say(report.headline)
    if to_do_it:
        say(f"To do it{f' on {target}' if target else ''}:", "", f"  {to_do_it}")
    elif target:
        say(f"On {target}.")


def _parameter(name: str, info: FieldInfo) -> click.Parameter:
    """The option or argument of one field."""
    if hint(info, "argument"):
        return click.Argument([name], metavar=hint(info, "metavar") or None)
    kind, many = _kind(info.annotation)
    flags = [option_name(name, info), name]
    if kind is bool:
        return click.Option(flags, is_flag=True, default=bool(info.default), help=info.description)
    choices = hint(info, "choices")
    # Choices that are too many for a line of help are checked with the other parameters.
    type_: Any = click.Choice(choices) if choices and not hint(info, "metavar") else kind
    if kind is int:
        least = next((each.ge for each in info.metadata if hasattr(each, "ge")), None)
        type_ = click.IntRange(0 if name == "confirm" else least)
    usual = info.get_default(call_default_factory=True)
    return click.Option(
        flags,
        multiple=many,
        type=type_,
        default=None if many else usual,
        metavar=hint(info, "metavar") or None,
        help=info.description,
        show_default=bool(usual),
        **({"is_flag": False, "flag_value": hint(info, "bare")} if hint(info, "bare") is not None else {}),
    )


def _kind(annotation: Any) -> tuple[type, bool]:
    """The type of a value, and True if there may be many of it."""
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    given = [each for each in get_args(annotation) if each is not type(None)]
    return (given[0] if given else annotation), False


def _rows(value: object) -> object:
    return Rows(value, value.count) if isinstance(value, Table) else value


def print_csv(rows: Table) -> None:
    writer = csv.writer(sys.stdout)
    columns = (*rows.columns, *rows.more)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(csv_row(cell(row.get(name)) for name in columns))


def _first(rows: Table, number: int) -> tuple[list[str], list[list[object]]]:
    """Columns and the first rows as people read them: an item that has a code goes by it."""
    names = [name for name in rows.columns if name != "code" or "item" not in rows.columns]
    listed = []
    for row in islice(rows, number):
        code = row.get("code") if len(names) < len(rows.columns) else None
        item = f"{str(row['item']).partition(':')[0]}:{code}" if code else row.get("item")
        listed.append([item if name == "item" else cell(row.get(name)) for name in names])
    return [name.replace("_", " ") for name in names], listed


def cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
