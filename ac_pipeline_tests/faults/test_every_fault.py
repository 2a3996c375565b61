"""Every call of a small sync against every kind of fault, on real services: the next clean sync ends with all in place.

A seeded sample runs with all tests, the whole by `make test-faults`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art, recording_zip
from ac_pipeline.settings import Settings
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline.wiring import open_pipeline
from ac_pipeline_tests.faults.fault_proxy import FAULTS, Break, FaultProxy, MongoProxy
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.scripted_storage import ObjectServer

PDS_CALLS = (
    "GET describeServer",
    "POST createSession",
    "GET getRepo",
    "GET getLatestCommit",
    "POST uploadBlob",
    "POST applyWrites",
    "HEAD getBlob",
)
STORAGE_CALLS = ("GET", "HEAD")
ONCE, ALWAYS = 1, 1_000
HTTP_CASES = [
    (call, fault, times)
    for call in (*PDS_CALLS, *STORAGE_CALLS)
    for fault in FAULTS
    for times in (ONCE, ALWAYS)
    # Another object with its own ETag is as good an answer, and a well-formed one that is given again is a verdict.
    if fault != "another's answer" or (times == ONCE and call != "GET")
]
MONGO_MESSAGES = 26
"""A first sync sends a few more."""
MONGO_CASES = [(message, how) for message in range(1, MONGO_MESSAGES + 1) for how in get_args(Break)]
SAMPLE = random.Random(8)
SLUG = "2025.10.15.12.30.45.123"
DENIALS = {"403", "404"}
"""Of object storage they say that there is no such object, which only a full look doubts."""


class Bench:
    """Real services, proxies before them, and one user with three moods and a painting that has a recording."""

    def __init__(
        self, pds: Any, storage: ObjectServer, mongo_uri: str, database: Database[dict[str, Any]], folder: Path
    ):
        self.pds, self.storage, self.database, self.folder = pds, storage, database, folder
        self.host, self.port = parse_uri(mongo_uri)["nodelist"][0]
        self.proxy, self.media, self.mongo = (
            FaultProxy(pds.url),
            FaultProxy(storage.url_template.partition("/{")[0]),
            MongoProxy(self.port),
        )

    @contextmanager
    def pipeline(self) -> Iterator[Slice]:
        """As a new process would open it, with limits that are reached in no time."""
        settings = Settings(
            # Else the driver goes to the address that the server gives for itself.
            mongodb_connection_string=f"mongodb://{self.host}:{self.mongo.port}/?w=majority&directConnection=true",
            mongodb_name=self.database.name,
            pds_url=self.proxy.url,
            ac_media_url=f"{self.media.url}/{{bucket}}",
            ac_renditions_url=str(self.folder / "renditions"),
            dagster_home=self.folder,
            ac_mongo_timeout_seconds=1,
            ac_relay_commits_per_hour=0,
            **{f"ac_{kind}_seconds": 1.5 for kind in ("answer", "repository", "blob", "media")},
            **{f"ac_{kind}_megabytes": 1 for kind in ("answer", "repository", "blob", "media")},
        )
        # The pauses between attempts, shortened; nothing waits for anything in them.
        with open_pipeline(settings, sleep=lambda seconds: time.sleep(min(seconds, 1.0) / 20)) as pipeline:
            yield Slice(pipeline, self.database, self.pds)

    def close(self) -> None:
        for each in (self.proxy, self.media, self.mongo):
            each.__exit__(None, None, None)

    def time_passes(self) -> None:
        """What a 429 has taught is over, and so is a lease that could not be given back."""
        for name in ("budgets", "leases"):
            self.database.client[f"{self.database.name}-pipeline"].drop_collection(name)


@pytest.fixture
def bench(
    mongo_database: Any, mongo_server: Any, pds: Any, object_server: ObjectServer, tmp_path: Path
) -> Iterator[Bench]:
    made = Bench(pds, object_server, mongo_server.uri, mongo_database, tmp_path)
    yield made
    made.close()
    mongo_database.client.drop_database(f"{mongo_database.name}-pipeline")


def furnish(slice_: Slice, storage: ObjectServer, seed: int = 0) -> tuple[Account, dict[str, list[str]]]:
    user = slice_.user("ada")
    storage.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.png", pixel_art(24, 16, seed=seed))
    storage.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.zip", recording_zip())
    moods = [slice_.add("mood", user, mood=f"mood {number}") for number in range(3)]
    return user, {"mood": moods, "painting": [slice_.add("painting", user, code="abc", slug=SLUG)]}


def all_is_well(bench: Bench, user: Account, ids: dict[str, list[str]], *, full: bool) -> None:
    """A clean sync of a new process ends with every record once and whole, and a second one changes nothing."""
    bench.time_passes()
    with bench.pipeline() as slice_:
        report = slice_.sync(user, Selection(full=full))
        assert (report.error, report.blocked, report.failures) == (None, None, [])
        for type, documents in ids.items():
            records = slice_.records(user, type)
            assert sorted(record["ref"] for record in records.values()) == sorted(documents)
            for document in documents:
                link = slice_.link(type, document)
                assert link is not None
                assert records[str(link.rkey)]["ref"] == document
                assert slice_.entry(type, document).state in {State.WRITTEN, State.UNCHANGED}
        (painting,) = slice_.records(user, "painting").values()
        assert {"thumbnail", "recordingUrl"} <= painting.keys()
        assert verify(slice_.pipeline.engine, user, Selection()).complete
        again = slice_.sync(user)
        assert {name: tally.unchanged for name, tally in again.types.items() if tally.planned} == {
            "mood": 3,
            "painting": 1,
        }


def run(bench: Bench, call: str, fault: str, times: int) -> None:
    storage = call in STORAGE_CALLS
    with bench.pipeline() as slice_:
        if fault == "another's answer":
            donor, _ = furnish(slice_, bench.storage, seed=1)
            slice_.sync(donor, Selection(blobs=True))
            slice_.sync(donor)
            for each in ("users", "@handles", "moods", "paintings"):
                bench.database[each].delete_many({})
        user, ids = furnish(slice_, bench.storage)
        if call in ("GET getLatestCommit", "HEAD getBlob"):  # of a second sync
            slice_.sync(user)
            slice_.change("mood", ids["mood"][0], mood="another one")
    proxy = bench.media if storage else bench.proxy
    proxy.spoil(call, fault, times)
    with bench.pipeline() as slice_:
        began = time.monotonic()
        report = slice_.sync(user, Selection(blobs=call == "HEAD getBlob"))
        assert time.monotonic() - began < 60
    assert report.blocked is None
    assert storage or {failure.state for failure in report.failures} <= {State.DEFERRED}
    assert proxy.spoilt
    proxy.heal()
    all_is_well(bench, user, ids, full=storage and (fault in DENIALS or call == "HEAD"))


def run_mongo(bench: Bench, message: int, how: Break) -> None:
    with bench.pipeline() as slice_:
        user, ids = furnish(slice_, bench.storage)
        bench.mongo.spoil(message, how)
        slice_.sync(user)
    assert bench.mongo.broken
    bench.mongo.heal()
    all_is_well(bench, user, ids, full=False)


@pytest.mark.parametrize(("call", "fault", "times"), SAMPLE.sample(HTTP_CASES, 8))
def test_a_sample_of_faults_of_http_leaves_nothing_wrong(bench: Bench, call: str, fault: str, times: int) -> None:
    """ANSWER-1, ANSWER-2, WRITE-8, MEDIA-22: no item in quarantine, no account blocked, no duplicate."""
    run(bench, call, fault, times)


@pytest.mark.parametrize(("message", "how"), SAMPLE.sample(MONGO_CASES, 2))
def test_a_sample_of_faults_of_mongodb_leaves_nothing_wrong(bench: Bench, message: int, how: Break) -> None:
    """WRITE-8, LINK-8"""
    run_mongo(bench, message, how)


@pytest.mark.faults
@pytest.mark.parametrize(("call", "fault", "times"), HTTP_CASES)
def test_every_fault_of_http_leaves_nothing_wrong(bench: Bench, call: str, fault: str, times: int) -> None:
    """ANSWER-1, ANSWER-2, WRITE-8, MEDIA-22: as the sample."""
    run(bench, call, fault, times)


@pytest.mark.faults
@pytest.mark.parametrize(("message", "how"), MONGO_CASES)
def test_every_fault_of_mongodb_leaves_nothing_wrong(bench: Bench, message: int, how: Break) -> None:
    """WRITE-8, LINK-8: as the sample."""
    run_mongo(bench, message, how)
