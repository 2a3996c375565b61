"""What the mark of a repository says of each type, and when it moves (VERIFY-11)."""

from __future__ import annotations

from dataclasses import replace

from ac_pipeline.errors import RateLimited, RecordRefused, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline_tests.unit.sync.home import home, requests
from ac_pipeline_tests.unit.sync.world import at_second

KEY = "3jzfcijpj2z2a"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


def test_a_type_that_was_settled_stays_so_while_only_others_are_written() -> None:
    """VERIFY-11: a run of one asset does not cost the others their short cut."""
    made = home()
    made.change("piece 1", slug="other")
    assert made.world.sync(made.user, types=["piece"]).types["piece"].updated == 1
    made.world.pds.calls.clear()
    with made.world.quiet():
        made.world.sync(made.user, types=["mood"])
        made.world.sync(made.user)
    assert requests(made) == (2, 0)


def test_what_somebody_changed_in_another_type_is_found_although_this_one_was_run_first() -> None:
    """VERIFY-9: a mark says nothing of types that were not looked at since somebody else wrote."""
    made = home()
    made.write("update", "mood 1", mood="hacked", when=WHEN_TEXT, ref=made.ids["mood 1"])
    before = made.world.ledger.repositories[str(made.user.did)]
    made.world.sync(made.user, types=["piece"])
    made.world.sync(made.user, items=frozenset({("mood", made.ids["mood 2"])}))
    assert made.world.ledger.repositories[str(made.user.did)] == before, "the drift is still to be seen"
    assert made.world.sync(made.user).types["mood"].updated == 1


def test_a_deletion_that_somebody_else_carried_out_waits_no_longer() -> None:
    """DEL-6: the age of the oldest pending deletion is that of one that is pending."""
    made = home()
    made.change("mood 1", nuked=True)
    nsid, key = MOOD.nsid, made.key("mood 1")
    made.world.pds.refusals[nsid, key] = RecordRefused("no", status=400, answer="InvalidRequest: no")
    made.world.sync(made.user)
    assert made.world.entry("mood", made.ids["mood 1"]).withdrawn_at is not None
    made.world.pds.refusals.clear()
    made.write("delete", "mood 1")
    made.world.sync(made.user)
    entry = made.world.entry("mood", made.ids["mood 1"])
    assert (entry.state, entry.withdrawn_at, entry.rkey) == (State.DELETED, None, key)
    assert made.world.link("mood", made.ids["mood 1"]) is None
    with made.world.quiet():
        made.world.sync(made.user)


def test_a_deletion_that_seems_to_wait_is_looked_at_although_nothing_has_changed() -> None:
    """DEL-6, VERIFY-11: in doubt, the repository is read."""
    made = home()
    item = f"mood:{made.ids['mood nuked']}"
    made.world.ledger.entries[item] = replace(
        made.world.ledger.entries[f"mood:{made.ids['mood 1']}"],
        item=item,
        document=made.ids["mood nuked"],
        rkey=KEY,
        state=State.QUARANTINED,
        withdrawn_at=at_second(0),
    )
    made.world.sync(made.user)
    assert requests(made) == (1, 1)
    assert made.world.ledger.entries[item].withdrawn_at is None


def test_a_type_that_was_never_synced_is_not_settled() -> None:
    made = home(mirrored=False)
    made.world.sync(made.user, types=["mood"])
    made.world.pds.calls.clear()
    assert made.world.sync(made.user, types=["mood"]).types["mood"].unchanged == 2
    assert requests(made) == (1, 0)
    assert made.world.sync(made.user).types["painting"].created == 2
    assert requests(made) == (1, 1)


def test_a_partial_run_that_writes_takes_the_short_cut_from_its_type_only() -> None:
    """PLAN-2."""
    made = home()
    made.change("mood 1", mood="other")
    made.world.sync(made.user, items=frozenset({("mood", made.ids["mood 1"])}))
    made.world.pds.calls.clear()
    assert made.world.sync(made.user, types=["painting"]).types["painting"].unchanged == 2
    assert requests(made) == (1, 0)
    assert made.world.sync(made.user).types["mood"].unchanged == 2
    assert requests(made) == (1, 1)
    assert made.world.sync(made.user).types["mood"].unchanged == 2
    assert requests(made) == (2, 1)


def test_the_mark_follows_our_own_writes_and_no_run_looks_like_somebody_elses() -> None:
    """VERIFY-9: what the drift sensor compares, also where something is in quarantine or waits."""
    made = home(mirrored=False)
    did = str(made.user.did)
    made.change("kidlisp 1", source="x" * 60_000)
    made.world.sync(made.user)
    mark = made.world.ledger.repositories[did]
    assert mark.rev == made.world.pds.latest_commit(did).rev
    assert "kidlisp" not in mark.settled
    assert set(mark.settled) == {"painting", "mood", "piece", "tape"}
    assert mark.counts == {"painting": 2, "mood": 2, "piece": 1, "kidlisp": 0, "tape": 1}
    for number in range(300):
        made.world.add("mood", made.user, mood=f"more {number}", when=at_second(200 + number))
    made.world.pds.fail("apply_writes", RateLimited("429", status=429, retry_after=60), call=2)
    assert made.world.sync(made.user).types["mood"].deferred == 100
    mark = made.world.ledger.repositories[did]
    assert mark.rev == made.world.pds.latest_commit(did).rev
    assert "mood" not in mark.settled


def test_a_run_that_breaks_off_leaves_the_old_mark_and_is_found_as_drift() -> None:
    """VERIFY-9, WRITE-14: what nobody confirmed is not passed over."""
    made = home()
    did = str(made.user.did)
    before = made.world.ledger.repositories[did]
    made.change("mood 1", mood="other")
    made.world.documents.fail_next("write_links", ServiceUnreachable("MongoDB does not answer"))
    assert made.world.sync(made.user).run_again
    assert made.world.ledger.repositories[did] == before
    assert made.world.pds.latest_commit(did).rev != before.rev
    assert made.world.sync(made.user).types["mood"].healed == 1
