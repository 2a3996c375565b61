"""The search for a size that fits: few attempts, never over the cap, and an end in every case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ac_pipeline.renditions.video import BEST_CRF, WORST_CRF, Attempt, SizeSearch


def search(cap: int, size_of: Callable[[Attempt], float], scale: float = 2.0) -> tuple[SizeSearch, list[Attempt]]:
    """Run a search on a made-up encoder that stops, like the real one, once it is over the cap."""
    running = SizeSearch(cap, scale)
    tried: list[Attempt] = []
    while (attempt := running.next_attempt()) is not None:
        tried.append(attempt)
        assert len(tried) < 60, "the search does not end"
        size = int(size_of(attempt))
        running.record(attempt, size, complete=size <= cap)
    return running, tried


def encoder(at_best: float, per_octave: float = 6.0) -> Callable[[Attempt], float]:
    """Size halves every `per_octave` steps of CRF and goes with the square of the scale."""
    return lambda attempt: at_best * 2 ** (-(attempt.crf - BEST_CRF) / per_octave) * (attempt.scale / 2) ** 2


@pytest.mark.parametrize("size", [1, 999, 1000])
def test_what_fits_at_once_is_encoded_once(size: int) -> None:
    running, tried = search(1000, lambda _: size)
    assert running.best == Attempt(BEST_CRF, 2.0)
    assert len(tried) == 1


def test_one_byte_over_the_cap_does_not_fit() -> None:
    running, tried = search(1000, lambda attempt: 1001 if attempt.crf == BEST_CRF else 900)
    assert running.best is not None
    assert running.best.crf > BEST_CRF
    assert len(tried) >= 2


@pytest.mark.parametrize("excess", [1.01, 1.2, 1.7, 2.5, 4.0, 7.0])
@pytest.mark.parametrize("per_octave", [3.0, 6.0, 9.0])
def test_the_result_fits_and_uses_most_of_the_cap(excess: float, per_octave: float) -> None:
    """MEDIA-14."""
    size_of = encoder(100_000 * excess, per_octave)
    running, tried = search(100_000, size_of)
    assert running.best is not None
    assert 60_000 <= size_of(running.best) <= 100_000 or running.best.scale < 2
    assert len(tried) <= 12


def test_past_the_worst_quality_the_picture_gets_smaller() -> None:
    running, tried = search(1000, encoder(60_000))
    assert running.best is not None
    assert running.best.scale < 2
    assert max(attempt.crf for attempt in tried) <= WORST_CRF


@pytest.mark.parametrize("scale", [8.0, 2.0, 1.0])
def test_what_never_fits_ends_without_a_result(scale: float) -> None:
    running, tried = search(1000, lambda _: 1e9, scale)
    assert running.best is None
    assert running.smallest > 1000
    assert len(tried) <= 20


def test_scales_are_whole_and_even_until_the_size_of_the_source() -> None:
    _, tried = search(1000, lambda attempt: 1e9 if attempt.scale > 0.25 else 10, 8.0)
    assert list(dict.fromkeys(attempt.scale for attempt in tried)) == [8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.25]
