"""A backfill on two hosts of which one loses its power in the middle, by each kind of run launcher (PROD-2)."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline_tests.dagster_home import QUICK, QUICK_ENVIRONMENT, Run, wait_until
from ac_pipeline_tests.harness import USER_BUCKET, Slice, open_slice
from ac_pipeline_tests.hosts import (
    Host,
    Hosts,
    Redis,
    TwoHostDagster,
    celery_launcher,
    host_of,
    process_launcher,
)
from ac_pipeline_tests.pds_gate import PdsGate
from ac_pipeline_tests.postgres_server import PostgresServer
from ac_pipeline_tests.s3_server import S3Server
from ac_pipeline_tests.scripted_storage import ObjectServer

ASSETS = [["atproto", "moods"], ["atproto", "paintings"]]
TYPES = ("mood", "painting")
FIRST, ASIDE, SECOND = ("bea", "cora", "cyd"), "dan", ("eve", "fay", "gus")
"""Who is in one run and who in another: whoever stands between them is not asked for."""
NAMES = (*FIRST, ASIDE, *SECOND)
LEASE_SECONDS = 9.0
"""Instead of 60: so long nobody writes into the repository that the dead host held."""
PREAMBLE = f"""from functools import partial
from ac_pipeline.mongo.ledger import items
items.Leases = partial(items.Leases, seconds={LEASE_SECONDS})
"""
Written = dict[tuple[str, str], dict[str, tuple[str, dict[str, Any]]]]


@dataclass
class Story:
    """What was seen.

    Attributes:
        hosts: Run -> host, of the first two: the dead one and the living one.
        while_dead: Status of both when the dead one was noticed.
        noticed: Seconds from the power cut to that.
        served: Seconds from the power cut until all users of the dead run were served again.
        written: By two hosts, and by one alone; so are `links`.
        operations: User -> what was committed through the gate.
    """

    status: str = ""
    runs: list[Run] = field(default_factory=list)
    hosts: dict[str, str] = field(default_factory=dict)
    dead: str = ""
    living: str = ""
    while_dead: dict[str, str] = field(default_factory=dict)
    messages: str = ""
    noticed: float = 0
    served: float = 0
    written: list[Written] = field(default_factory=list)
    links: list[dict[str, str]] = field(default_factory=list)
    operations: dict[str, dict[str, int]] = field(default_factory=dict)


def populate(slices: tuple[Slice, Slice], storage: ObjectServer) -> dict[str, dict[str, str]]:
    """The same documents in both, of accounts of their own; type -> id -> user."""
    ids: dict[str, dict[str, str]] = {type: {} for type in TYPES}
    for name in NAMES:
        accounts = [each.user(name, id=f"auth0|{name}") for each in slices]
        key = f"auth0|{name}/painting/2025.1.2.3.4.5.678.png"
        storage.put(USER_BUCKET, key, pixel_art(24, 16))
        for number in range(3):
            id = slices[0].add("mood", accounts[0], mood=f"{name} {number}")
            ids["mood"][id] = name
        id = slices[0].add("painting", accounts[0], code=name, slug="2025.1.2.3.4.5.678", bucket=USER_BUCKET)
        ids["painting"][id] = name
    for collection in ("moods", "paintings"):
        slices[1].database[collection].insert_many(copy.deepcopy(list(slices[0].database[collection].find())))
    return ids


class Teller:
    """Tells the story on two hosts."""

    def __init__(self, stack: ExitStack, slice_: Slice, hosts: Hosts, gate: PdsGate, postgres: PostgresServer) -> None:
        self.stack, self.slice, self.hosts, self.gate, self.postgres = stack, slice_, hosts, gate, postgres
        self.story = Story()
        self.database = postgres.create_database()

    def tell(self, kind: str, folder: Path) -> Story:
        accounts = {name: self.slice.account(f"auth0|{name}") for name in NAMES}
        variables = dict(QUICK_ENVIRONMENT)
        if kind == "celery":
            url = self.hosts.shared(self.stack.enter_context(Redis(folder / "redis")).url)
            variables |= {"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}
        dagster = TwoHostDagster(
            self.hosts,
            self.slice.pipeline.settings.model_copy(update={"pds_url": self.gate.url, "dagster_home": folder}),
            self.hosts.shared_postgres(self.postgres, self.database),
            celery_launcher(silence_seconds=3) if kind == "celery" else process_launcher(self.hosts),
            changes=QUICK,
            preamble=PREAMBLE,
            variables=variables,
        )
        held = [self.gate.keep_back(accounts[names[0]].did, 1) for names in (FIRST, SECOND)]
        self.stack.enter_context(dagster)
        if kind == "celery":
            dagster.start_worker(self.hosts.two, 1)
        ui = dagster.start()
        ui.start_sensor("users_sensor")
        order = ui.wait_for_keys(ASSETS[0], {*NAMES, "art-guest"}, 60)
        backfill = ui.launch_backfill(ASSETS, [*FIRST, *SECOND])
        held[0].wait(90)
        if kind == "celery":
            dagster.start_worker(self.hosts.one, 1)
        held[1].wait(90)

        of = {run.keys(order)[0]: run.id for run in ui.runs(backfill)}
        dead, living = of[FIRST[0]], of[SECOND[0]]
        self.story.dead, self.story.living = dead, living
        for run in (dead, living):
            host = host_of(run, self.hosts, self.postgres, self.database)
            self.story.hosts[run] = host.name if isinstance(host, Host) else ""
        self.hosts.two.cut_power()
        cut = time.time()
        held[0].release()
        wait_until(lambda: self._statuses(ui, backfill)[dead] == "FAILURE", "the dead run is noticed")
        self.story.noticed = time.time() - cut
        self.story.while_dead = self._statuses(ui, backfill)
        held[1].release()
        self.story.status = ui.finish(backfill).status
        self.story.runs = ui.runs(backfill)
        self.story.messages = "\n".join(ui.messages(dead))
        self.story.served = max(times[name] for times in map(ui.times, ASSETS) for name in FIRST) - cut
        self.story.operations = {name: dict(self.gate.operations(one.did)) for name, one in accounts.items()}
        return self.story

    @staticmethod
    def _statuses(ui: Any, backfill: str) -> dict[str, str]:
        return {run.id: run.status for run in ui.runs(backfill)}


def look(slice_: Slice, ids: dict[str, dict[str, str]]) -> tuple[Written, dict[str, str]]:
    """Records by user and type, and links by item, without the DIDs that each has of its own."""
    written: Written = {}
    links: dict[str, str] = {}
    for name in NAMES:
        account = slice_.account(f"auth0|{name}")
        for type in TYPES:
            written[name, type] = slice_.listed(account, type)
            for id in (id for id, user in ids[type].items() if user == name):
                links[id] = repr(slice_.link(type, id)).replace(str(account.did), "DID")
    return written, links


@pytest.fixture(scope="module", params=["celery", "process"])
def story(
    request: pytest.FixtureRequest, mongo_client: Any, mongo_server: Any, pds: Any, postgres_server: PostgresServer
) -> Iterator[Story]:
    s3: S3Server = request.getfixturevalue("s3_server")
    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("hosts")
    with ExitStack() as stack:
        storage = stack.enter_context(ObjectServer())
        slices: list[Slice] = []
        for name in ("two", "one"):
            database = mongo_client[f"test-{folder.name}-{request.param}-{name}"]
            stack.callback(mongo_client.drop_database, database.name)
            more = {
                **{name.lower(): value for name, value in s3.settings.items()},
                "ac_renditions_url": s3.make_bucket(),
            }
            opened = open_slice(database, mongo_server.uri, pds, storage.url_template, folder, **more)
            slices.append(stack.enter_context(opened))
        on_two, on_one = slices
        ids = populate((on_two, on_one), storage)
        gate = stack.enter_context(PdsGate(pds.url))
        hosts = stack.enter_context(Hosts(folder))
        told = Teller(stack, on_two, hosts, gate, postgres_server).tell(request.param, folder / "dagster")
        for name in NAMES:
            if name != ASIDE:
                on_one.sync(on_one.account(f"auth0|{name}"))
        for each in slices:
            written, links = look(each, ids)
            told.written.append(written)
            told.links.append(links)
        yield told


def test_the_backfill_completes_although_a_host_dies_in_the_middle(story: Story) -> None:
    """PROD-2, RUN-6."""
    assert story.status == "COMPLETED_SUCCESS"
    assert (story.hosts[story.dead], story.hosts[story.living]) == ("two", "one")


def test_the_dead_run_is_told_from_the_living_one(story: Story) -> None:
    """PROD-2, GUARD-3: it alone failed, and was repeated once."""
    assert story.while_dead[story.dead] == "FAILURE"
    assert story.while_dead[story.living] == "STARTED"
    assert {run.id: run.status for run in story.runs}[story.living] == "SUCCESS"
    (again,) = [run for run in story.runs if run.id not in {story.dead, story.living}]
    assert (again.parent, again.status) == (story.dead, "SUCCESS")
    assert "Marking run" in story.messages


def test_records_keys_and_links_are_those_of_one_host(story: Story) -> None:
    """PROD-2."""
    on_two, on_one = story.written
    assert sum(len(records) for records in on_one.values()) == 4 * (len(NAMES) - 1)
    assert on_two == on_one
    assert story.links[0] == story.links[1]


def test_nothing_is_written_twice(story: Story) -> None:
    """PROD-2, WRITE-12: not even by the batch whose answer nobody heard."""
    for name, operations in story.operations.items():
        assert operations == ({} if name == ASIDE else {"create": 4}), name


def test_its_users_are_served_again_once_the_lease_of_the_dead_host_is_over(story: Story) -> None:
    """PROD-2: what the operator waits for is the notice, a retry and the lease, which the dead host renewed last."""
    print(f"noticed after {story.noticed:.1f} s, served again after {story.served:.1f} s")  # noqa: T201
    assert 0 < story.noticed < story.served
