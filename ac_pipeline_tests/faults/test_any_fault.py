"""Any fault at any call, as a property: every run adds up, and once the faults end, the mirror is exact."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ac_pipeline.errors import (
    AccountInactive,
    BlobMissing,
    OutcomeUnknown,
    PipelineError,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
)
from ac_pipeline.items import Record
from ac_pipeline_tests.memory_pds import Method
from ac_pipeline_tests.unit.sync.world import World, at_second

assert {"apply_writes", "upload_blob", "read_repository"} <= set(get_args(Method))

WRITE_FAULTS: tuple[PipelineError, ...] = (
    OutcomeUnknown("lost"),
    RepositoryMoved("InvalidSwap", status=400),
    RecordRefused("no", status=400, answer="InvalidRequest: no"),
    RecordRefused("no", status=400, answer="InvalidRequest: Unacceptable slur in record key"),
    TooLarge("413", status=413),
    BlobMissing("no blob", status=400, answer="BlobNotFound"),
    RateLimited("429", status=429, retry_after=60),
    ServiceUnreachable("down"),
    AccountInactive("taken down", status=401),
)
UPLOAD_FAULTS: tuple[PipelineError, ...] = (
    ServerFailed("502", status=502),
    TooLarge("413", status=413),
    RateLimited("429", status=429, retry_after=60),
    AccountInactive("taken down", status=401),
)

pds_faults = st.one_of(
    st.tuples(st.just("apply_writes"), st.sampled_from(WRITE_FAULTS), st.integers(1, 12), st.just(False)),
    st.tuples(st.just("apply_writes"), st.just(OutcomeUnknown("lost")), st.integers(1, 4), st.just(True)),
    st.tuples(st.just("upload_blob"), st.sampled_from(UPLOAD_FAULTS), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("read_repository"), st.just(ServiceUnreachable("down")), st.integers(1, 3), st.just(False)),
    st.tuples(st.just("latest_commit"), st.just(ServiceUnreachable("down")), st.just(1), st.just(False)),
    st.tuples(st.just("has_blob"), st.just(ServiceUnreachable("down")), st.integers(1, 6), st.just(False)),
)
LEDGER = ("load", "save", "batch_bytes", "checkpoint", "keep_checkpoint", "holds")
mongo_faults = st.sampled_from(["stream", "write_links", "owners", *LEDGER])


@settings(max_examples=120, deadline=None)
@given(runs=st.lists(st.tuples(st.lists(pds_faults, max_size=4), st.lists(mongo_faults, max_size=2)), max_size=3))
def test_every_run_adds_up_and_the_last_one_leaves_an_exact_mirror(runs: list[tuple[list[Any], list[str]]]) -> None:
    """VERIFY-1, WRITE-7, WRITE-8, WRITE-14, LINK-8: nothing lost, nothing double, nothing left unlinked."""
    world = World()
    user = world.user()
    moods = world.moods(user, 40)
    paintings = [
        world.add(
            "painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}", when=at_second(number)
        )
        for number in range(6)
    ]
    for number, (pds_faults, mongo_faults) in enumerate(runs):
        for method, error, call, after in pds_faults:
            world.pds.fail(method, error, call=call, after=after)
        for method in mongo_faults:
            port = world.ledger if method in LEDGER else world.documents
            port.fail_next(method, ServiceUnreachable("MongoDB does not answer"))
        world.change("mood", moods[number], mood=f"changed in run {number}")
        world.change("mood", moods[-1 - number], deleted=True)
        world.sync(user)
        assert all(len(keys) == 1 for type in ("mood", "painting") for keys in world.by_ref(user, type).values())
    world.heal()

    report = world.sync(user, retry=True)

    left = moods[: len(moods) - len(runs)]
    assert report.error is None
    assert report.failures == []
    for type, documents in (("mood", left), ("painting", paintings)):
        by_ref = world.by_ref(user, type)
        assert by_ref.keys() == set(documents)
        for document in documents:
            link = world.link(type, document)
            assert link is not None
            assert by_ref[document] == [link.rkey]
    assert all(world.link("mood", document) is None for document in moods[len(left) :])
    with world.quiet():
        again = world.sync(user)
    assert (again.types["mood"].unchanged, again.types["painting"].unchanged) == (len(left), 6)


def blobs_of(records: dict[str, Record]) -> list[str]:
    values = [value for record in records.values() for value in record.values() if isinstance(value, dict)]
    return sorted({value["ref"]["$link"] for value in values})


@settings(max_examples=80, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.lists(pds_faults, max_size=4), st.lists(mongo_faults, max_size=1), st.booleans()), max_size=3
    )
)
@example(  # an upload that the PDS throws away, because a record still refers to the blob whose bytes it has lost
    runs=[
        (
            [
                ("apply_writes", OutcomeUnknown("lost"), 1, True),
                ("latest_commit", ServiceUnreachable("down"), 1, False),
            ],
            [],
            True,
        ),
        (
            [
                ("apply_writes", OutcomeUnknown("lost"), 1, True),
                ("apply_writes", OutcomeUnknown("lost"), 1, True),
                ("upload_blob", ServerFailed("502"), 1, True),
            ],
            [],
            True,
        ),
        ([], [], False),
    ]
)
def test_no_fault_while_lost_blobs_are_given_back_costs_a_record_or_a_blob(
    runs: list[tuple[list[Any], list[str], bool]],
) -> None:
    """VERIFY-5, VERIFY-1, MEDIA-7: the last run leaves every record as it was, with its blobs; a tape is never without
    a video."""
    world = World()
    user = world.user()
    for number in range(4):
        world.add("painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
        world.add("tape", user, code=f"t{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
    world.sync(user)
    before = world.pds.records(user)
    for number, (pds_faults, mongo_faults, blobs) in enumerate(runs):
        for cid in blobs_of(before)[number::2]:
            world.pds.lose_bytes(user, cid)
        for method, error, call, after in pds_faults:
            world.pds.fail(method, error, call=call, after=after)
        for method in mongo_faults:
            port = world.ledger if method in LEDGER else world.documents
            port.fail_next(method, ServiceUnreachable("MongoDB does not answer"))
        world.sync(user, blobs=blobs)
        assert all("video" in record for record in world.records(user, "tape").values())
        assert world.pds.records(user).keys() == before.keys()
    world.heal()

    report = world.sync(user, retry=True, blobs=True)

    assert (report.error, report.failures) == (None, [])
    assert world.pds.records(user) == before
    assert all(world.pds.has_blob(str(user.did), cid) for cid in blobs_of(before))
    with world.quiet():
        assert world.sync(user, blobs=True).types["tape"].unchanged == 4
