"""A database or PDS that has not what was there, on real services: nothing is deleted, nobody blocked; it is said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.cli.main import run
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.documents import MongoDocuments
from ac_pipeline.mongo.ledger.items import MongoLedger
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.memory_pds import MemoryPds

Said = Callable[..., tuple[int, str, str]]
PIECE, MOOD = media_type("piece"), media_type("mood")
PIECES = Selection(types=(PIECE,))


@pytest.fixture
def said(cli: Run, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command; exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, *capsys.readouterr()

    return call


def lose(slice_: Slice, collection: str, ids: list[str]) -> None:
    slice_.database[collection].delete_many({"_id": {"$in": [ObjectId(id) for id in ids]}})


def number_of_records(slice_: Slice, users: list[Account], type: str) -> int:
    return sum(len(slice_.listed(user, type)) for user in users)


@pytest.fixture
def pieces(slice_: Slice, said: Said) -> tuple[list[Account], list[str]]:
    """Ten users with three pieces each, and a guest with fourteen, all published; the owned ones' ids."""
    users = [slice_.user(f"user{number}") for number in range(10)]
    owned = [slice_.add("piece", user, slug=f"{user.key}-{number}") for user in users for number in range(3)]
    guest = slice_.user(id=GUEST_ID)
    for number in range(14):
        slice_.add("piece", guest, slug=f"guest-{number}")
    assert said("sync")[0] == 0
    return users, owned


def test_the_owned_part_of_a_collection_gone_deletes_nothing_until_a_person_names_the_number(
    slice_: Slice, said: Said, pieces: tuple[list[Account], list[str]]
) -> None:
    """GUARD-1, SEEN-3, SEEN-4: few items each, no user above ten; sync, plan and status say it, and what they advise
    is what helps."""
    users, owned = pieces
    documents = list(slice_.database["pieces"].find())
    lose(slice_, "pieces", owned)

    code, out, _ = said("sync", "--type", "piece", "--json")
    report = json.loads(out)
    assert (code, report["types"]["piece"]["deleted"], report["types"]["piece"]["orphans_kept"]) == (1, 0, 30)
    assert any("the collection holds 14 documents, where there were 44" in each["note"] for each in report["notes"])
    assert number_of_records(slice_, users, "piece") == 30

    code, out, _ = said("plan", "--json")
    plan = json.loads(out)
    assert (plan["operations"], plan["orphans_kept"]) == ([], {"piece": 30})
    code, out, _ = said("status", "--json")
    assert "half-restored" in json.loads(out)["input"]["piece"]["doubt"]
    assert "half-restored" in said("status")[1].replace("\n", " ")

    for wrong in (["--sweep"], ["--sweep", "29"], ["--sweep", "31"]):
        code, _, err = said("sync", *wrong)
        assert (code, "the number to sweep is 30" in err.replace("\n", " ")) == (2, True)
    assert number_of_records(slice_, users, "piece") == 30

    code, out, _ = said("sync")
    advised = next(line.strip() for line in out.splitlines() if "--sweep 30" in line)
    assert said(*shlex.split(advised)[1:])[0] == 0
    assert number_of_records(slice_, users, "piece") == 0
    there = json.loads(said("status", "--json")[1])["input"]["piece"]
    assert (there["documents"], there["expected"], there["doubt"]) == (14, 14, None)
    assert "No new piece has come for" in there["silence"]
    code, _, err = said("sync", "--sweep")
    assert (code, "the number to sweep is 0" in err.replace("\n", " ")) == (2, True)

    slice_.database["pieces"].insert_many([each for each in documents if str(each["_id"]) in owned])
    assert said("sync")[0] == 0
    assert number_of_records(slice_, users, "piece") == 30


def test_a_users_own_advice_sweeps_that_user_alone(
    slice_: Slice, said: Said, pieces: tuple[list[Account], list[str]]
) -> None:
    """GUARD-1, SEEN-4: the sentence about one user, followed as it stands."""
    users, owned = pieces
    lose(slice_, "pieces", owned)
    report = json.loads(said("sync", "--json")[1])
    note = next(each["note"] for each in report["notes"] if "--user user3 " in each["note"])
    code, _, err = said("links", "--heal", "--sweep", "--user", "user3")
    assert (code, "the number to sweep is 3." in err.replace("\n", " ")) == (2, True)
    command = note.split("`")[1]
    assert said(*shlex.split(command)[1:])[0] == 0
    assert [len(slice_.listed(user, "piece")) for user in users] == [3, 3, 3, 0, 3, 3, 3, 3, 3, 3]
    assert said("sync")[0] == 1
    assert number_of_records(slice_, users, "piece") == 27


def test_two_documents_left_in_each_collection_hold_up_nothing_that_is_withdrawn(slice_: Slice, said: Said) -> None:
    """GUARD-1: nuked work, a withdrawn account and what belongs to nobody's fault go as ever; the rest stays."""
    users = [slice_.user(f"user{number}") for number in range(4)]
    moods = [slice_.add("mood", user, mood=f"{user.key} {number}") for number in range(4) for user in users]
    programs = [
        slice_.add("kidlisp", user, code=f"{user.key[4:]}x{number}", source=f"(wipe {user.key} {number})")
        for number in range(4)
        for user in users
    ]
    assert said("sync")[0] == 0
    lose(slice_, "moods", moods[2:])
    lose(slice_, "kidlisp", programs[2:])
    slice_.change("mood", moods[0], deleted=True)
    slice_.database["account-deletions"].insert_one({"_id": users[3].id, "state": "running"})
    code, out, _ = said("sync", "--json")
    types = json.loads(out)["types"]
    assert (code, types["mood"]["deleted"], types["kidlisp"]["deleted"]) == (1, 5, 4)
    assert [len(slice_.listed(user, "mood")) for user in users] == [3, 4, 4, 0]
    assert [len(slice_.listed(user, "kidlisp")) for user in users] == [4, 4, 4, 0]


def test_no_saved_plan_goes_around_the_guard(
    slice_: Slice, said: Said, pieces: tuple[list[Account], list[str]]
) -> None:
    """GUARD-1, PLAN-1: neither one that was made before the loss, nor one with --sweep and without its number."""
    users, owned = pieces
    lose(slice_, "pieces", owned[:3])
    before = json.loads(said("plan", "--json")[1])
    assert before["counts"] == {"delete-orphan": 3}
    lose(slice_, "pieces", owned)
    code, out, _ = said("sync", "--plan", before["hash"], "--json")
    assert (code, json.loads(out)["same"]) == (1, 0)
    swept = json.loads(said("plan", "--sweep", "--json")[1])
    assert swept["counts"] == {"delete-orphan": 30}
    code, _, err = said("sync", "--plan", swept["hash"])
    assert (code, "--sweep 30" in err.replace("\n", " ")) == (2, True)
    assert number_of_records(slice_, users, "piece") == 30
    assert said("sync", "--plan", swept["hash"], "--sweep", "30")[0] == 0
    assert number_of_records(slice_, users, "piece") == 0


@pytest.mark.parametrize("own_ledger", [True, False], ids=["another ledger", "the same ledger"])
def test_another_database_is_one_sentence(
    slice_: Slice, said: Said, monkeypatch: pytest.MonkeyPatch, own_ledger: bool
) -> None:
    """GUARD-2: whether its ledger comes with it or not; every command that is about accounts says the same."""
    for number in range(3):
        slice_.add("mood", slice_.user(f"user{number}"), mood="fine")
    assert said("sync")[0] == 0
    before = slice_.everything()
    if not own_ledger:
        monkeypatch.setenv("AC_LEDGER_DATABASE", slice_.pipeline.settings.ac_ledger_database)
    monkeypatch.setenv("MONGODB_NAME", "test-nobody-has-this-name")
    for command in ("sync", "plan", "status", "verify", "links", "retry"):
        code, _, err = said(command)
        assert (code, err.count("MONGODB_NAME"), err.count("\n")) == (2, 1, 1), (command, err)
    if not own_ledger:  # users there are, but none that are known
        other = slice_.database.client["test-nobody-has-this-name"]
        try:
            other["users"].insert_one({"_id": "auth0|other", "atproto": {"did": "did:plc:other", "password": "x"}})
            code, _, err = said("sync")
            assert (code, "names 0 of the 3 accounts" in err) == (2, True)
        finally:
            other.client.drop_database(other.name)
    assert slice_.everything() == before


def test_a_pds_that_hosts_none_of_the_accounts_is_one_sentence_and_blocks_nobody(slice_: Slice, said: Said) -> None:
    """GUARD-2: one that misses a single account blocks that one."""
    users = [slice_.user(f"user{number}") for number in range(3)]
    for user in users:
        slice_.add("mood", user, mood="fine")
    elsewhere = {"atproto.did": "did:plc:" + "a" * 24}
    slice_.database["users"].update_one({"_id": users[0].id}, {"$set": elsewhere})
    code, out, _ = said("sync", "--json")
    assert (code, json.loads(out)["blocked"][-1]["class"]) == (0, "account-unknown")
    slice_.database.client.drop_database(slice_.pipeline.settings.ac_ledger_database)
    for number, user in enumerate(users):
        slice_.database["users"].update_one({"_id": user.id}, {"$set": {"atproto.did": f"did:plc:{number:a>24}"}})
    for command in ("sync", "plan", "status"):
        code, out, err = said(command)
        assert (code, "hosts 0 of the 3 accounts" in err, err.count("\n")) == (2, True, 1), (command, err)
    assert list(slice_.pipeline.ledger.find()) == []


def test_runs_and_machines_that_ask_at_once_do_not_pass_the_share_together(
    mongo_database: Any, mongo_server: Any
) -> None:
    """GUARD-1: 60 runs that delete a little each, on two machines, of which the ledger knows nothing beforehand."""
    mongo_database["pieces"].insert_many([{"slug": f"piece-{number}"} for number in range(100)])
    account = Account("auth0|ada", "ada", did="did:plc:ada")
    with MongoClient[dict[str, Any]](mongo_server.uri) as one, MongoClient[dict[str, Any]](mongo_server.uri) as two:
        name = f"{mongo_database.name}-pipeline"
        machines = [
            Safeguard(
                MongoDocuments(client[mongo_database.name]), MongoLedger(client[name]), MemoryPds(),
                lambda: [account], lambda: datetime.now(UTC),
            )
            for client in (one, two)
        ]  # fmt: skip

        def ask(number: int) -> list[str]:
            orphans = {f"record-{number}-{place}": str(ObjectId()) for place in range(3)}
            why = machines[number % 2].permit(PIECE, account, orphans, 9, sweep=None, run_id=f"run-{number}", dry=False)
            return list(orphans) if why is None else []

        try:
            with ThreadPoolExecutor(12) as pool:
                permitted = [each for found in pool.map(ask, range(60)) for each in found]
            assert 0 < len(permitted) <= 10
            assert ask(60) == []
        finally:
            one.drop_database(name)


def test_a_run_in_dagster_sweeps_its_number_and_says_which_it_is(
    slice_: Slice, pieces: tuple[list[Account], list[str]]
) -> None:
    """GUARD-1, GUARD-2: another number and another database stop the run of everybody; a retry of the run goes on."""
    users, owned = pieces
    lose(slice_, "pieces", owned)
    settings = slice_.pipeline.settings
    chosen = [slice_.account(user.id) for user in users[:4]]
    with PipelineResource(lambda: settings) as mirror:
        assert [each.report.orphans_kept for each in mirror.sync(chosen, PIECES, "run-1") if each.report] == [3] * 4
        safeguard = mirror.open().safeguard
        seen = safeguard.look(PIECE, within=timedelta(seconds=2))
        assert (seen.documents, seen.expected) == (14, 44)
        assert "half-restored" in str(safeguard.problems(seen)[0])
        with pytest.raises(Misconfigured, match="the number to sweep is 12"):
            mirror.sync(chosen, replace(PIECES, sweep=11), "run-2")
        for _ in range(2):
            assert all(each.report for each in mirror.sync(chosen, replace(PIECES, sweep=12), "run-3"))
    assert [len(slice_.listed(user, "piece")) for user in users] == [0] * 4 + [3] * 6
    elsewhere = settings.model_copy(update={"mongodb_name": "test-nobody-has-this-name"})
    with PipelineResource(lambda: elsewhere) as mirror, pytest.raises(Misconfigured, match="MONGODB_NAME"):
        mirror.accounts()
