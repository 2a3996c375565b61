"""Everything that may come between users, other writers, operators, half a database and faults, in any order.

Whenever the world is quiet the mirror holds, nothing erased is public, and nothing is gone that the guard should have
kept. Some examples run with all tests, many by `make test-faults`; `AC_MACHINE_EXAMPLES` says how many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.inspection.differences import accept_theirs, find_differences, push_ours
from ac_pipeline.operations.inspection.links import heal
from ac_pipeline.operations.removal import snapshot
from ac_pipeline.operations.removal.snapshot import take_snapshot
from ac_pipeline.operations.removal.wipe import WipeReport
from ac_pipeline.operations.sync import FAILED, FailedItems, confirm_sweep, group_by_account, narrowed
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing import blob_repair as blobs
from ac_pipeline.sync.writing import writer
from ac_pipeline_tests.faults.machine_world import (
    COPIES,
    MOST,
    POST,
    Hostile,
    Trouble,
    limited,
    new_id,
)
from ac_pipeline_tests.unit.sync.world import assert_sums, chosen

TYPES = tuple(media.name for media in MEDIA_TYPES)
ROUNDS = 12
"""Within so many days everything that waits is over, if nothing new comes."""
NOT_FOR_GUESTS = {"mood"}
METHODS = (
    None,
    None,
    "apply_writes",
    "upload_blob",
    "write_links",
    "save",
    "follow_checkpoint",
    "read_repository",
    "keep_look",
)

pick = st.integers(0, 999)
types = st.sampled_from(TYPES)


class Mirror(RuleBasedStateMachine):
    """Two users and the guest."""

    @initialize(many=st.sampled_from([8, 5, 1]))
    def begin(self, many: int) -> None:
        self.world = world = Hostile()
        self.numbers = iter(range(1, 10_000))
        self.unseen = False
        self.users = [world.user("ada").id, world.user("bob").id, world.guest().id]
        for who in range(len(self.users)):
            for type in TYPES:
                self.make(type, who, many - 3 * who, pending=bool(who))
        for which in range(many):
            self.the_platforms_writer_is_first(which, which, named=bool(which % 2))
        world.touched.clear()  # these records become ours as they are
        self.it_is_quiet()
        for which in range(many):
            self.a_script_copies_a_record(which, which * 7, named=bool(which % 2))

    # ------------------------------------------------------------------------------------------------------------ users

    @rule(type=types, who=pick, many=st.sampled_from([1, 1, 2, 6]), pending=st.booleans())
    def somebody_makes_work(self, type: str, who: int, many: int, pending: bool) -> None:
        self.make(type, who, many, pending=pending)

    def make(self, type: str, who: int, many: int, *, pending: bool) -> None:
        for _ in range(many):
            account = self.one(who)
            if len(self.world.raws(type)) >= MOST or (account.is_guest and type in NOT_FOR_GUESTS):
                return
            number = next(self.numbers)
            when = self.world.clock() + timedelta(milliseconds=number)
            fields: dict[str, Any] = {"when": when, "_id": new_id(number)}
            fields |= {"mood": f"mood {number}"} if type == "mood" else {}
            fields |= {"source": f"(wipe {number})"} if type == "kidlisp" else {}
            fields |= {"slug": f"piece-{number}"} if type == "piece" else {}
            fields |= {"code": f"c{number:05}"} if type not in {"mood", "piece"} else {}
            fields |= {"mp4Status": "processing"} if type == "tape" and pending else {}
            id = self.world.add(type, account, **fields)
            if type == "painting" and pending:
                self.world.renderer.found[id] = frozenset({"recording"})

    @rule(which=pick)
    def somebody_edits(self, which: int) -> None:
        if (found := self.document(which)) is not None:
            type, id = found
            number = next(self.numbers)
            texts = {"mood": {"mood": f"edited {number}"}, "kidlisp": {"source": f"(ink {number})"}}
            texts |= {"piece": {"slug": f"edited-{number}"}}
            self.world.change(type, id, **texts.get(type, {"code": f"e{number:05}"}))

    @rule(which=pick, flag=st.sampled_from(["nuked", "private", "deleted"]), value=st.sampled_from([True, True, False]))
    def somebody_takes_back_or_returns(self, which: int, flag: str, value: bool) -> None:
        if (found := self.document(which)) is not None:
            self.world.change(*found, **{flag: value})

    @rule(who=pick, type=types)
    def somebody_takes_back_all_of_a_type(self, who: int, type: str) -> None:
        for id in self.world.raws(type, self.one(who)):
            self.world.change(type, id, nuked=True)

    @rule(who=st.integers(0, 1))
    def somebody_leaves_or_comes_back(self, who: int) -> None:
        account = self.one(who)
        self.world.accounts[account.id] = replace(
            account, pending_deletion=None if account.pending_deletion else LEAVING
        )
        if account.pending_deletion is None:
            for type in TYPES:
                self.world.forget(account, type)

    @rule(who=st.integers(0, 1))
    def somebody_is_renamed(self, who: int) -> None:
        account, name = self.one(who), f"name{next(self.numbers)}"
        self.world.accounts[account.id] = replace(account, handle=name, key=name, pds_handle=f"{name}.test")

    @rule(which=pick, by_document=st.booleans(), share=st.booleans())
    def an_object_is_replaced(self, which: int, by_document: bool, share: bool) -> None:
        """A tape is baked anew, which its document says, or an object is exchanged, which only storage says."""
        found = [each for each in self.world.all_documents() if each[0] in {"painting", "tape"}]
        if found:
            type, id = found[which % len(found)]
            if by_document and type == "tape":
                done = self.world.clock().replace(microsecond=0)
                self.world.change(type, id, mp4Status="complete", mp4CompletedAt=done, mp4Size=next(self.numbers))
            else:
                self.unseen = True
                self.world.renderer.stamps[id] = "shared" if share else str(next(self.numbers))
                if share:
                    self.world.renderer.same[id] = "shared"

    # --------------------------------------------------------------------------------------------------- another writer

    @rule(who=pick, which=pick, how=st.sampled_from(["edit", "edit", "delete", "twin", "mongoId"]))
    def another_writer_touches_a_record(self, who: int, which: int, how: str) -> None:
        if (found := self.record(who, which)) is None:
            return
        account, type, rkey, value = found
        path = f"{media_type(type).nsid}/{rkey}"
        self.world.touched.add((type, str(value.get("ref"))))
        if how == "delete":
            self.world.write(account, "delete", path)
        elif how == "edit":
            name = next(name for name in ("mood", "source", "slug") if name in value)
            self.world.write(account, "update", path, value | {name: f"theirs {next(self.numbers)}"})
        else:
            twin = {name: part for name, part in value.items() if name != "ref"} | {"mongoId": value["ref"]}
            self.world.write(account, "create", self.path(type), twin if how == "mongoId" else value)

    @rule(who=pick, which=pick, named=st.booleans())
    def the_platforms_writer_is_first(self, who: int, which: int, named: bool) -> None:
        """It writes a record of a document, as it does, KidLisp without `ref`, and tells Mongo nothing."""
        account = self.one(who)
        found = [(t, id) for t in ("mood", "kidlisp") for id in sorted(self.world.shown(account, t))]
        if found and not self.is_closed(account):
            type, id = found[which % len(found)]
            raw = self.world.raws(type)[id]
            value = {"when": raw["when"].isoformat(timespec="milliseconds").replace("+00:00", "Z")}
            value |= {"mood": raw["mood"]} if type == "mood" else {"source": raw["source"], "code": raw["code"]}
            value |= {"ref": id} if named or type == "mood" else {}
            self.world.touched.add((type, id))
            self.world.write(account, "create", self.path(type), value)

    @rule(who=pick, type=st.sampled_from(["mood", "kidlisp", "piece", ""]))
    def another_writer_writes_something_of_its_own(self, who: int, type: str) -> None:
        account, number = self.one(who), next(self.numbers)
        if self.is_closed(account):
            return
        path = self.path(type) if type else f"{POST}/post{number}"
        value: dict[str, Any] = {"text": "hello"} if not type else {"mood": f"nobody's {number}"}
        if type == "kidlisp":
            value = {"source": f"(nobody {number})", "code": f"n{number:05}"}
        self.world.write(account, "create", path, value)
        if account.pending_deletion is None or not type:
            self.world.foreign[account.id][path] = self.world.pds.records(account)[path]

    @rule(who=pick, which=pick, named=st.booleans())
    def a_script_copies_a_record(self, who: int, which: int, named: bool) -> None:
        if (found := self.record(who, which)) is None:
            return
        account, type, rkey, value = found
        id, path = str(value.get("ref")), f"{COPIES}/copy{next(self.numbers)}"
        if id in self.world.shown(account, type) and type in {"mood", "piece", "kidlisp"}:
            nsid = media_type(type).nsid
            copy = {"sourceAtUri": f"at://{account.did}/{nsid}/{rkey}", "sourceCollection": nsid, "title": type}
            self.world.write(account, "create", path, copy | ({"sourceRef": id} if named else {}))
            self.world.copies[account.id][path] = (type, id)

    @rule(who=pick, type=types)
    def another_writer_names_a_document_that_never_was(self, who: int, type: str) -> None:
        id, account = str(new_id(next(self.numbers))), self.one(who)
        if self.is_closed(account):
            return
        self.world.write(
            account, "create", self.path(type), {"ref": id, "slug": "x", "when": "2025-10-15T12:30:45.123Z"}
        )
        self.world.missing[type].add(id)

    # -------------------------------------------------------------------------------------------------- half a database

    @rule(type=types, left=st.integers(0, 3))
    def documents_vanish_in_bulk(self, type: str, left: int) -> None:
        self.vanish_in_bulk(type, left)

    @rule(which=pick)
    def a_document_is_deleted_alone(self, which: int) -> None:
        if (found := self.document(which)) is not None:
            self.world.vanish(found[0], {found[1]})

    @rule(type=types, all=st.booleans())
    def documents_come_back(self, type: str, all: bool) -> None:
        self.bring_back(type, all)

    # ------------------------------------------------------------------------------------------------------- operations

    @rule(who=pick)
    def sync(self, who: int) -> None:
        self.do(lambda account: self.world.engine.sync(account, Selection(), self.run_id()), who)

    @rule(who=pick, options=st.sampled_from(["full", "retry", "blobs", "renditions"]))
    def sync_more(self, who: int, options: str) -> None:
        selection = chosen(**{options: True})
        self.do(lambda account: self.world.engine.sync(account, selection, self.run_id()), who)

    @rule(who=pick, names=st.sets(types, min_size=1), limit=st.sampled_from([None, 1, 3]))
    def sync_a_part(self, who: int, names: set[str], limit: int | None) -> None:
        selection = chosen(types=sorted(names), limit=limit)
        self.do(lambda account: self.world.engine.sync(account, selection, self.run_id()), who)

    @rule(who=pick, type=st.sampled_from(["painting", "tape"]))
    def render_ahead(self, who: int, type: str) -> None:
        self.do(
            lambda each: self.world.engine.render(each, media_type(type), Selection(), self.run_id()), who, sums=False
        )

    @rule()
    def retry_what_failed(self) -> None:
        failed = [each for each in self.world.ledger.entries.values() if each.state in FAILED]
        turns = group_by_account(
            list(narrowed(failed, FailedItems())), list(self.world.accounts.values()), FailedItems()
        ).accounts
        for turn in turns:
            self.do(lambda _, turn=turn: self.world.engine.sync(turn.account, turn.selection, self.run_id()), 0)

    @rule(who=pick)
    def heal_links(self, who: int) -> None:
        self.do(lambda account: heal(self.world.engine, account, Selection(), self.run_id()), who)

    @rule(who=pick)
    def push_differences(self, who: int) -> None:
        def push(account: Account) -> AccountReport | None:
            found = find_differences(self.world.engine, account, Selection())
            self.are_by_others(found)
            return push_ours(self.world.engine, account, Selection(), found, self.run_id()) if found else None

        self.do(push, who)

    @rule(who=pick)
    def accept_differences(self, who: int) -> None:
        world = self.world

        def change(media: Any, document: Any, changes: dict[str, Any]) -> bool:
            raw = world.raws(media.name).get(document.id)
            if raw is None or any(raw.get(name) != document.fields.get(name) for name in changes):
                return False
            world.change(media.name, document.id, **changes)
            return True

        documents = SimpleNamespace(conflicts=lambda *_, **__: [], change=change)
        renderer = SimpleNamespace(source=lambda *_: None)
        pipeline: Any = SimpleNamespace(
            ledger=world.ledger, engine=world.engine, documents=documents, renderer=renderer
        )

        def accept(account: Account) -> None:
            self.are_by_others([each for each, why in accept_theirs(pipeline, account, Selection(), 3) if not why])

        self.do(accept, who, doing="accept")

    @rule(who=pick, names=st.sampled_from([TYPES, ("mood",), ("painting", "tape")]), keep=st.booleans())
    def wipe(self, who: int, names: tuple[str, ...], keep: bool) -> None:
        world, account = self.world, self.one(who)
        copies = {path for path, (name, _) in world.copies[account.id].items() if name in names}
        for name in names:
            world.forget(account, name)
        report = self.do(lambda each: world.wipe(each, *names, keep_syncing=keep), who, doing="wipe")
        self.take_over_holds(account)
        if isinstance(report, WipeReport) and not (report.error or report.failures or world.raced):
            assert copies.isdisjoint(world.pds.records(account)), "a wipe leaves copies"
            assert not any(world.records(account, name) for name in names)

    @rule(
        who=pick,
        names=st.sampled_from([TYPES, ("mood",), ("painting", "tape")]),
        source=st.sampled_from(["mongo", "latest"]),
    )
    def restore(self, who: int, names: tuple[str, ...], source: str) -> None:
        account = self.one(who)
        self.do(lambda each: self.world.restore(each, *names, source=source), who, doing="restore")
        self.take_over_holds(account)

    @rule(who=pick)
    def take_a_snapshot(self, who: int) -> None:
        self.do(lambda account: take_snapshot(self.world.vault, account, MEDIA_TYPES), who, doing="snapshot")

    @rule(who=pick, type=types)
    def hold_or_release(self, who: int, type: str) -> None:
        account, media = self.one(who), [media_type(type)]
        if (account.id, type) in self.world.held:
            self.world.ledger.release(account, media)
        else:
            self.world.ledger.hold(account, media, "an operator's wish")
        self.world.held ^= {(account.id, type)}

    @rule(type=types, off=st.sampled_from([-1, 1, 7]))
    def sweep_with_the_wrong_number(self, type: str, off: int) -> None:
        """Nothing happens."""
        number = self.orphans(type) + off
        if number < 0:
            return
        before = self.repositories()
        with pytest.raises(Misconfigured):
            self.confirm(type, number, "sweep-wrong")
        assert self.repositories() == before
        if off < 0:  # a run that nobody has confirmed takes no more than it was given
            there, run_id = self.kept_records(type), self.run_id()
            self.do_all(
                lambda account: self.world.engine.sync(account, chosen(types=[type], sweep=number), run_id), "sweep"
            )
            swept = there - self.kept_records(type)
            assert len(swept) <= number
            for id in swept:
                self.world.kept[type].pop(id, None)

    def kept_records(self, type: str) -> set[str]:
        """Documents whose records must stay, and are there."""
        named = (self.world.named(each, type) for each in self.world.accounts.values())
        return {id for found in named for id in found if self.world.is_kept(type, id)}

    @precondition(lambda self: any(self.world.kept.values()))
    @rule(which=pick)
    def sweep_with_the_right_number(self, which: int) -> None:
        type = [name for name in TYPES if self.world.kept[name]][which % sum(map(bool, self.world.kept.values()))]
        number, run_id = self.orphans(type), self.run_id()
        if not number:
            return
        self.confirm(type, number, run_id)
        self.world.kept[type].clear()
        calm = not self.world.trouble and not self.world.ledger.leases and not self.blocked()
        reports = self.do_all(
            lambda account: self.world.engine.sync(account, chosen(types=[type], sweep=number), run_id)
        )
        if calm and not any(isinstance(each, AccountReport) and (each.error or each.failures) for each in reports):
            assert self.orphans(type) == 0

    @rule(type=types)
    def look(self, type: str) -> None:
        """What the checks and sensors do between syncs."""
        self.world.run("look", lambda: self.world.safeguard.look(media_type(type)))

    # -------------------------------------------------------------------------------------------------- time and faults

    @rule(seconds=st.sampled_from([5, 90, 700, 7_200, 90_000, 800_000]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule(
        calls=st.integers(1, 30),
        method=st.sampled_from(METHODS),
        what=st.sampled_from(["fail", "lost", "limit", "kill", "killed", "turn", "turn"]),
        turn=st.integers(0, 5),
        which=pick,
    )
    def trouble_is_ahead(self, calls: int, method: str | None, what: str, turn: int, which: int) -> None:
        act: Callable[[str], None] = self.world.fail(limited() if what == "limit" else None, after=what == "lost")
        if what in {"kill", "killed"}:
            act = self.world.kill
        elif what == "turn":
            act = self.turn(turn, which)
        calls = calls if method is None else calls % 3 + 1
        self.world.trouble.append(Trouble(calls, method, what in {"lost", "killed"}, act))

    @rule(
        who=pick,
        method=st.sampled_from(["apply_writes", "write_links", "save"]),
        call=st.integers(1, 3),
        after=st.booleans(),
    )
    def a_sync_is_killed_between_its_writes(self, who: int, method: str, call: int, after: bool) -> None:
        self.world.trouble.append(Trouble(call, method, after, self.world.kill))
        self.sync(who)

    @rule(who=pick, which=pick)
    def somebody_takes_back_and_returns(self, who: int, which: int) -> None:
        if (found := self.document(which)) is not None:
            for value in (True, False):
                self.world.change(*found, nuked=value)
                self.sync(who)

    def turn(self, turn: int, which: int) -> Callable[[str], None]:
        """What somebody else does in the middle of our work."""
        turns: list[Callable[[], object]] = [
            lambda: self.somebody_edits_now(which),
            lambda: self.flag_now(which),
            lambda: self.touch_now(which, "edit"),
            lambda: self.touch_now(which, "delete"),
            lambda: self.vanish_in_bulk(TYPES[which % len(TYPES)], which % 3),
            lambda: self.bring_back(TYPES[which % len(TYPES)], True),
        ]

        def act(name: str) -> None:
            self.world.raced = True
            turns[turn]()

        return act

    @rule(who=pick, hours=st.sampled_from([0.01, 3]))
    def another_process_holds_a_lease(self, who: int, hours: float) -> None:
        until = self.world.clock() + timedelta(hours=hours)
        self.world.ledger.leases[str(self.one(who).did)] = (object(), until)

    @rule(who=pick, how=st.sampled_from(["deactivated", "takendown", "password"]))
    def an_account_cannot_be_used(self, who: int, how: Any) -> None:
        account = self.one(who)
        if how == "password":
            self.world.accounts[account.id] = replace(account, password="another")
        else:
            self.world.pds.set_status(account, how)

    @rule(who=pick, which=pick)
    def the_pds_loses_a_blob(self, who: int, which: int) -> None:
        """Only a sync that asks for blobs finds it."""
        account = self.one(who)
        found = sorted(self.world.pds._hosted[str(account.did)].blobs)
        if found:
            self.unseen = True
            self.world.pds.lose_blob(account, found[which % len(found)])

    @rule(which=pick)
    def the_store_loses_a_rendition(self, which: int) -> None:
        found = sorted(self.world.renderer.store)
        if found:
            del self.world.renderer.store[found[which % len(found)]]

    # ------------------------------------------------------------------------------------------------------------ quiet

    @rule()
    def it_is_quiet(self) -> None:
        """Faults end, time passes, and every user is synchronised until nothing changes: then everything holds.

        What only storage or the PDS knows takes a full look, and a verdict on an item takes a person; nothing else.
        """
        world = self.world
        full = self.unseen or any(each.state is State.QUARANTINED for each in world.ledger.entries.values())
        self.unseen = False
        world.trouble.clear()
        world.ledger.leases.clear()
        for id, account in world.accounts.items():
            world.pds.set_status(account, None)
            password = world.pds._hosted[str(account.did)].password
            world.accounts[id] = replace(account, password=password)
        for number in range(ROUNDS):
            world.clock.advance(90_000)
            before = self.everything()
            for media in MEDIA_TYPES:
                world.safeguard.look(media)
            more: list[dict[str, Any]] = [{"full": True, "retry": True}, {"blobs": True}]
            selection = chosen(**more[number]) if full and number < len(more) else Selection()
            for account in list(world.accounts.values()):
                report = self.world.run("sync", lambda a=account, s=selection: world.engine.sync(a, s, "quiet"))
                assert isinstance(report, AccountReport), report
                assert_sums(report)
                assert report.error is None
                held = {name for id, name in world.held if id == account.id}
                assert report.blocked is None or held == set(TYPES), report.blocked
            if number > 1 and self.everything() == before:
                break
        else:
            raise AssertionError("it never ends")
        world.check()
        self.settle_the_missing()

    def settle_the_missing(self) -> None:
        """Where the guard has no doubt any more and no orphan is left, nothing is missing."""
        for media in MEDIA_TYPES:
            look = self.world.safeguard.look(media)
            records = [
                r for each in self.world.accounts.values() for r in self.world.records(each, media.name).values()
            ]
            refs = {record.get("ref") for record in records}
            if self.world.safeguard.doubt(look) is None and look.expected == look.documents:
                self.world.missing[media.name] &= refs

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.it_is_quiet()

    # ---------------------------------------------------------------------------------------------------------- helpers

    def one(self, who: int) -> Account:
        return self.world.accounts[self.users[who % len(self.users)]]

    def document(self, which: int) -> tuple[str, str] | None:
        found = list(self.world.all_documents())
        return found[which % len(found)] if found else None

    def record(self, who: int, which: int) -> tuple[Account, str, str, dict[str, Any]] | None:
        """One of the records that name a document which is there."""
        account = self.one(who)
        found = [
            (account, type, rkey, record)
            for type in TYPES
            for rkey, record in self.world.records(account, type).items()
            if record.get("ref") in self.world.raws(type, account)
        ]
        return found[which % len(found)] if found and not self.is_closed(account) else None

    def is_closed(self, account: Account) -> bool:
        """Whether nobody can write to its repository."""
        return self.world.pds._hosted[str(account.did)].status is not None

    def path(self, type: str) -> str:
        return f"{media_type(type).nsid}/3m{next(self.numbers):011}".translate(str.maketrans("0189", "abcd"))

    def run_id(self) -> str:
        return f"run-{next(self.numbers)}"

    def somebody_edits_now(self, which: int) -> None:
        if (found := self.document(which)) is not None and found[0] == "mood":
            self.world.change(*found, mood=f"in between {next(self.numbers)}")

    def flag_now(self, which: int) -> None:
        if (found := self.document(which)) is not None:
            raw = self.world.raws(found[0])[found[1]]
            self.world.change(*found, nuked=not raw.get("nuked"))

    def touch_now(self, which: int, how: str) -> None:
        if (found := self.record(which, which)) is None:
            return
        account, type, rkey, value = found
        path = f"{media_type(type).nsid}/{rkey}"
        self.world.touched.add((type, str(value["ref"])))
        self.world.write(
            account, "delete" if how == "delete" else "update", path, None if how == "delete" else value | {"x": 1}
        )

    def vanish_in_bulk(self, type: str, left: int) -> None:
        ids = sorted(self.world.raws(type))
        if len(ids) - left > 3:
            self.world.vanish(type, set(ids[left:]))

    def bring_back(self, type: str, all: bool) -> None:
        gone = sorted(id for name, id in self.world.backup if name == type)
        self.world.come_back(type, set(gone if all else gone[: len(gone) // 2]))

    def do(
        self, act: Callable[[Account], Any], who: int, *, doing: str = "sync", sums: bool = True
    ) -> AccountReport | PipelineError | None:
        account = self.one(who)
        found = self.world.run(doing, lambda: act(account))
        if isinstance(found, AccountReport) and sums:
            assert_sums(found)
        if getattr(found, "sync", None) is not None:
            assert_sums(found.sync)
        return found

    def do_all(self, act: Callable[[Account], Any], doing: str = "sync") -> list[Any]:
        return [self.do(act, number, doing=doing) for number in range(len(self.users))]

    def blocked(self) -> bool:
        hosted = [self.world.pds._hosted[str(each.did)] for each in self.world.accounts.values()]
        wrong = [h for h, a in zip(hosted, self.world.accounts.values(), strict=True) if h.password != a.password]
        return bool(wrong) or any(each.status for each in hosted)

    def take_over_holds(self, account: Account) -> None:
        """What a wipe or restore has held or released it has told; a killed one has told nobody."""
        self.world.held = {each for each in self.world.held if each[0] != account.id}
        self.world.held |= {(account.id, name) for name in self.world.ledger.held.get(account.id, {})}

    def are_by_others(self, found: list[Any]) -> None:
        """Nothing that we did ourselves is taken for somebody else's wish."""
        for each in found:
            assert (each.media.name, each.document.id) in self.world.touched, each.to_json()

    def orphans(self, type: str) -> int:
        """The number that a plan says once it says the same twice: who looks is counted as well."""
        before, number = -1, -2
        while number != before:
            looks = [self.world.engine.survey(each, chosen(types=[type]))[1] for each in self.world.accounts.values()]
            before, number = number, sum(each.orphans_kept for each in looks)
        return number

    def confirm(self, type: str, number: int, run_id: str) -> None:
        accounts = list(self.world.accounts.values())
        pipeline: Any = SimpleNamespace(
            safeguard=self.world.safeguard,
            engine=self.world.engine,
            settings=SimpleNamespace(ac_concurrent_users=1),
            accounts=SimpleNamespace(all=lambda: accounts),
        )
        confirm_sweep(pipeline, accounts, chosen(types=[type], sweep=number), run_id)

    def repositories(self) -> dict[str, Any]:
        return {each.key: self.world.pds.records(each) for each in self.world.accounts.values()}

    def everything(self) -> tuple[Any, ...]:
        world = self.world
        revisions = [world.pds.latest_commit(str(each.did)).rev for each in world.accounts.values()]
        return revisions, len(world.documents.link_writes), len(world.ledger.saves), sorted(world.renderer.store)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls come in the same order every time."""
    for module, name in ((writer, "UPLOADS"), (blobs, "BLOB_CHECKS"), (snapshot, "BLOBS_AT_ONCE")):
        monkeypatch.setattr(module, name, 1)
    return None


def run_machine(examples: int, steps: int, *, same: bool) -> None:
    run_state_machine_as_test(
        Mirror,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=same,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.usefixtures("one_at_a_time")
def test_whenever_the_world_is_quiet_the_mirror_holds() -> None:
    """GUARD-1 to GUARD-7, DEL-1 to DEL-10, LINK-1 to LINK-11, VERIFY-1 to VERIFY-11, PLAN-5, PLAN-6."""
    run_machine(30, 25, same=True)


@pytest.mark.faults
@pytest.mark.usefixtures("one_at_a_time")
def test_it_does_after_very_many_steps() -> None:
    """The same, different every time."""
    run_machine(int(os.environ.get("AC_MACHINE_EXAMPLES", "400")), 50, same=False)
