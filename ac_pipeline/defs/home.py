"""The start of Dagster: prepares DAGSTER_HOME and runs the UI with its daemon (`python -m ac_pipeline.defs.home`).

Dagster's commands read a `.env` in their working directory over the real environment, so that a forgotten `.env` could
lead a local demo to the production database. Therefore the settings are read here, handed on as plain environment, and
Dagster is started in its home folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from ac_pipeline.defs import web_server
from ac_pipeline.defs.policies import POOL_LIMITS
from ac_pipeline.defs.postgres import why_unusable
from ac_pipeline.defs.process_group import run_group
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.redaction import Redactor
from ac_pipeline.settings import Settings, load_settings

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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
