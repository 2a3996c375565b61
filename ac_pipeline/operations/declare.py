"""Operations declared once, with parameters, work and report: the command (`cli/from_operations.py`) and the Dagster
job (`defs/operator_jobs.py`) are made from it. A new one is one module and one line in `operations/catalog.py`.

Also here: findings of many accounts, in the accounts' order, counted, and put right with a line in the audit.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import getdoc
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, get_type_hints

from pydantic import ValidationError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import FAILED, UNREACHABLE, WELL, Blocked, Misconfigured, PipelineError, is_unreachable
from ac_pipeline.items import Finding
from ac_pipeline.media.base import MediaType
from ac_pipeline.operations.parameters import Parameters, hint, option_name
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.report import ItemFailure
from ac_pipeline.wiring import Pipeline

if TYPE_CHECKING:
    from ac_pipeline.wiring import Pipeline

Given = TypeVar("Given", bound=Parameters)
Result = TypeVar("Result")
Found = TypeVar("Found", bound=Finding)

_IN_MEMORY: Final = 4_000_000  # Bytes of a table's rows that are kept in memory before they go to a temporary file

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Passes things on, given how many there will be: whoever shows progress looks at them here."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    user: str
    error: PipelineError

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def failed(self) -> bool:
        """True if it is an error, not if the account is blocked."""
        return not isinstance(self.error, Blocked)

    def to_json(self) -> dict[str, object]:
        return {"user": self.user, "message": self.message}


def unwatched(things: Iterable[Any], total: int) -> Iterator[Any]:
    del total
    return iter(things)


class Table:
    """Rows of a report, in a temporary file where they are many, so that memory does not grow with them (OPS-6)."""

    def __init__(
        self,
        name: str,  # Under which it stands in JSON and in Dagster's metadata
        columns: Sequence[str],  # Of the table for people, in their order; a row may hold more, for JSON and CSV
        title: str = "",  # What stands above it in the terminal; made of the name when left out
        more: Sequence[str] = (),  # Further columns of the CSV
    ) -> None:
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
    def of(cls, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
        """Rows whose values stand in the order of the columns."""
        return cls(name, columns, title).extend(dict(zip(columns, row, strict=True)) for row in rows)

    @classmethod
    def counts(cls, name: str, counts: Mapping[str, int], what: str = "type", *, title: str = "") -> Table:
        """Numbers by what they count, and their sum."""
        return cls.of(name, (what, "number"), [*counts.items(), ("total", sum(counts.values()))], title)


@dataclass(slots=True)
class Report:
    headline: str  # One sentence: what was done, or would be
    # The command's JSON document; a value that is a `Table` stands for its rows
    json: Mapping[str, object] | Sequence[object] | Table
    tables: Sequence[Table] = ()  # For people, in their order; empty ones are not shown
    # Single values for Dagster's metadata; the headline or a line says them in the terminal
    facts: Mapping[str, object] = field(default_factory=dict)
    lines: Sequence[str] = ()  # Further sentences, shown above the headline
    left_out: Sequence[LeftOut] = ()  # Users who could not be looked at, and why
    # What `confirm` has to be for this to be done; None when it was done, or needs no confirmation
    confirm: int | str | bool | None = None
    exit_code: int = 0  # Of the command
    # True if something went wrong, so that the run shall fail. What a person has to look at is no failure.
    failed: bool = False
    # Partition key and type name -> what a partition's page shall show of it
    touched: Mapping[tuple[str, str], Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    pipeline: Pipeline  # All parts of the pipeline
    run_id: str  # Of this run, as ledger and audit name it
    progress: Callable[[str, int, int], None]  # Is told what is being done, how much of it is done, and of how much
    say: Callable[[str], None]  # Tells a sentence at once, before what may take long

    def watch(self, title: str) -> Progress:
        """Passes things on, and tells how many of them have passed under this title."""

        def watched(things: Iterable[Any], total: int) -> Iterator[Any]:
            self.progress(title, 0, total)
            for done, thing in enumerate(things, 1):
                yield thing
                self.progress(title, done, total)

        return watched

    def for_each(
        self, title: str, accounts: Sequence[Account], look: Callable[[Account], Result]
    ) -> Iterator[tuple[Account, Result | PipelineError]]:
        """Look at many accounts, several at once, with progress under this title; yields each, in their order, with
        what was found, or with the reason why it cannot be looked at. Raises ServiceUnreachable where a service is
        down."""
        workers = self.pipeline.settings.ac_concurrent_users
        looks: Iterator[tuple[Account, Result | PipelineError]] = for_accounts(
            accounts, look, workers, unread, ordered=True
        )
        return self.watch(title)(looks, len(accounts))


@dataclass(frozen=True, slots=True)
class Declaration(Generic[Given]):
    # Its words on the command line: `wipe`, or `accounts rotate`; empty where an option of another one does the same
    command: str
    job: str  # The name of its Dagster job; empty where the job of assets or partitions does the same
    op: str  # The name of the job's one op, under which a launchpad has its parameters
    parameters: type[Given]  # The model of its parameters
    # Does it; its docstring is the help of command and job: a sentence, then what else one has to know
    run: Callable[[Work, Given], Report]
    csv: str = ""  # Name of the table that `--csv` prints; empty for none
    # Name of the asset `operations/...` whose materialisation shows the answer; empty for the job's name
    asset: str = ""

    def __call__(self, work: Work, parameters: Given) -> Report:
        return self.run(work, parameters)

    @property
    def help(self) -> str:
        return getdoc(self.run) or ""

    def parse(self, values: Mapping[str, object]) -> Given:
        """The parameters with these values; Misconfigured where one is wrong, in a sentence that names it."""
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


def declared(
    command: str, job: str = "", op: str = "", *, csv: str = "", asset: str = ""
) -> Callable[[Callable[[Work, Given], Report]], Declaration[Given]]:
    """Makes a declaration of the function that does it; the model of its parameters is what that takes."""

    def declare(run: Callable[[Work, Given], Report]) -> Declaration[Given]:
        return Declaration(command, job, op, get_type_hints(run)["parameters"], run, csv, asset)

    return declare


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


def wrong_confirmation(parameters: Parameters, report: Report) -> object:
    """What is given in `confirm` and is not what the report names; None where there is no such thing."""
    given = getattr(parameters, "confirm", None)
    if report.confirm is None or given in {None, False, ""} or getattr(parameters, "dry_run", False):
        return None
    return given


def failures_table(name: str, failures: Iterable[ItemFailure]) -> Table:
    table = Table(name, ("item", "class", "message"), more=("code", "stage", "status"))
    return table.extend(failure.to_json() for failure in failures)


def exit_code(well: bool, errors: Iterable[PipelineError | None] = ()) -> int:
    """The exit code of a command over many users, some of whom may have met errors."""
    met = [error for error in errors if error is not None and not isinstance(error, Blocked)]
    if any(is_unreachable(error.code, error.status) for error in met):
        return UNREACHABLE
    return WELL if well and not met else FAILED


# -------------------------------------------------------------------------------------------- findings of many accounts


@dataclass(slots=True)
class FindingCount:
    """What is kept of the findings of many accounts: numbers, and who was left out (OPS-6)."""

    # Type -> state -> how many
    states: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    found: Counter[str] = field(default_factory=Counter)  # Partition key -> all findings
    # Partition key -> those of them that can be put right here, or were
    repairable: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)  # Who could not be looked at, and why

    def add(self, each: Finding | LeftOut, table: Table | None = None) -> None:
        """Count it; a finding becomes a row of the table."""
        if isinstance(each, LeftOut):
            self.left_out.append(each)
            return
        self.states[each.type][each.state] += 1
        self.found[each.user] += 1
        self.repairable[each.user] += each.repairable
        if table is not None:
            table.add(each.to_json())

    def total(self) -> Counter[str]:
        return sum(self.states.values(), Counter())

    @property
    def left(self) -> int:
        """Findings that cannot be put right here, or were not."""
        return self.found.total() - self.repairable.total()


def search(
    work: Work, title: str, accounts: Sequence[Account], look: Callable[[Account], Iterable[Found]], table: Table
) -> FindingCount:
    """Count what is found in those of these accounts that ever had a repository, with progress under this title; every
    finding becomes a row of the table. The others have nothing to say. Raises ServiceUnreachable."""
    count = FindingCount()
    for account, found in work.for_each(title, [each for each in accounts if each.did is not None], look):
        for each in [LeftOut(account.key, found)] if isinstance(found, PipelineError) else found:
            count.add(each, table)
    return count


def put_right(
    pipeline: Pipeline, account: Account, look: Callable[[], Iterable[Found]], most: int, change: Callable[[Found], str]
) -> Iterator[tuple[Found, str]]:
    """Put right at most so many of what is found now, under the lease of the repository; yields each finding, with
    why it was not put right, or "", as `change` says. Raises LeaseHeld where somebody writes to the repository right
    now."""
    with pipeline.ledger.lease(str(account.did), pipeline.engine.holder):
        for each in look():
            problem = "" if each.repairable else each.reason
            if each.repairable:
                problem = change(each) if most else "it was not there when the number was confirmed: look again"
                most -= not problem
            yield each, problem


def audited(
    work: Work,
    title: str,
    accounts: Sequence[Account],
    act: Callable[[Account], Iterable[Result]],
    done: Callable[[Result], int],
    *,
    action: str,
    types: Iterable[MediaType],
    why: str,
    counts: Mapping[str, int],
    counted_as: str,
) -> Iterator[Result | LeftOut]:
    """Change something in one account after another, with progress; in the audit before it starts, with how much of
    `counted_as` is `done` with each result. Yields every result of `act`, and who was left alone because the account is
    blocked."""
    if not accounts:
        return
    number, names = 0, [media.name for media in types]
    with work.pipeline.audit.during(action, accounts, names, why=why, counts=counts) as entry:
        entry.counts = {counted_as: 0}
        for account in work.watch(title)(accounts, len(accounts)):
            try:
                for result in act(account):
                    number += done(result)
                    entry.counts = {counted_as: number}
                    yield result
            except Blocked as error:
                yield LeftOut(account.key, error)


def findings_report(
    headline: str,
    counts: Mapping[str, int],
    items: Table,
    left_out: Sequence[LeftOut],
    *,
    left_out_as: str = "blocked",  # The field of the JSON document under which those who were left out stand
    more: Mapping[str, object] | None = None,  # Further fields of the JSON document
    **fields: Any,  # Further fields of the report
) -> Report:
    """The answer of whoever has looked for something: the numbers, every finding, and who was left out."""
    users = {left_out_as: [each.to_json() for each in left_out]}
    json = {**counts, **(more or {}), **users, "items": items}
    return Report(headline, json, **{"tables": [items], "facts": dict(counts), "left_out": left_out, **fields})
