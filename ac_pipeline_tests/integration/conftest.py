"""What integration tests share: a pipeline on services of the test's own, and the command line in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.cli.main import run
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import Slice, open_slice

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def slice_(mongo_database: Any, mongo_server: Any, pds: Any, object_server: Any, tmp_path: Path) -> Iterator[Slice]:
    with open_slice(mongo_database, mongo_server.uri, pds, object_server.url_template, tmp_path) as opened:
        yield opened


@pytest.fixture
def named_services(slice_: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names the test's services, for commands and runs that read it by themselves."""
    settings = slice_.pipeline.settings
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MONGODB_CONNECTION_STRING": settings.mongodb_connection_string.get_secret_value(),
        "MONGODB_NAME": settings.mongodb_name,
        "PDS_URL": settings.pds_url,
        "PDS_ADMIN_PASSWORD": slice_.pds.admin_password,
        "AC_MEDIA_URL": settings.ac_media_url,
        "AC_RENDITIONS_URL": settings.ac_renditions_url,
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def cli(named_services: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an environment that names the test's services; exit code and what it printed on stdout."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with open_instance() as made:
        yield made
