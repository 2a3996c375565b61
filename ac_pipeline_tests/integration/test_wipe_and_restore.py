"""Wipe and restore on real services: a user with all five types and the guest, there and back, twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.cli.main import run
from ac_pipeline.errors import OutcomeUnknown, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.removal.restore import Restore, RestoreReport, find_snapshot, restore_from_mongo
from ac_pipeline.operations.removal.snapshot import Vault, open_vault, take_snapshot
from ac_pipeline.operations.removal.wipe import Wipe, WipeReport
from ac_pipeline_tests.benchmarks.heavy_user import HEAVY, Trip, fill
from ac_pipeline_tests.harness import GUEST_BUCKET, USER_BUCKET, Slice
from ac_pipeline_tests.scripted_storage import ObjectServer

SLUG = "2025.10.15.12.30.45.123"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
KEY = "3jzfcijpj2z2a"


class Killed(BaseException):
    """SIGKILL as a test can have it."""


class Desk:
    """A slice and its vault."""

    def __init__(self, slice_: Slice) -> None:
        self.slice = slice_
        self.vault: Vault = open_vault(slice_.pipeline)

    def one_of_each(self, user: Account, objects: ObjectServer) -> dict[str, str]:
        """A synchronised document of every type the account can have."""
        add = self.slice.add
        if user.is_guest:
            objects.put(GUEST_BUCKET, "abcdefgh.png", pixel_art(64, 48))
            objects.put(GUEST_BUCKET, "tapeslug.zip", tape_zip(6, 32, 24))
            ids = {
                "painting": add("painting", user, code="gpa", slug="abcdefgh"),
                "piece": add("piece", user, slug="wand"),
                "kidlisp": add("kidlisp", user, code="gki", source="(wipe red)"),
                "tape": add("tape", user, code="gta", slug="tapeslug"),
            }
        else:
            objects.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.png", pixel_art(64, 48))
            objects.put(USER_BUCKET, f"{user.id}/{SLUG}.zip", tape_zip(6, 32, 24))
            ids = {
                "painting": add("painting", user, code="abc", slug=SLUG),
                "mood": add("mood", user, mood="fine"),
                "piece": add("piece", user, slug="wand"),
                "kidlisp": add("kidlisp", user, code="cow", source="(wipe blue)"),
                "tape": add("tape", user, code="xyz", slug=SLUG),
            }
        report = self.slice.sync(user)
        assert report.error is None
        assert sum(tally.created for tally in report.types.values()) == len(ids)
        return ids

    def contents(self, user: Account) -> dict[str, str]:
        """Path -> CID, as a client that is not ours lists them."""
        return {
            f"{media.nsid}/{rkey}": cid
            for media in MEDIA_TYPES
            for rkey, (cid, _) in self.slice.listed(user, media.name).items()
        }

    def blobs(self, user: Account) -> list[str]:
        repository = self.slice.pipeline.server.read_repository(str(user.did))
        return sorted(repository.blobs())

    def wipe(self, user: Account, *types: str, **options: Any) -> WipeReport:
        chosen = tuple(media_type(name) for name in types) or MEDIA_TYPES
        confirm = options.pop("confirm", None) or Wipe(self.vault, user, chosen).plan().total
        return Wipe(self.vault, user, chosen, "wipe-1", confirm=confirm, **options).run()

    def restore(self, user: Account, source: str = "latest") -> RestoreReport:
        if source == "mongo":
            return restore_from_mongo(self.vault, user, MEDIA_TYPES, run_id="restore-1")
        snapshot = find_snapshot(self.vault, user, MEDIA_TYPES, source)
        return Restore(self.vault, user, MEDIA_TYPES, "restore-1", snapshot=snapshot).run()

    def settled(self, user: Account) -> None:
        """A sync finds everything unchanged and sends nothing."""
        before = self.slice.pipeline.server.usage()
        report = self.slice.sync(user)
        used = (self.slice.pipeline.server.usage() - before).requests
        assert report.error is None
        assert used["apply_writes"] == used["upload_blob"] == used["create_session"] == 0
        for tally in report.types.values():
            assert (tally.unchanged, tally.healed) == (tally.planned, 0)


@pytest.fixture
def desk(slice_: Slice) -> Desk:
    return Desk(slice_)


@pytest.fixture(params=["a user", "the guest"])
def owner(request: pytest.FixtureRequest, slice_: Slice) -> Account:
    return slice_.user("ada") if request.param == "a user" else slice_.user(id=GUEST_ID)


def test_everything_goes_and_comes_back_from_the_snapshot_and_from_mongo(
    desk: Desk, owner: Account, object_server: ObjectServer
) -> None:
    """PLAN-5, PLAN-6, DEL-7, ACCT-4, LINK-4: all CIDs equal, no blob left behind, then nothing to do."""
    slice_ = desk.slice
    ids = desk.one_of_each(owner, object_server)
    before, blobs = desk.contents(owner), desk.blobs(owner)
    assert (len(before), len(blobs)) == (len(ids), 3)
    keys = {name: slice_.entry(name, id).rkey for name, id in ids.items()}

    for source in ("latest", "mongo"):
        report = desk.wipe(owner)
        assert report.clean
        assert sum(report.deleted.values()) == len(ids)
        assert desk.contents(owner) == {}
        assert not any(slice_.pipeline.server.has_blob(str(owner.did), cid) for cid in blobs)
        assert all(slice_.link(name, id) is None for name, id in ids.items())
        assert not {"at", "atproto"} & slice_.document("tape", ids["tape"]).keys()
        assert {slice_.entry(name, id).state for name, id in ids.items()} == {State.DELETED}
        assert set(slice_.pipeline.ledger.holds(owner)) == {media.name for media in MEDIA_TYPES}

        back = desk.restore(owner, source)
        assert back.clean
        assert desk.contents(owner) == before
        assert desk.blobs(owner) == blobs
        assert all(slice_.pipeline.server.has_blob(str(owner.did), cid) for cid in blobs)
        assert {name: slice_.entry(name, id).rkey for name, id in ids.items()} == keys
        tape = slice_.document("tape", ids["tape"])
        assert tape["at"]["rkey"] == tape["atproto"]["rkey"] == keys["tape"]
        assert dict(slice_.pipeline.ledger.holds(owner)) == {}
        desk.settled(owner)


def test_equal_records_in_several_batches_leave_the_repository_whole(desk: Desk) -> None:
    """PLAN-4, PLAN-6: records with one content share a block on the PDS, wherever their deletes fall."""
    user = desk.slice.user("ada")
    writes = [Write("create", "computer.aesthetic.mood", f"3jzfcijpj{n:04}", {"note": n % 3}) for n in range(450)]
    typed = [Write(w.action, w.collection, w.rkey, {"$type": w.collection, **(w.value or {})}) for w in writes]
    for start in range(0, 450, 150):
        desk.slice.pipeline.server.apply_writes(user, typed[start : start + 150], swap_commit=None)
    before = desk.contents(user)
    assert (len(before), len(set(before.values()))) == (450, 3)
    assert desk.wipe(user, "mood").deleted == {"mood": 450}
    assert desk.contents(user) == {}
    assert desk.restore(user).restored == {"mood": 450}
    assert desk.contents(user) == before


def test_the_mirrors_other_collections_and_users_are_not_touched(desk: Desk, object_server: ObjectServer) -> None:
    """PLAN-5: nor what is none of ours."""
    user, other = desk.slice.user("ada"), desk.slice.user("bob")
    desk.one_of_each(user, object_server)
    desk.slice.add("mood", other, mood="mine")
    desk.slice.sync(other)
    body = {"repo": user.did, "collection": "app.bsky.feed.post", "record": {"text": "hi", "createdAt": WHEN_TEXT}}
    desk.slice.call(user, "com.atproto.repo.createRecord", body)
    kept, theirs = desk.contents(user), desk.contents(other)
    desk.wipe(user, "mood", "painting")
    left = {path: cid for path, cid in kept.items() if path.split(".")[2].split("/")[0] not in ("mood", "painting")}
    assert desk.contents(user) == left
    assert desk.contents(other) == theirs
    repository = desk.slice.pipeline.server.read_repository(str(user.did))
    assert len(list(repository.collection("app.bsky.feed.post"))) == 1


class Faulty:
    """The PDS of a slice, with something happening at one of its batches."""

    def __init__(self, slice_: Slice, batch: int, *, before: BaseException | None, after: BaseException | None) -> None:
        self._server = slice_.pipeline.engine.server
        self._left, self._before, self._after = batch, before, after
        self._slice = slice_
        slice_.pipeline.engine.server = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def apply_writes(self, account: Account, writes: Sequence[Write], *, swap_commit: str | None) -> Commit:
        self._left -= 1
        if self._left == 0 and self._before is not None:
            raise self._before
        commit = self._server.apply_writes(account, writes, swap_commit=swap_commit)
        if self._left == 0 and self._after is not None:
            raise self._after
        return commit

    def gone(self) -> None:
        self._slice.pipeline.engine.server = self._server


@pytest.mark.parametrize(
    ("before", "after"),
    [(Killed(), None), (None, Killed()), (ServiceUnreachable("down"), None), (None, OutcomeUnknown("cut"))],
    ids=["killed before", "killed after", "unreachable", "answer lost"],
)
def test_an_interrupted_wipe_and_restore_are_done_by_the_same_command(
    desk: Desk, before: BaseException | None, after: BaseException | None
) -> None:
    """PLAN-3, PLAN-5, PLAN-6, WRITE-8: at the second batch of three, there and back."""
    slice_ = desk.slice
    user = slice_.user("ada")
    ids = [slice_.add("mood", user, mood=f"mood {number}") for number in range(450)]
    slice_.sync(user)
    contents = desk.contents(user)

    def interrupted(act: Callable[[], WipeReport | RestoreReport]) -> None:
        fault = Faulty(slice_, 2, before=before, after=after)
        try:
            if isinstance(before or after, Killed):
                with pytest.raises(Killed):
                    act()
            else:
                act()
        finally:
            fault.gone()

    interrupted(lambda: desk.wipe(user, confirm=450))
    if not isinstance(after, OutcomeUnknown):  # that one is read back, and the wipe goes on
        assert 0 < len(desk.contents(user)) < 450
        assert desk.wipe(user, confirm=450).clean
    assert desk.contents(user) == {}
    assert not any(slice_.link("mood", id) for id in ids)
    assert {slice_.entry("mood", id).state for id in ids} == {State.DELETED}
    assert len(slice_.pipeline.snapshots.find()) == 1

    interrupted(lambda: desk.restore(user))
    assert desk.restore(user).clean
    assert desk.contents(user) == contents
    assert all(slice_.link("mood", id) for id in ids)
    desk.settled(user)


def test_a_snapshot_in_the_store_is_whole_and_holds_no_secret(desk: Desk, object_server: ObjectServer) -> None:
    """PLAN-5, ACCT-5: CAR, blobs and manifest, all by their hashes."""
    user = desk.slice.user("ada")
    desk.one_of_each(user, object_server)
    taken = take_snapshot(desk.vault, user, MEDIA_TYPES)
    assert (taken.complete, taken.blobs, sum(taken.records.values())) == (True, 3, 5)
    folder = Path(desk.slice.pipeline.settings.ac_renditions_url) / "snapshots"
    files = {path.relative_to(folder).parts[0]: path for path in folder.rglob("*") if path.is_file()}
    assert files.keys() == {"repositories", "blobs", "manifests"}
    manifest = files["manifests"].read_text()
    assert sorted(json.loads(manifest)["cids"]) == desk.blobs(user)
    assert user.id not in manifest
    assert str(user.password) not in manifest
    assert desk.slice.pipeline.snapshots.get(taken.id).complete


def test_a_twentieth_of_the_heaviest_user_goes_there_and_back(slice_: Slice, object_server: ObjectServer) -> None:
    """PLAN-4, PLAN-6, OPS-6: the steps of `make bench-heavy`, each of which checks what it leaves behind."""
    user = slice_.user("heavy")
    sizes = {name: max(1, number // 20) for name, number in HEAVY.items()}
    fill(slice_.database, object_server, user.id, sizes)
    steps = Trip(slice_.pipeline, user, sizes).run()
    assert [step.counts["restored"] for step in steps if "restored" in step.counts] == [sum(sizes.values())] * 2


# ------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def cli(named_services: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command in an environment that names the test's services; exit code, and what it printed."""
    named_services.setenv("AC_OPERATOR", "ada@desk")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_line_tells_does_and_undoes(cli: Any, desk: Desk) -> None:
    """PLAN-5, PLAN-6: the plan names the command that carries it out; audit and snapshots tell of it afterwards."""
    user = desk.slice.user("ada")
    for number in range(3):
        desk.slice.add("mood", user, mood=f"mood {number}")
    desk.slice.add("kidlisp", user, code="abc", source="(wipe blue)")
    desk.slice.sync(user)
    before, all_before = desk.contents(user), desk.slice.everything()

    code, out, _ = cli("wipe", "ada", "--type", "mood")
    assert code == 2
    assert "3 public addresses" in out
    assert "ac-pipeline wipe ada --type mood --confirm 3" in out
    code, out, error = cli("wipe", "@ada", "--type", "mood", "--confirm", "4")
    assert (code, "--confirm 4 is not the right one, 3" in error) == (2, True)
    code, out, _ = cli("wipe", "ada", "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["total"], plan["records"]["mood"], plan["price"]["points"]) == (0, 4, 3, 4)
    assert desk.slice.everything() == all_before

    code, out, _ = cli("wipe", "ada", "--type", "mood", "--confirm", "3", "--why", "they asked")
    assert code == 0
    assert "On hold: mood" in out
    assert desk.contents(user) == {path: cid for path, cid in before.items() if "kidlisp" in path}
    code, out, _ = cli("status", "--json")
    (reason,) = json.loads(out)["on_hold"]["ada"].values()
    assert (code, "they asked" in reason) == (0, True)
    code, out, _ = cli("status")
    assert "On hold: mood of ada" in out
    code, out, _ = cli("snapshots", "--user", "ada", "--json")
    (snapshot,) = json.loads(out)
    assert (snapshot["complete"], snapshot["records"]) == (True, {"mood": 3})
    code, out, _ = cli("restore", "ada", "--dry-run", "--json")
    assert [op["operation"] for op in json.loads(out)["operations"]] == ["create"] * 3
    code, out, _ = cli("restore", "ada", "--from", "latest", "--dry-run", "--json")
    assert (code, json.loads(out)["records"]) == (0, {"mood": 3})
    code, out, _ = cli("restore", "ada", "--from", snapshot["id"])
    assert (code, "Nothing is on hold" in out) == (0, True)
    assert desk.contents(user) == before

    code, out, _ = cli("snapshot", "ada", "--json")
    assert (code, json.loads(out)["complete"]) == (0, True)
    code, out, _ = cli("wipe", "ada", "--confirm", "4", "--json")
    assert (code, json.loads(out)["deleted"]) == (0, {"mood": 3, "kidlisp": 1})
    code, _, _ = cli("restore", "ada", "--type", "mood", "--json")
    assert code == 0
    assert len(desk.contents(user)) == 3
    code, _, error = cli("restore", "ada", "--from", "nothing")
    assert (code, "no snapshot" in error) == (2, True)

    code, out, _ = cli("audit", "--json")
    told = [(entry["action"], entry["who"], entry["outcome"], entry["counts"]) for entry in json.loads(out)]
    assert told == [
        ("restore", "ada@desk", "done", {"mood": 3}),
        ("wipe", "ada@desk", "done", {"mood": 3, "kidlisp": 1}),
        ("restore", "ada@desk", "done", {"mood": 3}),
        ("wipe", "ada@desk", "done", {"mood": 3}),
    ]
    assert str(user.password) not in out
    code, out, _ = cli("audit", "--action", "wipe", "--user", "ada")
    assert (code, "they asked" in out) == (0, True)


def test_nothing_of_another_type_is_read_into_a_snapshot_of_one(desk: Desk, object_server: ObjectServer) -> None:
    """OPS-6: a wipe of moods downloads no videos."""
    user = desk.slice.user("ada")
    desk.one_of_each(user, object_server)
    assert desk.wipe(user, "mood").clean
    (snapshot,) = desk.slice.pipeline.snapshots.find()
    assert (snapshot.blobs, snapshot.types) == (0, ("mood",))
    kept: tuple[MediaType, ...] = (media_type("mood"),)
    assert desk.vault.check(snapshot, kept).did == user.did
