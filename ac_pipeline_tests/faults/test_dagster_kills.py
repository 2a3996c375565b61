"""One backfill of a real Dagster, in the middle of which each of its processes is killed with SIGKILL.

A story that is told once: a backfill of its own for each kill would take minutes. What was seen at each turn is kept;
the tests are about that.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import USERS
from ac_pipeline.items import State
from ac_pipeline.local.dagster_ui import Backfill
from ac_pipeline.media.mood import MOOD
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify_accounts
from ac_pipeline_tests.dagster_home import (
    PATIENCE,
    QUICK,
    QUICK_ENVIRONMENT,
    DagsterHome,
    Partitions,
    Role,
    Run,
    Ui,
    wait_until,
)
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import Slice, open_slice
from ac_pipeline_tests.pds_gate import Held, PdsGate

MOODS = ["atproto", "moods"]
ITEMS = 450
"""Three batches of records a user; the answer to the second is kept back, so that a third of the bookkeeping is done,
a third of the records is written and not in the books, and a third is still to come."""
NAMES = ("ada", "bea", "cyd", "dan", "eve", "fay", "gus")
IN_BACKFILL = ("ada", "cyd", "eve", "gus")
"""With others between them in the order of keys: a run for each."""
WELL = {State.WRITTEN, State.UNCHANGED}
NO_MEDIA = "http://127.0.0.1:1/{bucket}"


@dataclass
class Story:
    """What was seen.

    Args:
        runs: Partition key -> its runs in the end, oldest first.
    """

    slice_: Slice
    users: dict[str, Account]
    documents: dict[str, list[str]]
    written: dict[str, Counter[str]] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    backfill: Backfill | None = None
    partitions: Partitions | None = None


class Teller:
    """Tells the story on one home."""

    def __init__(self, story: Story, gate: PdsGate, home: DagsterHome) -> None:
        self.story, self.gate, self.home = story, gate, home
        self.held: dict[str, Held] = {name: gate.keep_back(str(story.users[name].did), 2) for name in IN_BACKFILL}
        self.ui: Ui = home.start()
        self.backfill = ""

    def tell(self) -> None:
        with open_instance(self.home.home) as instance:
            instance.add_dynamic_partitions(USERS, list(NAMES))
        self.backfill = self.ui.launch_backfill([MOODS], IN_BACKFILL)
        self._kill_a_run()
        self._kill_the_code_server()
        self._kill_the_daemon()
        self._cut_the_power()
        self.story.backfill = self.ui.finish(self.backfill)
        self.story.partitions = self.ui.partitions(MOODS)
        self.story.runs = {name: self._runs(name) for name in IN_BACKFILL}
        self.story.messages = {
            name: [said for run in runs for said in self.ui.messages(run.id)] for name, runs in self.story.runs.items()
        }
        self.story.written = {name: self.gate.operations(str(user.did)) for name, user in self.story.users.items()}

    def _kill_a_run(self) -> None:
        """Two runs have room at once: those of ada and cyd."""
        self._until_held("ada")
        self._until_held("cyd")
        os.kill(self._writer("ada"), signal.SIGKILL)
        wait_until(lambda: len(self._runs("ada")) == 2, "a killed run is retried")
        self.held["ada"].release()

    def _kill_the_code_server(self) -> None:
        """With the runs of cyd and eve under way, whose processes it started; that of gus needs a new one."""
        self._until_held("eve")
        old = self.home.kill(Role.CODE_SERVER, Role.CODE_SERVER_PROXY)
        assert len(old) == 2
        self.held["cyd"].release()
        wait_until(lambda: self._ended("cyd"), "a run ends without its code server")
        self._until_held("gus")

    def _kill_the_daemon(self) -> None:
        """With the runs of eve and gus under way: hers comes to its end while Dagster stops.

        And what `make dev` started it with, which would end a run that takes longer than 18 seconds to come to its end.
        """
        worker = self._writer("eve")
        self.home.kill(Role.DAEMON, Role.KEEPER)
        self.held["eve"].release()
        wait_until(lambda: not self._is_alive(worker), "a run ends without a daemon")

    def _cut_the_power(self) -> None:
        """What is left: the run of gus, web server, code server."""
        self.home.kill_all()
        self.held["gus"].release()
        self.ui = self.home.start()
        wait_until(lambda: self._ended("gus") and self._ended("ada"), "both retries have ended")

    def _until_held(self, name: str) -> None:
        self.held[name].wait(PATIENCE)

    def _writer(self, name: str) -> int:
        """The process that holds the lease on a user's repository."""
        ledger = self.story.slice_.pipeline.settings.ac_ledger_database
        lease = self.story.slice_.database.client[ledger]["leases"].find_one({"_id": self.story.users[name].did})
        assert lease is not None
        return int(lease["holder"].split(":")[1])

    def _is_alive(self, pid: int) -> bool:
        return pid in {each.pid for each in self.home.processes()}

    def _runs(self, name: str) -> list[Run]:
        return [run for run in self.ui.runs(self.backfill) if run.keys(NAMES) == [name]]

    def _ended(self, name: str) -> bool:
        return any(run.ended_well for run in self._runs(name))


@pytest.fixture(scope="module")
def story(mongo_client: Any, mongo_server: Any, pds: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("kills")
    database = mongo_client[f"test-{uuid.uuid4().hex}"]
    with PdsGate(pds.url) as gate, open_slice(database, mongo_server.uri, pds, NO_MEDIA, folder) as slice_:
        users = {name: slice_.user(name) for name in NAMES}
        told = Story(
            slice_,
            users,
            {
                name: [slice_.add("mood", user, mood=f"mood {number}") for number in range(ITEMS)]
                for name, user in users.items()
            },
        )
        settings = slice_.pipeline.settings.model_copy(
            update={"pds_url": gate.url, "dagster_home": folder / "home", "ac_pds_timeout_seconds": 10 * PATIENCE}
        )
        with DagsterHome(settings, retry_seconds=0.5, changes=QUICK, variables=QUICK_ENVIRONMENT) as home:
            Teller(told, gate, home).tell()
        yield told
    mongo_client.drop_database(database.name)


def test_a_killed_run_is_noticed_and_its_retry_completes_it(story: Story) -> None:
    """RUN-6, WRITE-13."""
    first, second = story.runs["ada"]
    assert (first.status, second.status, second.parent) == ("FAILURE", "SUCCESS", first.id)
    assert any("SIGKILL" in said for said in story.messages["ada"])


def test_a_run_outlives_its_code_server_and_later_runs_find_the_new_one(story: Story) -> None:
    """RUN-6: the location comes back by itself; nobody repeats what is still being done."""
    (only,) = story.runs["cyd"]
    assert only.ended_well


def test_a_run_outlives_the_daemon(story: Story) -> None:
    """RUN-6: what ends while no daemon looks counts when one does."""
    (only,) = story.runs["eve"]
    assert only.ended_well


def test_a_run_that_died_with_everything_else_is_found_and_retried_after_the_restart(story: Story) -> None:
    """RUN-6: nobody saw it die, so it would be under way for ever."""
    first, second = story.runs["gus"]
    assert (first.status, second.status, second.parent) == ("FAILURE", "SUCCESS", first.id)
    assert any("ended without a word" in said for said in story.messages["gus"])


def test_the_backfill_completes_and_every_partition_is_materialised(story: Story) -> None:
    """RUN-6, RUN-7: and nobody else's."""
    assert story.backfill is not None
    assert story.partitions is not None
    assert (story.backfill.status, story.backfill.error) == ("COMPLETED_SUCCESS", None)
    assert story.partitions.materialised == set(IN_BACKFILL)
    assert not story.partitions.failed | story.partitions.running


def test_every_record_was_written_once_and_stands_in_the_books(story: Story) -> None:
    """WRITE-12, WRITE-13, LINK-1, RUN-5: of every user, whatever was killed; nothing was written for the others."""
    others = [name for name in NAMES if name not in IN_BACKFILL]
    assert story.written == {
        **{name: Counter(create=ITEMS) for name in IN_BACKFILL},
        **{name: Counter() for name in others},
    }
    for name in IN_BACKFILL:
        user = story.users[name]
        records = story.slice_.records(user, "mood")
        assert sorted(record["ref"] for record in records.values()) == sorted(story.documents[name])
        linked = {
            str(found["_id"]): found["atproto"]["rkey"]
            for found in story.slice_.database["moods"].find({"user": user.id})
        }
        assert {document: records[rkey]["ref"] for document, rkey in linked.items()} == {
            document: document for document in story.documents[name]
        }
        entries = story.slice_.pipeline.ledger.load(user, MOOD)
        assert {id for id, entry in entries.items() if entry.state in WELL} == set(story.documents[name])
    engine = story.slice_.pipeline.engine
    accounts = [story.users[name] for name in IN_BACKFILL]
    for found in verify_accounts(engine, accounts, Selection(), 2):
        assert found.complete
        assert (found.verified, found.duplicates) == (ITEMS, 0)


def test_no_lease_is_left(story: Story) -> None:
    """WRITE-12: the next run waits for nobody."""
    ledger = story.slice_.pipeline.settings.ac_ledger_database
    assert list(story.slice_.database.client[ledger]["leases"].find()) == []
