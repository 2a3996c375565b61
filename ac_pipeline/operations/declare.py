"""Operations declared once: what an operator can do besides a sync, with its parameters, its work and its report.

The command (`cli/from_operations.py`) and the Dagster job (`defs/operator_jobs.py`) of an operation are made from its
declaration, so their options and launchpad fields have the same names, defaults and help, and both answer with the same
headline, tables and JSON. A new operation is one module and one line in `operations/catalog.py`.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import getdoc
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Blocked, Misconfigured, PipelineError, is_unreachable
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.findings import LeftOut, Progress, chosen_accounts, item_name
from ac_pipeline.sync.report import ItemFailure
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

_IN_MEMORY: Final = 4_000_000
"""Bytes of a table's rows that are kept in memory before they go to a temporary file."""

TYPE_NAMES: Final = tuple(media.name for media in MEDIA_TYPES)


def option(
    default: Any,
    help: str,
    *,
    name: str = "",
    metavar: str = "",
    choices: Sequence[str] = (),
    argument: bool = False,
    bare: Any = None,
    **limits: Any,
) -> Any:
    """A parameter.

    Args:
        default: Its value when it is left out.
        help: What it means, for the command's help and for the launchpad.
        name: The command's option, when it is not the field's own name: `--from`.
        metavar: What stands for its value in the help.
        choices: The values it can have.
        argument: True for a positional argument of the command.
        bare: What the option stands for on the command line without a value; None where it needs one.
        limits: Pydantic's, such as `ge`.
    """
    hints = {"name": name, "metavar": metavar, "choices": list(choices), "argument": argument, "bare": bare}
    extra: dict[str, Any] = dict(hints)
    return Field(default, description=help, json_schema_extra=extra, **limits)


def why_option() -> Any:
    return option("", "Your reason, for the audit.", metavar="TEXT")


def dry_run_option(what: str) -> Any:
    """True in the launchpad where no confirmation is asked for: a job that is launched as it is writes nothing."""
    return option(False, f"Only say what would be {what}.")


def sweep_option() -> Any:
    return option(
        None,
        "So many records without a document go although the database is doubted. With another number, or without one, "
        "nothing is done and the number is said.",
        metavar="N",
        bare=-1,
        ge=-1,
    )


def confirm_option(what: str) -> Any:
    return option(
        None,
        f"The number of {what}, as the preview names it. Left out (or -1), nothing is done and the number is said.",
        metavar="N",
        ge=-1,
    )


class Parameters(BaseModel):
    """Parameters of an operation. Each field is one option of the command and one field of the launchpad."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OfTypes(Parameters):
    """Some media types."""

    types: list[str] = option([], "Only this type. Left out: all.", name="--type", choices=TYPE_NAMES)

    @property
    def media(self) -> tuple[MediaType, ...]:
        """The types that are named, in their usual order; all of them when none is."""
        return media_types(self.types)


class OfUsers(Parameters):
    """Some users."""

    users: list[str] = option(
        [],
        "Only this user: partition key, handle, user code, DID or Mongo id. Left out: all.",
        name="--user",
        metavar="KEY",
    )


class OfOneUser(Parameters):
    """One user, who has to be named."""

    user: str = option("", "The user: partition key, handle, user code, DID or Mongo id.", argument=True)

    def account(self, pipeline: Pipeline) -> Account:
        """The account of the named user.

        Raises:
            Misconfigured: Nobody is named, or the name fits nobody.
        """
        if not self.user.strip():
            raise Misconfigured("No user is named, so nothing was done: fill in `user` in the launchpad.")
        return pipeline.accounts.find(self.user.strip())


class Selected(OfUsers, OfTypes):
    """Some items of some users (PLAN-2)."""

    anonymous: bool = option(False, "The guest account only.")
    since: str = option("", "Only items from this day or moment on (ISO 8601, UTC).", metavar="DATE")
    until: str = option("", "Only items before this day or moment (ISO 8601, UTC).", metavar="DATE")
    limit: int = option(0, "At most so many items of each user and type; 0 for all.", metavar="N", ge=0)
    items: list[str] = option([], "Only this item, by code or ObjectId.", name="--item", metavar="TYPE:CODE")

    @model_validator(mode="after")
    def _readable(self) -> Selected:
        """What cannot be read is refused before anything is opened."""
        self.selection()
        return self

    @property
    def everybody(self) -> bool:
        """True if no account is named, neither by itself nor by an item."""
        return not (self.users or self.anonymous or self.items)

    def accounts(self, pipeline: Pipeline) -> list[Account]:
        """Those named, else the owners of the named items, else all.

        Raises:
            Misconfigured: A name fits no account or no item.
        """
        users = (*self.users, *([GUEST_ID] if self.anonymous else []))
        return chosen_accounts(pipeline, users, self.selection().items)

    def selection(self, **more: Any) -> Selection:
        """The items that are meant.

        Raises:
            Misconfigured: A date or an item cannot be read.
        """
        items = frozenset(item_name(text) for text in self.items) or None
        named = self.types or ([type_ for type_, _ in items] if items else [])
        return Selection(
            types=media_types(named),
            since=_moment("since", self.since),
            until=_moment("until", self.until),
            items=items,
            limit=self.limit or None,
            **more,
        )


class Table:
    """Rows of a report, kept in a temporary file where they are many, so that memory does not grow with them (OPS-6).

    Args:
        name: Under which it stands in JSON and in Dagster's metadata.
        columns: Of the table for people, in their order; a row may hold more, for JSON and CSV.
        title: What stands above it in the terminal; made of the name when left out.
        more: Further columns of the CSV.
    """

    def __init__(self, name: str, columns: Sequence[str], title: str = "", more: Sequence[str] = ()) -> None:
        self.name, self.columns, self.more = name, tuple(columns), tuple(more)
        self.title = title or name.replace("_", " ").capitalize()
        self.count = 0
        # Closed with the table: a report is read after the work is done, by whoever shows it.
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, mode="w+", encoding="utf-8")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self.count += 1

    def extend(self, rows: Iterable[Mapping[str, object]]) -> Table:
        for row in rows:
            self.add(row)
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)
        self._file.seek(0, 2)

    @classmethod
    def counts(cls, name: str, counts: Mapping[str, int], what: str = "type", *, title: str = "") -> Table:
        """Numbers by what they count, and their sum."""
        table = cls(name, (what, "number"), title)
        table.extend({what: key, "number": number} for key, number in counts.items())
        table.add({what: "total", "number": sum(counts.values())})
        return table


@dataclass(slots=True)
class Report:
    """What an operation answers.

    Args:
        headline: One sentence: what was done, or would be.
        json: The command's JSON document; a value that is a `Table` stands for its rows.
        tables: For people, in their order; empty ones are not shown.
        facts: Single values for Dagster's metadata; the headline or a line says them in the terminal.
        lines: Further sentences, shown above the headline.
        left_out: Users who could not be looked at, and why.
        confirm: What `confirm` has to be for this to be done; None when it was done, or needs no confirmation.
        exit_code: Of the command.
        failed: True if something went wrong, so that the run shall fail. What a person has to look at is no failure.
        touched: Partition key and type name -> what a partition's page shall show of it.
    """

    headline: str
    json: Mapping[str, object] | Sequence[object] | Table
    tables: Sequence[Table] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    lines: Sequence[str] = ()
    left_out: Sequence[LeftOut] = ()
    confirm: int | str | bool | None = None
    exit_code: int = 0
    failed: bool = False
    touched: Mapping[tuple[str, str], Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation works with.

    Args:
        pipeline: All parts of the pipeline.
        run_id: Of this run, as ledger and audit name it.
        told: Told what is being done, how much of it is done, and of how much.
        watch: Passes things on under a title, showing how many have passed.
        say: Tells a sentence at once, before what may take long.
    """

    pipeline: Pipeline
    run_id: str
    told: Callable[[str, int, int], None]
    watch: Callable[[str], Progress]
    say: Callable[[str], None]


Given = TypeVar("Given", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Declaration(Generic[Given]):
    """One operation.

    Args:
        command: Its words on the command line: `wipe`, or `accounts rotate`; empty where an option of another one
            does the same.
        job: The name of its Dagster job; empty where the job of assets or partitions does the same.
        op: The name of the job's one op, under which a launchpad has its parameters.
        parameters: The model of its parameters.
        run: Does it; its docstring is the help of command and job: a sentence, then what else one has to know.
        csv: Name of the table that `--csv` prints; empty for none.
        asset: Name of the asset `operations/...` whose materialisation shows the answer; empty for the job's name.
    """

    command: str
    job: str
    op: str
    parameters: type[Given]
    run: Callable[[Work, Given], Report]
    csv: str = ""
    asset: str = ""

    @property
    def help(self) -> str:
        return getdoc(self.run) or ""

    def parse(self, values: Mapping[str, object]) -> Given:
        """The parameters with these values.

        Raises:
            Misconfigured: One of them is wrong; the sentence names it.
        """
        known = {name: value for name, value in values.items() if value is not None}
        if known.get("confirm") == -1:
            del known["confirm"]
        for name, info in self.parameters.model_fields.items():
            choices, value = hint(info, "choices"), known.get(name)
            for each in value if isinstance(value, list) else [value]:
                if choices and each and each not in choices:
                    raise Misconfigured(f"{name}: {each!r} is none of {', '.join(choices)}.")
        try:
            return self.parameters(**known)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise Misconfigured(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}.") from None

    def command_line(self, parameters: Given, **changed: object) -> str:
        """The command that does this, with some parameters changed."""
        return command_line(self.command, parameters, **changed)


def command_line(command: str, parameters: Parameters, **changed: object) -> str:
    """A command with these parameters, some of them changed; those that are as usual, and `dry_run`, are left out."""
    values = {**parameters.model_dump(), **changed}
    arguments, words = [], list[str]()
    for name, info in type(parameters).model_fields.items():
        value, usual = values[name], info.get_default(call_default_factory=True)
        if value == usual or name == "dry_run":
            continue
        if hint(info, "argument"):
            arguments.append(str(value))
        elif value is True:
            words.append(option_name(name, info))
        else:
            each = value if isinstance(value, list) else [value]
            words += [word for one in each for word in (option_name(name, info), str(one))]
    return shlex.join(["ac-pipeline", *command.split(), *arguments, *words])


def failures_table(name: str, failures: Iterable[ItemFailure], title: str = "") -> Table:
    """Items that did not get where they should."""
    return Table(name, ("item", "class", "message"), title, more=("code", "stage", "status")).extend(
        failure.to_json() for failure in failures
    )


WELL, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all well, finished with failed items or users, wrong usage or settings, a service cannot be reached, and
Ctrl-C."""


def exit_code(well: bool, errors: Iterable[PipelineError | None] = ()) -> int:
    """The exit code of a command over many users, some of whom may have met errors."""
    met = [error for error in errors if error is not None and not isinstance(error, Blocked)]
    if any(is_unreachable(error.code, error.status) for error in met):
        return UNREACHABLE
    return WELL if well and not met else FAILED


def confirms(typed: str, key: str) -> bool:
    """True if what was typed in `confirm` is the account's key, False if nothing was.

    Raises:
        Misconfigured: It names somebody else.
    """
    if typed.strip() not in {"", key}:
        raise Misconfigured(f"`confirm` names another account than {key}: nothing was changed.")
    return bool(typed.strip())


def hint(info: FieldInfo, name: str) -> Any:
    """What `option` was told of a parameter."""
    extra = info.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def option_name(name: str, info: FieldInfo) -> str:
    return str(hint(info, "name") or "--" + name.replace("_", "-"))


def media_types(names: Iterable[str]) -> tuple[MediaType, ...]:
    """The types of these names in their usual order; all of them when none is named.

    Raises:
        Misconfigured: A name is no type.
    """
    chosen = {media_type(name).name for name in names}
    return tuple(media for media in MEDIA_TYPES if not chosen or media.name in chosen)


def _moment(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{name}: {text!r} is no date: write for example 2025-10-31.") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
