"""How long new content takes to reach the PDS, and removed content to leave it, with Dagster's own daemon at work.

Starts local services and a real `dagster dev`, makes users, turns the sensors on, and then does what the platform
does: inserts documents of all five types, one after another at random moments, and later nukes them. Each is timed
from the write in MongoDB to the moment a client that is not ours reads the record, or reads it no more. While half of
the documents are inserted, somebody counts views of programs, which must cost nobody anything.

Prints the median, the 95th percentile and the longest time of both, with the machine's load; ends with 1 when a 95th
percentile is over 30 s. With `--beside-backfill` other users' tapes and paintings are backfilled meanwhile, so that two
long runs hold the pool of the PDS. Run it with `make bench-latency`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.local.dagster_ui import DagsterUi
from ac_pipeline.local.demo import Screen, demo_settings, open_dagster
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.local.seed.fill import into_folder
from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.local.services.stack import Addresses, LocalServices
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.database import connect
from ac_pipeline_tests.benchmarks.ending import end_in_order

LIMIT = 30.0
"""Seconds the 95th percentile may take."""
WEIGHTS = {"mood": 35, "kidlisp": 25, "painting": 20, "piece": 10, "tape": 10}
HEAVY_ITEMS = 60
"""Paintings and tapes of each user who is backfilled meanwhile."""
PATIENCE = 180.0
POLL = 0.25
USER_BUCKET, GUEST_BUCKET = "user-aesthetic-computer", "art-aesthetic-computer"


@dataclass(frozen=True)
class Person:
    """A user, or the guest (`owner` None)."""

    owner: str | None
    did: str


@dataclass
class Watch:
    """Documents that are awaited on the PDS, or awaited to leave it: a poll every quarter of a second."""

    url: str
    gone: bool
    began: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def begin(self, did: str, type: str, id: str, at: float) -> None:
        with self._lock:
            self.began[id] = (did, media_type(type).nsid, at)

    def waiting(self) -> list[str]:
        with self._lock:
            return [id for id in self.began if id not in self.took]

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._poll)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def settle(self, seconds: float) -> None:
        """Wait until all are there, or gone."""
        deadline = time.monotonic() + seconds
        while self.waiting() and time.monotonic() < deadline:
            time.sleep(POLL)

    def _poll(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not self._ended.wait(POLL):
                waiting = self.waiting()
                for did, nsid in {self.began[id][:2] for id in waiting}:
                    found = listed(http, did, nsid)
                    now = time.monotonic()
                    with self._lock:
                        for id in waiting:
                            if self.began[id][:2] == (did, nsid) and (id in found) is not self.gone:
                                self.took[id] = now - self.began[id][2]


def listed(http: httpx.Client, did: str, nsid: str) -> set[str]:
    """Documents that the records of one repository and collection name, read by `listRecords`."""
    refs: set[str] = set()
    cursor = ""
    while True:
        query = {"repo": did, "collection": nsid, "limit": "100", **({"cursor": cursor} if cursor else {})}
        answer = http.get("/xrpc/com.atproto.repo.listRecords", params=query).raise_for_status().json()
        refs.update(record["value"]["ref"] for record in answer["records"])
        cursor = answer.get("cursor") or ""
        if not cursor:
            return refs


def people(addresses: Addresses, database: Any, names: Sequence[str]) -> list[Person]:
    """Users with accounts on the PDS; `art` is the guest."""
    made = []
    with PdsAccounts(addresses.pds, addresses.pds_admin_password) as accounts:
        for number, name in enumerate(names):
            owner, password = None if name == "art" else f"auth0|{ObjectId()}", f"pw-{ObjectId()}"
            new = accounts.create(f"{name}.test", password)
            credentials = {"did": new.did, "handle": new.handle, "password": password}
            database["users"].insert_one(
                {"_id": owner or GUEST_ID, "code": f"ac25{name}{number}", "atproto": credentials}
            )
            if owner:
                database["@handles"].insert_one({"_id": owner, "handle": name})
            made.append(Person(owner, new.did))
    for media in MEDIA_TYPES:
        for field_ in ("user", "when"):
            database[media.collection].create_index(field_)
    return made


class Platform:
    """What users do, as the platform stores it."""

    def __init__(self, database: Any, folder: Path, made: Sequence[Person], rng: random.Random) -> None:
        self.database, self.people, self.rng = database, made, rng
        self.store = into_folder(folder)
        self.number = 0

    def insert(self, *types: str) -> tuple[Person, str, str]:
        """A new document of somebody, its media first, as uploads are; owner, type and id."""
        chosen = {type: weight for type, weight in WEIGHTS.items() if type in types or not types}
        (type,) = self.rng.choices(list(chosen), weights=list(chosen.values()))
        person = self.rng.choice([each for each in self.people if each.owner or type != "mood"])
        self.number += 1
        now = datetime.now(UTC)
        stamp = f"{now:%Y.%m.%d.%H.%M.%S}.{now.microsecond // 1000:03}"
        slug = stamp if person.owner else "".join(self.rng.choices("abcdefghkmnpqrstuvwxyz23456789", k=8))
        code = f"{type[0]}{self.number:05}"
        bucket = USER_BUCKET if person.owner else GUEST_BUCKET
        fields: dict[str, dict[str, Any]] = {
            "mood": {"mood": f"feeling number {self.number}"},
            "kidlisp": {
                "code": code,
                "source": f"(ink {self.number})\n(line 0 0 10 10)",
                "hits": 1,
                "lastAccessed": now,
            },
            "piece": {"code": code, "slug": slug, "bucket": bucket},
            "painting": {"code": code, "slug": slug, "bucket": bucket},
            "tape": {"code": code, "slug": slug, "bucket": bucket, "nuked": False},
        }
        if type in {"painting", "tape"}:
            folder = f"{person.owner}/{'painting/' if type == 'painting' else ''}" if person.owner else ""
            data = pixel_art(64, 48, seed=self.number) if type == "painting" else tape_zip(12, 64, 48, seed=self.number)
            self.store(bucket, f"{folder}{slug}.{'png' if type == 'painting' else 'zip'}", data)
        document = {"_id": ObjectId(), "when": now, **({"user": person.owner} if person.owner else {}), **fields[type]}
        self.database[media_type(type).collection].insert_one(document)
        return person, type, str(document["_id"])

    def nuke(self, type: str, id: str) -> None:
        change = {"$set": {"deleted" if type == "mood" else "nuked": True}}
        self.database[media_type(type).collection].update_one({"_id": ObjectId(id)}, change)

    def view(self) -> None:
        """Somebody looks at all programs."""
        self.database["kidlisp"].update_many({}, {"$inc": {"hits": 1}, "$set": {"lastAccessed": datetime.now(UTC)}})


def insert_all(platform: Platform, url: str, items: int, gap: float, screen: Screen) -> tuple[Watch, list[Any]]:
    """Insert documents at random moments, and wait until all can be read."""
    watch, made = Watch(url, gone=False), []
    with watch.running():
        for number in range(items):
            time.sleep(platform.rng.uniform(0, 2 * gap))
            if number > items // 2:
                platform.view()
            person, type, id = platform.insert()
            watch.begin(person.did, type, id, time.monotonic())
            made.append((person, type, id))
            screen.progress("inserted", number + 1, items)
        watch.settle(PATIENCE)
    return watch, made


def nuke_all(platform: Platform, url: str, made: list[Any], gap: float, screen: Screen) -> Watch:
    """Nuke them in another order, at random moments, and wait until none can be read."""
    watch = Watch(url, gone=True)
    order = platform.rng.sample(made, len(made))
    with watch.running():
        for number, (person, type, id) in enumerate(order):
            time.sleep(platform.rng.uniform(0, 2 * gap))
            platform.nuke(type, id)
            watch.begin(person.did, type, id, time.monotonic())
            screen.progress("nuked", number + 1, len(order))
        watch.settle(PATIENCE)
    return watch


def show(name: str, watch: Watch) -> bool:
    """The figures of one kind, in all and by type; whether they are good enough."""
    took, missing = sorted(watch.took.values()), len(watch.waiting())
    if len(took) < 2:
        sys.stdout.write(f"{name:22} nothing arrived; {missing} missing\n")
        return False
    p50, p95 = statistics.median(took), statistics.quantiles(took, n=100, method="inclusive")[94]
    sys.stdout.write(
        f"{name:22} {len(took):4} items   p50 {p50:5.1f} s   p95 {p95:5.1f} s   max {took[-1]:5.1f} s   "
        f"missing {missing}\n"
    )
    for media in MEDIA_TYPES:
        some = [seconds for id, seconds in watch.took.items() if watch.began[id][1] == media.nsid]
        if some:
            sys.stdout.write(
                f"  {media.plural:20} {len(some):4} items   p50 {statistics.median(some):5.1f} s   "
                f"max {max(some):5.1f} s\n"
            )
    return not missing and p95 <= LIMIT


def turn_on(dagster: DagsterUi, database: Any, say: Callable[[str], None], backfilled: Sequence[str]) -> None:
    """Load, let the users sensor make the partitions, begin the backfill if there is one, turn the sensors on."""
    dagster.wait_until_loaded(PATIENCE)
    dagster.start_sensor("users_sensor")
    keys = {*(str(row["handle"]) for row in database["@handles"].find()), GUEST_ID}
    dagster.wait_for_keys(["atproto", "moods"], keys, PATIENCE)
    if backfilled:
        say(f"backfill {dagster.launch_backfill(dagster.assets('renditions', 'atproto'), backfilled)} began")
    dagster.start_sensor("new_content_sensor")
    dagster.start_sensor("drift_sensor")
    say(f"{len(keys)} users; new_content_sensor, users_sensor and drift_sensor are on: {dagster.url}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--gap", type=float, default=2.5, help="Mean seconds between two documents.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beside-backfill", type=int, default=0, metavar="N", help="Backfill N other users meanwhile.")
    options = parser.parse_args()
    root, screen = Path.cwd(), Screen()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ac-latency-")))
        services = LocalServices(folder)
        stack.callback(services.down)
        with screen.step("Local services"):
            addresses = services.up()
        # No relay reads this PDS: a wait for one would be measured as ours.
        settings = demo_settings(addresses, services.folder).model_copy(update={"ac_relay_commits_per_hour": 0})
        dagster = stack.enter_context(open_dagster(root, services.folder, settings, screen))
        database = connect(addresses.mongo)[addresses.database]
        with screen.step("Users"):
            made = people(addresses, database, ["art", *(f"user{number}" for number in range(options.users))])
            others = [f"heavy{number}" for number in range(options.beside_backfill)]
            heavy = Platform(database, addresses.media_folder, people(addresses, database, others), random.Random(0))
            for _ in range(HEAVY_ITEMS * len(others)):
                heavy.insert("painting", "tape")
        with screen.step("Dagster"):
            turn_on(dagster, database, screen.say, others)
        platform = Platform(database, addresses.media_folder, made, random.Random(options.seed))
        platform.number = heavy.number
        with screen.step(f"{options.items} documents"):
            inserted, documents = insert_all(platform, addresses.pds, options.items, options.gap, screen)
        with screen.step(f"{options.items} nukes"):
            nuked = nuke_all(platform, addresses.pds, documents, options.gap, screen)
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        screen.say(f"Load of the machine in the last 1, 5 and 15 minutes: {load} on {os.cpu_count()} cores.")
        for id in dagster.running_backfills():
            screen.say(f"The backfill {id} still goes on.")
        good = [show("insert -> readable", inserted), show("nuke -> gone", nuked)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
