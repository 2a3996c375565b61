"""Whoever of us writes to a repository leaves it as its mark says; a stranger's change in between is still seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

import ac_pipeline
from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import OutcomeUnknown, RepositoryMoved, ServerFailed
from ac_pipeline.operations.lexicons import publish
from ac_pipeline.sync.lexicon_gate import Authority
from ac_pipeline.sync.writing.writer import commit_writes
from ac_pipeline_tests.unit.operations.guarded import Guarded
from ac_pipeline_tests.unit.sync.world import LEXICONS

POST = "app.bsky.feed.post"
Act = Callable[[Guarded, Account], object]


def drifted(world: Guarded, account: Account) -> bool:
    """Whether the drift sensor would ask for a sync."""
    did = str(account.did)
    mark = world.ledger.checkpoint(did)
    assert mark is not None
    return mark.rev != world.pds.latest_commit(did).rev


def post(world: Guarded, account: Account, key: str) -> None:
    """A stranger's write."""
    write = Write("create", POST, key, {"$type": POST, "text": key})
    super(type(world.pds), world.pds).apply_writes(account, [write], swap_commit=None)


def restore(source: str, *types: str) -> Act:
    def act(world: Guarded, account: Account) -> None:
        world.wipe(account, *types)
        assert world.restore(account, *types, source=source).clean

    return act


def sync_a_part(world: Guarded, account: Account) -> None:
    world.add("mood", account, mood="new")
    world.sync(account, types=("mood",))


def interrupted_sync(world: Guarded, account: Account) -> None:
    world.moods(account, 250, first=100)
    world.pds.fail("apply_writes", ServerFailed("no more"), call=2)
    world.pds.fail("apply_writes", ServerFailed("no more"), call=3)
    world.pds.fail("read_repository", ServerFailed("no more"), call=3)
    world.sync(account)
    world.heal()


def interrupted_restore(world: Guarded, account: Account) -> None:
    world.moods(account, 250, first=100)
    world.sync(account)
    world.wipe(account)
    world.pds.fail("apply_writes", ServerFailed("no more"), call=2)
    world.pds.fail("apply_writes", ServerFailed("no more"), call=3)
    world.restore(account)
    world.heal()


def restore_without_an_answer(world: Guarded, account: Account) -> None:
    world.wipe(account)
    world.pds.fail("apply_writes", OutcomeUnknown("no answer"), after=True)
    assert world.restore(account).clean


def publish_lexicons(world: Guarded, account: Account) -> None:
    assert publish(LEXICONS, Authority(account, world.pds), world.ledger)


WRITERS: dict[str, Act] = {
    "sync of a part": sync_a_part,
    "interrupted sync": interrupted_sync,
    "wipe": lambda world, account: world.wipe(account),
    "wipe of a type": lambda world, account: world.wipe(account, "mood"),
    "restore from a snapshot": restore("latest"),
    "restore of a type from a snapshot": restore("latest", "mood"),
    "restore from Mongo": restore("mongo"),
    "restore of a type from Mongo": restore("mongo", "painting"),
    "interrupted restore": interrupted_restore,
    "restore without an answer": restore_without_an_answer,
    "lexicons publish": publish_lexicons,
}


@pytest.mark.parametrize("act", WRITERS.values(), ids=WRITERS.keys())
def test_nothing_that_we_write_is_taken_for_a_strangers(act: Act) -> None:
    """GUARD-5: the drift sensor compares the revision with the mark, and nothing else."""
    world = Guarded()
    user = world.user()
    world.one_of_each(user)
    before = world.pds.latest_commit(str(user.did)).rev
    act(world, user)
    assert world.pds.latest_commit(str(user.did)).rev != before
    assert not drifted(world, user)


@pytest.mark.parametrize("act", [restore("latest", "mood"), publish_lexicons, sync_a_part])
def test_a_change_by_somebody_else_is_not_hidden_behind_ours(act: Act) -> None:
    """GUARD-5, VERIFY-9: it came before our first look, and nobody of ours has judged it."""
    world = Guarded()
    user = world.user()
    world.one_of_each(user)
    post(world, user, "a")
    act(world, user)
    assert drifted(world, user)
    world.ledger.release(user, ())
    world.sync(user)
    assert not drifted(world, user)


def test_a_change_by_somebody_else_between_our_batches_is_seen() -> None:
    """GUARD-5: our first batch was built on the marked commit, the second one is not."""
    world = Guarded()
    user = world.user()
    world.moods(user, 250)
    world.sync(user)
    world.wipe(user)
    first = world.pds.count("apply_writes")
    world.pds.between = lambda number: post(world, user, "a") if number == first + 1 else None
    assert world.restore(user).clean
    assert drifted(world, user)


@pytest.mark.parametrize("stranger", [False, True])
def test_a_change_by_somebody_else_beside_a_lost_answer_is_seen(
    stranger: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GUARD-5: the repository that was read back holds more than our batch."""
    world = Guarded()
    user = world.user()
    world.one_of_each(user)
    read = world.pds.read_repository
    repository = read(str(user.did))

    def read_back(did: str) -> Repository:
        if stranger:
            post(world, user, "theirs")
        return read(did)

    monkeypatch.setattr(world.pds, "read_repository", read_back)
    world.pds.fail("apply_writes", OutcomeUnknown("no answer"), after=True)
    ours = [Write("create", POST, "ours", {"$type": POST, "text": "ours"})]
    with pytest.raises(RepositoryMoved) if stranger else nullcontext():
        _, follow = commit_writes(world.pds, world.ledger, user, ours, repository, now=world.clock)
        follow()
    assert drifted(world, user) is stranger


def test_nothing_else_commits_to_a_repository() -> None:
    """GUARD-5: a new writer cannot forget the mark."""
    package = Path(ac_pipeline.__file__).parent
    found = {
        str(path.relative_to(package)): text.count(".apply_writes(")
        for path in package.rglob("*.py")
        if ".apply_writes(" in (text := path.read_text())
    }
    assert found == {"sync/writing/writer.py": 1}
