"""How much one run takes on, how often a step is tried, and how many run at once. Numbers only, with their reasons."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

RENDITIONS_A_RUN: Final = 360
RECORDS_A_RUN: Final = 180
"""Users in one run of a backfill. Assets that depend on one another must differ here: that is what makes the backfill
daemon run them apart and ask for records only where the renditions succeeded (Dagster facts, "One user fails, the
others do not"). The daemon launches the types without renditions at once, and the others as soon as a run of renditions
is done, paintings and tapes apart when it looks in between. So the one number is a multiple of the other, and a full
backfill of 4,201 users is 12 + 24 + 24 = 60 runs, or 84 at worst (RUN-3)."""

ENCODING: Final = "encoding"
PDS: Final = "pds"
CHANGED: Final = "changed"
POOL_LIMITS: Final = {ENCODING: 1, PDS: 2, CHANGED: 2}
"""Runs at once in each pool. An encoding run fills the machine's cores by itself; the PDS's disk waits are hidden by
two runs of several users each. What users have just changed has a pool of its own, which no backfill can fill; with
the four runs at once of dagster.yaml one place is always left for it. Request rates are held in the client, not here
(RUN-8)."""

PRIORITY: Final = "dagster/priority"
"""Tag by which the queue orders runs; backfills and schedules have 0."""
URGENT: Final = "10"

RETRY_SECONDS: Final = 20.0
RECORD_RETRIES: Final = 3


def rendition_retries(seconds: float = RETRY_SECONDS) -> dg.RetryPolicy:
    """For storage that did not answer: three attempts, `seconds` and twice that apart."""
    return dg.RetryPolicy(max_retries=2, delay=seconds, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def record_retries(seconds: float = RETRY_SECONDS) -> dg.RetryPolicy:
    """For a PDS that restarts or a lease that another run holds: four attempts, up to four times `seconds` apart."""
    return dg.RetryPolicy(
        max_retries=RECORD_RETRIES, delay=seconds, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
    )


@contextmanager
def backfill_policy_is_beta() -> Iterator[None]:
    """Let an asset be defined with a backfill policy: the parameter is beta in Dagster 1.13 and warns once an asset."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Parameter `backfill_policy`", category=dg.BetaWarning)
        yield
