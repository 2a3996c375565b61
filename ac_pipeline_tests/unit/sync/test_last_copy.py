"""LINK-8 as a property: over random documents, links, records and duplicates, no last copy is ever deleted."""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.unit.sync.world import World

IDS = [f"{number:024x}" for number in range(1, 7)]
KEYS = [f"3jzfcijpj2z2{letter}" for letter in "abcdefgh"]
OTHER_DID = "did:plc:somebodyelse"
OURS = "did:plc:000000000000000000000001"

links = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"rkey": st.sampled_from(KEYS)},
        optional={"did": st.sampled_from([OURS, OTHER_DID]), "cid": st.just("bafyreiaold")},
    ),
    st.just({"uri": f"at://{OURS}/computer.aesthetic.mood/{KEYS[0]}"}),
)
states: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {}, {"deleted": True}, {"visibility": "private"}, {"mood": ""}, {"user": "auth0|somebodyelse"}]
)
documents = st.dictionaries(st.sampled_from(IDS), st.tuples(links, states), max_size=len(IDS))
records = st.dictionaries(
    st.sampled_from(KEYS),
    st.fixed_dictionaries(
        {},
        optional={
            "ref": st.sampled_from(IDS),
            "mongoId": st.sampled_from(IDS),
            "mood": st.sampled_from(["fine", "old"]),
            "when": st.sampled_from(["2025-10-15T12:30:45.123Z", "2025-10-15T12:30:45.999Z", "never"]),
        },
    ),
    max_size=len(KEYS),
)


@settings(max_examples=300, deadline=None)
@given(documents=documents, records=records, limit=st.one_of(st.none(), st.integers(0, 3)), bad=st.sampled_from(IDS))
def test_every_eligible_ref_that_had_a_record_keeps_exactly_one(
    documents: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]],
    records: dict[str, dict[str, Any]],
    limit: int | None,
    bad: str,
) -> None:
    """LINK-8, DEL-5, WRITE-1: whatever Mongo's links say, also when only a part is selected or an item is invalid."""
    world = World()
    user = world.user()
    media = media_type("mood")
    for id, (link, state) in documents.items():
        raw = {"_id": ObjectId(id), "mood": "too long " * 600 if id == bad else "fine", "user": user.id, **state}
        world.documents.add(media, raw | ({"atproto": link} if link is not None else {}))
    for key, value in records.items():
        world.put(user, "mood", key, value)
    ours = {id: world.document("mood", id) for id in documents if documents[id][1].get("user") is None}
    before = world.by_ref(user, "mood")

    report = world.sync(user, types=["mood"], limit=limit)

    after = world.by_ref(user, "mood")
    chosen = sorted(ours, key=lambda id: (ours[id].when, id))[:limit]
    for id, document in ours.items():
        if document.verdict == "withdrawn":
            assert id not in after or id not in chosen
        elif id == bad or document.verdict != "eligible" or id not in chosen:
            assert after.get(id) == before.get(id)
        else:
            assert len(after[id]) == 1
            assert id not in before or after[id][0] in before[id]
            link = world.link("mood", id)
            assert link is not None
            assert [link.rkey] == after[id]
    assert report.error is None

    again = world.sync(user, types=["mood"], limit=limit)
    tally = again.tally("mood")
    assert (tally.written, tally.deleted, tally.healed, tally.duplicates_removed) == (0, 0, 0, 0)
    assert world.by_ref(user, "mood") == after
