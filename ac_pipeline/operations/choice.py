"""Choice: which accounts are meant by the users and items a person names.

What a name may be is `mongo/accounts.py`; which of an account's items are meant is `sync/selection.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.registry import media_type
from ac_pipeline.wiring import Pipeline


def chosen_accounts(
    pipeline: Pipeline, users: Sequence[str], items: Collection[tuple[str, str]] | None = None
) -> list[Account]:
    """The accounts of the named users; else the owners of the named items; else all.

    Args:
        users: Partition keys, handles, user codes, DIDs or Mongo ids.
        items: Pairs of type name and code or ObjectId, or None.

    Raises:
        Misconfigured: A name fits no account, more than one, or no item.
        Transient: Accounts or documents could not be read.
    """
    if users:
        return pipeline.accounts.select(users)
    if items is None:
        return pipeline.accounts.all()
    owners: set[str] = set()
    for type_, name in sorted(items):
        found = pipeline.documents.owners_of(media_type(type_), name)
        if not found:
            raise Misconfigured(f"There is no {type_} with the code or id {name!r}.")
        owners |= {owner or GUEST_ID for owner in found}
    return pipeline.accounts.select(sorted(owners))
