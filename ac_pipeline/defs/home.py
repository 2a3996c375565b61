"""The start of Dagster: prepares DAGSTER_HOME and runs the UI with its daemon (`python -m ac_pipeline.defs.home`).

Dagster's commands read a `.env` in their working directory over the real environment, so that a forgotten `.env` could
lead a local demo to the production database. Therefore the settings are read here, handed on as plain environment, and
Dagster is started in its home folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ac_pipeline.defs import web_server
from ac_pipeline.defs.assets.catalog import POOL_LIMITS
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.redaction import Redactor
from ac_pipeline.settings import Settings, load_settings

_CONNECT_SECONDS = 5

_REASONS = (
    ("password authentication failed", "refuses the user or its password"),
    ("no password supplied", "asks for a password, and the address holds none"),
    ("no pg_hba.conf entry", "accepts no connection of this user from here (its pg_hba.conf)"),
    ('FATAL:  role "', "does not know the user"),
    ('FATAL:  database "', "has no such database: create it first, Dagster makes only the tables"),
    ("too many clients", "has no connection left (its max_connections)"),
    ("remaining connection slots", "has no connection left (its max_connections)"),
    ("translate host name", "cannot be found: there is no host of this name"),
    ("Connection refused", "does not answer: the connection was refused"),
    ("No such file", "does not answer: there is no such socket"),
    ("timeout expired", f"does not answer within {_CONNECT_SECONDS} seconds"),
    ("starting up", "is still starting"),
    ("SSL", "and this client cannot agree about SSL (sslmode)"),
)
"""What libpq says, and what we do. Its own words may quote parts of a password that was not percent-encoded."""


def why_unusable(url: SecretStr) -> str | None:
    """One attempt to connect; a sentence about what went wrong, or None when it went well. No secret is in it."""
    name = "The PostgreSQL server of DAGSTER_POSTGRES_URL"
    try:
        engine = create_engine(
            url.get_secret_value(), poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS}
        )
        with engine.connect():
            return None
    except (ArgumentError, ValueError):
        return "DAGSTER_POSTGRES_URL cannot be read: percent-encode special characters of user and password."
    except SQLAlchemyError as error:
        said = str(error)
        reason = next((reason for word, reason in _REASONS if word in said), f"cannot be used ({type(error).__name__})")
        return f"{name} {reason}."


_OURS = "# Written by ac_pipeline.defs.home at every start: change dagster.yaml in the project instead.\n"
_PATIENT_BACKFILLS = {"DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1"}
"""Without it a backfill fails, and its runs are cancelled, when its daemon looks while the code server restarts (RUN-6;
Dagster 1.13.27)."""
_POSTGRES = """
storage:
  postgres:
    postgres_url:
      env: DAGSTER_POSTGRES_URL
"""

_SET_LIMITS = """
import sys, dagster
with dagster.DagsterInstance.get() as instance:
    for pool, _, limit in (word.partition("=") for word in sys.argv[1:]):
        instance.event_log_storage.set_concurrency_slots(pool, int(limit))
"""


def prepare_home(settings: Settings, project: Path) -> Path:
    """Make DAGSTER_HOME ready: closed to other users, its dagster.yaml, the storage it names, the limits of the pools.

    A dagster.yaml that somebody else put there is left as it is.

    Args:
        settings: Name the home and, if the instance is to live there, the PostgreSQL database.
        project: The folder of the project's own dagster.yaml.

    Returns:
        The home.

    Raises:
        Misconfigured: There is no dagster.yaml in the project, or Dagster cannot use home or database.
    """
    home = settings.dagster_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user's home: whoever made it has decided
        home.chmod(0o700)
    target = home / "dagster.yaml"
    try:
        template = (project / "dagster.yaml").read_text()
    except FileNotFoundError:
        raise Misconfigured(f"There is no dagster.yaml in {project}: start from the project's folder.") from None
    if not target.exists() or target.read_text().startswith(_OURS):
        target.write_text(_OURS + template + (_POSTGRES if settings.dagster_postgres_url else ""))
        target.chmod(0o600)
    _set_pool_limits(settings)
    return home


def environment(settings: Settings) -> dict[str, str]:
    """The environment for Dagster and everything it starts: ours, with every setting in it as it was read."""
    values: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            values[name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    folder = values["AC_RENDITIONS_URL"]
    if "://" not in folder:
        values["AC_RENDITIONS_URL"] = str(Path(folder).absolute())
    if settings.ac_ffmpeg is not None and len(settings.ac_ffmpeg.parts) > 1:
        values["AC_FFMPEG"] = str(settings.ac_ffmpeg.absolute())
    ours = {name: value for name, value in os.environ.items() if name.lower() not in type(settings).model_fields}
    return {**_PATIENT_BACKFILLS, **ours, **values}


def main(arguments: Sequence[str]) -> int:
    """Prepare the home and run `dagster dev` until Ctrl-C or SIGTERM; with `--prepare-only`, print the home instead.

    Settings come from the environment and from .env and .env.local of the working directory.
    """
    parser = argparse.ArgumentParser(prog="python -m ac_pipeline.defs.home", description=main.__doc__)
    parser.add_argument("--project", type=Path, default=Path(), help="Folder of workspace.yaml and dagster.yaml.")
    parser.add_argument("--host", default="127.0.0.1", help="Address of the UI.")
    parser.add_argument("--port", type=int, default=3000, help="Port of the UI.")
    parser.add_argument("--prepare-only", action="store_true", help="Start nothing; print the home.")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        home = prepare_home(settings, options.project)
    except PipelineError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        return 2
    if options.prepare_only:
        sys.stdout.write(f"{home}\n")
        return 0
    sys.stderr.write(f"Dagster works on {settings.destination}.\n")
    return _run_dagster(settings, home, (options.project / "workspace.yaml").absolute(), options.host, options.port)


def _run_dagster(settings: Settings, home: Path, workspace: Path, host: str, port: int) -> int:
    """Run `dagster dev`, its web server behind a guard, until it ends or we are told to; nothing of it is left."""
    command = [sys.executable, "-m", web_server.MODULE, "dev", "--workspace", str(workspace)]
    return run_group([*command, "--host", host, "--port", str(port)], environment(settings), home)


def _set_pool_limits(settings: Settings) -> None:
    """In one process for all pools, with Dagster's environment: each start of Dagster costs a second."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-c", _SET_LIMITS, *(f"{pool}={limit}" for pool, limit in POOL_LIMITS.items())],
        cwd=settings.dagster_home,
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        url = settings.dagster_postgres_url
        reason = why_unusable(url) if url is not None else None
        last = (done.stderr.strip().splitlines()[-1:] or ["no reason given"])[0]
        raise Misconfigured(
            f"Dagster cannot use its home {settings.dagster_home}: {reason or Redactor(settings.secrets())(last)}"
        )


_POLL_SECONDS = 0.1
_SAME_WISH_SECONDS = 1.0
"""A second signal within this time is the first one: a `make` or a service manager sends it to everybody."""

PATIENCE = (18.0, 6.0, 2.0)
"""Seconds everybody has to go after SIGINT, SIGTERM and SIGKILL. SIGINT goes to the program alone, which knows the
order in which its children stop (10 s were measured on a busy machine); the others go to all. Together less than the 30
seconds that service managers and `make demo` wait."""
_SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class _Wishes:
    """Counts the signals that ask us to stop: Ctrl-C, SIGTERM, the closing of the terminal.

    They are counted and nothing is raised: between a start and its being noted, an exception would lose a process.
    """

    def __init__(self) -> None:
        self.count = 0
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # Also SIGINT: a shell starts background commands deaf to it, and what we start would inherit that.
        self._before = {number: signal.signal(number, self._asked) for number in numbers}

    def forget(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def run_group(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    patience: tuple[float, float, float] = PATIENCE,
) -> int:
    """Run a program in a session of its own until it ends or we are asked to stop; then nothing of it is left.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP ask us to stop. Another one while we do loses patience with the present step.

    Args:
        command: Program first.
        environment: All of it.
        folder: Where it runs.
        patience: Seconds to wait after each of the three ways to stop it.

    Returns:
        0 when we were asked to stop, else the program's exit code.
    """
    wishes = _Wishes()
    try:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, start_new_session=True)  # noqa: S603
        while process.poll() is None and not wishes.count:
            time.sleep(_POLL_SECONDS)
        code = process.poll()
        _stop(process, wishes, patience)
        return 0 if code is None else code
    finally:
        wishes.forget()


def _stop(process: subprocess.Popen[bytes], wishes: _Wishes, patience: tuple[float, float, float]) -> None:
    for number, seconds in zip(_SENT, patience, strict=True):
        try:
            if number is not signal.SIGINT:
                os.killpg(process.pid, number)
            elif process.poll() is None:
                process.send_signal(number)
        except ProcessLookupError:
            return
        if _gone(process, seconds, wishes):
            return


def _gone(process: subprocess.Popen[bytes], seconds: float, wishes: _Wishes) -> bool:
    """True if everybody of the group is gone within so many seconds and before we are asked again."""
    begun, asked = time.monotonic(), wishes.count
    while process.poll() is None or _anybody(process.pid):
        passed = time.monotonic() - begun
        if passed < _SAME_WISH_SECONDS:
            asked = wishes.count
        if passed > seconds or wishes.count > asked:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _anybody(group: int) -> bool:
    """True if a process of the group runs. Dead ones that nobody collects (a container without init) do not count."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True
    return any(_of_group(path, group) for path in Path("/proc").iterdir() if path.name.isdigit())


def _of_group(process: Path, group: int) -> bool:
    try:
        state, _, number = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(number) == group and state not in {"Z", "X"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
