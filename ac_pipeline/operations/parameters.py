"""Parameters of operations, each an option of the command and a field of the launchpad; and which items they mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.eligibility import NOBODY
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

TYPE_NAMES: Final = tuple(media.name for media in MEDIA_TYPES)


def option(
    default: Any,  # Its value when it is left out
    help: str,  # What it means, for the command's help and for the launchpad
    *,
    name: str = "",  # The command's option, when it is not the field's own name: `--from`
    metavar: str = "",  # What stands for its value in the help
    choices: Sequence[str] = (),  # The values it can have
    argument: bool = False,  # True for a positional argument of the command
    bare: Any = None,  # What the option stands for on the command line without a value; None where it needs one
    **limits: Any,  # Pydantic's, such as `ge`
) -> Any:
    extra = {"name": name, "metavar": metavar, "choices": list(choices), "argument": argument, "bare": bare}
    return Field(default, description=help, json_schema_extra=extra, **limits)


def why_option() -> Any:
    return option("", "Your reason, for the audit.", metavar="TEXT")


def dry_run_option(what: str) -> Any:
    """True in the launchpad where no confirmation is asked for: a job that is launched as it is writes nothing."""
    return option(False, f"Only say what would be {what}.")


def sweep_option() -> Any:
    help = (
        "So many records without a document go although the database is doubted. With another number, or without one, "
        "nothing is done and the number is said."
    )
    return option(None, help, metavar="N", bare=-1, ge=-1)


def confirm_option(what: str) -> Any:
    help = f"The number of {what}, as the preview names it. Left out (or -1), nothing is done and the number is said."
    return option(None, help, metavar="N", ge=-1)


class Parameters(BaseModel):
    """Parameters of an operation. Each field is one option of the command and one field of the launchpad."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def confirms(self, *numbers: int | None) -> bool:
        """True if one of these numbers is confirmed, and no dry run is asked for."""
        given = getattr(self, "confirm", None)
        return given is not None and given in numbers and not getattr(self, "dry_run", False)


class OfTypes(Parameters):
    types: list[str] = option([], "Only this type. Left out: all.", name="--type", choices=TYPE_NAMES)

    @property
    def media(self) -> tuple[MediaType, ...]:
        """The types that are named, in their usual order; all of them when none is."""
        return media_types(self.types)


class OfUsers(Parameters):
    users: list[str] = option(
        [],
        "Only this user: partition key, handle, user code, DID or Mongo id. Left out: all.",
        name="--user",
        metavar="KEY",
    )


class OfOneUser(Parameters):
    user: str = option("", "The user: partition key, handle, user code, DID or Mongo id.", argument=True)

    def account(self, pipeline: Pipeline) -> Account:
        """The account of the named user; Misconfigured where nobody is named, or the name fits nobody."""
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
        """Those named, else the owners of the named items, else all; Misconfigured where a name fits none."""
        users = (*self.users, *([GUEST_ID] if self.anonymous else []))
        return chosen_accounts(pipeline, users, self.selection().items)

    def selection(self, **more: Any) -> Selection:
        """The items that are meant; Misconfigured where a date or an item cannot be read."""
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


def chosen_accounts(
    pipeline: Pipeline, users: Sequence[str], items: Collection[tuple[str, str]] | None = None
) -> list[Account]:
    """The accounts of the named users; else the owners of the named items; else all. `users`: partition keys, handles,
    user codes, DIDs or Mongo ids; `items`: pairs of type name and code or ObjectId, or None. Raises Misconfigured (a
    name fits no account, more than one, or no item; or there is nobody and nothing), Transient (accounts or documents
    could not be read)."""
    if users:
        return pipeline.accounts.select(users)
    if items is None:
        everybody = pipeline.accounts.all()
        pipeline.safeguard.check_platform(everybody)
        return everybody
    owners: set[str] = set()
    for type_, name in sorted(items):
        found = pipeline.documents.owners_of(media_type(type_), name)
        if not found:
            raise Misconfigured(f"There is no {type_} with the code or id {name!r}.")
        if NOBODY in found:
            raise Misconfigured(f"`user` of {type_}:{name} is not a text, so that nobody owns it: correct it in Mongo.")
        owners |= {owner or GUEST_ID for owner in found}
    return pipeline.accounts.select(sorted(owners))


def item_name(text: str) -> tuple[str, str]:
    """`painting:abc` as type and name; Misconfigured where it has another form, or names no type."""
    type_, colon, name = text.replace("\u200b", "").partition(":")  # Dagster's tables have such marks to break lines at
    if not colon or not name or type_ not in TYPE_NAMES:
        raise Misconfigured(f"{text!r} is no item: write TYPE:CODE or TYPE:ID with one of {', '.join(TYPE_NAMES)}.")
    return type_, name


def hint(info: FieldInfo, name: str) -> Any:
    extra = info.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def option_name(name: str, info: FieldInfo) -> str:
    return str(hint(info, "name") or "--" + name.replace("_", "-"))


def media_types(names: Iterable[str]) -> tuple[MediaType, ...]:
    """The types of these names in their usual order, all where none is named; Misconfigured where a name is no type."""
    chosen = {media_type(name).name for name in names}
    return tuple(media for media in MEDIA_TYPES if not chosen or media.name in chosen)


def confirms_name(typed: str, key: str) -> bool:
    """True if `confirm` holds the account's key, False if it is empty; Misconfigured where it names somebody else."""
    if typed.strip() not in {"", key}:
        raise Misconfigured(f"`confirm` names another account than {key}: nothing was changed.")
    return bool(typed.strip())


def _moment(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{name}: {text!r} is no date: write for example 2025-10-31.") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
