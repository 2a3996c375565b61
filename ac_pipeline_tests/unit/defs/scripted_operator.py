"""The operators' port in memory: canned answers, and a log of everything that was asked to be changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon_evolution import Change, Effect
from ac_pipeline.defs.operator import Take, Types, Users
from ac_pipeline.errors import Misconfigured, NoCredentials, PipelineError
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.differences import CHANGED, Difference
from ac_pipeline.operations.documents import Lost
from ac_pipeline.operations.erasure import Erasure
from ac_pipeline.operations.flight_plan import FlightPlan
from ac_pipeline.operations.forget import Forgetting
from ac_pipeline.operations.lexicons import LexiconCheck, Publication, Scan
from ac_pipeline.operations.links import Examination
from ac_pipeline.operations.price import Price
from ac_pipeline.operations.restore_plan import RestorePlan
from ac_pipeline.operations.restore_report import RestoreReport
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.operations.settling import Accepted
from ac_pipeline.operations.wipe import WipeReport
from ac_pipeline.operations.wipe_plan import WipePlan
from ac_pipeline.sync.agreement import PlannedOperation
from ac_pipeline.sync.costs import Bill, UserCost
from ac_pipeline.sync.forecast import USUAL
from ac_pipeline.sync.lexicon_gate import Comparison
from ac_pipeline.sync.report import AccountReport, Tally
from ac_pipeline.sync.selection import Selection

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class ScriptedOperator:
    """The port `Operator`. One user, `ada`, with three moods; one lost document; one finding nobody can heal.

    Attributes:
        changes: Every call that is meant to change something.
        plans: Every selection that was planned.
        operations: How many a plan has.
        error: What every call raises.
        stopped: What ends a wipe or a restore in the middle.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[object, ...]] = []
        self.plans: list[tuple[Users, Selection, int | None]] = []
        self.operations = 3
        self.error: PipelineError | None = None
        self.stopped: PipelineError | None = None

    def plan(self, users: Users, selection: Selection, relay: int | None, take: Take) -> FlightPlan:
        self._may_fail()
        self.plans.append((tuple(users), selection, relay))
        bill = Bill(NOW, USUAL)
        priced = bill.add(UserCost("ada", "did:plc:ada", self.operations, 6_000, 2, 900, 2, 1, 600))
        for number in range(self.operations):
            take(PlannedOperation(f"mood:{number}", "ada", "create", "new", str(number), "bafy"))
        counts = Counter({"create": self.operations})
        return FlightPlan("ab" * 32, bill.total(), 1, counts, [priced], {"bea": "no password"}, [], USUAL, saved=True)

    def plan_wipe(self, user: str, types: Types) -> WipePlan:
        self._may_fail()
        records = {media.name: 3 if media.addressed_by_key else 0 for media in types}
        return WipePlan(user, records, 0, 3, Price(3, 1, 3), None, None, "hash")

    def wipe(self, user: str, types: Types, confirm: int, why: str, run_id: str) -> WipeReport:
        if confirm != 3:
            raise Misconfigured(f"3 records of {user} would be deleted, not {confirm}.")
        self.changes.append(("wipe", user, tuple(media.name for media in types), confirm, why))
        return WipeReport(user, ["snapshot-1"], {"mood": 3}, 0, 3, on_hold=["mood"], error=self.stopped)

    def plan_restore(
        self, user: str, types: Types, source: str, take: Take, *, overwrite: bool = False
    ) -> RestorePlan | FlightPlan:
        self._may_fail()
        if source == "mongo":
            return self.plan([user], Selection(types=tuple(types)), None, take)
        return RestorePlan(user, ("snapshot-1",))

    def restore(
        self, user: str, types: Types, source: str, why: str, run_id: str, *, overwrite: bool = False
    ) -> RestoreReport:
        self.changes.append(("restore", user, source, why))
        return RestoreReport(user, source, {"mood": 3}, error=self.stopped)

    def snapshot(self, user: str, types: Types) -> Snapshot:
        self._may_fail()
        self.changes.append(("snapshot", user))
        return self.snapshot_of(user, *(media.name for media in types))

    @staticmethod
    def snapshot_of(user: str, *types: str) -> Snapshot:
        return Snapshot("snapshot-1", f"auth0|{user}", user, "did:plc:ada", NOW, types, "bafy", "sha", {"mood": 3})

    def examine(self, users: Users, types: Types) -> Iterator[Examination]:
        self._may_fail()
        yield Examination(Account("auth0|ada", "ada"))

    def heal(self, users: Users, types: Types, run_id: str, why: str) -> Iterator[AccountReport]:
        self.changes.append(("heal", tuple(users), why))
        yield AccountReport("ada", types={"mood": Tally(healed=2)}, error=self.stopped)

    def lost_documents(self, users: Users, types: Types) -> Iterator[Lost | LeftOut]:
        self._may_fail()
        yield Lost("mood", "mood:1", "ada", "at://did:plc:ada/x/1", document={"_id": 1})
        yield LeftOut("bea", NoCredentials("no password"))

    def restore_documents(self, users: Users, types: Types, confirm: int, why: str) -> Iterator[Lost | LeftOut]:
        if confirm != 1:
            raise Misconfigured(f"1 documents can be rebuilt, not {confirm}: nothing was inserted.")
        self.changes.append(("restore-documents", tuple(users), why))
        yield Lost("mood", "mood:1", "ada", "at://did:plc:ada/x/1", document={"_id": 1})

    def erasures(self, users: Users, types: Types) -> Iterator[Erasure | LeftOut]:
        self._may_fail()
        yield Erasure("mood:1", "ada", "it is nuked", ("at://did:plc:ada/x/1",), True)
        yield Erasure("tape:1", "ada", "it is nuked", renditions=("bafk1", "bafk2"))
        yield Erasure("mood:2", "ada", "it is nuked", gone_at=NOW)
        yield LeftOut("bea", NoCredentials("no password"))

    def plan_forgetting(self, user: str, ids: Sequence[str]) -> Forgetting:
        self._may_fail()
        return Forgetting((self.snapshot_of("ada"),), 2, 1, 0)

    def forget(self, user: str, ids: Sequence[str], confirm: int, why: str) -> Forgetting:
        if confirm != 1:
            raise Misconfigured(f"1 snapshots would be deleted, not {confirm}: nothing was deleted.")
        self.changes.append(("forget", user, tuple(ids), why))
        return Forgetting((self.snapshot_of("ada"),), 2, 1, 0)

    def differences(self, users: Users, selection: Selection) -> Iterator[Difference | LeftOut]:
        self._may_fail()
        yield self.difference("a" * 24)
        yield self.difference("b" * 24, refusal="it has no text")
        yield LeftOut("bea", NoCredentials("no password"))

    def push_ours(
        self, users: Users, selection: Selection, confirm: int, why: str, run_id: str
    ) -> Iterator[AccountReport | LeftOut]:
        if confirm != 2:
            raise Misconfigured(f"2 items can be pushed, not {confirm}: nothing was written.")
        self.changes.append(("push-ours", tuple(users), selection.items, why))
        yield LeftOut("bea", NoCredentials("no password"))
        yield AccountReport("ada", types={"mood": Tally(updated=2)}, error=self.stopped)

    def accept_theirs(self, users: Users, selection: Selection, confirm: int, why: str) -> Iterator[Accepted | LeftOut]:
        if confirm != 1:
            raise Misconfigured(f"1 items can be taken over, not {confirm}: nothing was changed.")
        self.changes.append(("accept-theirs", tuple(users), selection.items, why))
        yield Accepted(self.difference("a" * 24), "it changed in between" if self.stopped else "")
        yield Accepted(self.difference("b" * 24), "it has no text")

    @staticmethod
    def difference(id: str, refusal: str = "") -> Difference:
        mood = media_type("mood")
        document = interpret(mood, {"_id": ObjectId(id), "user": "auth0|ada", "mood": "ours", "when": NOW})
        uri, fields = f"at://did:plc:ada/{mood.nsid}/3jzfcijpj2z2a", {"mood": ("ours", "theirs")}
        return Difference(mood, "ada", document, CHANGED, uri, fields, {"mood": "theirs"}, refusal)

    def check_lexicons(self, *, records: bool) -> LexiconCheck:
        self._may_fail()
        nsid = media_type("mood").nsid
        change = Change("main.record.mood", Effect.BREAKING, "maxLength was 6000, and is 5000")
        found = Scan({nsid: 3}, {nsid: 1}, [(f"at://did:plc:ada/{nsid}/1", "no mood")], [("bea", "no password")])
        return LexiconCheck([Comparison(nsid, True, (change,))], "did:plc:lexi", found if records else None)

    def publish_lexicons(self, *, dry_run: bool, why: str) -> Publication:
        self._may_fail()
        if not dry_run:
            self.changes.append(("publish", why))
        dns = ['_lexicon.aesthetic.computer. TXT "did=did:plc:a"']
        return Publication([Comparison(media_type("mood").nsid, False)], dns)

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error
