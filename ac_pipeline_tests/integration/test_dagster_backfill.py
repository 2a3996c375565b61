"""One backfill over fifty users by a real Dagster, one of whom fails, while another leaves the platform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.defs.assets.catalog import USERS
from ac_pipeline.defs.jobs import Busy, busy_keys
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.sensors.users import users_sensor
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline_tests.dagster_home import (
    QUICK,
    QUICK_ENVIRONMENT,
    DagsterHome,
    Partitions,
    Process,
    Role,
    Run,
    Ui,
    wait_until,
)
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import USER_BUCKET, Slice, open_slice
from ac_pipeline_tests.scripted_storage import ObjectServer

PAINTINGS = ["atproto", "paintings"]
USERS_IN_ALL = 50
FAILING, LEAVING = "ada", "user-40"
BESIDE = ("bea", "cyd")
"""With work of their own, which the failing one must not cost them."""
SPOILT = "dan"
"""Whose only painting is no picture."""


@dataclass
class Story:
    """What was seen.

    Attributes:
        busy: During the first backfill, and after the second.
        keys: All keys, the same two times.
    """

    keys: dict[str, list[str]] = field(default_factory=dict)
    busy: dict[str, Busy] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    partitions: dict[str, Partitions] = field(default_factory=dict)
    messages: str = ""
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    """While Dagster ran, and what is left of them after SIGTERM, to which it answers with this exit code."""
    left: list[Process] = field(default_factory=list)
    exit_code: int | None = None


class Teller:
    """Tells the story on one home."""

    def __init__(self, slice_: Slice, storage: Any, instance: dg.DagsterInstance, ui: Ui) -> None:
        self.slice, self.storage, self.instance, self.ui = slice_, storage, instance, ui
        self.story = Story()
        self.people: dict[str, Account] = {}

    def tell(self) -> Story:
        self._prepare()
        backfill = self.ui.launch_backfill([PAINTINGS], self._keys())
        wait_until(lambda: self.ui.runs(backfill), "the backfill has a run")
        self.slice.database["users"].delete_one({"_id": f"auth0|{LEAVING}"})
        self.slice.database["@handles"].delete_one({"_id": f"auth0|{LEAVING}"})
        self._look("during")
        self._end("first", backfill)
        (run, *_) = self.story.runs["first"]
        self.story.messages = "\n".join(self.ui.messages(run.id))
        self._write("first")

        self.storage.heal(USER_BUCKET, self._picture(FAILING))
        self._end("again", self.ui.reexecute_failed(backfill))
        self._write("again")
        entries = self.slice.pipeline.ledger.find(states={State.QUARANTINED})
        self.story.quarantined = [(entry.partition, entry.failure.error_class) for entry in entries if entry.failure]
        self._look("after")
        return self.story

    def _prepare(self) -> None:
        for number in range(USERS_IN_ALL - 4):
            id, name = f"auth0|user-{number}", f"user-{number}"
            self.slice.database["users"].insert_one({"_id": id})
            self.slice.database["@handles"].insert_one({"_id": id, "handle": name})
        for name in (FAILING, *BESIDE, SPOILT):
            self.people[name] = self.slice.user(name)
            self.slice.add("painting", self.people[name], code=name, slug="2025.1.2.3.4.5.678", bucket=USER_BUCKET)
            self.storage.put(USER_BUCKET, self._picture(name), pixel_art(24, 16))
        self.storage.put(USER_BUCKET, self._picture(SPOILT), b"<html>not found</html>")
        self.storage.fail(USER_BUCKET, self._picture(FAILING), 503)
        keys = [account.key for account in self.slice.pipeline.accounts.all() if not account.is_guest]
        self.instance.add_dynamic_partitions(USERS, keys)

    def _picture(self, name: str) -> str:
        return f"{self.people[name].id}/painting/2025.1.2.3.4.5.678.png"

    def _keys(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(USERS))

    def _look(self, when: str) -> None:
        """Who is busy, and a tick of the users sensor with its deletions carried out."""
        self.story.busy[when] = busy_keys(self.instance, self._keys())
        with PipelineResource(lambda: self.slice.pipeline.settings) as mirror:
            result = users_sensor(dg.build_sensor_context(instance=self.instance), pipeline=mirror)
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.DeleteDynamicPartitionsRequest):
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(USERS, key)
        self.story.keys[when] = self._keys()

    def _end(self, name: str, backfill: str) -> None:
        self.story.status[name] = self.ui.finish(backfill).status
        self.story.runs[name] = self.ui.runs(backfill)
        self.story.partitions[name] = self.ui.partitions(PAINTINGS)

    def _write(self, when: str) -> None:
        self.story.written[when] = {name: self.slice.listed(who, "painting") for name, who in self.people.items()}


@pytest.fixture(scope="module")
def story(mongo_client: Any, mongo_server: Any, pds: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("backfill")
    name = f"test-{folder.name}"
    with (
        ObjectServer() as storage,
        open_slice(mongo_client[name], mongo_server.uri, pds, storage.url_template, folder) as slice_,
        DagsterHome(slice_.pipeline.settings, retry_seconds=0, changes=QUICK, variables=QUICK_ENVIRONMENT) as home,
    ):
        ui = home.start()
        with open_instance(home.home) as instance:
            told = Teller(slice_, storage, instance, ui).tell()
        told.processes = home.processes()
        told.exit_code = home.terminate()
        told.left = home.processes()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{home.url}/server_info", timeout=5)
        yield told
    mongo_client.drop_database(name)


def test_fifty_users_are_one_run_in_which_one_fails_and_49_are_done(story: Story) -> None:
    """RUN-1, RUN-3, RUN-7: those without credentials too, and the one who left meanwhile."""
    assert story.status["first"] == "COMPLETED_FAILED"
    (run,) = story.runs["first"]
    assert len(run.keys(story.keys["during"])) == USERS_IN_ALL
    seen = story.partitions["first"]
    assert (seen.failed, len(seen.materialised)) == ({FAILING}, USERS_IN_ALL - 1)
    assert [len(story.written["first"][name]) for name in (FAILING, *BESIDE)] == [0, 1, 1]


def test_the_failing_user_is_named_with_the_reason(story: Story) -> None:
    """RUN-1, OPS-1: in the log of the run, and nobody else is."""
    named = [line for line in story.messages.splitlines() if "has to be run again" in line]
    assert named
    assert all(f": {FAILING} has to be run again: " in line and "503" in line for line in named)


def test_to_run_what_failed_again_is_a_run_of_that_user_alone(story: Story) -> None:
    """RUN-1, RUN-5: and of what is missing alone: the records of the others are those of the first run."""
    assert story.status["again"] == "COMPLETED_SUCCESS"
    (run,) = story.runs["again"]
    assert run.keys(story.keys["during"]) == [FAILING]
    seen = story.partitions["again"]
    assert (seen.failed, len(seen.materialised)) == (frozenset(), USERS_IN_ALL)
    assert len(story.written["again"][FAILING]) == 1
    for name in BESIDE:
        assert story.written["again"][name] == story.written["first"][name]


def test_a_user_with_an_item_that_can_never_be_published_is_done_and_the_item_named(story: Story) -> None:
    """RUN-7, OPS-3: a person must look, so running it again is nobody's business."""
    assert SPOILT in story.partitions["first"].materialised
    assert story.quarantined == [(SPOILT, "unreadable-media")]
    assert story.written["again"][SPOILT] == {}


def test_the_key_of_a_user_who_leaves_during_a_backfill_outlives_it(story: Story) -> None:
    """RUN-4: removing it in the middle would break the runs of the others; it goes when nobody needs it."""
    assert LEAVING in story.keys["during"]
    assert LEAVING not in story.keys["after"]
    assert len(story.keys["after"]) == USERS_IN_ALL - 1


def test_everybody_a_backfill_is_about_is_busy_until_it_has_ended(story: Story) -> None:
    assert story.busy["during"].keys == set(story.keys["during"])
    assert story.busy["after"] == Busy(set(), set())


def test_sigterm_leaves_none_of_its_processes(story: Story) -> None:
    """The web server, the daemon and both code servers end with the process that `make dev` started."""
    roles = {process.role for process in story.processes}
    assert roles >= {Role.WEB_SERVER, Role.DAEMON, Role.CODE_SERVER_PROXY, Role.CODE_SERVER, Role.SUPERVISOR}
    assert (story.exit_code, story.left) == (0, [])
