"""The demo's own Dagster: a real `dagster dev` that knows the demo's services and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.local.dagster_ui import SUCCEEDED, DagsterUi
from ac_pipeline.local.demo import Screen, demo_settings, open_dagster
from ac_pipeline.local.services.processes import free_port
from ac_pipeline.local.services.stack import Addresses
from ac_pipeline_tests.conftest import MongoServer
from ac_pipeline_tests.dagster_home import PATIENCE

ROOT = Path(__file__).parents[2]


def addresses(mongo: str, database: str, folder: Path) -> Addresses:
    return Addresses(mongo, database, "http://127.0.0.1:1", "admin", "http://127.0.0.1:1/{bucket}", folder)


def test_the_demo_never_follows_the_environment_to_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "MONGODB_CONNECTION_STRING": "mongodb://production.invalid",
        "MONGODB_NAME": "production",
        "PDS_URL": "https://at.aesthetic.computer",
        "PDS_RATE_LIMIT_BYPASS_KEY": "production",
        "AC_LEDGER_DATABASE": "production-pipeline",
        "AC_RENDITIONS_URL": "s3://production",
        "DAGSTER_HOME": "/production",
        "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://production",
        "AC_DAGSTER_URL": "https://production.example",
        "AC_ALERT_WEBHOOK_URL": "https://hooks.example/production",
    }.items():
        monkeypatch.setenv(name, value)
    settings = demo_settings(addresses("mongodb://127.0.0.1:1", "aesthetic", tmp_path), tmp_path)
    shown = {name: str(getattr(settings, name)) for name in type(settings).model_fields}
    assert settings.ac_alert_webhook_url is None
    assert not [name for name, value in shown.items() if "production" in value or "at.aesthetic" in value]
    assert settings.mongodb_connection_string.get_secret_value() == "mongodb://127.0.0.1:1"
    assert settings.pds_rate_limit_bypass_key is None
    assert settings.dagster_postgres_url is None


def test_a_real_dagster_loads_the_workspace_adds_the_users_and_verifies_them(
    mongo_database: Any, mongo_server: MongoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN-11, VERIFY-12: with a `.env` of another place in the project's folder, which Dagster's own commands would
    follow. Nobody has a repository here, so that the checks say that nothing is known."""
    for name in ("workspace.yaml", "dagster.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".env").write_text("MONGODB_CONNECTION_STRING=mongodb://production.invalid\nMONGODB_NAME=production\n")
    monkeypatch.chdir(tmp_path)
    mongo_database["users"].insert_one({"_id": "auth0|1", "code": "ac25abcde"})
    mongo_database["@handles"].insert_one({"_id": "auth0|1", "handle": "Ada"})
    settings = demo_settings(addresses(mongo_server.uri, mongo_database.name, tmp_path), tmp_path / ".local")
    seen: list[DagsterUi] = []
    # Not where people look for it: other tests and people may start one there at the same moment.
    with open_dagster(tmp_path, tmp_path / ".local", settings, Screen(), free_port()) as dagster:
        seen.append(dagster)
        dagster.wait_until_loaded(PATIENCE)
        assert ["atproto", "moods"] in dagster.assets("atproto", "renditions")
        assert len(dagster.assets("atproto", "renditions")) == 7
        dagster.start_sensor("users_sensor")
        assert dagster.wait_for_keys(["atproto", "moods"], {"ada", "art-guest"}, PATIENCE) == ["ada", "art-guest"]
        assert dagster.running_backfills() == []
        lines: list[str] = []
        assert dagster.wait_for_run(dagster.launch_job("verify_users"), lines.append) == SUCCEEDED
        turns = [line for line in lines if line.startswith(("1 of 2: ", "2 of 2: "))]
        assert len(turns) == 2, "each user's line is seen once, as it comes"
        checks = dagster.checks(["atproto", "moods"])
        assert [each.name for each in checks if each.passed is None] == []
        assert {each.name: (each.passed, each.severe) for each in checks}["no_quarantined_items"][0] is True
        (records,) = [each for each in checks if each.name == "records_match_documents"]
        assert (records.passed, records.severe, records.counts["expected"]) == (False, False, 0)
        assert records.said.startswith("Nobody was verified yet")
    assert not seen[0].alive()
    mongo_database.client.drop_database(settings.ac_ledger_database)
