"""An upgrade in the middle of a backfill: each service is stopped by SIGTERM and started on another version (PROD-2).

By both kinds of deployment without containers: runs on a worker of Celery, and, in `make test-faults`, runs that are
processes of the code server.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.local.dagster_ui import Backfill
from ac_pipeline.media.mood import MOOD
from ac_pipeline_tests.dagster_home import PATIENCE, QUICK, QUICK_ENVIRONMENT, Partitions, Run, Sensor, Ui, wait_until
from ac_pipeline_tests.dagster_services import (
    CODE_SERVER,
    DAEMON,
    WEB_SERVER,
    WORKER,
    DagsterServices,
    another_version,
)
from ac_pipeline_tests.harness import Slice, open_slice
from ac_pipeline_tests.hosts import Redis, celery_launcher
from ac_pipeline_tests.pds_gate import PdsGate
from ac_pipeline_tests.postgres_server import PostgresServer

MOODS = ["atproto", "moods"]
ITEMS = 3
NAMES = ("ada", "bea", "cyd", "dan", "eve", "fay")
IN_BACKFILL = ("ada", "cyd", "eve")
"""With others between them in the order of keys: a run for each. Two have room at once."""
MAKES_MORE = "fay"
SENSORS = ("users_sensor", "new_content_sensor")
WELL = {State.WRITTEN, State.UNCHANGED}
NO_MEDIA = "http://127.0.0.1:1/{bucket}"
SILENCE_SECONDS = 3
"""How long a worker that does not answer counts as alive; a run under way ends later than that after its SIGTERM."""
NEW_JOB, SAID_BY_NEW = "sync_users_anew", "The other version works on"
CHANGES = {
    # With one retry more, the snapshot of the job is another one than that of runs that wait.
    "defs/assets/catalog.py": ("RECORD_RETRIES: Final = 3", "RECORD_RETRIES: Final = 4"),
    "defs/pipeline.py": ("This run works on", SAID_BY_NEW),
    "definitions.py": (
        "jobs=[",
        f'jobs=[dg.define_asset_job("{NEW_JOB}", selection=dg.AssetSelection.key_prefixes("atproto")), ',
    ),
}


@dataclass
class Story:
    """What was seen.

    Attributes:
        workers: True if runs are on a worker of Celery.
        seconds: Service -> how long it took to stop.
        runs: Partition key -> its runs in the end, oldest first.
        messages: Partition key -> the log of its last run.
        written: What was committed, by user.
        before: The sensors when the first service was stopped.
        after: In the end.
        meanwhile: Status of the runs under way after each step.
    """

    slice_: Slice
    users: dict[str, Account]
    workers: bool
    seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    written: dict[str, Counter[str]] = field(default_factory=dict)
    before: dict[str, Sensor] = field(default_factory=dict)
    after: dict[str, Sensor] = field(default_factory=dict)
    meanwhile: list[dict[str, str]] = field(default_factory=list)
    backfill: Backfill | None = None
    partitions: Partitions | None = None
    total: float = 0


class Teller:
    """Tells the story on one home."""

    def __init__(self, story: Story, gate: PdsGate, home: DagsterServices, code: Path) -> None:
        self.story, self.gate, self.home, self.code = story, gate, home, code
        self.held = {name: gate.keep_back(str(story.users[name].did), 1) for name in ("ada", "cyd")}
        self.backfill = ""

    def tell(self) -> None:
        begun = time.monotonic()
        self.home.start_part(CODE_SERVER, "--grace", str(PATIENCE))  # so that a busy machine interrupts no run
        for part in (WEB_SERVER, *([WORKER] if self.story.workers else [])):
            self.home.start_part(part)
        ui = self.home.ui()
        for name in NAMES:
            ui.add_key(name)
        self.backfill = ui.launch_backfill([MOODS], IN_BACKFILL)
        for sensor in SENSORS:
            ui.start_sensor(sensor)
        self.home.start_part(DAEMON)
        for held in self.held.values():
            held.wait(PATIENCE)
        self._wait_for(MAKES_MORE, ITEMS)
        wait_until(
            lambda: all(each.cursor for name, each in ui.sensors().items() if name in SENSORS), "both have cursors"
        )
        self.story.before = ui.sensors()

        self.story.seconds[WEB_SERVER] = self.home.stop_part(WEB_SERVER)
        self.home.start_part(WEB_SERVER, code=self.code)
        ui = self.home.ui()
        self._look(ui)
        if self.story.workers:
            self._restart_the_worker(ui)
        self.story.seconds[DAEMON] = self.home.stop_part(DAEMON)
        if self.story.workers:
            self.story.seconds[CODE_SERVER] = self.home.stop_part(CODE_SERVER)
        else:
            self._stop_the_code_server_of_runs(ui)
        self.story.slice_.add("mood", self.story.users[MAKES_MORE], mood="made while nobody looked")
        self.home.start_part(CODE_SERVER, code=self.code)
        wait_until(lambda: NEW_JOB in ui.jobs(), "the web server has the new version")
        self._look(ui)
        self.home.start_part(DAEMON, code=self.code)
        self.story.backfill = ui.finish(self.backfill)
        self._wait_for(MAKES_MORE, ITEMS + 1)
        wait_until(lambda: not ui.unfinished_runs(), "no run is left")
        self.story.total = time.monotonic() - begun

        self.story.partitions = ui.partitions(MOODS)
        runs = ui.runs(self.backfill)
        self.story.runs = {name: [run for run in runs if run.keys(NAMES) == [name]] for name in IN_BACKFILL}
        self.story.messages = {name: ui.messages(found[-1].id) for name, found in self.story.runs.items()}
        self.story.written = {name: self.gate.operations(str(user.did)) for name, user in self.story.users.items()}
        self.story.after = ui.sensors()

    def _restart_the_worker(self, ui: Ui) -> None:
        """It is asked to stop while both runs are under way, and waits for them, longer than one that is silent is
        believed to be alive."""
        self.home.ask_to_stop(WORKER)
        asked = time.monotonic()
        wait_until(lambda: time.monotonic() > asked + 3 * SILENCE_SECONDS, "run monitoring has looked several times")
        self._look(ui)
        self.held["ada"].release()
        wait_until(lambda: self._ended(ui, "ada"), "a run of a stopping worker ends")
        self._look(ui)
        released = time.monotonic()
        self.held["cyd"].release()
        assert self.home.wait_for_end(WORKER) == 0
        self.story.seconds[WORKER] = time.monotonic() - released
        self.home.start_part(WORKER, code=self.code)

    def _stop_the_code_server_of_runs(self, ui: Ui) -> None:
        """One run ends while its code server waits for it; another one is interrupted, by a second SIGTERM."""
        self.home.ask_to_stop(CODE_SERVER)
        asked = time.monotonic()
        self.held["ada"].release()
        wait_until(lambda: self._ended(ui, "ada"), "a run of a stopping code server ends")
        self._look(ui)
        wait_until(lambda: time.monotonic() > asked + 2, "a second signal is a wish of its own")
        self.home.ask_to_stop(CODE_SERVER)
        assert self.home.wait_for_end(CODE_SERVER) == 0
        self.story.seconds[CODE_SERVER] = time.monotonic() - asked
        self.held["cyd"].release()

    def _look(self, ui: Ui) -> None:
        self.story.meanwhile.append({run.keys(NAMES)[0]: run.status for run in ui.runs(self.backfill)})

    def _ended(self, ui: Ui, name: str) -> bool:
        return any(run.ended_well for run in ui.runs(self.backfill) if run.keys(NAMES) == [name])

    def _wait_for(self, name: str, count: int) -> None:
        did = str(self.story.users[name].did)
        wait_until(lambda: self.gate.operations(did)["create"] == count, f"{name} has {count} records")


@pytest.fixture(scope="module", params=["celery", pytest.param("process", marks=pytest.mark.faults)])
def story(
    request: pytest.FixtureRequest, mongo_client: Any, mongo_server: Any, pds: Any, postgres_server: PostgresServer
) -> Iterator[Story]:
    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("rolling")
    workers = request.param == "celery"
    with ExitStack() as stack:
        database = mongo_client[f"test-{uuid.uuid4().hex}"]
        stack.callback(mongo_client.drop_database, database.name)
        gate = stack.enter_context(PdsGate(pds.url))
        slice_ = stack.enter_context(open_slice(database, mongo_server.uri, pds, NO_MEDIA, folder))
        users = {name: slice_.user(name) for name in NAMES}
        for name in (*IN_BACKFILL, MAKES_MORE):
            for number in range(ITEMS):
                slice_.add("mood", users[name], mood=f"mood {number}")
        variables = dict(QUICK_ENVIRONMENT)
        if workers:
            url = stack.enter_context(Redis(folder / "redis")).url
            variables |= {"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}
            variables["CELERY_WORKER_CONCURRENCY"] = "3"
        settings = slice_.pipeline.settings.model_copy(
            update={
                "pds_url": gate.url,
                "dagster_home": folder / "home",
                "dagster_postgres_url": SecretStr(postgres_server.url(postgres_server.create_database())),
                "ac_pds_timeout_seconds": 10 * PATIENCE,
                "ac_answer_seconds": 10 * PATIENCE,
            }
        )
        launcher = celery_launcher(SILENCE_SECONDS)["run_launcher"]
        changes = {**QUICK, **({"run_launcher": launcher} if workers else {})}
        home = stack.enter_context(DagsterServices(settings, changes=changes, variables=variables))
        told = Story(slice_, users, workers)
        Teller(told, gate, home, another_version(folder / "other", CHANGES)).tell()
        print({name: round(each, 1) for name, each in told.seconds.items()}, round(told.total), told.meanwhile)  # noqa: T201
        yield told


def test_the_backfill_completes_and_every_partition_is_materialised(story: Story) -> None:
    """RUN-6, PROD-2."""
    assert story.backfill is not None
    assert story.partitions is not None
    assert (story.backfill.status, story.backfill.error) == ("COMPLETED_SUCCESS", None)
    assert story.partitions.materialised >= set(IN_BACKFILL)
    assert not story.partitions.failed | story.partitions.running


def test_runs_under_way_end_well_or_are_run_again(story: Story) -> None:
    """RUN-6, GUARD-3: a worker finishes those it has; a code server waits for them, until it is asked again."""
    assert [(run.status, run.parent) for run in story.runs["ada"]] == [("SUCCESS", None)]
    found = [(run.status, run.parent is not None) for run in story.runs["cyd"]]
    assert found == ([("SUCCESS", False)] if story.workers else [("FAILURE", False), ("SUCCESS", True)])
    first, second = story.meanwhile[:2]
    assert first["ada"] == first["cyd"] == second["cyd"] == "STARTED"


def test_what_waited_is_executed_by_the_new_version(story: Story) -> None:
    """PROD-2: although it was asked for by the old one."""
    (eve,) = story.runs["eve"]
    assert eve.ended_well
    assert any(SAID_BY_NEW in said for said in story.messages["eve"])
    assert not any(SAID_BY_NEW in said for said in story.messages["ada"])


def test_every_record_was_written_once_and_is_linked(story: Story) -> None:
    """WRITE-12, WRITE-13, LINK-1."""
    made = dict.fromkeys(IN_BACKFILL, ITEMS) | {MAKES_MORE: ITEMS + 1}
    assert story.written == {name: Counter(create=made[name]) if name in made else Counter() for name in NAMES}
    for name, count in made.items():
        user = story.users[name]
        records = story.slice_.records(user, "mood")
        linked = {
            str(found["_id"]): found["atproto"]["rkey"]
            for found in story.slice_.database["moods"].find({"user": user.id})
        }
        assert {id: records[rkey]["ref"] for id, rkey in linked.items()} == {id: id for id in linked}
        entries = story.slice_.pipeline.ledger.load(user, MOOD).values()
        assert len(linked) == len(records) == count == sum(entry.state in WELL for entry in entries)


def test_sensors_go_on_where_they_were(story: Story) -> None:
    """PROD-2: what was made while no code server was there is found by its place in the change stream."""
    assert story.after.keys() == story.before.keys()
    positions = [
        json.loads(str(found["new_content_sensor"].cursor))["position"] for found in (story.before, story.after)
    ]
    assert all(positions)
    assert story.before["users_sensor"].cursor == story.after["users_sensor"].cursor is not None


NO_CODE_SERVER = ("Unable to reach the user code server", "DagsterCodeLocationNotFoundError")
"""What a tick says that is due while there is none: its daemon has not noticed yet, or has."""


def test_no_tick_fails_for_good(story: Story) -> None:
    """PROD-2: one that finds no code server is followed by one that does."""
    for name, sensor in story.after.items():
        ended = [status for status, _ in sensor.ticks if status != "STARTED"]
        assert not ended or ended[0] in {"SUCCESS", "SKIPPED"}, (name, sensor.ticks[:3])
        for status, said in sensor.ticks:
            assert status != "FAILURE" or any(words in said for words in NO_CODE_SERVER), (name, said)
