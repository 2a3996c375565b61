"""The start of Dagster (`ac-pipeline dagster`): prepares DAGSTER_HOME and runs the UI with its daemon, or one service.
Dagster's commands read a `.env` in their working directory over the real environment, which could lead a demo to the
production database: so settings are read here, handed on as plain environment, and Dagster starts in its home."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ac_pipeline.defs.assets.catalog import POOL_LIMITS
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.logs import in_form, use_json
from ac_pipeline.redaction import Redactor
from ac_pipeline.settings import Settings, load_settings, pool_limits

_CONNECT_SECONDS = 5

_REASONS = (
    ("password authentication failed", "refuses the user or its password"),
    ("no password supplied", "asks for a password, and the address holds none"),
    ("no pg_hba.conf entry", "accepts no connection of this user from here (its pg_hba.conf)"),
    ('FATAL:  role "', "does not know the user"),
    ('FATAL:  database "', "has no such database: create it first, Dagster makes only the tables"),
    ("too many clients", "has no connection left (its max_connections)"),
    ("remaining connection slots", "has no connection left (its max_connections)"),
    ("too many connections for", "has no connection left for this role or database (their CONNECTION LIMIT)"),
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


_PACKAGE: Final = Path(__file__).parents[1]
PROJECT: Final = _PACKAGE if (_PACKAGE / "dagster.yaml").is_file() else _PACKAGE.parent
"""The folder of our own dagster.yaml and workspace.yaml: inside an installed package, or the checkout."""
MODULE: Final = "ac_pipeline.definitions"
WEB_SERVER: Final = "ac_pipeline.defs.web_server"  # By name: its imports take a run that serves nothing 0.1 CPU s
_WORKER: Final = "ac_pipeline.defs.celery_worker"
LOCATION: Final = "ac_pipeline"  # The name of the code location, as workspace.yaml and pyproject.toml have it
_WRITTEN_BY_US = "# Written by ac_pipeline.defs.home at every start: change dagster.yaml in the project"
"""How the file of every version of ours begins."""
_OURS = f"{_WRITTEN_BY_US}, or the file of AC_DAGSTER_YAML, instead.\n"
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


def prepare_home(settings: Settings, project: Path = PROJECT) -> Path:
    """Make DAGSTER_HOME ready and return it: closed to other users, with dagster.yaml and workspace.yaml of the
    project, the storage it names (PostgreSQL, if the instance is to live there) with its tables, the limits of the
    pools. One process at a time does so; another one waits for it. A dagster.yaml that somebody else put there is left
    as it is.

    Raises:
        Misconfigured: There is no dagster.yaml in the project, changes to it cannot be read, or Dagster cannot use home
            or database.
    """
    home = settings.dagster_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user's home: whoever made it has decided
        home.chmod(0o700)
    target = home / "dagster.yaml"
    try:
        template, workspace = ((project / name).read_text() for name in ("dagster.yaml", "workspace.yaml"))
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise Misconfigured(f"There is no {name} in {project}: start from the project's folder.") from None
    instance = _with_changes(template + (_POSTGRES if settings.dagster_postgres_url else ""), settings.ac_dagster_yaml)
    with ExitStack() as locks:
        fcntl.flock(locks.enter_context((home / ".prepare.lock").open("w")), fcntl.LOCK_EX)
        if not target.exists() or target.read_text().startswith(_WRITTEN_BY_US):
            _write(target, _OURS + instance)
            _write(home / "workspace.yaml", workspace)
        url = settings.dagster_postgres_url
        if url is not None and why_unusable(url) is None:
            connection = locks.enter_context(create_engine(url.get_secret_value(), poolclass=NullPool).connect())
            connection.execute(text("SELECT pg_advisory_lock(hashtext('ac_pipeline.defs.home'))"))
        _set_pool_limits(settings)
    return home


def _with_changes(instance: str, changes: Path | None) -> str:
    """The text of a dagster.yaml with the values of another file in it, mapping by mapping; lists are replaced."""
    if changes is None:
        return instance
    try:
        found = yaml.safe_load(changes.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Misconfigured(f"AC_DAGSTER_YAML: {changes} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise Misconfigured(f"AC_DAGSTER_YAML: {changes} holds no sections.")
    return str(yaml.safe_dump(_merged(yaml.safe_load(instance), found), sort_keys=False))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    inside = {
        name: _merged(values[name], change)
        for name, change in changes.items()
        if isinstance(change, Mapping) and isinstance(values.get(name), Mapping)
    }
    return {**values, **changes, **inside}


def unshared_renditions(settings: Settings, launcher: str, config: Mapping[str, Any]) -> str | None:
    """A sentence where renditions are in a folder that runs of this launcher do not share: they are containers without
    a volume there, or elsewhere. None where all is well, and where a `file://` says that the folder is shared.

    Args:
        launcher: Name of its class; empty for Dagster's default.
        config: Its section of dagster.yaml.
    """
    place = settings.ac_renditions_url
    volumes = (config.get("container_kwargs") or {}).get("volumes") or ()
    mounted = [str(each).split(":")[1] for each in volumes if ":" in str(each)]
    shared = "://" in place or any(Path(place).is_relative_to(each) for each in mounted)
    if shared or launcher in {"", "DefaultRunLauncher"}:
        return None
    return (
        f"Warning: {launcher} starts runs elsewhere, and AC_RENDITIONS_URL is the folder {place}: what a run keeps "
        "there, snapshots included, no other may find. Set it to s3://..., or to a folder that all share, as "
        "file:///..."
    )


def _write(path: Path, content: str) -> None:
    """At once, so that who starts at the same time reads the whole file or the one before."""
    new = path.with_suffix(f".{os.getpid()}")
    new.touch(0o600)
    new.write_text(content)
    new.replace(path)


def environment(settings: Settings) -> dict[str, str]:
    """The environment for Dagster and everything it starts: ours, with every setting in it as it was read."""
    ours = {name: value for name, value in os.environ.items() if name.lower() not in type(settings).model_fields}
    # The option of the code server that Dagster's other services start for themselves.
    form = {"DAGSTER_CLI_API_GRPC_LOG_FORMAT": "json"} if settings.ac_log_format == "json" else {}
    return {**_PATIENT_BACKFILLS, **form, **ours, **_values(settings)}


def _values(settings: Settings) -> dict[str, str]:
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
    return values


def main(arguments: Sequence[str]) -> int:
    """Dagster on the settings of the environment, .env and .env.local; each part prepares its home first.

    dev (default): UI, daemon and code server, until Ctrl-C or SIGTERM. webserver, daemon, code-server: one of them.
    worker: of Celery, for runs. prepare: none of them; prints the home.
    """
    parser = argparse.ArgumentParser(
        prog="ac-pipeline dagster", description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="dev", choices=["dev", "prepare", *_PARTS])
    parser.add_argument("--project", type=Path, default=PROJECT, help="Folder of workspace.yaml and dagster.yaml.")
    parser.add_argument("--workspace", type=Path, help="Another workspace.yaml.")
    parser.add_argument("--host", default="127.0.0.1", help="Address of the UI, or of the code server.")
    parser.add_argument("--port", type=int, help="Its port: 3000, of the code server 4000.")
    parser.add_argument("--read-only", action="store_true", help="A UI that launches and changes nothing.")
    parser.add_argument(
        "--grace", type=float, help="Seconds that runs have to finish when worker (600) or code-server (18) is to stop."
    )
    parser.add_argument("--prepare-only", action="store_true", help="The same as prepare.")
    options = parser.parse_args(arguments)
    if options.read_only and options.part != "webserver":
        parser.error("--read-only is for the webserver")
    try:
        settings = load_settings()
        if settings.ac_log_format == "json":
            use_json()
        home = prepare_home(settings, options.project)
    except PipelineError as error:
        sys.stderr.write(in_form(f"Error: {error.message}") + "\n")
        return 2
    launcher = (yaml.safe_load((home / "dagster.yaml").read_text()) or {}).get("run_launcher") or {}
    warning = unshared_renditions(settings, launcher.get("class", ""), launcher.get("config") or {})
    if warning:
        sys.stderr.write(in_form(warning) + "\n")
    if options.prepare_only or options.part == "prepare":
        sys.stdout.write(f"{home}\n")
        return 0
    sys.stderr.write(in_form(f"Dagster works on {settings.destination}.") + "\n")
    command = [sys.executable, "-m", *_PARTS.get(options.part, [WEB_SERVER, "dev"])]
    if options.part == "code-server":
        # Containers of runs get every setting, by name; Dagster fills in the value that its daemon has.
        context = {"docker": {"env_vars": sorted(_values(settings))}}
        command += ["--module-name", MODULE, "--attribute", "defs", "--location-name", LOCATION]
        command += ["--container-context", json.dumps(context)]
    elif options.part != "worker":
        command += ["--workspace", str((options.workspace or options.project / "workspace.yaml").absolute())]
    if options.part not in {"daemon", "worker"}:
        port = options.port or (4000 if options.part == "code-server" else 3000)
        command += ["--host", options.host, "--port", str(port)]
    if options.part in {"dev", "webserver"}:
        command += ["--db-pool-max-overflow", str(_OVERFLOW)]
    if options.read_only:
        command.append("--read-only")
    if settings.ac_log_format == "json":
        command += ["--log-format", "json"]
    grace = options.grace or (WORKER_SECONDS if options.part == "worker" else PATIENCE[0])
    # PostgreSQL shows by this name who holds its connections.
    variables = {**environment(settings), "PGAPPNAME": f"ac-pipeline {options.part}"}
    return run_group(command, variables, home, (grace, *PATIENCE[1:]))


_PARTS: Final = {
    "webserver": [WEB_SERVER],
    "daemon": ["ac_pipeline.defs.daemon", "run"],
    "code-server": ["dagster", "code-server", "start"],
    # A busy worker keeps no run that another could begin with; and is warm from its first run on.
    "worker": ["celery", "--app=dagster_celery.app", "worker", "--disable-prefetch", f"--include={MODULE},{_WORKER}"],
}
_OVERFLOW: Final = 9
"""A web server holds a connection of PostgreSQL for each of its three storages, and opens so many more for each while
many pages ask at once: 30 at most. Dagster's default makes 63, and a server has 100 for all, unless it is set."""


def _set_pool_limits(settings: Settings) -> None:
    """In one process for all pools, with Dagster's environment: each start of Dagster costs a second."""
    limits = {**POOL_LIMITS, **pool_limits(settings.ac_pool_limits)}
    if unknown := limits.keys() - POOL_LIMITS:
        raise Misconfigured(
            f"AC_POOL_LIMITS: there is no pool {', '.join(sorted(unknown))}; {', '.join(POOL_LIMITS)} are."
        )
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-c", _SET_LIMITS, *(f"{pool}={limit}" for pool, limit in limits.items())],
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
WORKER_SECONDS = 600.0  # In place of the first, for a worker: longer than nearly every run takes
_SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@contextmanager
def _wishes() -> Iterator[list[int]]:
    """The signals that ask us to stop, as they come: Ctrl-C, SIGTERM, the closing of the terminal.

    They are noted and nothing is raised: between a start and its being noted, an exception would lose a process.
    """
    asked: list[int] = []
    # Also SIGINT: a shell starts background commands deaf to it, and what we start would inherit that.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda sent, _: asked.append(sent)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_group(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    patience: tuple[float, float, float] = PATIENCE,
) -> int:
    """Run a program in a session of its own until it ends or we are asked to stop; then nothing of it is left.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP ask us to stop. Another one while we do loses patience with the present step:
    `patience` has the seconds to wait after each of the three ways to stop it. Returns 0 when we were asked to stop,
    else the program's exit code.
    """
    with _wishes() as asked:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, start_new_session=True)  # noqa: S603
        while process.poll() is None and not asked:
            time.sleep(_POLL_SECONDS)
        code = process.poll()
        for number, seconds in zip(_SENT, patience, strict=True):
            with suppress(ProcessLookupError):
                if number is not signal.SIGINT:
                    os.killpg(process.pid, number)
                elif code is None:
                    process.send_signal(number)
            if _gone(process, seconds, asked):
                break
        return 0 if code is None else code


def _gone(process: subprocess.Popen[bytes], seconds: float, asked: Sequence[int]) -> bool:
    """True if everybody of the group is gone within so many seconds and before we are asked again."""
    begun, known = time.monotonic(), len(asked)
    while process.poll() is None or _anybody(process.pid):
        passed = time.monotonic() - begun
        if passed < _SAME_WISH_SECONDS:
            known = len(asked)
        if passed > seconds or len(asked) > known:
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
