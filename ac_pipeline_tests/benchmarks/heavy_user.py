"""The heaviest user, there and back: plan, sync, verify, wipe, restore from the snapshot and from Mongo.

395 paintings, 226 moods, 26 pieces and 2,220 kidlisp, as one user of the platform had in 2025 (aesthetic-computer
facts, section 12.1), with small artwork, on the local services. Every step is checked: all record CIDs are equal after
each restore, and the sync that follows sends nothing. Prints seconds, requests and counts of each step.
Run it with `make bench-heavy`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.removal.restore import Restore, find_snapshot, restore_from_mongo
from ac_pipeline.operations.removal.snapshot import open_vault
from ac_pipeline.operations.removal.wipe import Wipe
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection, planned
from ac_pipeline.sync.verify import verify
from ac_pipeline.wiring import Pipeline, new_run_id
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.benchmarks.services import open_bench
from ac_pipeline_tests.scripted_storage import ObjectServer

HEAVY: Mapping[str, int] = {"painting": 395, "mood": 226, "piece": 26, "kidlisp": 2_220}
BUCKET = "user-aesthetic-computer"
START = datetime(2025, 1, 1, tzinfo=UTC)


class Unequal(Exception):
    """A step left something else behind than it should have."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, measured. `requests`: by kind, those that were made."""

    name: str
    seconds: float
    requests: Mapping[str, int]
    counts: Mapping[str, int]

    def __str__(self) -> str:
        made = ", ".join(f"{number} {kind}" for kind, number in self.requests.items()) or "no requests"
        told = ", ".join(f"{name} {number}" for name, number in self.counts.items())
        return f"{self.name:30} {self.seconds:7.2f} s   {told}\n{'':42} {made}"


@dataclass(slots=True)
class Trip:
    """A user's way there and back."""

    pipeline: Pipeline
    account: Account
    sizes: Mapping[str, int]
    steps: list[Step] = field(default_factory=list)
    told: Callable[[Step], None] = lambda step: None

    def run(self) -> list[Step]:
        """All steps, in order.

        Raises:
            Unequal: A step left something else behind than it should have.
        """
        vault, everything = open_vault(self.pipeline), Selection()
        total = sum(self.sizes.values())
        with self._step("plan (dry run)") as counts:
            plan, _ = self.pipeline.engine.survey(self.account, everything)
            counts["operations"] = len(planned([plan]))
        self._expect(counts["operations"], total, "operations are planned")
        with self._step("sync") as counts:
            counts["created"] = sum(tally.created for tally in self._sync().types.values())
        self._expect(counts["created"], total, "records are created")
        before = self._contents()
        with self._step("verify") as counts:
            found = verify(self.pipeline.engine, self.account, everything)
            counts["records"], counts["blobs"] = found.verified, found.blobs_verified
        self._expect(counts["records"], total, "records are verified")
        for source in ("snapshot", "mongo"):
            with self._step("wipe, with its snapshot") as counts:
                number = Wipe(vault, self.account, MEDIA_TYPES).plan().total
                report = Wipe(vault, self.account, MEDIA_TYPES, new_run_id(), confirm=number).run()
                counts["deleted"], counts["links cleared"] = sum(report.deleted.values()), report.links_cleared
            self._expect((report.clean, self._contents()), (True, {}), "the wipe leaves")
            with self._step(f"restore from {'the snapshot' if source == 'snapshot' else 'Mongo'}") as counts:
                if source == "snapshot":
                    snapshot = find_snapshot(vault, self.account, MEDIA_TYPES, "latest")
                    back = Restore(vault, self.account, MEDIA_TYPES, new_run_id(), snapshot=snapshot).run()
                    counts["snapshot bytes"] = snapshot.bytes
                else:
                    back = restore_from_mongo(vault, self.account, MEDIA_TYPES, run_id=new_run_id())
                counts["restored"] = sum(back.restored.values())
            self._expect((back.clean, self._contents() == before), (True, True), "all record CIDs are equal")
            with self._step("sync again") as counts:
                counts["unchanged"] = sum(tally.unchanged for tally in self._sync().types.values())
            sent = {name for name in self.steps[-1].requests if name in {"apply_writes", "upload_blob"}}
            self._expect((counts["unchanged"], sent), (total, set()), "the sync finds unchanged and sends")
        return self.steps

    def _sync(self) -> AccountReport:
        report = self.pipeline.engine.sync(self.account, Selection(), new_run_id())
        self._expect((report.error, report.blocked, report.failures), (None, None, []), "the sync ends with")
        return report

    def _contents(self) -> dict[str, str]:
        return dict(self.pipeline.server.read_repository(str(self.account.did)).records)

    @contextmanager
    def _step(self, name: str) -> Iterator[dict[str, int]]:
        counts: dict[str, int] = {}
        before, started = self.pipeline.server.usage(), time.perf_counter()
        yield counts
        seconds = time.perf_counter() - started
        used = (self.pipeline.server.usage() - before).requests
        self.steps.append(Step(name, seconds, {kind: n for kind, n in used.items() if n}, counts))
        self.told(self.steps[-1])

    @staticmethod
    def _expect(found: object, expected: object, what: str) -> None:
        if found != expected:
            raise Unequal(f"{what} {found!r}, not {expected!r}"[:2_000])


def fill(database: Any, objects: ObjectServer, owner: str, sizes: Mapping[str, int]) -> None:
    """Documents and pictures of the heavy user."""
    for name, count in sizes.items():
        rows = []
        for number in range(count):
            when = START + timedelta(minutes=number, milliseconds=number % 1000)
            slug = f"{when:%Y.%m.%d.%H.%M.%S}.{number % 1000:03}"
            content: dict[str, Any] = {
                "painting": {"code": f"p{number:04}", "slug": slug},
                "mood": {"mood": f"feeling {number}"},
                "piece": {"slug": f"piece-{number}"},
                "kidlisp": {"code": f"k{number:04}", "source": f"(wipe {number})\n(ink {number % 256})" * 10},
            }[name]
            rows.append({"_id": ObjectId(), "user": owner, "when": when, **content})
            if name == "painting":
                objects.put(BUCKET, f"{owner}/painting/{slug}.png", pixel_art(64, 48, seed=number))
        if rows:
            database[media_type(name).collection].insert_many(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="part of the heavy user's work")
    options = parser.parse_args()
    sizes = {name: max(1, round(number * options.share)) for name, number in HEAVY.items()}
    with ObjectServer() as objects, open_bench(objects.url_template) as bench:
        owner = f"auth0|{ObjectId()}"
        password = secrets.token_hex(16)
        new = bench.accounts.create("heavy-user.test", password)
        bench.database["users"].insert_one({"_id": owner, "atproto": {"did": new.did, "password": password}})
        bench.database["@handles"].insert_one({"_id": owner, "handle": "heavy"})
        fill(bench.database, objects, owner, sizes)
        sys.stdout.write(", ".join(f"{number} {name}" for name, number in sizes.items()) + "\n\n")
        trip = Trip(bench.pipeline, bench.pipeline.accounts.find("heavy"), sizes)
        trip.told = lambda step: sys.stdout.write(f"{step}\n") and sys.stdout.flush()
        trip.run()


if __name__ == "__main__":
    end_in_order()
    main()
