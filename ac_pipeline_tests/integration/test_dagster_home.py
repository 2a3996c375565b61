"""The start of Dagster: its home, and the environment it is given."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml
from pydantic import SecretStr

from ac_pipeline.definitions import build_defs, defs
from ac_pipeline.defs.assets.catalog import POOL_LIMITS
from ac_pipeline.defs.home import WEB_SERVER, environment, prepare_home
from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.dagster_ui import DagsterUi
from ac_pipeline.local.services.processes import LOOPBACK, free_port
from ac_pipeline.settings import Settings
from ac_pipeline_tests.dagster_home import wait_until
from ac_pipeline_tests.dagster_instance import open_instance

ROOT = Path(__file__).parents[2]


def settings(home: Path, **values: object) -> Settings:
    return Settings.model_validate(
        {
            "mongodb_connection_string": "mongodb://127.0.0.1:1",
            "mongodb_name": "platform",
            "dagster_home": home,
            "dagster_postgres_url": None,
            **values,
        }
    )


def test_the_home_gets_the_projects_instance_settings_and_the_limits_of_the_pools(tmp_path: Path) -> None:
    """ANSWER-4: and is this user's alone, as one is from then on that was made by an earlier version."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    assert prepare_home(settings(home), ROOT) == home
    assert (home.stat().st_mode & 0o777, (home / "dagster.yaml").stat().st_mode & 0o777) == (0o700, 0o600)
    with open_instance(home) as instance:
        assert instance.run_retries_enabled
        assert {
            pool: instance.event_log_storage.get_concurrency_info(pool).slot_count for pool in POOL_LIMITS
        } == POOL_LIMITS


def test_an_instance_of_somebody_elses_making_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    prepare_home(settings(tmp_path), ROOT)
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_database_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    """The storage is PostgreSQL when DAGSTER_POSTGRES_URL is set; its address stays out of the file."""
    url = SecretStr("postgresql+psycopg2://user:secret-word@127.0.0.1:1/none")
    with pytest.raises(Misconfigured) as error:
        prepare_home(settings(tmp_path, dagster_postgres_url=url), ROOT)
    written = (tmp_path / "dagster.yaml").read_text()
    assert yaml.safe_load(written)["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert "secret-word" not in written
    assert "secret-word" not in error.value.message


def test_without_the_projects_folder_the_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no dagster\.yaml"):
        prepare_home(settings(tmp_path / "home"), tmp_path)


def test_dagster_is_given_every_setting_as_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's commands would read `.env` over the real environment: nothing is left for it to decide."""
    monkeypatch.setenv("PDS_RATE_LIMIT_BYPASS_KEY", "from the environment")
    monkeypatch.chdir(tmp_path)
    given = environment(settings(tmp_path / "home", pds_rate_limit_bypass_key=None, ac_renditions_url="renditions"))
    assert given["MONGODB_CONNECTION_STRING"] == "mongodb://127.0.0.1:1"
    assert given["DAGSTER_HOME"] == str(tmp_path / "home")
    assert given["AC_RENDITIONS_URL"] == str(tmp_path / "renditions")
    assert given["PATH"] == os.environ["PATH"]
    assert "PDS_RATE_LIMIT_BYPASS_KEY" not in given


def test_a_code_server_that_restarts_fails_neither_backfills_nor_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN-6: both are settings of Dagster that are off by default; who sets the variable is heard."""
    name = "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"
    monkeypatch.delenv(name, raising=False)
    assert environment(settings(tmp_path))[name]
    monkeypatch.setenv(name, "")
    assert not environment(settings(tmp_path))[name]
    queue = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_coordinator"]["config"]
    assert queue["max_user_code_failure_retries"] * queue["user_code_failure_retry_delay"] >= 600


def test_a_missing_setting_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ac_pipeline.defs.home", "--project", str(ROOT)],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "MONGODB_CONNECTION_STRING and MONGODB_NAME are not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_dagsters_own_web_server_stands_behind_the_guard(tmp_path: Path) -> None:
    """The way of Dagster 1.13 to its application is no public one: where it changes, this fails."""
    port = free_port()
    command = [sys.executable, "-m", WEB_SERVER, "--empty-workspace", "--port", str(port)]
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {"DAGSTER_HOME": str(tmp_path), "PATH": ""}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) as server,
        httpx.Client(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=60) as client,
    ):
        try:

            def answers() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    return client.get("/server_info").is_success
                except httpx.TransportError:
                    return False

            wait_until(answers, "the web server answers")
            version = {"query": "{ version }"}
            assert client.post("/graphql", json=version).json()["data"]["version"]
            assert client.get("/").headers["content-type"].startswith("text/html")
            foreign = {"Host": "evil.example"}
            assert client.post("/graphql", json=version, headers=foreign).status_code == 403
            assert client.get("/", headers=foreign).status_code == 403
            assert client.get("/graphql?query=mutation%7BreloadWorkspace%7B__typename%7D%7D").status_code == 403
        finally:
            server.terminate()


def test_changes_to_the_instance_are_merged_into_ours(tmp_path: Path) -> None:
    """At every start; lists are replaced, and what is not named stays."""
    changes = tmp_path / "changes.yaml"
    changes.write_text("concurrency: {runs: {max_concurrent_runs: 9, tag_concurrency_limits: []}}\n")
    given = settings(tmp_path / "home", ac_dagster_yaml=changes, ac_pool_limits="encoding=5")
    prepare_home(given, ROOT)
    changes.write_text("concurrency: {runs: {max_concurrent_runs: 8, tag_concurrency_limits: []}}\n")
    home = prepare_home(given, ROOT)
    written = yaml.safe_load((home / "dagster.yaml").read_text())
    assert written["concurrency"]["runs"] == {"max_concurrent_runs": 8, "tag_concurrency_limits": []}
    assert written["concurrency"]["pools"] == {"granularity": "run", "default_limit": 2}
    with open_instance(home) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    assert limits == {**POOL_LIMITS, "encoding": 5}
    assert (home / "workspace.yaml").read_text() == (ROOT / "workspace.yaml").read_text()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ac_dagster_yaml", "/nowhere/changes.yaml", "AC_DAGSTER_YAML: /nowhere/changes.yaml cannot be read"),
        ("ac_dagster_yaml", "/dev/null", "AC_DAGSTER_YAML: /dev/null holds no sections"),
        ("ac_pool_limits", "decoding=5", "AC_POOL_LIMITS: there is no pool decoding"),
    ],
)
def test_changes_that_cannot_be_used_are_named(tmp_path: Path, variable: str, value: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        prepare_home(settings(tmp_path, **{variable: value}), ROOT)


_POOLED = """
import sys
from pathlib import Path
import dagster as dg
from ac_pipeline.defs.sensors.abandoned import marked_in_process_executor
from ac_pipeline_tests.dagster_instance import open_instance

@dg.op(pool="encoding")
def encode():
    pass

@dg.job(executor_def=marked_in_process_executor)
def encoding():
    encode()

if __name__ == "__main__":
    with open_instance(Path(sys.argv[1])) as instance:
        for _ in range(2):
            done = dg.execute_job(dg.reconstructable(encoding), instance)
            print([line.user_message for line in instance.all_logs(done.run_id) if line.level == 30])
            instance.event_log_storage.set_concurrency_slots("encoding", 1)
"""


def test_a_pool_without_a_limit_is_a_warning_in_the_log_of_a_run(tmp_path: Path) -> None:
    """A home that was not prepared would run as many encoders at once as there are runs."""
    (tmp_path / "pooled.py").write_text(_POOLED)
    command = [sys.executable, str(tmp_path / "pooled.py"), str(tmp_path / "home")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    said = "The pool encoding has no limit: `ac-pipeline dagster prepare` sets it."
    assert done.stdout.splitlines() == [f"[{said!r}]", "[]"]


def test_definitions_can_be_given_another_executor() -> None:
    """Every job has it, and they can be merged with others, as a location of several projects does."""
    given = build_defs(executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(given, dg.Definitions(assets=[dg.AssetSpec("somebody_elses")]))
    for found, name in ((defs, "in_process"), (given, "multiprocess"), (merged, "multiprocess")):
        assert {job.executor_def.name for job in found.get_repository_def().get_all_jobs()} == {name}


def given(home: Path) -> dict[str, str]:
    """The environment of somebody who has set two variables and the home."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **kept,
        "MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1",
        "MONGODB_NAME": "platform",
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


@contextmanager
def started(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program and its log, ended as by Ctrl-C."""
    with (folder / f"{len(list(folder.glob('*.log')))}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed of the wheel, in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(folder / "site"), str(built)], check=True, capture_output=True)
    return folder / "site"


def test_the_wheel_is_enough_and_its_services_may_start_at_once(tmp_path: Path, wheel: Path) -> None:
    """PROD-1: in an empty folder, on a home that nobody has prepared; logs are JSON where they shall be."""
    variables = {**given(tmp_path / "home"), "PYTHONPATH": str(wheel), "AC_LOG_FORMAT": "json"}
    where = [sys.executable, "-c", "import ac_pipeline; print(ac_pipeline.__path__[0])"]
    found = subprocess.run(where, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(wheel / "ac_pipeline")
    program, port = [sys.executable, "-m", "ac_pipeline.cli", "dagster"], free_port()
    with ExitStack() as running:
        web = running.enter_context(started([*program, "webserver", "--port", str(port)], tmp_path, variables))
        daemon = running.enter_context(started([*program, "daemon"], tmp_path, variables))
        ui = running.enter_context(DagsterUi(f"http://{LOOPBACK}:{port}", lambda: web.poll() is None))
        ui.wait_until_loaded(300)
        ui.start_sensor("users_sensor")  # by the name of its code location
        healthy = {"query": "{ instance { daemonHealth { allDaemonStatuses { healthy required } } } }"}

        def all_daemons_are_well() -> bool:
            assert daemon.poll() is None
            answer = httpx.post(f"{ui.url}/graphql", json=healthy, trust_env=False, timeout=60).json()
            states = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
            return all(state["healthy"] for state in states if state["required"])

        wait_until(all_daemons_are_well, "the daemon is healthy")
    logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert not re.findall("OperationalError|already exists|no such table|locked", logs)
    messages = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    assert any("Dagster works on" in each.get("message", "") for each in messages)
    assert any("Serving dagster-webserver" in each.get("event", "") for each in messages)
    assert not re.findall(r"^.* - dagster.* - (?:INFO|WARNING) - ", logs, re.MULTILINE)
    prepared = subprocess.run(
        [*program, "prepare"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    assert prepared.stdout.strip() == str(tmp_path / "home")


def test_dagsters_own_command_starts_the_checkout_under_the_same_name(tmp_path: Path) -> None:
    """PROD-1: `dagster dev` without make."""
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "--port", str(port)]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    for name in ("workspace.yaml", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    with (
        started(command, tmp_path, given(tmp_path / "home")) as process,
        DagsterUi(f"http://{LOOPBACK}:{port}", lambda: process.poll() is None) as ui,
    ):
        ui.wait_until_loaded(300)
        ui.start_sensor("users_sensor")  # by the name of its code location


@pytest.mark.parametrize("command", ["check defs", "list defs --json"])
def test_the_commands_of_dg_know_the_project(command: str, tmp_path: Path) -> None:
    """PROD-1."""
    program = Path(sys.executable).with_name("dg")
    variables = {**given(tmp_path), "VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(
        [str(program), *command.split()], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "--json" in command:
        assert {"show_status", "sync_users"} <= {job["name"] for job in json.loads(done.stdout)["jobs"]}
