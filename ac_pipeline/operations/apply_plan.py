"""A saved plan, carried out from the UI: what `sync --plan` is on the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.declare import (
    WELL,
    Declaration,
    Parameters,
    Report,
    Work,
    dry_run_option,
    option,
    sweep_option,
)
from ac_pipeline.operations.sync import SyncParameters, run_sync


class ApplyPlanParameters(Parameters):
    """Which plan, and how much of it."""

    plan: str = option("", "The hash of the plan, as `plan_users` and `list_plans` show it.", metavar="HASH")
    canary: int | None = option(None, "The first N users with work, then stop.", metavar="N", ge=1)
    dry_run: bool = dry_run_option("done, and what has moved since")
    sweep: int | None = sweep_option()


def run_apply_plan(work: Work, parameters: ApplyPlanParameters) -> Report:
    """Carry out exactly the operations of a saved plan, where they are still the same, and list what has moved since.

    A canary stops after a few users and verifies them; launch again without it to go on.
    """
    if not parameters.plan.strip():
        raise Misconfigured("No plan is named, so nothing was done: fill in `plan` in the launchpad; see list_plans.")
    report = run_sync(work, SyncParameters(**{**parameters.model_dump(), "plan": parameters.plan.strip()}))
    return replace(report, failed=report.exit_code != WELL and not parameters.dry_run)


APPLY_PLAN: Final = Declaration("", "apply_plan", "apply_saved_plan", ApplyPlanParameters, run_apply_plan)
