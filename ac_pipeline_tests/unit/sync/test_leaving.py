"""Accounts that are being deleted: everything of theirs goes, nothing is written, and all can come back."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace

import pytest

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.errors import AccountDeleted, AccountUnknown, NoCredentials, RecordRefused
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.engine import AccountChanged
from ac_pipeline.sync.planning.plan import Kind
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.unit.sync.world import World, chosen, totals

KEY, OTHER_KEY = "3jzfcijpj2z2a", "3jzfcijpj2z2b"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


def leaving(user: Account) -> Account:
    return replace(user, pending_deletion=LEAVING)


def one_of_each(world: World, user: Account) -> dict[str, str]:
    return {media.name: world.add(media.name, user) for media in MEDIA_TYPES}


def test_records_and_links_of_all_types_go_in_one_run(world: World) -> None:
    """DEL-7, DEL-9: a verification finds no record, no blob is left, and nothing was created or updated for it."""
    user = world.user()
    ids = one_of_each(world, user)
    world.sync(user)
    blobs = world.pds.read_repository(str(user.did)).blobs()
    plan, _ = world.survey(leaving(user))
    assert {(op.kind, op.reason) for op in plan.operations()} == {(Kind.DELETE, LEAVING)}
    report = world.sync(leaving(user))
    assert (report.blocked, report.error, report.failures, report.notes) == (None, None, [], [])
    for media in MEDIA_TYPES:
        tally = report.types[media.name]
        assert (tally.withdrawn, tally.planned, tally.deleted) == (1, 1, 1)
        assert world.link(media.name, ids[media.name]) is None
        assert world.entry(media.name, ids[media.name]).state is State.DELETED
    assert world.pds.records(user) == {}
    assert not any(world.pds.has_blob(str(user.did), cid) for cid in blobs)
    found = verify(world.engine, leaving(user), chosen())
    assert (found.complete, found.expected, found.extra) == (True, 0, 0)
    with world.quiet():
        world.sync(leaving(user))


def test_a_cancelled_deletion_brings_everything_back_once_under_its_keys(world: World) -> None:
    """DEL-2, LINK-5: a mood's page address, posted elsewhere long ago, is valid again."""
    user = world.user()
    one_of_each(world, user)
    moods = world.moods(user, 250)
    world.put(user, "mood", KEY, {"mood": "mood 7", "when": WHEN_TEXT, "ref": moods[7]})
    world.sync(user)
    before = world.pds.records(user)
    world.sync(leaving(user))
    assert world.pds.records(user) == {}
    report = world.sync(user)
    assert sum(tally.created for tally in report.types.values()) == 255
    assert world.pds.records(user) == before
    assert world.by_ref(user, "mood")[moods[7]] == [KEY]
    with world.quiet():
        world.sync(user)


class Killed(BaseException):
    """SIGKILL as a test can have it: nothing that handles errors sees it."""


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("method", ["write_links", "save"])
def test_keys_survive_a_kill_at_any_moment_of_emptying_a_repository_it_never_saw(
    world: World, method: str, call: int
) -> None:
    """DEL-2, WRITE-13: keys that only the platform's links knew are in the ledger before the links go."""
    user = world.user()
    with_record, without = world.add("mood", user, mood="a"), world.add("mood", user, mood="b")
    world.put(user, "mood", KEY, {"mood": "a", "when": WHEN_TEXT, "ref": with_record})
    world.change("mood", with_record, atproto={"rkey": KEY})
    world.change("mood", without, atproto={"rkey": OTHER_KEY})
    port = world.documents if method == "write_links" else world.ledger
    turns = iter(range(1, 10))

    def turn() -> None:
        port.before[method] = turn
        if next(turns) == call:
            raise Killed

    port.before[method] = turn
    with suppress(Killed):
        world.sync(leaving(user))
    port.before.clear()
    world.sync(leaving(user))
    assert world.link("mood", with_record) is world.link("mood", without) is None
    world.sync(user)
    assert world.by_ref(user, "mood") == {with_record: [KEY], without: [OTHER_KEY]}


def test_nothing_is_made_adopted_or_healed_for_it(world: World) -> None:
    """DEL-9: new work, a wrong link and a picture without thumbnail stay as they are, or go."""
    user = world.user()
    painting = world.add("painting", user)
    linked = world.add("mood", user, atproto={"rkey": KEY, "did": "did:plc:other"})
    report = world.sync(leaving(user))
    assert world.engine.render(leaving(user), PAINTING, Selection(), "run-1").types["painting"].planned == 0
    assert world.renderer.derived == []
    assert world.pds.count("apply_writes") == world.pds.count("upload_blob") == 0
    assert (world.link("painting", painting), world.link("mood", linked)) == (None, None)
    assert (report.types["painting"].planned, report.types["mood"].planned) == (0, 0)


def test_records_without_a_document_go_too_however_many(world: World) -> None:
    """DEL-7, DEL-4: orphans by the dozen, records that name nothing, and those of another's document."""
    user, other = world.user(), world.user()
    theirs = world.add("mood", other)
    for number, (one, two) in enumerate(itertools.product("abcdef", "23456")):
        orphan = {"mood": "x", "when": WHEN_TEXT, "ref": f"{number:024x}"}
        world.put(user, "mood", f"3jzfcijpj2z{one}{two}", orphan)
    world.put(user, "painting", KEY, {"slug": "names no document"})
    world.put(user, "piece", KEY, {"slug": "x", "ref": theirs})
    assert world.sync(user).types["mood"].deleted == 0, "so many look like a wrong database"
    report = world.sync(leaving(user))
    assert world.pds.records(user) == {}
    assert (report.types["mood"].deleted, report.types["painting"].deleted, report.types["piece"].deleted) == (30, 1, 1)
    assert verify(world.engine, leaving(user), chosen()).extra == 0


def test_an_invalid_item_does_not_stay_behind(world: World) -> None:
    """DEL-7: what is in quarantine keeps its record, but not here."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    world.change("mood", document, mood="x" * 6_000)
    assert world.sync(user).types["mood"].quarantined == 1
    assert len(world.records(user, "mood")) == 1
    assert world.sync(leaving(user)).types["mood"].deleted == 1
    assert world.pds.records(user) == {}


def test_what_the_platform_purges_meanwhile_is_gone_here_as_well(world: World) -> None:
    """DEL-7: the documents go before the account does; the last one of a collection, too."""
    user = world.user()
    one_of_each(world, user)
    world.sync(user)
    world.documents.collections.clear()
    report = world.sync(leaving(user))
    assert sum(tally.deleted for tally in report.types.values()) == 5
    assert world.pds.records(user) == {}


def test_an_account_that_the_pds_no_longer_hosts_is_blocked(world: World) -> None:
    """DEL-7: the platform was faster."""
    user = world.user()
    world.sync(user)
    report = world.sync(replace(leaving(user), did="did:plc:gone"))
    assert isinstance(report.blocked, AccountUnknown)
    assert report.failures == []


def test_without_credentials_or_in_an_unclear_state_nothing_is_touched(world: World) -> None:
    """DEL-9: what nobody may write to waits; so does what is being restored."""
    user = world.user()
    world.moods(user, 2)
    world.sync(user)
    reason = AccountDeleted("restoring")
    for account in (replace(leaving(user), blocked=reason), replace(user, blocked=reason)):
        report = world.sync(account)
        assert report.blocked is reason
        assert (report.types["mood"].withdrawn, report.types["mood"].planned) == (2, 0)
    assert len(world.records(user, "mood")) == 2


def test_a_delete_that_is_refused_keeps_its_link_and_waits_visibly(world: World) -> None:
    """DEL-6, DEL-7: the rest goes; the next run tries again."""
    user = world.user()
    stays, goes = world.moods(user, 2)
    world.sync(user)
    (key,) = world.by_ref(user, "mood")[stays]
    world.pds.refusals[MOOD.nsid, key] = RecordRefused("no", status=400, answer="InvalidRequest: no")
    first = world.clock.now
    assert totals(world.sync(leaving(user))) == {"deleted": 1, "quarantined": 1}
    world.clock.advance(3600)
    world.sync(leaving(user))
    assert world.entry("mood", stays).withdrawn_at == first
    assert world.link("mood", stays) is not None
    assert world.link("mood", goes) is None
    assert verify(world.engine, leaving(user), chosen()).extra == 1
    world.pds.refusals.clear()
    assert totals(world.sync(leaving(user))) == {"deleted": 1}
    assert world.pds.records(user) == {}


def test_a_selected_part_takes_nothing_else_with_it(world: World) -> None:
    """PLAN-2."""
    user = world.user()
    first, second = world.moods(user, 2)
    world.sync(user)
    world.sync(leaving(user), items=frozenset({("mood", first)}))
    assert world.by_ref(user, "mood").keys() == {second}
    world.sync(leaving(user), types=["painting"])
    assert world.by_ref(user, "mood").keys() == {second}


def test_a_hold_keeps_nobody_from_being_erased(world: World) -> None:
    """DEL-7, DEL-9: a hold keeps work from being published, not a person's wish from being carried out."""
    user = world.user()
    world.moods(user, 2)
    world.add("piece", user)
    world.sync(user)
    world.ledger.hold(user, [MOOD], "wiped")
    report = world.sync(leaving(user))
    assert world.records(user, "mood") == world.records(user, "piece") == {}
    assert report.blocked is None


def test_nothing_is_written_for_who_began_to_leave_since_the_run_read_the_accounts(world: World) -> None:
    """DEL-9: a run over many users reads them all at its start, hours before it comes to the last one."""
    user = world.user()
    one_of_each(world, user)
    world.sync(user)
    new = world.moods(user, 3)
    world.engine.current = leaving
    report = world.sync(user)
    assert (report.error, report.blocked) == (None, None)
    assert world.pds.records(user) == {}
    assert all(world.link("mood", each) is None for each in new)
    assert sum(tally.created for tally in report.types.values()) == 0


def test_what_a_cancelled_deletion_leaves_is_not_erased_by_a_run_that_does_not_know_of_it(world: World) -> None:
    """DEL-9, DEL-2: it would come back, but be gone from public pages meanwhile."""
    user = world.user()
    one_of_each(world, user)
    world.sync(user)
    before = world.pds.records(user)
    world.engine.current = lambda account: user
    assert sum(tally.unchanged for tally in world.sync(leaving(user)).types.values()) == 5
    assert world.pds.records(user) == before
    gate = RecordRefused("the gate is closed")

    def closed() -> None:
        raise gate

    world.engine.gate = closed
    world.add("mood", user, mood="another")
    assert world.sync(leaving(user)).error is gate


def test_a_password_that_changed_meanwhile_is_the_one_that_counts(world: World) -> None:
    """ACCT-1."""
    user = world.user()
    world.moods(user, 3)
    world.engine.current = lambda account: user
    assert totals(world.sync(replace(user, password="the one before"))) == {"created": 3}


def test_nothing_goes_into_the_repository_that_the_account_had_before(world: World) -> None:
    user, other = world.user(), world.user()
    world.moods(user, 3)
    world.engine.current = lambda account: replace(user, did=other.did, password=other.password)
    assert totals(world.sync(user)) == {"created": 3}
    assert (len(world.pds.records(user)), len(world.pds.records(other))) == (0, 3)
    world.engine.current = lambda account: replace(user, password=None, blocked=NoCredentials("no password in Mongo"))
    world.moods(user, 4)
    assert isinstance(world.sync(user).blocked, NoCredentials)
    assert world.pds.records(user) == {}


def test_an_account_that_keeps_changing_is_left_for_later(world: World) -> None:
    """LIMIT-10: bounded, and said."""
    user = world.user()
    world.moods(user, 3)
    passwords = itertools.count()
    world.engine.current = lambda account: replace(account, password=f"number {next(passwords)}")
    report = world.sync(user)
    assert isinstance(report.error, AccountChanged)
    assert world.pds.records(user) == {}
    world.engine.current = lambda account: account
    assert totals(world.sync(user)) == {"created": 3}
