"""The account: one user of the platform, or its guest, with what the PDS needs to know of them. Values and rules only:
reading accounts is `mongo/accounts.py`, sessions are `atproto/client.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from ac_pipeline.errors import AccountDeleted, Blocked

GUEST_ID = "art-guest"  # `users._id` of the account that owns all anonymous work; also its partition key

BY_ID = "user:"  # How a key begins that was made of the id alone

LEAVING = "its owner's account is being deleted"
"""Why the records of an account that is to be deleted go, in the words of plans, ledger and reports."""

_KEY = re.compile(r"[a-z0-9._-]+")
_DID_KEY = re.compile(r"[a-z0-9:._-]+")


@dataclass(frozen=True, slots=True)
class Account:
    id: str  # `users._id`: the Auth0 id, or `art-guest`. The identity; never published.
    key: str  # The partition key, made for the person who types it
    did: str | None = None  # `did:plc:...`, or None where the platform has made no PDS account
    handle: str | None = None  # The name on the platform without `@`, or None
    pds_handle: str | None = None  # The handle on the PDS, or None
    code: str | None = None  # The permanent user code, or None
    # The account password on the PDS; kept out of `repr` so that no log can show it
    password: str | None = field(default=None, repr=False)
    blocked: Blocked | None = None  # Why the account cannot be used, or None when it can
    # Why everything of it has to go (its owner's account is being deleted), or None. It says nothing about whether the
    # account can be used, and it is never set for the guest.
    pending_deletion: str | None = None
    created: str | None = None  # When its PDS account was made, ISO 8601, or None where Mongo does not say

    @property
    def is_guest(self) -> bool:
        return self.id == GUEST_ID

    @property
    def usable(self) -> bool:
        """True if it has a repository that may be read and written."""
        return self.blocked is None and self.did is not None

    @property
    def credentials(self) -> str:
        """A mark of DID and password: another one once either changes in Mongo. Too short to tell a password."""
        return sha256(f"{self.did} {self.password}".encode(errors="surrogateescape")).hexdigest()[:12]

    @property
    def standing(self) -> tuple[object, ...]:
        """Which repository is written to, as whom, and whether to fill or to empty it."""
        return self.did, self.password, self.pending_deletion, type(self.blocked)

    @property
    def owner_deleted(self) -> bool:
        """True if none of its documents shall have a record: it is to be deleted, or blocked because of a deletion."""
        return self.pending_deletion is not None or isinstance(self.blocked, AccountDeleted)


def key_candidates(*, id: str, handle: str | None, code: str | None, did: str | None) -> list[str]:
    """Partition keys an account could have, best first: handle in lower case, user code, DID; the guest's is fixed.

    The last one, `user:` and 16 hex digits of sha-256 of the id, is for who has none of these, or lost them all to
    others: an account that owns work is never left out of the list. No handle or code can hold a colon.
    """
    if id == GUEST_ID:
        return [GUEST_ID]
    lowered = [part.lower() for part in (handle, code) if part and _KEY.fullmatch(part.lower())]
    named_did = [did] if did and _DID_KEY.fullmatch(did) else []
    return [*lowered, *named_did, f"{BY_ID}{sha256(id.encode(errors='surrogateescape')).hexdigest()[:16]}"]


def assign_keys(candidates: Iterable[tuple[str, list[str], str | None]]) -> dict[str, str]:
    """Give every account one key of its own: account id -> key, the same for the same accounts, in whatever order they
    come.

    On a clash the guest wins, then the account whose permanent code the key is, then the smaller id; the loser takes
    its next candidate. An account whose candidates are all taken gets none. `candidates` holds the account id, its key
    candidates and its code.
    """
    accounts = sorted(candidates, key=lambda entry: entry[0])
    owner_of_code: dict[str, str] = {GUEST_ID: GUEST_ID}
    for id, _, code in accounts:
        if code:
            owner_of_code.setdefault(code.lower(), id)
    taken: dict[str, str] = {GUEST_ID: GUEST_ID}
    keys: dict[str, str] = {}
    for id, options, _ in accounts:
        for key in options:
            if taken.get(key, id) == id and owner_of_code.get(key, id) == id:
                taken[key] = id
                keys[id] = key
                break
    return keys
