"""The ledger as a whole: its version, copies of it, and what is lost with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.mongo.ledger.whole import MIGRATIONS, bring_up_to_date, export_ledger, import_ledger
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run

SLUG = "2025.10.15.12.30.45.123"
OF_THE_MOMENT = ("leases", "sessions", "provisioning")


def own(slice_: Slice) -> Database[dict[str, Any]]:
    return slice_.database.client[slice_.pipeline.settings.ac_ledger_database]


def lose(slice_: Slice) -> None:
    """Drop the ledger, as a wrong hand does."""
    slice_.database.client.drop_database(own(slice_).name)


def test_loss_of_the_ledger_and_of_dagsters_home_costs_history_only(slice_: Slice, object_server: Any) -> None:
    """PROD-4: renditions, which are in that home by default, are made again, and nothing is written."""
    ada = slice_.user("ada")
    object_server.put(USER_BUCKET, f"{ada.id}/painting/{SLUG}.png", pixel_art(64, 48))
    object_server.put(USER_BUCKET, f"{ada.id}/{SLUG}.zip", tape_zip(6, 32, 24))
    slice_.add("painting", ada, code="abc", slug=SLUG)
    slice_.add("tape", ada, code="xyz", slug=SLUG)
    slice_.add("mood", ada, mood="fine")
    assert sum(tally.written for tally in slice_.sync(ada).types.values()) == 3
    before = {name: slice_.listed(ada, name) for name in ("painting", "tape", "mood")}
    links = {name: list(slice_.database[name].find()) for name in ("paintings", "tapes", "moods")}
    lose(slice_)
    shutil.rmtree(slice_.pipeline.settings.ac_renditions_url)
    used = slice_.pipeline.server.usage()
    report = slice_.sync(ada, Selection(full=True))
    requests = (slice_.pipeline.server.usage() - used).requests
    assert (requests["apply_writes"], requests["upload_blob"]) == (0, 0)
    assert {name: tally.unchanged for name, tally in report.types.items() if tally.unchanged} == {
        "painting": 1,
        "tape": 1,
        "mood": 1,
    }
    assert {name: slice_.listed(ada, name) for name in before} == before
    assert {name: list(slice_.database[name].find()) for name in links} == links


def test_a_copy_of_the_ledger_brings_everything_back(cli: Run, slice_: Slice, tmp_path: Path) -> None:
    """PROD-4: holds too, without which a wiped user would be published again; no secret is in it."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood="fine")
        slice_.sync(user)
    assert cli("wipe", "bob", "--confirm", "1")[0] == 0
    own(slice_)["provisioning"].insert_one({"_id": "rotate did:plc:x", "password": "hunter2", "former": ["hunter1"]})
    before = {name: value for name, value in slice_.everything().items() if not name.endswith(OF_THE_MOMENT)}
    copy = tmp_path / "ledger.jsonl"
    assert cli("ledger", "export", str(copy))[0] == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    assert own(slice_)["sessions"].find_one() is not None
    assert not any(word in copy.read_text() for word in ('"in": "sessions"', "hunter"))
    assert cli("ledger", "export", str(copy))[0] == 2  # never over another file
    assert cli("ledger", "import", str(copy))[0] == 2  # never over a ledger

    lose(slice_)
    assert cli("ledger", "import", str(copy))[0] == 0
    after = {name: value for name, value in slice_.everything().items() if not name.endswith(OF_THE_MOMENT)}
    assert after == before
    code, out = cli("sync", "--json")
    assert (code, json.loads(out)["requests"]["apply_writes"]) == (0, 0)
    assert slice_.records(bob, "mood") == {}


@pytest.mark.parametrize(
    "text", ["", "no copy\n", '{"ledger": 99}\n', '{"in": "items", "document": {}}\n', '{"ledger": 1}\n[]\n']
)
def test_what_is_no_copy_is_not_imported(mongo: Database[dict[str, Any]], text: str) -> None:
    with pytest.raises(Misconfigured):
        import_ledger(mongo, text.splitlines())
    assert mongo["items"].find_one() is None


def test_migrations_are_carried_out_once_each_and_go_on_where_they_were_stopped(
    mongo: Database[dict[str, Any]],
) -> None:
    done: list[str] = []

    def breaks(database: Database[dict[str, Any]]) -> None:
        done.append("broken")
        raise Misconfigured("in the middle")

    first, second = (lambda _: done.append("first")), (lambda _: done.append("second"))
    with pytest.raises(Misconfigured, match="in the middle"):
        bring_up_to_date(mongo, [first, breaks])
    bring_up_to_date(mongo, [first, second])
    bring_up_to_date(mongo, [first, second])
    assert done == ["first", "broken", "second"]
    assert json.loads(next(export_ledger(mongo))) == {"ledger": len(MIGRATIONS)}


def test_a_ledger_of_a_newer_pipeline_is_left_alone(cli: Run, slice_: Slice) -> None:
    own(slice_)["schema"].update_one({"_id": "ledger"}, {"$set": {"version": len(MIGRATIONS) + 1}})
    before = slice_.everything()
    for words in (["status"], ["sync"], ["plan"]):
        assert cli(*words)[0] == 2
    assert slice_.everything() == before
