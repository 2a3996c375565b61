"""One user with items of every type, mirrored once, and what a run says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.types import Write
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.report import AccountReport
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.sync.world import World, at_second


@dataclass
class Home:
    """One user with items of every type, mirrored once; the same in every test.

    Attributes:
        ids: A name for each document -> its id.
    """

    world: World
    user: Account
    ids: dict[str, str]

    def change(self, name: str, **fields: Any) -> None:
        self.world.change(name.partition(" ")[0], self.ids[name], **fields)

    def raw(self, name: str) -> dict[str, Any]:
        return self.world.documents.raw(media_type(name.partition(" ")[0]), self.ids[name])

    def key(self, name: str) -> str:
        return str(self.raw(name)["atproto"]["rkey"])

    def write(self, action: Any, name: str, **fields: Any) -> None:
        """Somebody else writes to the repository."""
        nsid = media_type(name.partition(" ")[0]).nsid
        value = {"$type": nsid, **fields} if action != "delete" else None
        MemoryPds.apply_writes(
            self.world.pds, self.user, [Write(action, nsid, self.key(name), value)], swap_commit=None
        )

    def state(self) -> dict[str, Any]:
        """All that is kept of this user, but for the times at which it was looked at."""
        entries = {
            item: (entry.state, entry.rkey, entry.cid, entry.fingerprint, entry.partition, entry.derived, entry.failure)
            for item, entry in self.world.ledger.entries.items()
        }
        links = {
            name: self.world.link(name.partition(" ")[0], id) for name, id in self.ids.items() if self.is_there(name)
        }
        return {"records": self.world.pds.records(self.user), "links": links, "entries": entries}

    def is_there(self, name: str) -> bool:
        collection = self.world.documents.collections[media_type(name.partition(" ")[0]).collection]
        return ObjectId(self.ids[name]) in collection


NAMES = (
    "mood 1", "mood 2", "mood nuked", "painting 1", "painting 2", "piece 1", "kidlisp 1", "tape 1",
)  # fmt: skip


def home(*, mirrored: bool = True) -> Home:
    world = World()
    user = world.user()
    made = Home(world, user, {})
    for number, name in enumerate(NAMES):
        fields: dict[str, Any] = {"nuked": True} if name.endswith("nuked") else {}
        fields |= {"mood": f"mood {number}"} if name.startswith("mood") else {"code": f"cod{number}"}
        id = ObjectId(f"{number + 1:024x}")
        made.ids[name] = world.add(name.partition(" ")[0], user, _id=id, when=at_second(number), **fields)
    if mirrored:
        report = world.sync(user)
        assert (report.error, report.failures) == (None, [])
        world.pds.calls.clear()
    return made


def said(report: AccountReport) -> dict[str, Any]:
    """A report without the time it took."""
    return {
        "types": {name: tally.to_json() for name, tally in report.types.items()},
        "versions": report.versions,
        "failures": report.failures,
        "notes": report.notes,
        "error": repr(report.error),
        "blocked": repr(report.blocked),
    }


def requests(made: Home) -> tuple[int, int]:
    """How often the latest commit was asked for, and the repository read."""
    return made.world.pds.count("latest_commit"), made.world.pds.count("read_repository")
