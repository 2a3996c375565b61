"""Where tests open a Dagster instance: in memory or in a home, and closed in the end. Nowhere else in the tests.

Dagster keeps the storage of the current instance in a context variable, and whoever enters an instance puts back in the
end what it found in the beginning. A context that was never left (`build_schedule_context` enters an instance of its
own) does so when it is collected, at whatever moment: then the current instance is one that is gone, and the next job
fails with "Attempted to resolve undefined DagsterInstance weakref" (1.13.27). So tests leave the contexts they build,
and each test has context variables of its own (`conftest.py`), which nothing that an earlier one forgot can reach.

Running processes on an instance are `dagster_home.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg


@contextmanager
def open_instance(home: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """An instance for the time of a `with`.

    Args:
        home: Of an instance on disk, as the folder's dagster.yaml says, or with Dagster's defaults where there is none.
            None for an instance in memory.
    """
    if home is None:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    home.mkdir(parents=True, exist_ok=True)
    # Without a dagster.yaml Dagster would report to its makers.
    overrides = {} if (home / "dagster.yaml").exists() else {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(home), overrides) as instance:
        yield instance
