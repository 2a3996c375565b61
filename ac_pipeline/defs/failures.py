"""Errors of the pipeline in Dagster's words: what fails a step, and whether its retry policy may try again.

A step fails for users whose transient error outlived its retries, and for what nobody foresaw. Quarantined items and
blocked accounts fail nothing (design, section 3).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from ac_pipeline.defs.pipeline import Outcome
from ac_pipeline.errors import Misconfigured, PipelineError, Transient

_NAMED_USERS = 5
"""Users a failure's sentence names; its table has them all."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a user has to be run again.

    Args:
        code: Class of the error, as reports show it.
        message: The error's own words.
        passing: Whether another attempt may help.
    """

    code: str
    message: str
    passing: bool


def trouble_of(outcome: Outcome) -> Trouble | None:
    """What an outcome means for its partition; None when it is well."""
    return None if outcome.report.error is None else trouble_of_error(outcome.report.error)


def trouble_of_error(error: PipelineError) -> Trouble:
    """What an error means for the partitions it kept from being done."""
    return Trouble(error.code, error.message, passing=isinstance(error, Transient))


def failure_of(troubles: Mapping[str, Trouble], users: int) -> dg.Failure:
    """The failure of a step, some of whose users have to be run again.

    Args:
        troubles: By partition key.
        users: How many the step was asked for.
    """
    classes = Counter(trouble.code for trouble in troubles.values())
    named = "; ".join(f"{user}: {trouble.message}" for user, trouble in list(troubles.items())[:_NAMED_USERS])
    more = f"; and {len(troubles) - _NAMED_USERS} more" if len(troubles) > _NAMED_USERS else ""
    return dg.Failure(
        description=f"{len(troubles)} of {users} users have to be run again "
        f"({', '.join(f'{code} {count}' for code, count in classes.most_common())}). {named}{more}",
        metadata={
            "failed_users": dg.MetadataValue.table(
                [
                    dg.TableRecord({"user": user, "class": trouble.code, "message": trouble.message})
                    for user, trouble in troubles.items()
                ]
            ),
            "error_classes": dg.MetadataValue.json(dict(classes)),
        },
        allow_retries=any(trouble.passing for trouble in troubles.values()),
    )


@contextmanager
def dagster_failures() -> Iterator[None]:
    """Let what stops a whole step fail it in one sentence: no retry for a wrong setting, retries for a lost service."""
    try:
        yield
    except Misconfigured as error:
        raise dg.Failure(description=error.message, allow_retries=False) from error
    except Transient as error:
        raise dg.Failure(description=error.message) from error
