"""A new password for an account on the PDS: written down, set, stored on the platform, proven; repaired by repeating.

Until the new password is proven, it and every one before it are kept. The PDS's part is `atproto/administration.py`,
Mongo's is `mongo/accounts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.administration import AccountInfo
from ac_pipeline.errors import AccountInactive, HeldBack, Misconfigured
from ac_pipeline.mongo.accounts import Credentials, Intent, Kind
from ac_pipeline.operations.provisioning import new_password


class Server(Protocol):
    """What is asked of the PDS; `atproto/administration.py` says what each call raises."""

    def account_info(self, did: str) -> AccountInfo: ...
    def update_password(self, did: str, password: str) -> None: ...
    def forget(self, did: str) -> None: ...
    def prove(self, account: Account) -> None: ...


class Store(Protocol):
    """What is kept in Mongo; see `mongo/accounts.py`."""

    def begin(self, intent: Intent) -> Intent: ...
    def keep_former(self, did: str, password: str) -> None: ...
    def credentials(self, account: str) -> Credentials | None: ...
    def store_password(self, account: str, did: str, password: str) -> bool: ...
    def end(self, kind: Kind, subject: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Rotated:
    """A password that was changed.

    Args:
        user: Partition key.
        did: Whose.
        repaired: Whether an interrupted change was brought to its end.
        note: What the PDS says of the account, where it is not active.
    """

    user: str
    did: str
    repaired: bool = False
    note: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def may_rotate(account: Account, accounts: Sequence[Account]) -> str:
    """The DID whose password may be changed.

    Args:
        account: Whose.
        accounts: All accounts.

    Raises:
        Misconfigured: It has no DID, or one that others have too: their copy of the password would be wrong.
    """
    if account.did is None:
        raise Misconfigured(
            f"{account.key} has no PDS account: `ac-pipeline accounts provision --user {account.key} "
            "--confirm 1` makes one."
        )
    sharing = [other.key for other in accounts if other.did == account.did and other.id != account.id]
    if sharing:
        raise Misconfigured(
            f"The DID of {account.key} stands in Mongo for {', '.join(sharing)} as well: give each its own first."
        )
    return account.did


def rotate(
    account: Account,
    did: str,
    *,
    server: Server,
    store: Store,
    lease: Callable[[str], AbstractContextManager[None]],
    now: Callable[[], datetime],
    password: Callable[[], str] = new_password,
) -> Rotated:
    """Give an account a new password, and the platform with it.

    Args:
        account: Whose.
        did: As `may_rotate` gave it.
        lease: Makes us the only writer of a repository: no sync of it meets a password that has just changed.

    Raises:
        AccountUnknown: The PDS does not host the account; nothing was changed.
        Misconfigured: The administrator's password is missing or wrong; nothing was changed.
        HeldBack: The platform does not hold this DID any more.
        WrongPassword: The PDS does not take the password it was given; all of them are kept.
        Transient: Something did not answer. Running it again repairs whatever was half done.
    """
    server.account_info(did)
    with lease(did):
        fresh = Intent(Kind.ROTATE, did, account.key, password(), now())
        intent = store.begin(fresh)
        held = store.credentials(account.id)
        if held is None or held.did != did:
            raise HeldBack(f"The platform does not hold {did} for {account.key} any more: nothing was changed.")
        if held.password is not None and held.password not in (intent.password, *intent.former):
            store.keep_former(did, held.password)
        server.update_password(did, intent.password)
        if not store.store_password(account.id, did, intent.password):
            raise HeldBack(
                f"The password of {did} was changed, but the platform does not hold it for {account.key} any more. "
                "Old and new are kept: look at the user's document, then run this again."
            )
        server.forget(did)
        note = ""
        try:
            server.prove(replace(account, did=did, password=intent.password, blocked=None))
        except AccountInactive as error:  # said only to whoever has the right password
            note = error.message
        store.end(Kind.ROTATE, did)
    return Rotated(account.key, did, repaired=intent.password != fresh.password, note=note)
