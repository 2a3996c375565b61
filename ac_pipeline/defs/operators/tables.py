"""What the operators' jobs share: their config's common fields, tables of bounded length, and how they are refused.

No secrets reach a table: its rows are made of reports, which hold none (acceptance, ACCT-5).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg

from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type

ROWS: Final = 500
"""Rows of a table in one event: an event is kept for good. The command line lists all of them."""

KIND: Final = {"kind": "operator"}
"""Tag of these jobs, by which the UI finds them and their runs."""

TYPES_FIELD: Final = f"Only these types: {', '.join(media.name for media in MEDIA_TYPES)}. Empty: all."
USERS_FIELD: Final = 'Only these users, by partition key, handle, code or DID, for example ["ada"]. Empty: all.'
USER_FIELD: Final = "The user, by partition key, handle, code or DID."
WHY_FIELD: Final = "Your reason, for the audit."

LEFT_OUT: Final = ("user", "message")
"""Columns of a table of users who were left out."""

Metadata = dict[str, Any]


def types_of(names: Sequence[str]) -> tuple[MediaType, ...]:
    """The types of these names in their usual order; all of them when none is named.

    Raises:
        Misconfigured: A name is no type.
    """
    chosen = {media_type(name).name for name in names}
    return tuple(media for media in MEDIA_TYPES if not chosen or media.name in chosen)


def named(user: str) -> str:
    """The user a config names.

    Raises:
        Misconfigured: It names nobody.
    """
    if not user.strip():
        raise Misconfigured("No user is named, so nothing was done: fill in `user` in the launchpad.")
    return user.strip()


def confirms(typed: str, key: str) -> bool:
    """True if what was typed in `confirm` is the account's key, False if nothing was.

    Raises:
        Misconfigured: It names somebody else.
    """
    if typed.strip() not in {"", key}:
        raise Misconfigured(f"`confirm` names another account than {key}: nothing was changed.")
    return bool(typed.strip())


@dataclass(slots=True)
class Table:
    """Rows for one event: the first of them, and how many there were in all.

    Args:
        columns: Their names; a row's other values are left out.
    """

    columns: tuple[str, ...]
    count: int = 0
    rows: list[dg.TableRecord] = field(default_factory=list)

    def add(self, row: Mapping[str, object]) -> None:
        self.count += 1
        if len(self.rows) < ROWS:
            self.rows.append(dg.TableRecord({name: _cell(row.get(name)) for name in self.columns}))

    def metadata(self, name: str) -> Metadata:
        """The table under this name, and how many rows it does not show; nothing without rows."""
        if not self.count:
            return {}
        schema = dg.TableSchema([dg.TableColumn(column, _kind(self.rows, column)) for column in self.columns])
        made: Metadata = {name: dg.MetadataValue.table(self.rows, schema=schema)}
        if self.count > len(self.rows):
            made[f"{name}_not_shown"] = self.count - len(self.rows)
        return made


def counts_table(name: str, counts: Mapping[str, int]) -> Metadata:
    table = Table(("what", "number"))
    for what, number in counts.items():
        table.add({"what": what, "number": number})
    return table.metadata(name)


@contextmanager
def refusals() -> Iterator[None]:
    """Let what the pipeline refuses fail the job in its one sentence. Nothing is tried again by itself: a person has
    launched it, and a person decides."""
    try:
        yield
    except PipelineError as error:
        raise dg.Failure(description=error.message, allow_retries=False) from error


def require_everybody(unread: int, metadata: Metadata) -> None:
    """Fail a job whose answer leaves users out because of an error, with what it saw of the others."""
    if unread:
        raise refused(f"{unread} users could not be looked at: see the tables, and launch again.", metadata)


def refused(message: str, metadata: Metadata) -> dg.Failure:
    """A job that has looked and done nothing, or not all, with what it saw."""
    return dg.Failure(description=message, metadata=metadata, allow_retries=False)


def _cell(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, int | float | bool):
        return value
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _kind(rows: Sequence[dg.TableRecord], column: str) -> str:
    values = [row.data[column] for row in rows if row.data[column] is not None]
    return (
        "int"
        if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        else "string"
    )
