"""The account jobs' port in memory: canned answers, and a log of everything that was asked to be changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.operations.accounts import AccountLine, AccountState
from ac_pipeline.operations.handles import Handle, HandleState
from ac_pipeline.operations.provision_plan import Planned, ProvisionPlan
from ac_pipeline.operations.provisioning import Made, Outcome, ProvisionReport
from ac_pipeline.operations.registration import Guest, Rotation, Told
from ac_pipeline.operations.rotation import Rotated
from ac_pipeline.operations.sign_ins import UNREACHED, SignedIn
from ac_pipeline.operations.visibility import Difference, Visibility

SECRET = "the-password-of-ada"


class ScriptedRegistrar:
    """The port `Registrar`. `ada` is ready, `bea` has a wrong password, `cleo` and `dora` have no account yet.

    Attributes:
        changes: Every call that is meant to change something.
        error: What every call raises.
        stopped: What ends the making of accounts after the first one.
        there: Whether there is a guest account.
        outcome: How the first account ends.
        silent: How many accounts the PDS gives no answer about.
        repaired: How the repair of a handle ends.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[object, ...]] = []
        self.error: PipelineError | None = None
        self.stopped: Transient | None = None
        self.there = False
        self.outcome = Outcome.MADE
        self.silent = 0
        self.repaired = HandleState.REPAIRED

    def accounts(self, users: Sequence[str]) -> list[AccountLine]:
        self._may_fail()
        refused = "the PDS refused the password at the last run"
        return [
            AccountLine("ada", "ada", "ada.test", "did:plc:ada", AccountState.READY),
            AccountLine("bea", "bea", None, "did:plc:bea", AccountState.BLOCKED, "wrong-password", refused, 2),
            AccountLine("cleo", None, None, None, AccountState.UNPROVISIONED, "no-credentials", "no DID in Mongo"),
        ]

    def sign_ins(self, users: Sequence[str]) -> Iterator[SignedIn]:
        self._may_fail()
        yield SignedIn("ada", "did:plc:ada", "ok", handle="ada.test", note="Mongo has the handle older.test")
        yield SignedIn("bea", "did:plc:bea", "wrong-password", "refused")
        yield SignedIn("cleo", None, "unprovisioned")
        for number in range(self.silent):
            yield SignedIn(f"silent{number}", "did:plc:x", UNREACHED, "no answer")

    def visibility(self, *, by_list: bool) -> Visibility:
        self._may_fail()
        pds, relay = {"active": 2, "throttled": 0, "unknown": 0}, {"active": 1, "throttled": 1, "unknown": 0}
        slow = Difference("bea", "did:plc:bea", "active", "throttled")
        return Visibility(pds, relay, (slow,), "relay.test" + (" by list" if by_list else ""))

    def plan_accounts(self, users: Sequence[str], limit: int | None) -> ProvisionPlan:
        self._may_fail()
        wanted = [
            Planned(Account(f"auth0|{name}", name, password=SECRET), (f"{name}.test", "ac25.test"), f"{name}@e.test")
            for name in ("cleo", "dora")
        ]
        return ProvisionPlan(tuple(wanted[:limit]), (("eve", "its owner's account is being deleted"),))

    def make_accounts(
        self, users: Sequence[str], limit: int | None, confirm: int, why: str, told: Told
    ) -> ProvisionReport:
        number = len(self.plan_accounts(users, limit).accounts)
        if confirm != number:
            raise Misconfigured(f"{number} accounts would be made, not {confirm}: nothing was made.")
        self.changes.append(("provision", tuple(users), limit, why))
        told(25, 50)
        return self._report("cleo", number)

    def guest(self) -> Guest:
        self._may_fail()
        return Guest("did:plc:guest", "art.test", password=False) if self.there else Guest(None, None, password=False)

    def plan_guest(self) -> Planned:
        return Planned(Account(GUEST_ID, GUEST_ID), ("art.test",), "art@e.test")

    def make_guest(self, why: str) -> Guest | ProvisionReport:
        self.changes.append(("guest", why))
        return self._report(GUEST_ID, 1)

    def handles(self, users: Sequence[str]) -> list[Handle]:
        self._may_fail()
        return [
            Handle("ada", "did:plc:ada", "ada", "ada.test", "ada.test", "ada.test", HandleState.RIGHT),
            Handle("bea", "did:plc:bea", "b_a", "bea.test", "bea.test", "b-a.test", HandleState.DIFFERS),
        ]

    def repair_handles(self, users: Sequence[str], confirm: int, why: str) -> list[Handle]:
        if confirm != 1:
            raise Misconfigured(f"1 handles would be repaired, not {confirm}: nothing was changed.")
        ada, bea = self.handles(users)
        self.changes.append(("handles", tuple(users), why))
        return [ada, replace(bea, pds="b-a.test", mongo="b-a.test", state=self.repaired)]

    def plan_rotation(self, user: str) -> Rotation:
        self._may_fail()
        return Rotation(Account("auth0|ada", "ada", "did:plc:ada", password=SECRET), "did:plc:ada")

    def rotate(self, user: str, why: str) -> Rotated:
        self._may_fail()
        self.changes.append(("rotate", user, why))
        return Rotated("ada", "did:plc:ada")

    def _report(self, user: str, number: int) -> ProvisionReport:
        made = [Made(user, self.outcome, f"{user}.test", f"did:plc:{user}")]
        return ProvisionReport(made, number - 1 if self.stopped else 0, self.stopped)

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error
