"""Choice: which accounts are meant by the users and items a person names, and which number of deletions.

What a name may be is `mongo/accounts.py`; which of an account's items are meant is `sync/selection.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.for_accounts import for_accounts, needed
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline


def chosen_accounts(
    pipeline: Pipeline, users: Sequence[str], items: Collection[tuple[str, str]] | None = None
) -> list[Account]:
    """The accounts of the named users; else the owners of the named items; else all.

    Args:
        users: Partition keys, handles, user codes, DIDs or Mongo ids.
        items: Pairs of type name and code or ObjectId, or None.

    Raises:
        Misconfigured: A name fits no account, more than one, or no item; or there is nobody and nothing.
        Transient: Accounts or documents could not be read.
    """
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
        owners |= {owner or GUEST_ID for owner in found}
    return pipeline.accounts.select(sorted(owners))


def item_name(text: str) -> tuple[str, str]:
    """`painting:abc` as type and name.

    Raises:
        Misconfigured: It has another form, or names no type.
    """
    type_, colon, name = text.partition(":")
    known = [media.name for media in MEDIA_TYPES]
    if not colon or not name or type_ not in known:
        raise Misconfigured(f"{text!r} is no item: write TYPE:CODE or TYPE:ID with one of {', '.join(known)}.")
    return type_, name


def confirm_sweep(pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, run_id: str) -> None:
    """Compare the number a person has named with the records without a document that these accounts have; where it is
    the same, as many may go in this run. Asked about everybody, the collections are taken as they are from now on.

    Raises:
        Misconfigured: It is another number; nothing was written.
        Transient: An account could not be read.
    """
    if selection.sweep is None or pipeline.safeguard.sweeping(run_id):
        return
    kept: Counter[str] = Counter()
    look = replace(selection, sweep=None)
    workers = pipeline.settings.ac_concurrent_users
    for _, (_, report) in for_accounts(
        accounts, lambda each: pipeline.engine.survey(each, look, run_id), workers, needed
    ):
        kept.update({name: tally.orphans_kept for name, tally in report.types.items() if tally.orphans_kept})
    if kept.total() != selection.sweep:
        told = f" ({', '.join(f'{name} {number}' for name, number in kept.items())})" if kept else ""
        raise Misconfigured(
            f"{kept.total()} records without a document are kept because the database is doubted{told}: the number to "
            f"sweep is {kept.total()}. Nothing was written."
        )
    if len(accounts) == len(pipeline.accounts.all()):
        pipeline.safeguard.accept(selection.types)
    pipeline.safeguard.begin_sweep(run_id)
