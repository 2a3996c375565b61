"""Which accounts would be made on the PDS, with which handles and e-mail addresses: a plan, without any I/O.

Making them is `provisioning.py`. Rules: aesthetic-computer facts, section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.administration import ServerDescription
from ac_pipeline.errors import Misconfigured, NoCredentials
from ac_pipeline.mongo.accounts import Credentials, Intent

GUEST_LABEL: Final = "art"
"""The guest's handle is `art.{domain}` (aesthetic-computer facts, section 2.3)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One account that would be made: with the first of these handles that the PDS takes."""

    account: Account
    handles: tuple[str, ...]
    email: str
    unfinished: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "user": self.account.key,
            "handle": self.handles[0] if self.handles else None,
            "otherwise": list(self.handles[1:]),
            "email": self.email,
            "unfinished": self.unfinished,
        }


@dataclass(frozen=True, slots=True)
class ProvisionPlan:
    """Which accounts would be made, and whose not, with the reason.

    Args:
        accounts: To be made; those an earlier run left unfinished come first.
        skipped: Partition key and reason of everybody else who has none.
        invites: Whether the PDS asks for invite codes.
    """

    accounts: tuple[Planned, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    invites: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "accounts": [each.to_json() for each in self.accounts],
            "number": len(self.accounts),
            "skipped": [{"user": user, "reason": reason} for user, reason in self.skipped],
            "invites": self.invites,
        }


def handle_labels(account: Account) -> tuple[str, ...]:
    """First labels of the PDS handle, best first: the handle with `.` and `_` as `-`, then the user code."""
    if account.is_guest:
        return (GUEST_LABEL,)
    named = re.sub(r"[._]", "-", account.handle.lower()) if account.handle else ""
    return tuple(dict.fromkeys(label for label in (named, (account.code or "").lower()) if label))


def email_domain(setting: str | None, pds_host: str) -> str:
    """The domain of new accounts' e-mail addresses: the setting, else the PDS's host.

    Raises:
        Misconfigured: The host is no domain, and a PDS would refuse the address.
    """
    if setting is not None:
        return setting
    try:
        ip_address(pds_host)
    except ValueError:
        if "." in pds_host:
            return pds_host
    raise Misconfigured(
        f"PDS_URL names {pds_host}, which makes no e-mail address for new accounts: set AC_ACCOUNT_EMAIL_DOMAIN."
    )


def planned(account: Account, description: ServerDescription, domain: str) -> Planned:
    """The handles and the e-mail address an account would get.

    The address is made of what never changes, the code or the Mongo id: the PDS takes each only once, so that not even
    a lost ledger leads to a second account of one user.
    """
    ending = description.domains[0]
    hashed = f"u{sha256(account.id.encode(errors='surrogateescape')).hexdigest()[:16]}"
    name = GUEST_LABEL if account.is_guest else (account.code or hashed).lower()
    handles = tuple(f"{label}{ending}" for label in handle_labels(account))
    return Planned(account, handles, f"{name}@{domain}")


def plan_provision(
    accounts: Iterable[Account],
    *,
    users: Mapping[str, Credentials],
    unfinished: Iterable[Intent],
    description: ServerDescription,
    domain: str,
    limit: int | None = None,
) -> ProvisionPlan:
    """Who would get an account; whatever an earlier run left unfinished comes first, whoever it is about.

    Args:
        accounts: Those that were chosen, of all accounts.
        users: Every user document's credentials by Mongo id.
        unfinished: Intents of accounts that were chosen, or that are not there any more.
        description: Of the PDS.
        domain: For e-mail addresses.
        limit: At most so many.
    """
    left = {intent.subject: intent for intent in unfinished if intent.subject != GUEST_ID}
    wanted: list[Planned] = []
    skipped: list[tuple[str, str]] = []
    listed = {account.id: account for account in accounts}
    for id, intent in left.items():
        account = listed.get(id) or Account(id, intent.key)
        handles = (intent.handle or "", *planned(account, description, domain).handles)
        wanted.append(Planned(account, tuple(dict.fromkeys(handles)), intent.email or "", unfinished=True))
    for account in listed.values():
        if account.did is not None or account.id in left:
            continue
        reason = _unfit(account, users.get(account.id))
        if reason is None:
            wanted.append(planned(account, description, domain))
        else:
            skipped.append((account.key, reason))
    return ProvisionPlan(tuple(wanted[:limit]), tuple(skipped), description.invites)


def _unfit(account: Account, held: Credentials | None) -> str | None:
    if account.is_guest:
        return "the guest account is made by `ac-pipeline accounts create-guest`"
    if account.owner_deleted:
        return "its owner's account is being deleted"
    if account.blocked is not None and not isinstance(account.blocked, NoCredentials):
        return account.blocked.message
    if held is None:
        return "the platform has no user document for it"
    if held.password is not None:
        return "Mongo holds a PDS password without a DID for it: find out whose it is"
    if not handle_labels(account):
        return "it has neither a handle nor a user code"
    return None
