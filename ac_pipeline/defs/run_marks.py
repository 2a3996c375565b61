"""Marks of runs: which process executes a run, left as a tag by the executor of our jobs, and whether it is dead.

The kernel knows of the processes of this start of this machine and of this namespace of process ids alone. Of any other
(another host, another container) nothing is known, and a run without a mark of its own is nobody's to judge.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import dagster as dg

from ac_pipeline.mongo.ledger.leases import is_dead, own_mark

RUN_PROCESS: Final = ".dagster/ac_pipeline_process"
"""Tag of a run: its id (a retry inherits the tags of the run it repeats), the machine and the mark of the process."""
_IN_PROCESS: Final[Any] = dg.in_process_executor
_NO_CONTAINER: Final = "pid:[4026531836]"
"""The namespace of process ids of a machine itself: Linux gives it this number always."""


class _MarksRuns(dg.Executor):
    """Executes as another executor does, once the run has its mark."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        mark, run_id = own_mark(), plan_context.run_id
        storage = plan_context.instance.event_log_storage
        if storage.supports_global_concurrency_limits:
            limited = {pool.name for pool in storage.get_pool_limits()}
            for pool in sorted({step.pool for step in execution_plan.steps if step.pool} - limited):
                plan_context.log.warning(f"The pool {pool} has no limit: `ac-pipeline dagster prepare` sets it.")
        if mark is not None:
            plan_context.instance.add_run_tags(run_id, {RUN_PROCESS: f"{run_id} {_machine()} {mark}"})
        yield from self._inner.execute(plan_context, execution_plan)


@dg.executor(name="in_process", config_schema=_IN_PROCESS.config_schema)
def marked_in_process_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """All steps in the process of the run, which leaves its mark. A step in a process of its own costs 1.3 s, in this
    one 0.03 s (Dagster facts, "Costs")."""
    return _MarksRuns(_IN_PROCESS.executor_creation_fn(context))


def process_is_dead(run: dg.DagsterRun) -> bool:
    """True if the process of a run has certainly ended: it is gone from here, or this very machine was started anew."""
    run_id, _, rest = run.tags.get(RUN_PROCESS, "").partition(" ")
    machine, _, mark = rest.partition(" ")
    if run_id != run.run_id:
        return False
    if is_dead(mark):
        return True
    here = own_mark()
    return here is not None and machine != "-" and machine == _machine() and _boot(mark) != _boot(here)


def _boot(mark: str) -> str:
    return mark.partition("/")[0]


def _machine() -> str:
    """The machine, for good; `-` in a container, whose names may be those of another one."""
    try:
        if str(Path("/proc/self/ns/pid").readlink()) == _NO_CONTAINER:
            return f"{Path('/etc/machine-id').read_text().strip()}@{socket.gethostname()}".replace(" ", "_")
    except OSError:
        pass
    return "-"
