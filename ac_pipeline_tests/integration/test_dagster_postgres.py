"""The Dagster instance in a real PostgreSQL: what is stored is read back elsewhere, and no secret gets out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from pydantic import SecretStr

from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import POOL_LIMITS, RANGE_END, RANGE_START, USERS, records_key
from ac_pipeline.defs.home import environment, prepare_home, why_unusable
from ac_pipeline.errors import Misconfigured, ServerFailed
from ac_pipeline.media.registry import media_type
from ac_pipeline.settings import Settings
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.postgres_server import PostgresServer
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

ROOT = Path(__file__).parents[2]
MOODS = records_key(media_type("mood"))
PASSWORD = "hunter2-of-the-database"

READ_BACK = """
import json, os, dagster as dg
with dg.DagsterInstance.get() as instance:
    asset = dg.AssetKey(["atproto", "moods"])
    runs = instance.get_runs()
    print(json.dumps({
        "keys": instance.get_dynamic_partitions("users"),
        "green": sorted(instance.get_materialized_partitions(asset)),
        "runs": [run.status.value for run in runs],
        "failures": [
            record.event_log_entry.dagster_event.step_failure_data.user_failure_data.description
            for run in runs
            for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        ],
        "storage": instance.event_log_storage.__class__.__name__,
    }))
"""


def settings(home: Path, url: str | None) -> Settings:
    return Settings.model_validate(
        {
            "mongodb_connection_string": "mongodb://127.0.0.1:1",
            "mongodb_name": "platform",
            "dagster_home": home,
            "dagster_postgres_url": SecretStr(url) if url else None,
        }
    )


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """Of an empty database, with a password, which this server does not ask for."""
    return postgres_server.url(postgres_server.create_database()).replace("postgres:@", f"postgres:{PASSWORD}@")


@contextmanager
def prepared(given: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance of a home that was prepared as every start does."""
    home = prepare_home(given, ROOT)
    if given.dagster_postgres_url is not None:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", given.dagster_postgres_url.get_secret_value())
    with open_instance(home) as instance:
        yield instance


def test_partitions_runs_and_materialisations_are_stored_and_read_back_by_another_process(
    tmp_path: Path, url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN-1: also that one failing user of a range turns red alone; the pools have their limits."""
    given = settings(tmp_path / "home", url)
    mirror = ScriptedMirror("ada", "bea", "cyd")
    mirror.trouble("bea", *[ServerFailed("the PDS answered 502") for _ in range(4)])
    database = url.partition("@/")[2].partition("?")[0]
    with prepared(given, monkeypatch) as instance:
        instance.add_dynamic_partitions(USERS, ["ada", "bea", "cyd"])
        job = build_defs({"pipeline": mirror}, retry_seconds=0).resolve_implicit_global_asset_job_def()
        tags = {RANGE_START: "ada", RANGE_END: "cyd"}
        for _ in range(2):
            job.execute_in_process(instance=instance, asset_selection=[MOODS], tags=tags, raise_on_error=False)
            mirror.troubles.clear()
        held = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        assert postgres_server.execute(held) == [(0,)]  # a run holds a connection only while it writes
        assert {
            pool: instance.event_log_storage.get_concurrency_info(pool).slot_count for pool in POOL_LIMITS
        } == POOL_LIMITS
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK], env=environment(given), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["keys"] == found["green"] == ["ada", "bea", "cyd"]
    assert found["runs"] == ["SUCCESS", "FAILURE"]
    assert found["failures"][0].startswith("1 of 3 users have to be run again (server-failed 1).")
    assert found["storage"] == "PostgresEventLogStorage"
    assert postgres_server.execute("SELECT count(*) FROM runs", database) == [(2,)]
    assert not list((tmp_path / "home").rglob("*.db"))


def test_each_storage_keeps_its_own_data_when_the_setting_goes_back_and_forth(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for given, key in ((None, "in-files"), (url, "in-postgres")):
        with prepared(settings(home, given), monkeypatch) as instance:
            assert instance.get_dynamic_partitions(USERS) == []
            instance.add_dynamic_partitions(USERS, [key])
    for given, key in ((None, "in-files"), (url, "in-postgres")):
        with prepared(settings(home, given), monkeypatch) as instance:
            assert instance.get_dynamic_partitions(USERS) == [key]


def test_services_that_start_at_once_make_the_tables_of_an_empty_database_once(tmp_path: Path, url: str) -> None:
    """Each with a home of its own, as containers have."""
    command = [sys.executable, "-m", "ac_pipeline.defs.home", "prepare"]
    starting = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(settings(tmp_path / str(number), url)), stderr=subprocess.PIPE
        )
        for number in range(3)
    ]
    said = [process.communicate()[1] for process in starting]
    assert ([process.returncode for process in starting], said) == ([0, 0, 0], [b"", b"", b""])


def test_the_password_is_in_no_file_of_the_home_and_not_in_what_dagster_shows_of_itself(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ACCT-5: the page "Configuration" of the UI shows the instance's own description."""
    with prepared(settings(tmp_path / "home", url), monkeypatch) as instance:
        shown = instance.info_str() + repr(instance.get_ref())
        assert "DAGSTER_POSTGRES_URL" in shown
        assert PASSWORD not in shown
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if PASSWORD in path.read_text(errors="replace")]
    written = yaml.safe_load((tmp_path / "home" / "dagster.yaml").read_text())
    assert written["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgres:{word}@127.0.0.1:1/dagster", "does not answer: the connection was refused"),
        ("postgres:{word}@nowhere.invalid/dagster", "there is no host of this name"),
        ("postgres:{word}@/dagster?host=/nowhere", "there is no such socket"),
        ("postgres:{word}@/missing?host={folder}", "has no such database: create it first"),
        ("nobody:{word}@/postgres?host={folder}", "does not know the user"),
        ("limited:{word}@/postgres?host={folder}", "has no connection left for this role or database"),
        ("postgres:{word}@127.0.0.1:54x/dagster", "cannot be read: percent-encode special characters"),
        ("postgres:ab/{word}@127.0.0.1/dagster", "DAGSTER_POSTGRES_URL"),
        ("postgres:ab#{word}@127.0.0.1/dagster", "DAGSTER_POSTGRES_URL"),
        ("postgres:{word}@127.0.0.1:1/dagster?nonsense=1", "cannot be used"),
    ],
)
def test_why_a_database_cannot_be_used_is_a_sentence_without_its_password(
    address: str, said: str, postgres_server: PostgresServer
) -> None:
    """ACCT-5."""
    postgres_server.execute("DROP ROLE IF EXISTS limited")
    postgres_server.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
    given = address.format(word=PASSWORD, folder=postgres_server.folder)
    reason = why_unusable(SecretStr(f"postgresql+psycopg2://{given}"))
    assert reason is not None
    assert said in reason
    assert PASSWORD not in reason
    assert "\n" not in reason


def test_a_database_that_can_be_used_has_no_reason(url: str) -> None:
    assert why_unusable(SecretStr(url)) is None


def test_a_start_without_its_database_says_which_and_why(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = f"postgresql+psycopg2://postgres:{PASSWORD}@/missing?host={postgres_server.folder}"
    with pytest.raises(Misconfigured, match="DAGSTER_POSTGRES_URL has no such database") as error:
        prepare_home(settings(tmp_path, url), ROOT)
    assert PASSWORD not in error.value.message
    done = subprocess.run(
        [sys.executable, "-m", "ac_pipeline.defs.home", "--project", str(ROOT), "--prepare-only"],
        cwd=tmp_path,
        env={**os.environ, **environment(settings(tmp_path, url))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert PASSWORD not in done.stderr + done.stdout
