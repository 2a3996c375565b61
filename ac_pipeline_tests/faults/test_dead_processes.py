"""What a killed process leaves behind in MongoDB, and how soon the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.collection import Collection
from pymongo.database import Database

from ac_pipeline.errors import LeaseHeld
from ac_pipeline.media.base import Link, LinkUpdate
from ac_pipeline.media.mood import MOOD
from ac_pipeline.mongo.documents import MongoDocuments
from ac_pipeline.mongo.ledger.leases import Leases, is_dead, own_mark
from ac_pipeline_tests.memory_ports import FakeClock

DID = "did:plc:anna"
Mongo = Database[dict[str, Any]]

# Says its mark, then waits until its input ends.
MARKED = (
    "import sys; from ac_pipeline.mongo.ledger.leases import own_mark; print(own_mark(), flush=True); sys.stdin.read()"
)


@pytest.fixture
def collection(mongo_database: Mongo) -> Collection[dict[str, Any]]:
    return mongo_database.get_collection("leases", codec_options=CodecOptions(tz_aware=True))


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", MARKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process
        process.kill()


def mark_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def hold(collection: Collection[dict[str, Any]], process: object) -> None:
    """A lease that has just been renewed."""
    expiry = datetime.now(UTC) + timedelta(seconds=60)
    collection.insert_one({"_id": DID, "holder": "run-1", "token": "x", "process": process, "expires_at": expiry})


def test_the_lease_of_a_killed_process_is_taken_at_once(
    collection: Collection[dict[str, Any]], other: subprocess.Popen[str]
) -> None:
    """WRITE-12, WRITE-13: while it lives nobody else gets in; its retry does not wait for a minute."""
    hold(collection, mark_of(other))
    clock = FakeClock(datetime.now(UTC))
    leases = Leases(collection, clock=clock, sleep=clock.sleep, patience=3)
    with pytest.raises(LeaseHeld, match="run-1"), leases.hold(DID, "run-2"):
        pass
    waited = sum(clock.slept)
    assert waited >= 3
    other.send_signal(signal.SIGKILL)
    # Dead, and nobody has asked for its exit code yet: so are the run workers of a busy code server.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with leases.hold(DID, "run-2"):
        assert sum(clock.slept) == waited
        found = collection.find_one({"_id": DID})
        assert found is not None
        assert (found["holder"], found["process"]) == ("run-2", own_mark())
    assert collection.find_one({"_id": DID}) is None


@pytest.mark.parametrize("process", [None, 7, "", "of another version", "some-boot/pid:[1] 1 1"])
def test_of_a_process_elsewhere_nothing_is_known_and_its_lease_is_waited_for(
    collection: Collection[dict[str, Any]], process: object
) -> None:
    """WRITE-12: another machine, another container, an earlier version of the pipeline."""
    hold(collection, process)
    clock = FakeClock(datetime.now(UTC))
    with Leases(collection, clock=clock, sleep=clock.sleep).hold(DID, "run-2"):
        assert sum(clock.slept) == pytest.approx(60, abs=2)


def test_a_number_that_was_given_again_is_another_process(other: subprocess.Popen[str]) -> None:
    mark = mark_of(other)
    where, pid, start = mark.split(" ")
    assert not is_dead(mark)
    assert is_dead(f"{where} {pid} {int(start) - 1}")
    assert not is_dead(f"elsewhere {pid} {int(start) - 1}")
    other.kill()
    other.wait()
    assert is_dead(mark)
    assert not is_dead(f"elsewhere {pid} {start}")


def test_links_wait_for_the_transaction_that_a_killed_run_left_open(mongo_database: Mongo, tmp_path: Path) -> None:
    """WRITE-13: MongoDB ends it after a minute; until then every try meets a conflict, and one by one would hang."""
    ids = mongo_database["moods"].insert_many([{"mood": f"mood {number}"} for number in range(3)]).inserted_ids
    waits: list[float] = []
    with mongo_database.client.start_session() as session:
        session.start_transaction()
        mongo_database["moods"].update_one({"_id": ids[1]}, {"$set": {"atproto": "half"}}, session=session)

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 4:
                session.abort_transaction()

        link = Link("3jzfcijpj2z2a", f"at://{DID}/{MOOD.nsid}/3jzfcijpj2z2a", "bafy", DID)
        MongoDocuments(mongo_database, sleep=sleep).write_links(MOOD, [LinkUpdate(str(id), link) for id in ids])
    assert waits == [0.05, 0.1, 0.2, 0.4]
    assert {found["_id"]: found["atproto"]["rkey"] for found in mongo_database["moods"].find()} == dict.fromkeys(
        ids, link.rkey
    )


def test_links_are_written_one_by_one_where_conflicts_never_end(mongo_database: Mongo) -> None:
    """The last resort: the tries take longer than MongoDB lets a transaction live."""
    id = mongo_database["moods"].insert_one({"mood": "busy"}).inserted_id
    waits: list[float] = []
    with mongo_database.client.start_session() as session:
        session.start_transaction()
        mongo_database["moods"].update_one({"_id": id}, {"$set": {"mood": "busier"}}, session=session)

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if sum(waits) > 75:
                session.abort_transaction()

        link = Link("3jzfcijpj2z2a", None, None, DID)
        MongoDocuments(mongo_database, sleep=sleep).write_links(MOOD, [LinkUpdate(str(id), link)])
    assert 75 < sum(waits) < 80
    found = mongo_database["moods"].find_one({"_id": ObjectId(id)})
    assert found is not None
    assert (found["mood"], found["atproto"]["rkey"]) == ("busy", link.rkey)
