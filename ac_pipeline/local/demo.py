"""The demo: local services, demo data, a full backfill and a verification through a real Dagster, and a summary.

Its Dagster has a home of its own, `.local/dagster/`, and is given every setting
explicitly: whatever `.env` or the environment name, a demo never reaches another database or PDS.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from atproto import Client, Request
from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ac_pipeline.errors import PipelineError
from ac_pipeline.items import State
from ac_pipeline.local.dagster_ui import SUCCEEDED, Backfill, Check, DagsterUi
from ac_pipeline.local.seed.fill import seed
from ac_pipeline.local.seed.values import SeedSummary
from ac_pipeline.local.services.processes import LOOPBACK, free_port, is_free
from ac_pipeline.local.services.stack import Addresses, LocalServices
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.progress import Listener, progress
from ac_pipeline.settings import Settings
from ac_pipeline.sync.planning.plan import COPIES
from ac_pipeline.wiring import Pipeline, open_pipeline

ALL_WELL, INCOMPLETE = 0, 1

_PORT = 3000  # Where people look for Dagster; another one when it is taken
_PATIENCE = 180.0  # Seconds for Dagster to load, and for its sensor to add the users; 5 and 10 are usual
_PARTING = 30.0  # Seconds Dagster has to stop its processes
_TAPE_GRACE = 3600.0
"""Seconds, longer than any demo takes: the tape that is being baked waits until it is over, and none is verified."""
_STAGES = ("renditions", "atproto")
_RECORDS = "records_match_documents"
_QUARANTINED, _DEFERRED = ("no_quarantined_items", "quarantined"), ("nothing_deferred", "deferred")
"""Check and count of what was never published, and of what waits for its time."""
VERIFIED = {
    _RECORDS: "records",
    "links_consistent": "links",
    "blobs_present": "blobs",
    "lexicon_valid": "records in the form of their lexicon",
}
"""The checks that the verification is about, and what they count; by name, for nothing here may import Dagster."""
_ON_THE_PDS = ("verified", "different", "extra", "duplicates")
_TURN = re.compile(r"(\d+) of (\d+): ")  # How each user's line in the job's log begins
_ANSWERS = ("count_mirror", "plan_users")  # Jobs that fill the pages which people open first


def run_demo(users: int, items: int, ui: bool) -> int:
    """Run the whole demo in the project of the working directory. May be repeated: the second one finds all unchanged.

    What the demo started is stopped in the end, also after Ctrl-C; `.local/` is kept. `ui`: leave Dagster running after
    the summary, until Ctrl-C.

    Returns:
        0 when the backfill succeeded and every expected record and blob was verified, else 1.
    """
    root = Path.cwd()
    screen = Screen()
    # Also SIGINT: a shell starts background commands deaf to it, and what we start would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            return _run(root, users, items, ui=ui, screen=screen, stack=stack)
    except KeyboardInterrupt:
        screen.say("Interrupted: everything the demo started is stopped, its data stays in .local/.")
        return INCOMPLETE


def _run(root: Path, users: int, items: int, *, ui: bool, screen: Screen, stack: ExitStack) -> int:
    services = LocalServices(root)
    if not services.running():

        @stack.callback
        def stop() -> None:
            with screen.step("Stopping the local services"):
                services.down()

    with screen.step("Local services: MongoDB, PDS, object storage"):
        addresses = services.up()
    settings = demo_settings(addresses, services.folder)
    # Dagster starts while the data is made: it needs the services' addresses only.
    dagster = stack.enter_context(open_dagster(root, services.folder, settings, screen))
    with screen.step("Demo data"):
        made = seed(addresses, users=users, items=items, progress=screen.progress)
    screen.say(f"{made.users} users, {made.documents} documents, {made.objects} objects in storage.")
    pipeline = stack.enter_context(open_pipeline(settings))
    accounts = pipeline.accounts.all()
    with screen.step("Dagster: code location and partitions"):
        dagster.wait_until_loaded(_PATIENCE)
        dagster.start_sensor("users_sensor")
        assets = dagster.assets(*_STAGES)
        keys = dagster.wait_for_keys(assets[0], {account.key for account in accounts}, _PATIENCE)
    for unfinished in dagster.running_backfills():
        with screen.step("An earlier backfill goes on"):
            dagster.wait_for_backfill(unfinished, screen.backfill)
    screen.say(
        "The demo data holds documents and accounts that cannot be published, for people to look at: checks that name "
        "them are red, and nothing is wrong with that."
    )
    with screen.step(f"Backfill of {len(assets)} assets for {len(keys)} users"):
        id = dagster.launch_backfill(assets, keys)
        screen.say(f"Watch it: {dagster.url}/runs/b/{id}")
        backfill = dagster.wait_for_backfill(id, screen.backfill)
    records = [path for path in assets if path[0] == _STAGES[-1]]
    with screen.step("Verification of every record, link and blob"):
        verification = _verify(dagster, records, screen)
    with screen.step("Second opinion: the records as the atproto package reads them"):
        agreed = _second_opinion(pipeline, verification, made, screen)
    screen.counts({path[-1]: dagster.counts(path) for path in records})
    screen.checks(verification.checks)
    well = _judge(backfill, verification, agreed, screen)
    screen.links(_links(dagster, id, settings, pipeline))
    screen.seconds()
    if ui:
        for job in _ANSWERS:
            dagster.launch_job(job)
        dagster.start_everything()  # so that what people try out has consequences
        screen.say("Every sensor and schedule is on: what is added, changed or removed in MongoDB reaches the PDS.")
        screen.say(f"Dagster stays at {dagster.url} until Ctrl-C.")
        with suppress(KeyboardInterrupt):
            while dagster.alive():
                time.sleep(1)
    return ALL_WELL if well else INCOMPLETE


def demo_settings(addresses: Addresses, folder: Path) -> Settings:
    """The settings of the demo: the local services and nothing else, whatever the environment holds. `folder`: where
    the demo keeps its own Dagster and renditions."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]  # a documented argument that the generated signature hides
        mongodb_connection_string=SecretStr(addresses.mongo),
        mongodb_name=addresses.database,
        pds_url=addresses.pds,
        pds_admin_password=SecretStr(addresses.pds_admin_password),
        pds_rate_limit_bypass_key=None,
        ac_ledger_database=f"{addresses.database}-pipeline",
        ac_media_url=addresses.media,
        ac_renditions_url=str(folder / "dagster" / "renditions"),
        ac_lexicon_authority=None,
        dagster_home=folder / "dagster",
        dagster_postgres_url=None,
        ac_dagster_url=None,
        ac_alert_webhook_url=None,
        ac_silent_days=0,  # the sample data is of a fixed past
        ac_tape_grace_seconds=_TAPE_GRACE,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Our environment with the demo's settings in it, and none of the variables that name another place."""
    ours = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value not in (None, ""):
            ours[name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return ours


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a Dagster (web server, daemon, code server, runs) as Ctrl-C in its terminal would, then the rest."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_PARTING)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def open_dagster(
    root: Path, folder: Path, settings: Settings, screen: Screen, port: int | None = None
) -> Iterator[DagsterUi]:
    """A Dagster of the demo's own, in a process group of its own, stopped in the end. `port`: where it listens; None
    for where people look for it, or another one when that is taken."""
    port = port or (_PORT if is_free(_PORT) else free_port())
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    log = folder / "logs" / "dagster.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # A module of the layer above, so it is run and not imported. Its working directory has no `.env` to read.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "ac_pipeline.defs.home", "--project", str(root), "--port", str(port)],
            cwd=settings.dagster_home,
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with DagsterUi(f"http://{LOOPBACK}:{port}", lambda: process.poll() is None) as dagster:
            yield dagster
    except PipelineError as error:
        screen.say(f"{error.message}\nSee {log}")
        raise
    finally:
        with screen.step("Stopping Dagster"):
            _stop(process)


@dataclass(frozen=True, slots=True)
class Verified:
    """What the verification job found, as the checks on the assets' pages say it."""

    status: str  # How its run ended
    checks: Sequence[Check]  # All checks of all records assets

    def total(self, check: str, count: str) -> int:
        return sum(each.counts.get(count, 0) for each in self.checks if each.name == check)

    @property
    def complete(self) -> bool:
        """True if all were verified, and no record, link or blob is amiss.

        Quarantined items do not count: they were never published. The demo data holds some, for people to look at.
        """
        known = bool(self.checks) and all(each.passed is not None for each in self.checks)
        sound = all(self.total(check, "verified") == self.total(check, "expected") for check in VERIFIED)
        more = self.total(_RECORDS, "extra") + self.total(_RECORDS, "duplicates")
        return self.status == SUCCEEDED and known and sound and not more


def _verify(dagster: DagsterUi, records: Sequence[Sequence[str]], screen: Screen) -> Verified:
    """All users again from the start, so that every check in the UI has a result; nothing of the backfill's own words
    is taken for granted."""
    id = dagster.launch_job("verify_users")
    screen.say(f"Watch it: {dagster.url}/runs/{id}")

    def shown(line: str) -> None:
        found = _TURN.match(line)
        if found is not None:
            screen.progress("users verified", int(found[1]), int(found[2]))

    status = dagster.wait_for_run(id, shown)
    return Verified(status, [check for path in records for check in dagster.checks(path)])


def _second_opinion(pipeline: Pipeline, found: Verified, made: SeedSummary, screen: Screen) -> bool:
    """True if a client that is not ours counts as many records as we verified."""
    readable = [each.did for each in pipeline.server.list_repositories() if each.active]
    nsids = {media.nsid: media.plural for media in MEDIA_TYPES}
    counted = count_records(pipeline.settings.pds_url, readable, [*nsids, COPIES])
    listed = ", ".join(f"{counted[nsid]} {plural}" for nsid, plural in nsids.items())
    total, ours = counted.total() - counted[COPIES], sum(found.total(_RECORDS, each) for each in _ON_THE_PDS)
    screen.say(f"It reads {total} records ({listed}); we verified {ours}.")
    left = sum(each.copies + each.withdrawn_copies for each in made.types.values())
    screen.say(f"Of {left} copies in {COPIES}, {counted[COPIES]} are left: those of work that is not erased.")
    return total == ours


def count_records(url: str, dids: Iterable[str], nsids: Iterable[str]) -> Counter[str]:
    repo = Client(base_url=f"{url}/xrpc", request=Request(trust_env=False)).com.atproto.repo
    counts: Counter[str] = Counter()
    for did, nsid in product(dids, nsids):
        query: dict[str, str | int] = {"repo": did, "collection": nsid, "limit": 100}
        while (page := repo.list_records(query)).records:
            counts[nsid] += len(page.records)
            if not page.cursor:
                break
            query["cursor"] = page.cursor
    return counts


def _judge(backfill: Backfill, found: Verified, agreed: bool, screen: Screen) -> bool:
    """Say what came of it; whether all is well."""
    screen.say(f"Backfill: {backfill.status}{f' ({backfill.error})' if backfill.error else ''}")
    screen.say(f"Verification: {found.status}")
    for check, what in VERIFIED.items():
        screen.say(f"    {found.total(check, 'verified')} of {found.total(check, 'expected')} {what}")
    states = ("missing", "different", "extra", "duplicates")
    screen.say("    " + ", ".join(f"{state} {found.total(_RECORDS, state)}" for state in states))
    screen.say(f"    quarantined {found.total(*_QUARANTINED)}: documents that cannot be published")
    screen.say(f"    deferred {found.total(*_DEFERRED)}: wait for their time, which is no failure")
    well = backfill.succeeded and found.complete and agreed
    screen.say("Every expected record is verified." if well else "Not everything is verified: see above.")
    return well


def _links(dagster: DagsterUi, backfill: str, settings: Settings, pipeline: Pipeline) -> dict[str, str]:
    links = {"Backfill": f"{dagster.url}/runs/b/{backfill}", "Assets": f"{dagster.url}/assets", "PDS": settings.pds_url}
    for media in MEDIA_TYPES:
        states = {State.WRITTEN, State.UNCHANGED}
        for entry in pipeline.ledger.find(states=states, types={media.name}, limit=1):
            query = f"repo={entry.did}&collection={media.nsid}&rkey={entry.rkey}"
            links[f"A {media.name}"] = f"{settings.pds_url}/xrpc/com.atproto.repo.getRecord?{query}"
    return links


_COUNTS = ("documents", "eligible", "records", "written", "unchanged", "deleted", "quarantined", "blocked", "deferred")


class Screen:
    """What the demo shows, on standard output: steps with their seconds, bars on a terminal and lines elsewhere, tables
    and links."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._console = Console(width=None if self._terminal else 140, highlight=False)
        self._taken: list[tuple[str, float]] = []
        self._failed = 0
        self.progress: Listener = lambda what, done, total: None  # Of the step under way

    def say(self, text: str) -> None:
        """A line or more, addresses unbroken so that they can be clicked and copied."""
        self._console.print(text, soft_wrap=not self._terminal or "://" in text, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that takes a while, with its progress; its seconds are in the summary."""
        started = time.monotonic()
        self.say(f"==> {name}")
        with progress(self._console, lambda line: self.say(f"    {line}")) as self.progress:
            yield
        self._taken.append((name, time.monotonic() - started))

    def backfill(self, backfill: Backfill) -> None:
        """How far a backfill is, in all and by asset; what has failed as it fails."""
        assets = backfill.assets
        failed = sum(each.failed for each in assets)
        if failed > self._failed:
            self.say(f"    {failed} partitions have failed")
        self._failed = failed
        self.progress("partitions", sum(each.done for each in assets) + failed, sum(each.targeted for each in assets))
        for each in assets:
            self.progress(each.asset, each.done + each.failed, each.targeted)

    def counts(self, types: Mapping[str, Mapping[str, int]]) -> None:
        """Per type: what the materialisations of all users add up to."""
        rows = {name: {count: counts.get(count, 0) for count in _COUNTS} for name, counts in types.items()}
        rows["all"] = {count: sum(row[count] for row in rows.values()) for count in _COUNTS}
        self._table("Records, all users", rows, _COUNTS, lambda name, count: str(rows[name][count]), "right")

    def checks(self, checks: Sequence[Check]) -> None:
        """What each check says of each type, and the first sentence of each that did not pass; the UI has the rest."""
        words = {(each.asset, each.name): _word(each) for each in checks}
        assets, names = dict.fromkeys(each.asset for each in checks), dict.fromkeys(each.name for each in checks)
        self._table("Checks, all users", assets, names, lambda asset, name: words.get((asset, name), ""))
        said: dict[str, list[str]] = {}
        for each in sorted(checks, key=lambda check: check.name):
            if each.passed is False:
                sentence = each.said.partition(". ")[0].partition("; ")[0]
                said.setdefault(f"{each.name}: {sentence}", []).append(_type(each.asset))
        for text, types in said.items():
            self._console.print(Padding(Text(f"{text} ({', '.join(types)})"), (0, 0, 0, 4)))

    def _table(
        self,
        title: str,
        types: Iterable[str],
        rows: Iterable[str],
        cell: Callable[[str, str], str],
        justify: Literal["left", "right"] = "left",
    ) -> None:
        """A column for each type: that fits into 80 columns, a column for each count or check does not."""
        table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        table.add_column("")
        for type in types:
            table.add_column(_type(type), justify=justify)
        for row in rows:
            table.add_row(row, *(cell(type, row) for type in types))
        self._console.print(table)

    def links(self, links: Mapping[str, str]) -> None:
        width = max(map(len, links))
        for name, address in links.items():
            self.say(f"    {name:<{width}}  {address}")

    def seconds(self) -> None:
        for name, seconds in self._taken:
            self.say(f"    {seconds:7.1f} s  {name}")
        self.say(f"    {sum(seconds for _, seconds in self._taken):7.1f} s  in all")


def _type(asset: str) -> str:
    return asset.rpartition("/")[2]


def _word(check: Check) -> str:
    if check.passed is None:
        return "unknown"
    return "passed" if check.passed else "failed" if check.severe else "warning"
