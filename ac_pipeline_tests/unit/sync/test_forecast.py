"""When a plan can be done at the earliest: windows, their boundaries, and what is shared."""

from __future__ import annotations

import pytest

from ac_pipeline.sync.costs import (
    BLOBS_PER_SECOND,
    EVENTS,
    REQUESTS,
    REQUESTS_A_USER,
    SPEED,
    UPLOADS,
    USUAL,
    WRITE_POINTS,
    Ceiling,
    Forecast,
    Limits,
    Timeline,
    UserCost,
)

HOUR, DAY = 3_600.0, 86_400.0
COMMIT = 600
"""Points of 200 creates."""


def cost(did: str, **amounts: int) -> UserCost:
    return UserCost(did=did, **amounts)  # type: ignore[arg-type]


def spent(ceilings: tuple[Ceiling, ...], amount: int, unit: int = 1, headroom: float = 0.0) -> float:
    timeline = Timeline(ceilings, headroom)
    timeline.spend(amount, unit)
    return timeline.ending("it").seconds


@pytest.mark.parametrize(
    ("points", "hours"),
    [
        (5_000, 0), (5_001, 1), (10_000, 1), (10_001, 2), (30_000, 5), (30_001, 6), (35_000, 6),
        (35_001, 24), (40_000, 24), (40_001, 25), (70_000, 30), (70_001, 48),
    ],
)  # fmt: skip
def test_points_of_one_repository_are_spent_by_the_hour_and_by_the_day(points: int, hours: int) -> None:
    """LIMIT-5, LIMIT-8: 5,000 an hour and 35,000 a day, so that 40,000 points end in the second day."""
    assert spent(USUAL.points, points) == hours * HOUR


@pytest.mark.parametrize(("points", "hours"), [(4_998, 0), (4_800, 0), (5_001, 1), (9_600, 1), (9_601, 1), (9_801, 2)])
def test_a_commit_fits_into_an_hour_as_a_whole_or_waits_for_the_next(points: int, hours: int) -> None:
    """LIMIT-8: of 5,000 points eight commits of 600 are spent, and a smaller one that still fits."""
    assert spent(USUAL.points[:1], points, COMMIT) == hours * HOUR


@pytest.mark.parametrize(("blobs", "days"), [(1_000, 0), (1_001, 1), (2_000, 1), (2_001, 2), (2_500, 2), (3_000, 2)])
def test_uploads_end_on_the_day_on_which_the_last_one_fits(blobs: int, days: int) -> None:
    """LIMIT-6, LIMIT-8: 1,000 a day, so that 2,500 end on the third day."""
    assert spent(USUAL.uploads, blobs) == days * DAY


@pytest.mark.parametrize(("points", "hours"), [(4_500, 0), (4_501, 1), (9_000, 1), (9_001, 2)])
def test_the_share_of_a_users_own_is_left(points: int, hours: int) -> None:
    """LIMIT-5: a tenth of 5,000."""
    assert spent(USUAL.points[:1], points, headroom=0.1) == hours * HOUR


@pytest.mark.parametrize(
    ("points", "seconds"), [(700, 0), (701, 900), (5_700, 900 + 3_600), (5_200, 900), (5_201, 4_500)]
)
def test_a_window_that_is_under_way_lends_what_is_left_of_it(points: int, seconds: int) -> None:
    """LIMIT-8: 1,200 are left for 15 minutes, 500 of them to the user; the windows after it are whole."""
    under_way = (Ceiling(5_000, HOUR, left=1_200, resets_in=900),)
    assert spent(under_way, points, headroom=0.1) == seconds


def test_a_window_that_is_over_is_whole_again() -> None:
    assert spent((Ceiling(5_000, HOUR, left=0, resets_in=-1),), 5_000) == 0


def test_a_commit_above_a_whole_limit_does_not_wait_for_ever() -> None:
    """As the budget lets it through when nothing is spent."""
    assert spent((Ceiling(100, HOUR),), 600, 600) == 5 * HOUR


def test_without_any_limit_only_the_speed_of_the_pds_counts() -> None:
    forecast = Forecast(Limits())
    blobs = 9 * BLOBS_PER_SECOND
    forecast.add(cost("did:plc:a", points=10**6, largest=600, blob_uploads=blobs, commits=10**6, sessions=10**6))
    assert (forecast.end.seconds, forecast.end.waits_for) == (9, SPEED)


def test_uploads_are_shared_by_all_users_and_points_are_not() -> None:
    """LIMIT-6, LIMIT-8: 4,201 users with one picture each need five days; each alone would need none."""
    forecast = Forecast(USUAL)
    ends = [forecast.add(cost(f"did:plc:{n}", points=3, largest=3, blob_uploads=1)) for n in range(4_201)]
    assert [ends[n].seconds // DAY for n in (0, 999, 1_000, 4_199, 4_200)] == [0, 0, 1, 4, 4]
    assert forecast.end == ends[-1]
    assert forecast.end.waits_for == f"{UPLOADS} (1,000 a day)"


def test_text_goes_on_while_pictures_wait() -> None:
    """LIMIT-6: a user without blobs is done at once, whoever came before."""
    forecast = Forecast(USUAL)
    forecast.add(cost("did:plc:a", points=6_000, largest=600, blob_uploads=2_000, commits=10))
    later = forecast.add(cost("did:plc:b", points=3, largest=3, commits=1))
    assert (later.seconds, later.waits_for) == (2_000 / BLOBS_PER_SECOND, SPEED)
    assert forecast.end.seconds == DAY


@pytest.mark.parametrize(
    ("demand", "binding", "seconds"),
    [
        (cost("did:plc:a", points=5_001, largest=3), f"{WRITE_POINTS} (5,000 an hour)", HOUR),
        (cost("did:plc:a", points=35_001, largest=3), f"{WRITE_POINTS} (35,000 a day)", DAY),
        (cost("did:plc:a", blob_uploads=1_001), f"{UPLOADS} (1,000 a day)", DAY),
        (cost("did:plc:a", sessions=3_001 - REQUESTS_A_USER), f"{REQUESTS} (3,000 in 5 minutes)", 300),
        (cost("did:plc:a", commits=2_501), f"{EVENTS} (2,500 an hour)", HOUR),
        (cost("did:plc:a", commits=2_500), SPEED, 0),
        (cost("did:plc:a", commits=2_900, erasing=2_900), SPEED, 0),
        (cost("did:plc:a", commits=2_500, erasing=1_500), SPEED, 0),
        (cost("did:plc:a", commits=2_501, erasing=1_501), f"{EVENTS} (2,500 an hour)", HOUR),
    ],
)
def test_the_limit_that_binds_is_named(demand: UserCost, binding: str, seconds: float) -> None:
    """LIMIT-8, LIMIT-9."""
    limits = Limits(USUAL.points, {}, USUAL.uploads, USUAL.requests, (Ceiling(2_500, HOUR),))
    end = Forecast(limits).add(demand)
    assert (end.seconds, end.waits_for) == (seconds, binding)


def test_commits_that_delete_take_from_the_hour_and_do_not_wait_for_the_next() -> None:
    """LIMIT-9: of an hour of ten, three are left for a quarter of an hour."""
    forecast = Forecast(Limits(events=(Ceiling(10, HOUR, left=3, resets_in=900),)))
    costs = [cost("did:plc:a", commits=2), *(cost(did, commits=n, erasing=n) for did, n in (("b", 5), ("c", 1)))]
    assert [forecast.add(each).seconds for each in costs] == [0, 0, 0]
    later = [forecast.add(cost(f"did:plc:{number}", commits=10)).seconds for number in range(2)]
    assert later == [900, 900 + HOUR]


def test_what_one_user_has_spent_already_counts_for_that_user_alone() -> None:
    """LIMIT-5: points are kept across runs, for each DID."""
    spent_already = {"did:plc:a": (Ceiling(5_000, HOUR, left=0, resets_in=1_800),)}
    forecast = Forecast(Limits(points=USUAL.points, spent=spent_already))
    assert [forecast.add(cost(did, points=3, largest=3)).seconds for did in ("did:plc:a", "did:plc:b")] == [1_800, 0]
