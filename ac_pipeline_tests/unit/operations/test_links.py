"""The link doctor: which state everything is in, what its repair does, and what it never does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.accounts import LEAVING
from ac_pipeline.errors import AccountInactive, RecordRefused, SourceMissing, WrongPassword
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.declare import Work
from ac_pipeline.operations.inspection.links import LinksParameters, LinkState, Repair, heal, run_links
from ac_pipeline_tests.memory_vault import MemoryAudit
from ac_pipeline_tests.unit.operations.examining import cure, look, mood, only, states
from ac_pipeline_tests.unit.sync.test_last_copy import IDS, documents, records
from ac_pipeline_tests.unit.sync.world import World, chosen

A, B, C, D = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c", "3jzfcijpj2z2d"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


ELSEWHERE = "did:plc:somebodyelse"


@pytest.fixture
def world() -> World:
    return World()


# ---------------------------------------------------------------------------------------------------- the seven states


def test_everything_a_sync_has_written_is_linked(world: World) -> None:
    user = world.user()
    for type_ in ("painting", "mood", "piece", "kidlisp", "tape"):
        world.add(type_, user)
    world.sync(user)
    assert look(world, user).total() == {LinkState.LINKED: 5}
    assert look(world, user).findings == []


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "unlinked"),
        ({"deleted": True}, "linked"),
        ({"visibility": "private"}, "linked"),
        ({"mood": ""}, "linked"),
        ({"deleted": True, "atproto": {"rkey": A}}, "dangling"),
        ({"deleted": True, "atproto": {"uri": "at://x"}}, "dangling"),
        ({"atproto": {}}, "unlinked"),
        ({"atproto": {"uri": f"at://did:plc:000000000000000000000001/computer.aesthetic.mood/{A}"}}, "unlinked"),
    ],
)
def test_a_document_without_record_has_exactly_one_state(world: World, fields: dict[str, Any], state: str) -> None:
    """The invariant: eligible and never published is unlinked, nothing to publish is linked."""
    user = world.user()
    world.add("mood", user, **fields)
    assert states(world, user) == {state: 1}


def test_a_document_that_was_never_published_is_left_to_the_sync(world: World) -> None:
    user = world.user()
    document = world.add("mood", user)
    finding = only(world, user)
    assert (finding.repair, finding.repairable) == (Repair.PUBLISH, False)
    with world.quiet():
        assert heal(world.engine, user, chosen(), "run-1") is None
    assert look(world, user).in_order
    world.sync(user)
    assert world.link("mood", document) is not None


@pytest.mark.parametrize("link", [None, {}, {"rkey": A}, {"rkey": A, "cid": "bafyreiaold"}, {"rkey": B}])
def test_a_record_that_mongo_does_not_name_is_unlinked_and_linked_without_a_write(
    world: World, link: dict[str, str] | None
) -> None:
    """LINK-1, LINK-3."""
    user = world.user()
    document = world.add("mood", user, **({} if link is None else {"atproto": link}))
    world.put(user, "mood", A, mood(document))
    sent = world.pds.count("apply_writes")
    assert only(world, user).repair is Repair.WRITE_LINK
    assert states(world, user) == {"unlinked": 1}
    cure(world, user)
    assert states(world, user) == {"linked": 1}
    assert world.link("mood", document).rkey == A  # type: ignore[union-attr]
    assert world.pds.count("apply_writes") == sent


def test_all_links_of_an_account_come_back_without_one_write_to_the_records(world: World) -> None:
    """LINK-1: rebuilt from `ref` for every item of every type, when Mongo has lost all of them."""
    user = world.user()
    ids = {type_: world.add(type_, user) for type_ in ("painting", "piece", "kidlisp", "tape")}
    moods = world.moods(user, 30)
    world.sync(user)
    before = {type_: world.link(type_, id) for type_, id in ids.items()}
    for type_, id in [*ids.items(), *(("mood", id) for id in moods)]:
        for home in media_type(type_).link_homes:
            world.documents.raw(media_type(type_), id).pop(home, None)
    sent = world.pds.count("apply_writes")
    assert look(world, user).total() == {LinkState.UNLINKED: 34}
    cure(world, user)
    assert look(world, user).total() == {LinkState.LINKED: 34}
    assert {type_: world.link(type_, id) for type_, id in ids.items()} == before
    assert world.pds.count("apply_writes") == sent


def test_links_are_rebuilt_from_the_older_name_of_ref_too(world: World) -> None:
    """LINK-2: `mongoId`; such a record is wrong-shaped and put right under its key in the same step."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", A, {"mood": "fine", "when": WHEN_TEXT, "mongoId": document})
    assert states(world, user) == {"wrong-shape": 1}
    cure(world, user)
    assert world.by_ref(user, "mood") == {document: [A]}
    assert world.link("mood", document).rkey == A  # type: ignore[union-attr]


def test_a_link_to_nothing_brings_the_record_back_under_its_key(world: World) -> None:
    """LINK-5: a mood's page address stays valid."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": A})
    finding = only(world, user)
    assert (finding.state, finding.repair) == (LinkState.DANGLING, Repair.RECREATE)
    cure(world, user)
    assert world.by_ref(user, "mood") == {document: [A]}
    assert states(world, user) == {"linked": 1}


def test_a_link_to_nothing_of_a_withdrawn_item_is_cleared(world: World) -> None:
    """LINK-5, DEL-1."""
    user = world.user()
    document = world.add("mood", user, deleted=True, atproto={"rkey": A})
    finding = only(world, user)
    assert (finding.state, finding.repair) == (LinkState.DANGLING, Repair.CLEAR_LINK)
    cure(world, user)
    assert world.link("mood", document) is None
    assert world.records(user, "mood") == {}


@pytest.mark.parametrize(
    "link", [{"rkey": A}, {"rkey": B, "did": ELSEWHERE}, {"rkey": A, "did": ELSEWHERE}], ids=["ref", "DID", "both"]
)
@pytest.mark.parametrize("has_own", [True, False])
def test_a_crossed_link_overwrites_nobody(world: World, link: dict[str, str], has_own: bool) -> None:
    """LINK-3, LINK-6: the link is rewritten, or the item gets a record of its own; the other record stays."""
    user = world.user()
    other = world.add("mood", user, mood="theirs")
    world.put(user, "mood", A, mood(other, mood="theirs"))
    cure(world, user)
    theirs = world.records(user, "mood")[A]
    document = world.add("mood", user, atproto=link)
    if has_own:
        world.put(user, "mood", C, mood(document))
    finding = only(world, user)
    assert finding.state is LinkState.CROSSED
    assert finding.repair is (Repair.REWRITE_LINK if has_own else Repair.OWN_RECORD)
    cure(world, user)
    (key,) = world.by_ref(user, "mood")[document]
    assert world.link("mood", document).rkey == key  # type: ignore[union-attr]
    assert world.records(user, "mood")[A] == theirs
    assert key == C or not has_own


def test_of_duplicates_one_is_kept_and_linked(world: World) -> None:
    """LINK-7."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": B})
    for key in (A, B, C):
        world.put(user, "mood", key, mood(document))
    finding = only(world, user)
    assert (finding.state, finding.reason) == (LinkState.DUPLICATE, f"3 records of it; {B} stays")
    assert [uri[-1] for uri in finding.uris] == ["b", "a", "c"]
    cure(world, user)
    assert world.by_ref(user, "mood") == {document: [B]}
    assert states(world, user) == {"linked": 1}


def test_an_orphan_names_the_choice_and_is_deleted(world: World) -> None:
    """DEL-4: the reason tells that its document can be rebuilt instead."""
    user = world.user()
    world.add("mood", user)
    world.put(user, "mood", A, mood("f" * 24))
    orphan = next(f for f in look(world, user).findings if f.state is LinkState.ORPHAN)
    assert orphan.item == "mood:" + "f" * 24
    assert "restore-documents" in orphan.reason
    assert states(world, user) == {"unlinked": 1, "orphan": 1}
    cure(world, user)
    assert world.records(user, "mood") == {}


def test_the_record_of_a_withdrawn_item_is_an_orphan_beside_its_document(world: World) -> None:
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    world.change("mood", document, deleted=True)
    assert states(world, user) == {"linked": 1, "orphan": 1}
    cure(world, user)
    assert world.records(user, "mood") == {}
    assert world.link("mood", document) is None
    assert states(world, user) == {"linked": 1}


def test_orphans_are_guarded_as_in_a_sync(world: World) -> None:
    """DEL-5: not when the collection is empty, not when they are most of what there is, not when they name nothing."""
    user = world.user()
    kept = world.moods(user, 1)
    for number in range(11):
        world.put(user, "mood", f"3jzfcijpj2z3{'abcdefghijk'[number]}", mood(f"{number + 1:024x}"))
    found = look(world, user)
    assert all(finding.held for finding in found.findings if finding.state is LinkState.ORPHAN)
    assert any("half-restored" in note for _, note in found.notes)
    assert heal(world.engine, user, chosen(), "run-1") is None
    world.documents.remove(media_type("mood"), kept[0])
    assert states(world, user) == {"orphan": 11}
    assert heal(world.engine, user, chosen(), "run-1") is None
    world.moods(user, 1)
    cure(world, user, sweep=11)
    assert world.records(user, "mood") == {}


def test_a_record_that_names_nothing_is_listed_and_left(world: World) -> None:
    """LINK-9."""
    user = world.user()
    world.put(user, "mood", A, {"when": 7})
    finding = only(world, user)
    assert (finding.state, finding.reason) == (LinkState.ORPHAN, "names no document")
    assert finding.held
    assert finding.problems
    cure(world, user)
    assert set(world.records(user, "mood")) == {A}


def test_a_healing_that_only_removes_duplicates_is_in_the_audit_and_one_that_removes_nothing_is_not(
    world: World,
) -> None:
    """LINK-7, LINK-8."""
    user, audit = world.user(), MemoryAudit(world.clock)
    settings, accounts = SimpleNamespace(ac_concurrent_users=2), SimpleNamespace(select=lambda _: [user])
    pipeline: Any = SimpleNamespace(engine=world.engine, audit=audit, settings=settings, accounts=accounts)
    work = Work(pipeline, "run-1", lambda *_: None, lambda _: None)
    parameters = LinksParameters(users=[user.key], heal=True, why="two of it")
    document = world.add("mood", user)
    world.put(user, "mood", A, mood(document))
    assert run_links(work, parameters).exit_code == 0
    assert audit.lines == []
    world.put(user, "mood", B, mood(document))
    assert run_links(work, parameters).exit_code == 0
    assert world.by_ref(user, "mood") == {document: [A]}
    started, ended = audit.lines
    assert (started.action, started.why, started.counts) == ("heal-links", "two of it", {"deletions": 1})
    assert (ended.outcome, ended.counts) == ("done", {"deleted": 0, "duplicates": 1})


# ------------------------------------------------------------------------------------------------- held back, narrowed


def test_an_item_that_is_held_back_is_listed_with_its_reason_and_left(world: World) -> None:
    """LINK-8: as long as nobody knows what its record shall be, none of its copies goes."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("no object")
    for key in (A, B):
        world.put(user, "painting", key, {"ref": document, "code": "abc", "when": WHEN_TEXT})
    world.sync(user)
    finding = only(world, user)
    assert (finding.state, finding.held) == (LinkState.DUPLICATE, "no object")
    assert heal(world.engine, user, chosen(), "run-1") is None
    assert world.by_ref(user, "painting") == {document: [A, B]}


def test_a_program_that_outlived_its_owner_is_held_back(world: World) -> None:
    """DEL-10, exception to LINK-5."""
    guest = world.guest()
    for link in ({"rkey": A}, {"rkey": B, "did": ELSEWHERE}):
        world.add("kidlisp", guest, atproto=link)
    found = look(world, guest)
    assert [(f.state.value, bool(f.held)) for f in found.findings] == [("dangling", True), ("crossed", True)]
    assert heal(world.engine, guest, chosen(), "run-1") is None
    assert world.records(guest, "kidlisp") == {}


def test_a_part_of_the_documents_is_examined_without_the_orphans(world: World) -> None:
    """PLAN-2: states add up for the selected ones; nothing else is touched."""
    user = world.user()
    one, other = (world.add("mood", user, mood=text, atproto={"rkey": key}) for text, key in (("a", A), ("b", B)))
    world.put(user, "mood", C, mood("f" * 24))
    items = frozenset({("mood", one)})
    assert states(world, user, items=items) == {"dangling": 1}
    cure(world, user, items=items)
    assert set(world.records(user, "mood")) == {A, C}
    assert world.link("mood", other).rkey == B  # type: ignore[union-attr]


def test_a_repair_that_is_refused_is_in_the_report_and_stays_listed(world: World) -> None:
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": A})
    world.pds.refuse("computer.aesthetic.mood", A, RecordRefused("no", status=400, answer="InvalidRequest: no"))
    report = heal(world.engine, user, chosen(), "run-1")
    assert report is not None
    assert [failure.item for failure in report.failures] == [f"mood:{document}"]
    assert states(world, user) == {"dangling": 1}
    assert not look(world, user).in_order


def test_everything_of_an_account_that_leaves_is_an_orphan_beside_its_documents(world: World) -> None:
    """DEL-7, DEL-9: states add up; healing empties the repository."""
    user = world.user()
    for type_ in ("mood", "piece", "kidlisp"):
        world.add(type_, user)
    world.sync(user)
    world.put(user, "mood", A, {"mood": "of nobody", "when": WHEN_TEXT})
    leaving = replace(user, pending_deletion=LEAVING)
    assert look(world, leaving).total() == {LinkState.LINKED: 3, LinkState.ORPHAN: 4}
    cure(world, leaving)
    assert world.pds.records(user) == {}
    assert look(world, leaving).total() == {LinkState.LINKED: 3}


def test_a_type_that_is_on_hold_is_named_and_not_counted(world: World) -> None:
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": A})
    world.add("piece", user, atproto={"rkey": A})
    world.ledger.hold(user, [media_type("mood")], "wiped on request")
    found = look(world, user)
    assert found.notes == [(user.key, f"the moods of {user.key} are on hold: wiped on request")]
    assert found.total() == {LinkState.DANGLING: 1}
    cure(world, user)
    assert world.records(user, "mood") == {}
    assert world.link("mood", document).rkey == A  # type: ignore[union-attr]


def test_a_blocked_account_is_named_and_counts_nothing(world: World) -> None:
    user = world.user()
    world.add("mood", user)
    world.pds.set_status(user, "deactivated")
    found = look(world, user)
    assert [type(each.error) for each in found.left_out] == [AccountInactive]
    assert found.total() == {}


def test_what_is_not_linked_of_a_blocked_account_is_no_failure(world: World) -> None:
    """It waits for the account; nobody can repair it here."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", A, mood(document))
    assert not look(world, user).in_order
    world.pds.fail("apply_writes", WrongPassword("the password is refused", status=401))
    world.add("mood", user, mood="another")
    assert isinstance(world.sync(user).blocked, WrongPassword)
    found = look(world, user)
    assert found.total()[LinkState.UNLINKED]
    assert found.in_order
    assert found.notes == [(user.key, "blocked: the password is refused")]


# ------------------------------------------------------------------------------------------------------- the properties


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(documents=documents, records=records, limit=st.one_of(st.none(), st.integers(0, 3)), bad=st.sampled_from(IDS))
def test_states_add_up_healing_ends_and_no_last_copy_is_deleted(
    documents: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]],
    records: dict[str, dict[str, Any]],
    limit: int | None,
    bad: str,
) -> None:
    """LINK-8, LINK-6, and the invariant: documents + orphans = the sum of the states, before and after healing.

    Whatever Mongo's links say and whatever copies exist: each eligible document that had a record keeps one of its
    own; no record that names another document is written; a second healing finds nothing to do.
    """
    world = World()
    user = world.user()
    media = media_type("mood")
    for id, (link, state) in documents.items():
        raw = {"_id": ObjectId(id), "mood": "too long " * 600 if id == bad else "fine", "user": user.id, **state}
        world.documents.add(media, raw | ({"atproto": link} if link is not None else {}))
    for key, value in records.items():
        world.put(user, "mood", key, value)
    ours = {id: world.document("mood", id) for id in documents if documents[id][1].get("user") is None}
    before, content = world.by_ref(user, "mood"), world.records(user, "mood")
    selection: dict[str, Any] = {"types": ["mood"], "limit": limit}
    found = look(world, user, **selection)
    total = found.total()
    assert total.total() - total[LinkState.ORPHAN] == len(ours if limit is None else list(ours)[:limit])

    heal(world.engine, user, chosen(**selection), "run-1")

    after = world.by_ref(user, "mood")
    for id, document in ours.items():
        if document.verdict == "eligible" and id in before:
            assert set(after[id]) & set(before[id])
        if document.verdict == "eligible" and id == bad:
            assert after.get(id) == before.get(id)
    for key, record in world.records(user, "mood").items():
        if key in content:
            named = content[key].get("ref") or content[key].get("mongoId")
            assert named in (None, record.get("ref"), record.get("mongoId"))
    left = look(world, user, **selection)
    assert not left.repairable.total()
    assert heal(world.engine, user, chosen(**selection), "run-2") is None
