"""Nothing has changed: then the repository is not read, and the report says what a full run would say (VERIFY-11)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import AccountInactive, RecordRefused, ServiceUnreachable
from ac_pipeline.items import Failure, Stage, State
from ac_pipeline.media.base import Document
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.planning.ahead import Ahead
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.sync.home import NAMES, Home, home, requests, said
from ac_pipeline_tests.unit.sync.world import World, at_second

KEY = "3jzfcijpj2z2a"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


# ------------------------------------------------------------------------------------------------------ nothing to do


def test_a_second_run_reads_no_repository_and_says_what_a_full_run_says() -> None:
    """VERIFY-11, WRITE-1: one small request, whatever the user has; nothing is written."""
    short, full = home(), home()
    with short.world.quiet(), full.world.quiet():
        quick, whole = short.world.sync(short.user), full.world.sync(full.user, full=True)
    assert said(quick) == said(whole)
    assert quick.types["mood"].records == quick.types["mood"].unchanged == 2
    assert requests(short) == (1, 0)
    assert requests(full) == (0, 1)
    assert short.world.pds.count("apply_writes") == short.world.pds.count("upload_blob") == 0


def test_what_no_record_depends_on_does_not_count_as_a_change() -> None:
    """SRC-9, VERIFY-11: views, the time of a link, and everything of others."""
    made = home()
    made.change("kidlisp 1", hits=7, lastAccessed=at_second(9))
    made.raw("mood 1")["atproto"]["syncedAt"] = "2030-01-01T00:00:00.000Z"
    stranger = made.world.user()
    made.world.add("mood", stranger)
    made.world.sync(stranger)
    made.world.pds.calls.clear()
    with made.world.quiet():
        assert made.world.sync(made.user).types["kidlisp"].unchanged == 1
    assert requests(made) == (1, 0)


def test_a_user_without_anything_is_settled_too() -> None:
    """VERIFY-11: most of 4,200 users."""
    world = World()
    user = world.user()
    world.sync(user)
    world.pds.calls.clear()
    with world.quiet():
        assert world.sync(user).types["mood"].planned == 0
    assert [call.method for call in world.pds.calls] == ["latest_commit"]


def test_the_first_run_asks_for_nothing_but_the_repository() -> None:
    """Nothing is known that a revision could be compared with."""
    made = home(mirrored=False)
    made.world.sync(made.user)
    assert requests(made) == (0, 1)


@pytest.mark.parametrize(
    "selection",
    [{"full": True}, {"blobs": True}, {"retry": True}, {"sweep": 0}, {"limit": 5}, {"since": 0}],
    ids=str,
)
def test_whoever_asks_for_more_or_for_a_part_gets_the_whole_way(selection: dict[str, Any]) -> None:
    """VERIFY-10: the nightly reconcile reads every repository."""
    made = home()
    made.world.sync(made.user, **selection)
    assert requests(made) == (0, 1)


def test_a_survey_always_reads_the_repository() -> None:
    """VERIFY-2: what is verified is what the PDS holds."""
    made = home()
    made.world.survey(made.user)
    assert requests(made) == (0, 1)


# ----------------------------------------------------------------------------------------------------- every change


def _other_home(made: Home) -> None:
    del made.raw("tape 1")["at"]


def _other_mapping(document: Document, derived: Any) -> dict[str, Any]:
    return {**MOOD.build_record(document, derived), "mood": document.fields["mood"] + "!"}


def _lose_ledger(made: Home) -> None:
    made.world.ledger.entries.clear()
    made.world.ledger.repositories.clear()


def _quarantine(made: Home) -> None:
    item = f"mood:{made.ids['mood 1']}"
    failure = Failure(Stage.WRITE, "record-refused", "no")
    entry = replace(made.world.ledger.entries[item], state=State.QUARANTINED, failure=failure)
    made.world.ledger.entries[item] = entry


def _forget(made: Home, **fields: Any) -> None:
    item = f"painting:{made.ids['painting 1']}"
    made.world.ledger.entries[item] = replace(made.world.ledger.entries[item], **fields)


def _pending(made: Home) -> None:
    made.world.engine.render(made.user, media_type("painting"), Selection(), "run-0")
    item = f"painting:{made.ids['painting 1']}"
    made.world.ledger.entries[item] = replace(made.world.ledger.entries[item], state=State.PENDING)


def _add(made: Home, **fields: Any) -> None:
    made.world.put(made.user, "mood", KEY, {"mood": "x", "when": WHEN_TEXT, **fields})


def _post(made: Home) -> None:
    write = Write("create", "app.example.post", "a", {"$type": "app.example.post"})
    MemoryPds.apply_writes(made.world.pds, made.user, [write], swap_commit=None)


def _alter_link(part: str, value: str) -> Callable[[Home], None]:
    return lambda made: made.raw("mood 1")["atproto"].__setitem__(part, value)


CHANGES: dict[str, Callable[[Home], object]] = {
    "an edit": lambda made: made.change("mood 1", mood="other"),
    "another time": lambda made: made.change("mood 1", when=at_second(100)),
    "a nuke": lambda made: made.change("painting 1", nuked=True),
    "an un-nuke": lambda made: made.change("mood nuked", nuked=False),
    "a new document": lambda made: made.world.add("mood", made.user, _id=ObjectId("f" * 24), mood="new"),
    "a new document of a type without any change": lambda made: made.world.add(
        "piece", made.user, _id=ObjectId("f" * 24), slug="new"
    ),
    "a document that became invalid": lambda made: made.change("piece 1", slug=None),
    "a document that is gone": lambda made: made.world.documents.remove(MOOD, made.ids["mood 1"]),
    "a document of another owner": lambda made: made.change("mood 1", user="auth0|somebody-else"),
    "a link that is gone": lambda made: made.raw("mood 1").pop("atproto"),
    "a link with another cid": _alter_link("cid", "bafyother"),
    "a link with another did": _alter_link("did", "did:plc:other"),
    "a link with another key": _alter_link("rkey", KEY),
    "a link with another uri": _alter_link("uri", "at://did:plc:other/computer.aesthetic.mood/x"),
    "a link of a withdrawn document": lambda made: made.change("mood nuked", atproto={"rkey": KEY}),
    "one of two homes of a link": _other_home,
    "a record that somebody changed": lambda made: made.write(
        "update", "mood 1", mood="hacked", when=WHEN_TEXT, ref=made.ids["mood 1"]
    ),
    "a record that somebody deleted": lambda made: made.write("delete", "mood 1"),
    "a record that somebody added": _add,
    "a duplicate that somebody added": lambda made: _add(made, ref=made.ids["mood 1"]),
    "a record that is no business of ours": _post,
    "a ledger that is gone": _lose_ledger,
    "entries that are gone": lambda made: made.world.ledger.entries.clear(),
    "marks that are gone": lambda made: made.world.ledger.repositories.clear(),
    "an entry in quarantine": _quarantine,
    "an entry that waits for its record": _pending,
    "an entry without renditions": lambda made: _forget(made, derived=None),
    "an entry with another cid": lambda made: _forget(made, cid="bafyother"),
    "an entry of another repository": lambda made: _forget(made, did="did:plc:other"),
    "a deletion that waits": lambda made: _forget(made, withdrawn_at=at_second(0)),
    "a recording that turned up": lambda made: made.world.renderer.found.update(
        {made.ids["painting 1"]: frozenset({"recording"})}
    ),
    "a new name": lambda made: setattr(made, "user", replace(made.user, key="renamed")),
    "a deletion of the account": lambda made: setattr(made, "user", replace(made.user, pending_deletion="it leaves")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_found_as_by_a_full_run(change: Callable[[Home], object]) -> None:
    """VERIFY-9, VERIFY-11, DEL-1: what is said and what is left are the same as when everything is read."""
    short, full = home(), home()
    before = full.state()
    for made in (short, full):
        made.world.clock.now = made.world.clock.now.replace(year=2025, month=10, day=16)
        change(made)
        made.world.pds.calls.clear()
    quick, whole = short.world.sync(short.user), full.world.sync(full.user, full=True)
    assert said(quick) == said(whole)
    assert short.state() == full.state()
    assert requests(short)[1] == 1
    assert full.state() == before or whole.error is None
    again, whole_again = short.world.sync(short.user), full.world.sync(full.user, full=True)
    assert said(again) == said(whole_again)


def test_another_mapping_of_the_same_documents_is_a_change() -> None:
    """WRITE-11: the wanted CID differs, so every record is read and updated in place."""
    made = home()
    mapped = tuple(replace(each, build_record=_other_mapping) if each == MOOD else each for each in MEDIA_TYPES)
    report = made.world.engine.sync(made.user, Selection(types=mapped), "run-2")
    assert (report.types["mood"].updated, report.types["piece"].unchanged) == (2, 1)
    assert requests(made) == (1, 1)
    made.world.pds.calls.clear()
    assert made.world.engine.sync(made.user, Selection(types=mapped), "run-3").types["mood"].unchanged == 2
    assert requests(made) == (1, 0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.sampled_from(NAMES), st.sampled_from("abc")),
        st.tuples(st.just("nuked"), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("unlink"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("drop"), st.integers(0, 6), st.none()),
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from("23456")),
        st.tuples(st.just("refuse"), st.integers(0, 6), st.booleans()),
        st.tuples(st.just("forget"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("fail"), st.sampled_from(["write_links", "owners", "stream"]), st.none()),
        st.tuples(
            st.just("fail ledger"), st.sampled_from(["load", "save", "checkpoint", "keep_checkpoint"]), st.none()
        ),
        st.tuples(st.just("sync"), st.just(""), st.none()),
    ),
    max_size=12,
)


def take(made: Home, step: tuple[str, Any, Any]) -> None:
    """One thing that happens to documents, repository, ledger or services."""
    kind, name, value = step
    records = sorted(made.world.pds.records(made.user))
    type = str(name).partition(" ")[0]
    if kind == "text":
        made.change(
            name, **{{"mood": "mood", "kidlisp": "source"}.get(type, "slug"): f"2025.1.1.1.1.1.{ord(value):03}"}
        )
    elif kind == "nuked":
        made.change(name, nuked=value)
    elif kind == "unlink":
        made.raw(name).pop("atproto", None)
    elif kind == "drop" and name < len(records):
        nsid, _, rkey = records[name].partition("/")
        MemoryPds.apply_writes(made.world.pds, made.user, [Write("delete", nsid, rkey)], swap_commit=None)
    elif kind == "put" and f"{media_type(type).nsid}/{KEY[:-1]}{value}" not in records:
        made.world.put(made.user, type, KEY[:-1] + value, {"when": WHEN_TEXT, "ref": made.ids[name]})
    elif kind == "refuse" and name < len(records):
        nsid, _, rkey = records[name].partition("/")
        made.world.pds.refusals.clear()
        if value:
            made.world.pds.refusals[nsid, rkey] = RecordRefused("no", status=400, answer="InvalidRequest: no")
    elif kind == "forget":
        made.world.ledger.entries.pop(f"{type}:{made.ids[name]}", None)
    elif kind.startswith("fail"):
        port = made.world.ledger if kind == "fail ledger" else made.world.documents
        port.fail_next(name, ServiceUnreachable("MongoDB does not answer"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_runs_with_and_without_the_short_cut_cannot_be_told_apart(steps: list[tuple[str, Any, Any]]) -> None:
    """VERIFY-9, VERIFY-11, LINK-8: whatever happens in between, in whatever order."""
    short, full = home(), home()
    for step in [*steps, ("heal", "", None), ("sync", "", None), ("sync", "", None)]:
        for made in (short, full):
            take(made, step)
            if step[0] == "heal":
                made.world.heal()
        if step[0] == "sync":
            quick, whole = short.world.sync(short.user), full.world.sync(full.user, full=True)
            failing = quick.error is not None or whole.error is not None
            if failing:  # a fault may hit a call that the other did not make: both have to be healed to be compared
                for made in (short, full):
                    made.world.pds._faults.clear()
                    for port in (made.world.documents, made.world.ledger):
                        port._failures.clear()
                quick, whole = short.world.sync(short.user), full.world.sync(full.user, full=True)
            assert short.world.pds.records(short.user) == full.world.pds.records(full.user)
            assert short.state()["links"] == full.state()["links"]
            if not failing:
                assert said(quick) == said(whole)


# ------------------------------------------------------------------------------------------------- between two moments


def test_somebody_who_writes_while_the_documents_are_read_is_not_missed() -> None:
    """VERIFY-9, WRITE-9: document and record that come together are one item, in whatever moment they come."""
    made = home()

    def arrive() -> None:
        document = made.world.add("mood", made.user, _id=ObjectId("f" * 24), mood="just now", when=at_second(50))
        made.world.put(made.user, "mood", KEY, {"mood": "just now", "when": WHEN_TEXT, "ref": document})

    made.world.documents.before["stream"] = arrive
    report = made.world.sync(made.user)
    assert (report.error, report.notes) == (None, [])
    assert (report.types["mood"].unchanged, report.types["mood"].updated) == (2, 1)
    assert made.world.by_ref(made.user, "mood")["f" * 24] == [KEY]
    assert made.world.link("mood", "f" * 24) is not None


def test_somebody_who_writes_once_the_documents_were_read_is_not_taken_for_a_stranger() -> None:
    """VERIFY-9, DEL-5: when the repository has moved on meanwhile, the documents are read once more."""
    made = home()
    made.change("piece 1", slug="other")

    def arrive() -> None:
        document = made.world.add("mood", made.user, _id=ObjectId("f" * 24), mood="just now", when=at_second(50))
        made.world.put(made.user, "mood", KEY, {"mood": "just now", "when": WHEN_TEXT, "ref": document})

    def after_the_moods() -> None:
        made.world.ledger.before["load"] = arrive

    made.world.ledger.before["load"] = after_the_moods
    report = made.world.sync(made.user)
    assert (report.error, report.notes) == (None, [])
    assert (report.types["piece"].updated, report.types["mood"].updated) == (1, 1)
    assert made.world.by_ref(made.user, "mood")["f" * 24] == [KEY]


def test_a_record_that_comes_after_the_short_cut_was_taken_is_found_by_the_next_run() -> None:
    """VERIFY-9."""
    made = home()
    changed = {"mood": "hacked", "when": WHEN_TEXT, "ref": made.ids["mood 1"]}
    turns = made.world.ledger.before  # the mark is read before the latest commit, entries after it
    turns["checkpoint"] = lambda: turns.update(load=lambda: made.write("update", "mood 1", **changed))
    assert made.world.sync(made.user).types["mood"].unchanged == 2
    assert made.world.sync(made.user).types["mood"].updated == 1


def test_an_account_that_is_taken_down_after_its_documents_were_read_is_blocked_as_a_whole() -> None:
    """ACCT-2, VERIFY-1: each eligible item once, whatever was read before."""
    made = home()
    made.change("mood 1", mood="other")
    made.world.documents.before["stream"] = lambda: made.world.pds.set_status(made.user, "takendown")
    report = made.world.sync(made.user)
    assert isinstance(report.blocked, AccountInactive)
    assert [report.types[media.name].blocked for media in MEDIA_TYPES] == [2, 2, 1, 1, 1]
    made.world.pds.set_status(made.user, None)
    assert made.world.sync(made.user).types["mood"].updated == 1


def test_an_inactive_account_is_found_by_its_latest_commit() -> None:
    """ACCT-2: nothing looks unchanged on an account that nobody can read."""
    made = home()
    made.world.pds.set_status(made.user, "deactivated")
    report = made.world.sync(made.user)
    assert isinstance(report.blocked, AccountInactive)
    assert report.types["mood"].blocked == 2


# -------------------------------------------------------------------------------------------------------- many at once


def many(number: int = 20) -> tuple[World, list[Account]]:
    """So many users with a mood each, mirrored once."""
    world = World()
    users = [world.user() for _ in range(number)]
    for user in users:
        world.add("mood", user)
    sync_all(world, users)
    world.pds.calls.clear()
    return world, users


def sync_all(world: World, users: list[Account], **selection: Any) -> dict[str, AccountReport]:
    found = sync_accounts(world.engine, users, Selection(**selection), "run", workers=2)
    reports = {account.key: report for account, report in found}
    assert len(reports) == len(users)
    return reports


def methods(world: World) -> dict[str, int]:
    return dict(Counter(call.method for call in world.pds.calls))


def test_many_users_in_whom_nothing_changed_cost_one_list() -> None:
    """VERIFY-11, WRITE-1."""
    world, users = many()
    with world.quiet():
        reports = sync_all(world, users)
    assert all(report.types["mood"].unchanged == 1 for report in reports.values())
    assert methods(world) == {"list_repositories": 1}


def test_a_few_users_are_asked_for_one_by_one_and_a_full_run_asks_for_no_revision() -> None:
    world, users = many()
    sync_all(world, users[:19])
    assert methods(world) == {"latest_commit": 19}
    world.pds.calls.clear()
    sync_all(world, users, full=True)
    assert methods(world) == {"read_repository": 20}


def test_of_many_users_those_whose_repository_moved_are_read_and_put_right() -> None:
    """VERIFY-9: one more request for each of them."""
    world, users = many()
    (key,) = world.pds.records(users[3])
    nsid, _, rkey = key.partition("/")
    MemoryPds.apply_writes(world.pds, users[3], [Write("delete", nsid, rkey, None)], swap_commit=None)
    world.pds.calls.clear()
    sync_all(world, users)
    found = methods(world)
    assert (found["list_repositories"], found["read_repository"]) == (1, 1)
    assert "latest_commit" not in found
    assert list(world.pds.records(users[3])) == [key]


def test_a_list_that_is_older_than_a_sync_of_another_run_is_not_believed() -> None:
    """VERIFY-11: the checkpoint is ahead of it, so the PDS is asked again."""
    world, users = many()
    ahead = Ahead(world.documents, world.ledger, world.pds, users, Selection())
    assert ahead.revision(str(users[0].did)) is not None
    world.add("mood", users[0])
    world.engine.sync(users[0], Selection(), "another")
    world.pds.calls.clear()
    with world.quiet():
        engine = replace(world.engine, ahead=ahead)
        assert engine.sync(users[0], Selection(), "run").types["mood"].unchanged == 2
    assert methods(world) == {"latest_commit": 1}


def test_without_a_list_every_repository_is_asked_for_alone() -> None:
    """VERIFY-11: a list that fails, and accounts it shows as inactive."""
    world, users = many()
    world.pds.fail("list_repositories", ServiceUnreachable("down"))
    with world.quiet():
        reports = sync_all(world, users)
    assert all(report.error is None for report in reports.values())
    assert methods(world) == {"list_repositories": 1, "latest_commit": 20}
