"""The accounts of the platform, joined from their collections, and accounts written into them.

The values and the rule for partition keys are `ac_pipeline/accounts.py`. Passwords pass through here: nothing of a user
document is ever logged or put into a message. Facts: aesthetic-computer facts, section 2.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AnyOf
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from itertools import product
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ac_pipeline.accounts import BY_ID, GUEST_ID, LEAVING, Account, assign_keys, key_candidates
from ac_pipeline.errors import AccountDeleted, Blocked, Misconfigured, NoCredentials, ServerFailed
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.documents import shown
from ac_pipeline.media.eligibility import is_guest
from ac_pipeline.media.fields import is_text, sound_text
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.media.times import format_when, read_when
from ac_pipeline.mongo.database import in_parts, mongo_errors, own_collection, platform_collection, storable, value_of
from ac_pipeline.mongo.documents import WITHDRAWN, unlinked

_SISTER_TENANT = "sotce-"
_FIELDS = ("code", "atproto", "atproto_did", "atproto_handle", "atproto_password", "atproto_created_at")
_BATCH = 5_000  # Rows an answer holds: all 4,201 users fit into one
_FEW, _IDS_AT_ONCE = 1_000, 200  # Of more ids than that, all owners are read; ids of one statement

_DID = re.compile(r"did:[a-z]+:[A-Za-z0-9._:%-]{1,2048}")

_CANCELLED = "cancelled"
_DELETING = frozenset({"scheduled", "running", "failed"})
"""States of `account-deletions` in which the records go (aesthetic-computer facts, section 2.4). In any other but
`cancelled`, such as `restoring`, nobody can say whether they are to go or to stay: nothing is touched."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """DID and password as the platform holds them, in either form; None where it holds none."""

    did: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class MongoAccounts:
    """All accounts: users, owners of documents of these types who have no user document, and the guest."""

    database: Database[dict[str, Any]]  # The platform's
    types: Sequence[MediaType] = MEDIA_TYPES
    # Given all accounts before anybody else is; raises Misconfigured when they cannot be right
    check: Callable[[Sequence[Account]], None] = lambda accounts: None

    def all(self) -> list[Account]:
        """Every account, by partition key. Reads all users: call it once and keep the list for the run.

        Left out are accounts that are purged (deletion row or tombstone, and no user document any more: DEL-9), and
        ids of the sister tenant that own nothing here and have no PDS account: their owner is listed under the
        platform's own id.

        Raises:
            Transient: A part could not be read; there is no list without all of its parts.
            Misconfigured: `check` refuses the database.
        """
        return self._listed()

    def _listed(self, named: AnyOf[str] | None = None) -> list[Account]:
        """All accounts, or all that can matter to who is `named`, without a look at all documents.

        Left out then is who has no user document and no handle, and is known by their documents alone, unless their id
        or key is among the names. The others are the same without them: nobody else's key can be theirs
        (`key_candidates`), they have no DID to share, and `check` judges by DIDs.
        """
        rows = self._rows("users", *_FIELDS)
        users = _by_id(rows)
        users.setdefault(GUEST_ID, {})
        handles = {id: sound_text(row.get("handle")) for id, row in _by_id(self._rows("@handles", "handle")).items()}
        deletions = _by_id(self._rows("account-deletions", "state"))
        tombstones = _by_id(self._rows("account-tombstones", "_id")).keys()
        in_doubt = {*(handles.keys() - users.keys()), *(id for id in users if id.startswith(_SISTER_TENANT))}
        whole = named is None or len(in_doubt) > _FEW or any(name.lower().startswith(BY_ID) for name in named)
        owners, odd = self._owners(None if named is None or whole else in_doubt | set(filter(sound_text, named)))

        accounts = [_nameless(row["_id"]) for row in rows if sound_text(row["_id"]) is None]
        accounts += [_of_nobody(why, sorted(plurals)) for why, plurals in odd.items()]
        for id in {*users, *owners}:
            deletion = _deletion(deletions.get(id), buried=_tombstone(id) in tombstones)
            if deletion and id not in users:
                continue
            account = _account(id, handles.get(id), users.get(id, {}), deletion)
            if not id.startswith(_SISTER_TENANT) or id in owners or account.did is not None:
                accounts.append(account)
        listed = _one_account_a_repository(_with_keys(accounts))
        self.check(listed)
        return listed

    def current(self, account: Account) -> Account:
        """The account with the DID, the password and the deletion that Mongo has now; all else as it was."""
        fields = dict.fromkeys(_FIELDS, 1)
        with mongo_errors(f"read the account {account.key} once more"):
            row = platform_collection(self.database, "users").find_one({"_id": account.id}, fields)
        now = _account(account.id, account.handle, row or {}, _deletion_of(self.database, account.id))
        changes = {name: getattr(now, name) for name in ("did", "password", "blocked", "pending_deletion")}
        return replace(account, **changes)

    def select(self, selectors: Iterable[str]) -> list[Account]:
        """The accounts these selectors name, in their order, each once: by partition keys, handles with or without `@`,
        user codes, DIDs, PDS handles or Mongo ids. Case counts in Mongo ids only. Raises Misconfigured when one names
        no account, or more than one.
        """
        wanted = list(selectors)
        names = {each.strip() for each in wanted}
        accounts = self._listed(names) if names else []
        return list({account.id: account for account in (_pick(accounts, selector) for selector in wanted)}.values())

    def find(self, selector: str) -> Account:
        """The account one selector names; see `select`."""
        return self.select([selector])[0]

    def _rows(self, collection: str, *fields: str) -> list[dict[str, Any]]:
        with mongo_errors(f"read the collection {collection}"):
            found = platform_collection(self.database, collection)
            return list(found.find({}, dict.fromkeys(fields, 1), batch_size=_BATCH))

    def _owners(self, among: AnyOf[str] | None) -> tuple[set[str], Mapping[str, set[str]]]:
        """Who owns a document, of these or of all, by `$group`: `distinct` is not in Stable API v1 (OPS-5). And, where
        all are asked for, what else stands where an owner should -> names of the types in which it does.
        """
        owners, odd = set[str](), defaultdict[str, set[str]](set)
        parts = [{}] if among is None else [{"user": {"$in": part}} for part in in_parts(sorted(among), _IDS_AT_ONCE)]
        for media, part in product(self.types, parts):
            with mongo_errors(f"list the owners of the {media.plural}"):
                collection = platform_collection(self.database, media.collection)
                groups = collection.aggregate([{"$match": part}, {"$group": {"_id": "$user"}}], batchSize=_BATCH)
                for user in (row["_id"] for row in groups):
                    if (id := sound_text(user)) is not None:
                        owners.add(id)
                    elif not is_guest(user):
                        odd[_why_odd(user)].add(media.plural)
        return owners, odd


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["_id"]: row for row in rows if sound_text(row["_id"]) is not None}


def _nameless(stored: object) -> Account:
    """A user document whose `_id` is no user's: listed with the reason, and with nothing that could be another's."""
    why = f"`users._id` {_why_odd(stored)}: nothing can belong to it; correct it in Mongo."
    return Account(id=f"{type(stored).__name__} {shown(stored)}", key="", blocked=NoCredentials(why))


def _of_nobody(why: str, plurals: Sequence[str]) -> Account:
    """Stands for documents of these types that nobody can own: listed with the reason (BORDER-1)."""
    about = f"`user` of some {' and '.join(plurals)} {why}"
    said = f"{about}: nothing new of them is published and nothing is removed; correct it in Mongo."
    return Account(id=about, key="", blocked=NoCredentials(said))


def _why_odd(stored: object) -> str:
    """Why a value is nobody's id."""
    return f"is of type {type(stored).__name__}, not a text" if not is_text(stored) else "is empty or not valid UTF-8"


def _account(id: str, handle: str | None, row: Mapping[str, Any], deletion: tuple[str, bool] | None) -> Account:
    """The account without its key, which depends on all others.

    DID, password and handle are those of `atproto`, else of the flat fields used before it; never one account's DID
    with another's password. One that is to be deleted can be used as long as there are credentials: its records have
    to go (DEL-7).
    """
    stored, held, faults = _nested(row), credentials_of(row), _faults(row)
    did = held.did
    if did is not None and _DID.fullmatch(did) is None:
        faults.append("`users.atproto.did` is not a DID")
        did = None
    missing = _missing_credentials(did, held.password, faults)
    reason, certain = deletion or ("", False)
    leaving = certain and id != GUEST_ID
    deleted = AccountDeleted(reason) if reason and (missing is not None or not leaving) else None
    created = (stored.get("createdAt"), stored.get("created"), row.get("atproto_created_at"))
    moment = next((at for value in created if (at := read_when(value)) is not None), None)
    return Account(
        id=id,
        key="",
        did=did,
        handle=handle,
        pds_handle=sound_text(stored.get("handle")) or sound_text(_flat(row).get("atproto_handle")),
        code=sound_text(row.get("code")),
        password=held.password,
        blocked=deleted or missing,
        pending_deletion=LEAVING if leaving else None,
        created=format_when(moment) if moment is not None else None,
    )


def _nested(row: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = row.get("atproto")
    return nested if isinstance(nested, Mapping) else {}


def _flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, unless its flat fields are of another DID than its `atproto`."""
    flat, nested = sound_text(row.get("atproto_did")), sound_text(_nested(row).get("did"))
    return row if flat is None or nested in (None, flat) else {}


def credentials_of(row: Mapping[str, Any]) -> Credentials:
    """The credentials of a user document, as they stand there: even a password that belongs to no DID."""
    nested = _nested(row)
    return Credentials(
        sound_text(nested.get("did")) or sound_text(row.get("atproto_did")),
        sound_text(nested.get("password")) or sound_text(_flat(row).get("atproto_password")),
    )


def _faults(row: Mapping[str, Any]) -> list[str]:
    """What is stored of the credentials of a user document and cannot be read."""
    nested = _nested(row)
    parts = {f"atproto.{name}": nested.get(name) for name in ("did", "password")}
    parts |= {name: row.get(name) for name in ("atproto_did", "atproto_password")}
    faults = [
        f"`users.{name}` is of type {type(value).__name__}, not a text"
        if not is_text(value)
        else f"`users.{name}` is not valid UTF-8"
        for name, value in parts.items()
        if value is not None and value != "" and sound_text(value) is None
    ]
    stored = row.get("atproto")
    if stored is not None and not isinstance(stored, Mapping):
        faults.append(f"`users.atproto` is of type {type(stored).__name__}, not a document")
    return faults


def _with_keys(accounts: Sequence[Account]) -> list[Account]:
    named = [(key_candidates(id=each.id, handle=each.handle, code=each.code, did=each.did), each) for each in accounts]
    keys = assign_keys((each.id, candidates, each.code) for candidates, each in named)
    return sorted((replace(each, key=keys[each.id]) for each in accounts), key=lambda each: each.key)


def _one_account_a_repository(accounts: Sequence[Account]) -> list[Account]:
    """Block whoever names a DID that is not theirs alone: two accounts mirrored into one repository undo each other.

    The guest keeps its DID, then the only one of the platform's own tenant; when that does not decide, all are blocked.
    One that is to be deleted keeps none: what would be removed may be another's.
    """
    sharing: defaultdict[str | None, list[Account]] = defaultdict(list)
    for account in accounts:
        sharing[account.did].append(account)
    blocked: dict[str, Account] = {}
    for did, group in sharing.items():
        if did is None or len(group) == 1:
            continue
        keepers = [account for account in group if account.is_guest] or [
            account for account in group if not account.id.startswith(_SISTER_TENANT)
        ]
        keeper = keepers[0] if len(keepers) == 1 and keepers[0].pending_deletion is None else None
        for account in group:
            if account is not keeper:
                others = ", ".join(sorted(other.key for other in group if other is not account))
                reason = NoCredentials(
                    f"The DID {did} stands in Mongo for {others} as well: "
                    "give each account its own (`users.atproto.did`)."
                )
                blocked[account.id] = replace(account, blocked=account.blocked or reason)
    return [blocked.get(account.id, account) for account in accounts]


def _missing_credentials(did: str | None, password: str | None, faults: Sequence[str]) -> Blocked | None:
    missing = [name for name, value in (("DID", did), ("password", password)) if not value]
    if not missing:
        return None
    remedy = (
        "it is picked up by itself once the platform, or `ac-pipeline accounts provision`, has made its PDS account."
    )
    if faults:
        remedy = f"{'; '.join(faults)}: correct it in Mongo."
    elif did:
        rotate = "`ac-pipeline accounts rotate` with its `--user`"
        remedy = f"it is picked up by itself once it is there; {rotate} says how to give it a new one."
    return NoCredentials(f"Mongo holds no {' and no '.join(missing)} for this account (`users.atproto`): {remedy}")


def _deletion(row: Mapping[str, Any] | None, *, buried: bool) -> tuple[str, bool] | None:
    """Why an account ends, by its row in `account-deletions` and its tombstone, and True if its records have to go. A
    tombstone beside a row that says otherwise is a contradiction, which no record is deleted for.
    """
    if row is None:
        gone = "The account was deleted (`account-tombstones`): nothing is written for it."
        return (gone, True) if buried else None
    state = sound_text(row.get("state")) or f"of type {type(row.get('state')).__name__}"
    if state == _CANCELLED and not buried:
        return None
    reason = (
        f"The account is to be deleted (`account-deletions`, state {state}): nothing is written for it unless its "
        "owner cancels."
    )
    return reason, state in _DELETING


def _deletion_of(database: Database[dict[str, Any]], id: str) -> tuple[str, bool] | None:
    """The same of one account, as of now."""
    with mongo_errors("look whether an account is being deleted"):
        row = platform_collection(database, "account-deletions").find_one({"_id": id}, {"state": 1})
        gone = database["account-tombstones"].find_one({"_id": _tombstone(id)}, {"_id": 1})
    return _deletion(row, buried=gone is not None)


def _tombstone(id: str) -> str:
    return sha256(id.encode(errors="surrogateescape")).hexdigest()


def _pick(accounts: Sequence[Account], selector: str) -> Account:
    """By id or key, which are unique; then by anything else an account is known by. `@` asks for a handle."""
    name = selector.strip()
    bare = name.removeprefix("@")
    lowered = bare.lower()
    ways: tuple[Callable[[Account], bool], ...] = (
        lambda each: each.id == name,
        lambda each: each.key == lowered and not name.startswith("@"),
        lambda each: each.handle == bare,
        lambda each: lowered in {p.lower() for p in (each.handle, each.code, each.did, each.pds_handle) if p},
    )
    named: list[Account] = []
    for is_meant in ways:
        named = [account for account in accounts if is_meant(account)]
        if len(named) == 1:
            return named[0]
    if named:
        keys = ", ".join(account.key for account in named)
        raise Misconfigured(f"{selector!r} names several users, with the keys {keys}: use one of these.")
    raise Misconfigured(
        f"There is no user {selector!r}: give a key, a handle, a user code, a DID or a Mongo id, "
        "as `ac-pipeline accounts` lists them."
    )


_CREDENTIAL_FIELDS: Final = ("atproto.did", "atproto.password", "atproto_did", "atproto_password")
_ATTEMPTS: Final = 5  # Tries to change a user document that somebody else keeps changing


class Kind(StrEnum):
    PROVISION = "provision"
    ROTATE = "rotate"


@dataclass(frozen=True, slots=True)
class Intent:
    """An account or a password that is being made."""

    kind: Kind
    subject: str  # Mongo id of the account to be made; the DID whose password changes
    key: str  # The account's partition key, for people
    password: str = field(repr=False)  # The new password
    at: datetime  # When it was begun, UTC
    handle: str | None = None  # The whole handle that is being tried
    email: str | None = None  # The e-mail address of the new account
    former: tuple[str, ...] = field(default=(), repr=False)  # Perhaps in force until the new one is proven


class MongoProvisioning:
    """What is unfinished of the accounts, in the pipeline's `own` database, and their credentials in the platform's."""

    def __init__(self, source: Database[dict[str, Any]], own: Database[dict[str, Any]]) -> None:
        self._source = source
        self._users = platform_collection(source, "users")
        self._intents = own_collection(own, "provisioning")

    # -------------------------------------------------------------------------------------------------------- intents

    def begin(self, intent: Intent) -> Intent:
        """Keep an intent, unless there is one of its kind and subject; the one that is kept."""
        with mongo_errors(f"write down what is to be done about the account {intent.key}"):
            kept = self._intents.find_one_and_update(
                {"_id": _name(intent.kind, intent.subject)},
                {"$setOnInsert": storable(intent)},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return intent if kept is None else value_of(Intent, kept)

    def intent(self, kind: Kind, subject: str) -> Intent | None:
        """The unfinished intent about a subject, or None."""
        with mongo_errors("read what is unfinished of the accounts"):
            found = self._intents.find_one({"_id": _name(kind, subject)})
        return None if found is None else value_of(Intent, found)

    def unfinished(self) -> list[Intent]:
        """Every intent, oldest first."""
        with mongo_errors("read what is unfinished of the accounts"):
            return sorted(
                (value_of(Intent, row) for row in self._intents.find()), key=lambda each: (each.at, each.subject)
            )

    def try_handle(self, account: str, handle: str) -> None:
        """Write down the next handle before it is tried."""
        with mongo_errors("write down the next handle of an account"):
            self._intents.update_one({"_id": _name(Kind.PROVISION, account)}, {"$set": {"handle": handle}})

    def keep_former(self, did: str, password: str) -> None:
        """Keep a password that is about to be replaced until the new one is proven."""
        with mongo_errors(f"keep the former password of {did}"):
            self._intents.update_one({"_id": _name(Kind.ROTATE, did)}, {"$addToSet": {"former": password}})

    def end(self, kind: Kind, subject: str) -> None:
        """Drop an intent: what it was about is done, or certainly did not happen."""
        with mongo_errors("drop what is done of the accounts"):
            self._intents.delete_one({"_id": _name(kind, subject)})

    # ------------------------------------------------------------------------------------------------------- platform

    def users(self) -> dict[str, Credentials]:
        """Every user document's credentials by Mongo id; reads all of them."""
        with mongo_errors("read the credentials of all users"):
            rows = self._users.find({}, dict.fromkeys(_CREDENTIAL_FIELDS, 1), batch_size=_BATCH)
            return {row["_id"]: credentials_of(row) for row in rows if is_text(row["_id"])}

    def credentials(self, account: str) -> Credentials | None:
        """What the platform holds for one account, as of now; None without a user document."""
        row = self._row(account)
        return None if row is None else credentials_of(row)

    def obstacle(self, account: str) -> str | None:
        """Why no PDS account may be made for this one, as of now; None when one may."""
        held = self.credentials(account)
        if held is None and account != GUEST_ID:
            return "the platform has no user document for it"
        if held is not None and held.did:
            return f"it has the DID {held.did}"
        if held is not None and held.password:
            return "Mongo holds a PDS password without a DID for it: find out whose it is"
        leaving = account != GUEST_ID and _deletion_of(self._source, account) is not None
        return LEAVING if leaving else None

    def store_account(
        self, account: str, did: str, handle: str, password: str, created: datetime
    ) -> Credentials | None:
        """Give the platform a new account's credentials, unless it holds any; what it holds afterwards. A user document
        is made for the guest only. None: there is no user document.
        """
        held: Credentials | None = None
        # The platform's own writers have called it `created`, and `createdAt` since 2026.
        values = {"did": did, "handle": handle, "password": password, "created": created, "createdAt": created}

        def change(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
            nonlocal held
            held = None if row is None and account != GUEST_ID else credentials_of(row or {})
            return None if held is None or held.did or held.password else _in_atproto(row or {}, values)

        return Credentials(did, password) if self._store(account, change) else held

    def store_password(self, account: str, did: str, password: str) -> bool:
        """Give the platform the new password of a DID, in each form it holds this DID in; False when it is not there.
        Raises ServerFailed when somebody else keeps changing the document.
        """

        def change(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
            if row is None or credentials_of(row).did != did:
                return None
            flat = {"atproto_password": password} if row.get("atproto_did") == did else {}
            return {**_in_atproto(row, {"did": did, "password": password}), **flat}

        return self._store(account, change)

    def store_handle(self, account: str, did: str, handle: str, now: datetime) -> bool:
        """Write down the PDS handle of a DID; otherwise as `store_password`."""

        def change(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
            if row is None or credentials_of(row).did != did:
                return None
            flat = {"atproto_handle": handle} if row.get("atproto_did") == did else {}
            if not isinstance(row.get("atproto"), Mapping):
                return flat
            return {"atproto.handle": handle, "atproto.syncedAt": format_when(int(now.timestamp() * 1000)), **flat}

        return self._store(account, change)

    def _store(self, account: str, change: Callable[[Mapping[str, Any] | None], dict[str, Any] | None]) -> bool:
        """Change a user document as long as its credentials are those that were read, else look again; False when
        `change` has nothing to change in it."""
        for _ in range(_ATTEMPTS):
            row = self._row(account)
            changes = change(row)
            if changes is None:
                return False
            with mongo_errors("store the credentials of an account"):
                try:
                    done = self._users.update_one(_unchanged(account, row), {"$set": changes}, upsert=row is None)
                except DuplicateKeyError:  # somebody else has made the guest's document meanwhile
                    continue
            if done.matched_count == 1 or done.upserted_id is not None:
                return True
        who = "the guest account" if account == GUEST_ID else "a user"
        raise ServerFailed(f"The credentials of {who} in Mongo keep changing while they are stored. Run this again.")

    def waiting(self) -> dict[str, int]:
        """Documents without a record by Mongo id of their owner, removed ones left out; owners without are absent."""
        counts: dict[str, int] = {}
        for media in MEDIA_TYPES:
            stages = [
                {"$match": {**unlinked(media), "$nor": WITHDRAWN["$or"]}},
                {"$group": {"_id": "$user", "number": {"$sum": 1}}},
            ]
            with mongo_errors(f"count the {media.plural} without a record"):
                collection = platform_collection(self._source, media.collection)
                rows = list(collection.aggregate(stages, batchSize=_BATCH))
            for row in rows:
                id = GUEST_ID if is_guest(row["_id"]) else row["_id"]
                if is_text(id):
                    counts[id] = counts.get(id, 0) + int(row["number"])
        return counts

    def _row(self, account: str) -> dict[str, Any] | None:
        with mongo_errors("read the credentials of an account"):
            return self._users.find_one({"_id": account}, {"atproto": 1, **dict.fromkeys(_CREDENTIAL_FIELDS[2:], 1)})


def _unchanged(account: str, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A filter for the user document with the very credentials that were read."""
    query: dict[str, Any] = {"_id": account}
    if row is None:
        return {**query, "atproto": {"$exists": False}}
    nested = row.get("atproto")
    query["atproto"] = {"$type": "object"} if isinstance(nested, Mapping) else {"$not": {"$type": "object"}}
    for path in _CREDENTIAL_FIELDS:
        outer, _, inner = path.partition(".")
        place = nested if inner else row
        name = inner or outer
        if isinstance(place, Mapping):
            query[path] = place.get(name, {"$exists": False})
    return query


def _in_atproto(row: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What to set so that these stand in `atproto`, whatever stands there now; other fields of it stay."""
    if isinstance(row.get("atproto"), Mapping):
        return {f"atproto.{name}": value for name, value in values.items()}
    return {"atproto": dict(values)}


def _name(kind: Kind, subject: str) -> str:
    return f"{kind.value} {subject}"
