"""The selectors that all commands share: which users, which types, which items (design, section 5)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.choice import chosen_accounts
from ac_pipeline.operations.declare import media_types
from ac_pipeline.operations.retry import item_name as parse_item
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

_NAMES = [media.name for media in MEDIA_TYPES]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the command line asked for."""

    users: tuple[str, ...]
    anonymous: bool
    selection: Selection

    @property
    def everybody(self) -> bool:
        """Whether no account is named, neither by itself nor by an item."""
        return not (self.users or self.anonymous or self.selection.items)

    def arguments(self) -> list[str]:
        """The same choice as options of a command."""
        chosen, said = self.selection, [each for user in self.users for each in ("--user", user)]
        said += ["--anonymous"] if self.anonymous else []
        if len(chosen.types) < len(MEDIA_TYPES):
            said += [each for media in chosen.types for each in ("--type", media.name)]
        for option, moment in (("--since", chosen.since), ("--until", chosen.until)):
            if moment is not None:
                said += [option, datetime.fromtimestamp(moment / 1000, UTC).isoformat()]
        said += [] if chosen.limit is None else ["--limit", str(chosen.limit)]
        said += [each for type_, name in sorted(chosen.items or ()) for each in ("--item", f"{type_}:{name}")]
        said += [] if chosen.sweep is None else ["--sweep", str(chosen.sweep)]
        return said + [f"--{name}" for name in ("full", "blobs") if getattr(chosen, name)]

    def swept(self, types: Sequence[str], number: int) -> str:
        """The command that deletes so many records of these types although the database is doubted."""
        chosen = replace(self, selection=replace(self.selection, types=media_types(types), sweep=number))
        return shlex.join(["ac-pipeline", "sync", *chosen.arguments()])

    def accounts(self, pipeline: Pipeline) -> list[Account]:
        """The accounts it is about: those named, else the owners of the named items, else all.

        Raises:
            Misconfigured: A name fits no account or no item.
        """
        users = (*self.users, *([GUEST_ID] if self.anonymous else []))
        return chosen_accounts(pipeline, users, self.selection.items)


why_option = click.option("--why", default="", metavar="TEXT", help="Your reason, for the audit.")

_OPTIONS = (
    click.option("--user", "users", multiple=True, metavar="KEY", help="Key, handle, user code, DID or Mongo id."),
    click.option("--type", "types", multiple=True, type=click.Choice(_NAMES), help="Only this type."),
    click.option("--anonymous", is_flag=True, help="The guest account only."),
    click.option("--since", metavar="DATE", help="Only items from this day or moment on (ISO 8601, UTC)."),
    click.option("--until", metavar="DATE", help="Only items before this day or moment (ISO 8601, UTC)."),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N items of each user and type."),
    click.option("--item", "items", multiple=True, metavar="TYPE:CODE", help="Only this item, by code or ObjectId."),
)


def selectors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common selectors; it receives them as one argument, `chosen`."""

    @wraps(command)
    def parsed(
        *,
        users: tuple[str, ...],
        types: tuple[str, ...],
        anonymous: bool,
        since: str | None,
        until: str | None,
        limit: int | None,
        items: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        selection = Selection(
            types=tuple(media for media in MEDIA_TYPES if not types or media.name in types),
            since=_moment("--since", since),
            until=_moment("--until", until),
            items=frozenset(item_name(each) for each in items) or None,
            limit=limit,
        )
        if selection.items is not None and not types:
            named = {type_ for type_, _ in selection.items}
            selection = replace(selection, types=tuple(media for media in MEDIA_TYPES if media.name in named))
        return command(chosen=Chosen(users, anonymous, selection), **rest)

    for option in reversed(_OPTIONS):
        parsed = option(parsed)
    return parsed


sweep_option = click.option(
    "--sweep",
    type=click.IntRange(-1),
    is_flag=False,
    flag_value=-1,  # without a number it is refused, and the number said
    metavar="NUMBER",
    help="Delete so many records without a document although the database is doubted. A plan says the number.",
)


def item_name(text: str) -> tuple[str, str]:
    """`painting:abc` as type and name.

    Raises:
        click.UsageError: It has another form, or names no type.
    """
    try:
        return parse_item(text)
    except Misconfigured as error:
        raise click.UsageError(error.message) from None


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is no date: write for example 2025-10-31.") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
