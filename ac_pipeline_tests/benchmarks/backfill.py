"""A backfill of all assets over hundreds of users by a real Dagster, with its daemon, and what comes of its failures.

One user is heavy, some cannot be read for a while (object storage answers 503), and some items can never be published.
Then storage is well again and the backfill is re-executed from failure, as the button of the UI does, and at last
launched as a whole a second time. Says what it saw and what it expected; the exit code is 1 when they differ.

Run it with `make bench-backfill`; `--users 60` takes a few minutes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ac_pipeline.defs.assets.catalog import RECORDS_A_RUN, RENDITIONS_A_RUN
from ac_pipeline.items import State
from ac_pipeline.local.dagster_ui import Backfill
from ac_pipeline.local.seed.plan import KIDLISP, MOODS, PAINTINGS, PIECES, TAPES, Kind, Share, item, user_document
from ac_pipeline.local.seed.values import COLLECTIONS, Item, Maker, Outcome, Person, Situation
from ac_pipeline.local.services.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.local.services.stack import HANDLE_DOMAIN, LocalServices
from ac_pipeline.mongo.database import connect
from ac_pipeline.settings import Settings
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import Verification, verify_accounts
from ac_pipeline.wiring import Pipeline, open_pipeline
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.dagster_home import DagsterHome, Partitions, Run, Ui
from ac_pipeline_tests.scripted_storage import ObjectServer

FAILING, BLOCKED = 5, 2
HEAVY = 0
QUARANTINED: Sequence[tuple[Share, str]] = (
    (PAINTINGS, "corrupt picture"),
    (PAINTINGS, "not a picture"),
    (PAINTINGS, "source missing"),
    (MOODS, "no text"),
    (MOODS, "too many bytes"),
    (KIDLISP, "no source"),
    (TAPES, "corrupt ZIP"),
)
STAGES = ("renditions", "atproto")
PATIENCE = 600.0
ACCOUNTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Population:
    """Who there is, and what they made.

    Args:
        failing: Keys of those whose media cannot be read at first.
        quarantined: Ids of items that can never be published, `type:ObjectId`.
    """

    people: tuple[Person, ...]
    items: tuple[Item, ...]
    failing: frozenset[str]
    quarantined: frozenset[str]

    @property
    def heavy(self) -> str:
        return key_of(self.people[HEAVY])


@dataclass(slots=True)
class Findings:
    """What was expected and did not come."""

    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, wanted: object) -> None:
        well = found == wanted
        shown, asked = (sorted(each) if isinstance(each, frozenset) else each for each in (found, wanted))
        say(f"  {'ok' if well else 'NOT AS EXPECTED'}: {what}: {shown}{'' if well else f', expected {asked}'}")
        if not well:
            self.wrong.append(what)


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def key_of(person: Person) -> str:
    return str(person.handle)


def populate(users: int, heavy: int) -> Population:
    """The values of everybody's work: a few items of each type, many of one user."""
    maker = Maker(1)
    step = users // (FAILING + len(QUARANTINED) + BLOCKED + 1)
    places = [step * (number + 1) for number in range(FAILING + len(QUARANTINED) + BLOCKED)]
    failing, bad, blocked = places[:FAILING], places[FAILING:-BLOCKED], set(places[-BLOCKED:])
    people = tuple(
        Person(
            id=f"auth0|{maker.hex(24)}",
            code=f"ac25{maker.hex(5)}",
            handle=f"user-{number:04}",
            password=maker.password(),
            situation=Situation.NO_CREDENTIALS if number in blocked else Situation.READY,
        )
        for number in range(users)
    )
    items: list[Item] = []
    for number, person in enumerate(people):
        counts = {MOODS: 2, KIDLISP: 3, PIECES: int(number % 5 == 0)}
        counts[PAINTINGS] = 1 + number % 3 if number % 5 < 3 or number in failing else 0
        counts[TAPES] = int(number % 50 == 7)
        if number == HEAVY:
            counts = {share: math.ceil(heavy * part) for share, part in HEAVY_SHARES.items()}
        for share, count in counts.items():
            items += [item(maker, share.type, plain(share), person) for _ in range(count)]
    impossible = [
        item(maker, share.type, special(share, name), people[place])
        for (share, name), place in zip(QUARANTINED, bad, strict=True)
    ]
    return Population(
        people,
        (*items, *impossible),
        frozenset(key_of(people[place]) for place in failing),
        frozenset(f"{one.type}:{one.document['_id']}" for one in impossible),
    )


HEAVY_SHARES = {
    KIDLISP: 0.78,
    MOODS: 0.1,
    PIECES: 0.02,
    PAINTINGS: 0.098,
    TAPES: 0.002,
}


def plain(share: Share) -> Kind:
    return share.plain_user[0]


def special(share: Share, name: str) -> Kind:
    (kind,) = [kind for kind in share.special if kind.name == name]
    return kind


def settle(population: Population, database: Any, accounts: PdsAccounts, storage: ObjectServer) -> None:
    """Put everything where the platform has it."""

    def create(person: Person) -> NewAccount | None:
        if person.situation is not Situation.READY:
            return None
        return accounts.create(f"{person.handle}{HANDLE_DOMAIN}", person.password)

    with ThreadPoolExecutor(ACCOUNTS_AT_ONCE) as pool:
        made = list(pool.map(create, population.people))
    documents = [
        user_document(person, new.did if new else None, new.handle if new else None)
        for person, new in zip(population.people, made, strict=True)
    ]
    database["users"].insert_many([document for document in documents if document is not None])
    database["@handles"].insert_many([{"_id": one.id, "handle": one.handle} for one in population.people])
    for type, collection in COLLECTIONS.items():
        database[collection].create_index("user")
        database[collection].insert_many([one.document for one in population.items if one.type == type])
    for one in population.items:
        for stored in one.objects:
            storage.put(stored.bucket, stored.key, stored.make())
            if one.owner is not None and key_of(one.owner) in population.failing:
                storage.fail(stored.bucket, stored.key, 503)


def heal(population: Population, storage: ObjectServer) -> None:
    for one in population.items:
        for stored in one.objects:
            storage.heal(stored.bucket, stored.key)


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    say(f"==> {what}")
    yield
    say(f"    {time.monotonic() - begun:.0f} s")


@dataclass(slots=True)
class Bench:
    """One Dagster on one population."""

    population: Population
    pipeline: Pipeline
    ui: Ui
    findings: Findings
    assets: list[list[str]]
    keys: list[str]

    def watch(self, backfill: str) -> tuple[Backfill, float]:
        begun, last = time.monotonic(), 0.0

        def show(state: Backfill) -> None:
            nonlocal last
            if time.monotonic() - last > 30:
                last = time.monotonic()
                done, asked = sum(one.done for one in state.assets), sum(one.targeted for one in state.assets)
                failed = sum(one.failed for one in state.assets)
                say(f"    {time.monotonic() - begun:4.0f} s: {done} of {asked} partitions, {failed} failed")

        ended = self.ui.wait_for_backfill(backfill, show)
        return ended, time.monotonic() - begun

    def first(self) -> str:
        """The backfill with failures."""
        backfill = self.ui.launch_backfill(self.assets, self.keys)
        ended, seconds = self.watch(backfill)
        runs = self.ui.runs(backfill)
        say(f"    {ended.status} after {seconds:.0f} s")
        self._show_runs(runs)
        failed = self._show_partitions()
        self._show_reasons(runs)
        self.findings.expect("users with failed partitions", failed, self.population.failing)
        self.findings.expect("the backfill has ended", ended.status, "COMPLETED_FAILED")
        self._judge_runs(len(runs), gaps=len(self.population.failing))
        self._show_quarantine()
        self._show_heavy()
        return backfill

    def again(self, backfill: str) -> None:
        """Re-executed from failure, as the UI's button does."""
        repeated = self.ui.reexecute_failed(backfill)
        ended, seconds = self.watch(repeated)
        runs = self.ui.runs(repeated)
        say(f"    {ended.status} after {seconds:.0f} s")
        self._show_runs(runs)
        for run in runs:
            say(f"    {run.status:8} {', '.join(run.keys(self.keys))}: {', '.join(run.assets)}")
        ran = frozenset(key for run in runs for key in run.keys(self.keys))
        self.findings.expect("users that ran again", ran, self.population.failing)
        self.findings.expect("failed partitions after it", self._show_partitions(), frozenset())
        self.findings.expect("the backfill has ended", ended.status, "COMPLETED_SUCCESS")

    def whole(self) -> None:
        """The whole a second time: nothing is left to do."""
        heads = {each.did: each.head for each in self.pipeline.server.list_repositories()}
        backfill = self.ui.launch_backfill(self.assets, self.keys)
        ended, seconds = self.watch(backfill)
        runs = self.ui.runs(backfill)
        say(f"    {ended.status} after {seconds:.0f} s")
        self._show_runs(runs)
        self._judge_runs(len(runs), gaps=0)
        after = {each.did: each.head for each in self.pipeline.server.list_repositories()}
        self.findings.expect("the backfill has ended", ended.status, "COMPLETED_SUCCESS")
        self.findings.expect("repositories that changed", sum(after[did] != head for did, head in heads.items()), 0)
        written = Counter[str]()
        for asset in self.assets:
            if asset[0] == "atproto":
                written.update({name: self.ui.counts(asset).get(name, 0) for name in ("written", "deleted")})
        self.findings.expect("writes it reports", dict(written), {"written": 0, "deleted": 0})

    def verify(self) -> None:
        """Every record and blob against the documents, and their number against the plan of the population."""
        total = Verification()
        accounts = self.pipeline.accounts.all()
        for one in verify_accounts(
            self.pipeline.engine, accounts, Selection(), self.pipeline.settings.ac_concurrent_users
        ):
            total.add(one)
        expected = sum(one.outcome is Outcome.PUBLISHED for one in self.population.items)
        self.findings.expect("records that are right", total.verified, expected)
        self.findings.expect("blobs that are there", total.blobs_verified, total.blobs_expected)
        wrong = (total.missing, total.extra, total.different, total.duplicates)
        self.findings.expect("missing, extra, different, twice", wrong, (0, 0, 0, 0))

    def _judge_runs(self, count: int, gaps: int) -> None:
        """Against what the policies allow: at worst paintings and tapes come apart, and a range is split at every gap
        and where the daemon looked while a run of renditions was saying who is done."""
        size = len(self.keys)
        renditions, records = math.ceil(size / RENDITIONS_A_RUN), math.ceil(size / RECORDS_A_RUN)
        fewest, most = renditions + 2 * records, 3 * renditions + 3 * records + gaps
        self.findings.expect(f"at least {fewest} and at most {most} runs", fewest <= count <= most, True)

    def _show_runs(self, runs: Sequence[Run]) -> None:
        kinds: Counter[tuple[str, ...]] = Counter()
        for run in runs:
            kinds[run.assets] += 1
        spent = [run.ended - run.started for run in runs if run.ended and run.started]
        if spent:
            middle, longest = statistics.median(spent), max(spent)
            say(f"    {len(runs)} runs of {middle:.1f} s in the middle, {longest:.1f} s the longest")
        for assets, count in kinds.most_common():
            say(f"      {count:3} x {', '.join(assets)}")

    def _show_partitions(self) -> frozenset[str]:
        """The partitions of every asset by state; the users who failed or were left out in any."""
        behind: set[str] = set()
        say("    asset                            materialised  failed  missing")
        for asset in self.assets:
            found: Partitions = self.ui.partitions(asset)
            missing = found.missing - found.failed
            counts = f"{len(found.materialised):>12}{len(found.failed):>8}{len(missing):>9}"
            say(f"    {'/'.join(asset):32}{counts}")
            behind |= found.failed | missing
        return frozenset(behind)

    def _show_reasons(self, runs: Sequence[Run]) -> None:
        """What the logs of failed runs say of each user; of several attempts the last one."""
        reasons: dict[str, str] = {}
        for run in runs:
            for line in self.ui.messages(run.id) if not run.ended_well else ():
                before, found, reason = line.partition(" has to be run again: ")
                if found and "\n" not in before:
                    reasons[before.rpartition(" ")[2]] = reason
        for user, reason in sorted(reasons.items()):
            say(f"      {user}: {reason[:150]}")

    def _show_quarantine(self) -> None:
        entries = list(self.pipeline.ledger.find(states={State.QUARANTINED}))
        for entry in entries:
            reason = entry.failure.error_class if entry.failure else "?"
            say(f"      {entry.item} of {entry.partition}: {reason}")
        self.findings.expect(
            "quarantined items", frozenset(entry.item for entry in entries), self.population.quarantined
        )

    def _show_heavy(self) -> None:
        """Whether small users wait for the heavy one: everybody's last records, in seconds from the first ones."""
        times = self.ui.times(["atproto", "kidlisp"])
        start = min(times.values())
        after = {key: moment - start for key, moment in times.items()}
        others = [seconds for key, seconds in after.items() if key != self.population.heavy]
        earlier = sum(seconds < after[self.population.heavy] for seconds in others)
        say(
            f"    kidlisp of the heavy user: done {after[self.population.heavy]:.0f} s after the first user's; the"
            f" median is {statistics.median(others):.0f} s, the last {max(others):.0f} s; {earlier} of {len(others)}"
            " users were done before the heavy one"
        )


def run(users: int, heavy: int, retry_seconds: float, folder: Path) -> Findings:
    findings = Findings()
    population = populate(users, heavy)
    services = LocalServices(folder)
    with ExitStack() as stack:
        stack.callback(services.down)
        addresses = services.up()
        storage = stack.enter_context(ObjectServer())
        accounts = stack.enter_context(PdsAccounts(addresses.pds, addresses.pds_admin_password))
        settings = Settings.model_validate(
            {
                "mongodb_connection_string": addresses.mongo,
                "mongodb_name": "bench",
                "pds_url": addresses.pds,
                "ac_media_url": storage.url_template,
                "dagster_home": folder / "dagster",
                "ac_relay_commits_per_hour": 0,  # no relay reads this PDS, and its speed is what is measured
            }
        )
        with timed(f"{users} users, {len(population.items)} documents, {heavy} of them of one user"):
            settle(population, connect(addresses.mongo)["bench"], accounts, storage)
        pipeline = stack.enter_context(open_pipeline(settings))
        home = stack.enter_context(DagsterHome(settings, retry_seconds=retry_seconds))
        with timed("Dagster, and its sensor adds the users"):
            ui = home.start()
            ui.start_sensor("users_sensor")
            assets = ui.assets(*STAGES)
            keys = ui.wait_for_keys(assets[0], {account.key for account in pipeline.accounts.all()}, PATIENCE)
        bench = Bench(population, pipeline, ui, findings, assets, keys)
        with timed(f"Backfill of {len(assets)} assets for {len(keys)} users, {FAILING} of them failing"):
            backfill = bench.first()
        heal(population, storage)
        with timed("Storage is well again: re-executed from failure"):
            bench.again(backfill)
        with timed("The whole backfill a second time"):
            bench.whole()
        with timed("Verification"):
            bench.verify()
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=500, help="20 at least")
    parser.add_argument("--heavy", type=int, default=2000, help="documents of the heavy user")
    parser.add_argument("--retry-seconds", type=float, default=5.0, help="before the first retry of a step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ac-backfill-") as folder:
        findings = run(options.users, options.heavy, options.retry_seconds, Path(folder))
    say(f"{len(findings.wrong)} expectations failed: {findings.wrong}" if findings.wrong else "All as expected.")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
