"""Where tests open a Dagster instance: in memory or in a home, and closed in the end. Nowhere else in the tests.

Dagster keeps the storage of the current instance in a context variable, and whoever enters an instance puts back in the
end what it found in the beginning. A context that was never left (`build_schedule_context` enters an instance of its
own) does so when it is collected, at whatever moment: then the current instance is one that is gone, and the next job
fails with "Attempted to resolve undefined DagsterInstance weakref" (1.13.27). So tests leave the contexts they build,
and each test has context variables of its own (`conftest.py`), which nothing that an earlier one forgot can reach.

Running processes on an instance are `dagster_home.py`'s.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from sqlalchemy import Engine
from sqlalchemy.pool import NullPool

_read_migrations = ScriptDirectory.from_config


@functools.cache
def _migrations(location: str) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", location)
    return _read_migrations(config)


# Each new storage is marked with the last of Dagster's migrations, for which alembic imports all of them: two thirds of
# the time that an instance in memory takes. They are the same for every instance.
ScriptDirectory.from_config = lambda config: _migrations(str(config.get_main_option("script_location")))

_create_engine = sqlite_event_log.create_engine


@functools.lru_cache(maxsize=32)
def _engine(url: str) -> Engine:
    return _create_engine(
        url, poolclass=NullPool, connect_args={"timeout": sqlite_event_log.SQLITE_BUSY_TIMEOUT_SECONDS}
    )


# Dagster makes an engine of SQLAlchemy's for each event, which compiles all its statements anew: a third of what an
# event on disk costs. One for each file keeps them; it has no connections of its own.
sqlite_event_log.create_engine = lambda url, **_: _engine(url)


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
    _give_tables(home)
    # Without a dagster.yaml Dagster would report to its makers.
    overrides = {} if (home / "dagster.yaml").exists() else {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(home), overrides) as instance:
        yield instance


def _give_tables(home: Path) -> None:
    """Copy the empty tables of SQLite into a new home: Dagster takes 0.25 s of CPU to make them, which is most of what
    a short test does."""
    configured = home / "dagster.yaml"
    if (home / "history").exists() or (configured.exists() and "\nstorage:" in f"\n{configured.read_text()}"):
        return
    for name in ("history", "schedules"):
        shutil.copytree(_new_home() / name, home / name)


@functools.cache
def _new_home() -> Path:
    """The home of an instance without rows, as Dagster made it; goes with this process."""
    home = tempfile.mkdtemp(prefix="ac-dagster-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    with dg.DagsterInstance.local_temp(home, {"telemetry": {"enabled": False}}):
        return Path(home)
