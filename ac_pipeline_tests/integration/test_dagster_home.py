"""The start of Dagster: its home, and the environment it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr

from ac_pipeline.defs.assets.catalog import POOL_LIMITS
from ac_pipeline.defs.home import environment, prepare_home
from ac_pipeline.defs.web_server import MODULE
from ac_pipeline.errors import Misconfigured
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
    command = [sys.executable, "-m", MODULE, "--empty-workspace", "--port", str(port)]
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
