"""Passwords of PDS accounts: signing in with the one in Mongo, and giving a new one. None leaves here (ACCT-5)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from ac_pipeline import errors
from ac_pipeline.accounts import Account
from ac_pipeline.atproto.admin import Administration
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.mongo.accounts import Intent, Kind, MongoProvisioning
from ac_pipeline.operations.accounts.listing import UNKNOWN, hosted_repositories
from ac_pipeline.operations.accounts.provisioning import alone, new_password
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import (
    OfUsers,
    Parameters,
    chosen_accounts,
    confirms_name,
    option,
    why_option,
)
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.sync.ports import Ledger
from ac_pipeline.wiring import new_run_id

OK, UNPROVISIONED, UNREACHED = "ok", "unprovisioned", "unreached"
"""States besides those the PDS names, and `wrong-password`, `no-credentials` and `blocked`."""

LONGEST_PAUSE: Final = 310.0  # Seconds to wait for a limit that counts in windows of 5 minutes

_SIGN_INS_AT_ONCE: Final = 10  # A PDS takes 20 sign-ins a second at best, ten at once (atproto facts, Writing)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """How an account's sign-in ended."""

    user: str
    did: str | None  # As Mongo holds it
    # `ok`, `wrong-password`, `deactivated`, `takendown` or another state the PDS names, `unknown` (the PDS does not
    # host the DID), `no-credentials`, `blocked`, `unprovisioned` (no DID: nothing to check), or `unreached` (no answer,
    # or too many sign-ins)
    state: str
    reason: str = ""
    handle: str | None = None  # On the PDS, where its administrator asked
    note: str = ""  # A handle that differs from Mongo's


@declared("accounts verify", "verify_credentials", "sign_in_as_each_user")
def run_verify(work: Work, parameters: OfUsers) -> Report:
    """Sign in as every account with the password Mongo holds, and show whom the PDS refuses and why.

    Changes nothing; `accounts rotate` gives an account a new password.
    """
    accounts, server = chosen_accounts(work.pipeline, parameters.users), work.pipeline.administration
    hosted = hosted_repositories(work.pipeline)
    checks = for_accounts(
        accounts,
        lambda account: check_sign_in(account, server, hosted, time.sleep),
        _SIGN_INS_AT_ONCE,
        lambda account, error: SignedIn(account.key, account.did, UNREACHED, error.message),
        ordered=True,
    )
    found = [asdict(each) for _, each in work.watch("Signing in")(checks, len(accounts))]
    totals = dict(sorted(Counter(each["state"] for each in found).items()))
    failed = [each for each in found if each["state"] not in (OK, UNPROVISIONED)]
    unreached = totals.get(UNREACHED, 0)
    headline = f"The PDS refuses {len(failed)} of {len(found)} accounts."
    if unreached:
        headline = f"{unreached} accounts could not be asked for: run this again."
    return Report(
        headline,
        {"states": totals, "accounts": found},
        [
            Table.counts("states", totals, "state", title="Sign-ins"),
            Table("refused_accounts", ("user", "did", "state", "reason")).extend(failed),
            Table("notes", ("user", "handle", "note")).extend(each for each in found if each["note"]),
        ],
        {"accounts": len(found), "refused": len(failed) - unreached},
        exit_code=3 if unreached else 1 if failed else 0,
        failed=bool(unreached),
    )


def check_sign_in(
    account: Account, server: Administration, hosted: Mapping[str, RepositoryStatus], sleep: Callable[[float], None]
) -> SignedIn:
    """Sign in as an account. `hosted` is every repository of the PDS by DID; `sleep` waits that many seconds. Raises
    Misconfigured where the administrator's password is wrong."""
    if account.did is None:
        return SignedIn(account.key, None, UNPROVISIONED, "the platform has made no PDS account for it")
    known, found = hosted.get(account.did), SignedIn(account.key, account.did, OK)
    try:
        _prove(account, server, sleep)
    except errors.Blocked as error:
        state, reason = error.code, error.message
        if isinstance(error, errors.WrongPassword) and known is None:
            state, reason = UNKNOWN, f"the PDS does not host {account.did}"
        elif isinstance(error, errors.AccountUnknown):
            state = UNKNOWN
        elif isinstance(error, errors.AccountInactive):
            state = (known.status if known is not None and not known.active else None) or error.answer or "inactive"
        found = replace(found, state=state, reason=reason)
    except errors.Transient as error:
        return replace(found, state=UNREACHED, reason=error.message)
    if not server.authorised:
        return found
    try:
        handle = server.account_info(account.did).handle
    except errors.AccountUnknown as error:
        return replace(found, state=UNKNOWN, reason=error.message)
    except errors.Transient as error:
        return replace(found, note=error.message)
    differs = account.pds_handle is not None and handle != account.pds_handle
    return replace(found, handle=handle, note=f"Mongo has the handle {account.pds_handle}" if differs else "")


def _prove(account: Account, server: Administration, sleep: Callable[[float], None]) -> None:
    try:
        server.prove(account)
    except errors.RateLimited as error:
        if error.retry_after is None or error.retry_after > LONGEST_PAUSE:
            raise
        sleep(max(error.retry_after, 1.0))
        server.prove(account)


class RotateParameters(Parameters):
    user: str = option("", "Whose: partition key, handle, user code, DID or Mongo id.", metavar="KEY")
    confirm: str = option("", "The user's partition key, as the preview names it.", metavar="KEY")
    why: str = why_option()


@declared("accounts rotate", "rotate_password", "rotate_one_password")
def run_rotate(work: Work, parameters: RotateParameters) -> Report:
    """Give an account a new password, on the PDS and in Mongo, and prove it; shown nowhere.

    It needs PDS_ADMIN_PASSWORD. After an interruption the same again repairs what was half done.
    """
    pipeline, named = work.pipeline, parameters.user.strip()
    if not named:
        raise errors.Misconfigured("No user is named, so nothing was done: say whose password shall change.")
    account = pipeline.accounts.find(named)
    did, key = may_rotate(account, pipeline.accounts.all()), account.key
    if not confirms_name(parameters.confirm, key):
        headline, json = f"The password of {key} ({did}) would be changed.", {"user": key, "did": did}
        return Report(headline, json, facts={**json, "changed": False}, confirm=key, exit_code=2)
    with alone(pipeline), pipeline.audit.during("rotate-password", [account], (), why=parameters.why):
        server, store = pipeline.administration, pipeline.provisioning
        done = rotate(account, did, server=server, store=store, ledger=pipeline.ledger)
    return Report(
        f"The password of {key} ({did}) was changed, stored and proven.",
        asdict(done),
        facts={"user": key, "did": did, "changed": True},
        lines=[done.note] if done.note else [],
    )


@dataclass(frozen=True, slots=True)
class Rotated:
    """A password that was changed."""

    user: str
    did: str
    repaired: bool = False  # True if an interrupted change was brought to its end
    note: str = ""  # What the PDS says of the account, where it is not active


def may_rotate(account: Account, accounts: Sequence[Account]) -> str:
    """The DID of an account whose password may be changed. Raises Misconfigured where it has none, or one that others
    of all accounts have too: their copy of the password would be wrong."""
    if account.did is None:
        raise errors.Misconfigured(
            f"{account.key} has no PDS account: `ac-pipeline accounts provision --user {account.key} "
            "--confirm 1` makes one."
        )
    sharing = [other.key for other in accounts if other.did == account.did and other.id != account.id]
    if sharing:
        raise errors.Misconfigured(
            f"The DID of {account.key} stands in Mongo for {', '.join(sharing)} as well: give each its own first."
        )
    return account.did


def rotate(account: Account, did: str, *, server: Administration, store: MongoProvisioning, ledger: Ledger) -> Rotated:
    """Give an account a new password, and the platform with it.

    Args:
        did: As `may_rotate` gave it.
        ledger: Makes us the only writer of the repository: no sync of it meets a password that has just changed.

    Raises:
        AccountUnknown: The PDS does not host the account; nothing was changed.
        Misconfigured: The administrator's password is missing or wrong; nothing was changed.
        HeldBack: The platform does not hold this DID any more.
        WrongPassword: The PDS does not take the password it was given; all of them are kept.
        Transient: Something did not answer. Running it again repairs whatever was half done.
    """
    server.account_info(did)
    with ledger.lease(did, new_run_id()):
        fresh = Intent(Kind.ROTATE, did, account.key, new_password(), datetime.now(UTC))
        intent = store.begin(fresh)
        held = store.credentials(account.id)
        if held is None or held.did != did:
            raise errors.HeldBack(f"The platform does not hold {did} for {account.key} any more: nothing was changed.")
        if held.password is not None and held.password not in (intent.password, *intent.former):
            store.keep_former(did, held.password)
        server.update_password(did, intent.password)
        if not store.store_password(account.id, did, intent.password):
            raise errors.HeldBack(
                f"The password of {did} was changed, but the platform does not hold it for {account.key} any more. "
                "Old and new are kept: look at the user's document, then run this again."
            )
        server.forget(did)
        note = ""
        try:
            server.prove(replace(account, did=did, password=intent.password, blocked=None))
        except errors.AccountInactive as error:  # said only to whoever has the right password
            note = error.message
        store.end(Kind.ROTATE, did)
    return Rotated(account.key, did, repaired=intent.password != fresh.password, note=note)
