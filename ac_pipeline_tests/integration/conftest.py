"""What integration tests share: a pipeline on services of the test's own, and the command line in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ac_pipeline.cli.main import run
from ac_pipeline_tests.harness import Slice, open_slice

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def slice_(mongo_database: Any, mongo_server: Any, pds: Any, object_server: Any, tmp_path: Path) -> Iterator[Slice]:
    with open_slice(mongo_database, mongo_server.uri, pds, object_server.url_template, tmp_path) as opened:
        yield opened


@pytest.fixture
def cli(  # noqa: PLR0917 - fixtures
    slice_: Slice,
    mongo_server: Any,
    object_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command in an environment that names the test's services; exit code and what it printed on stdout."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MONGODB_CONNECTION_STRING": mongo_server.uri,
        "MONGODB_NAME": slice_.database.name,
        "PDS_URL": slice_.pds.url,
        "PDS_ADMIN_PASSWORD": slice_.pds.admin_password,
        "AC_MEDIA_URL": object_server.url_template,
        "AC_RENDITIONS_URL": slice_.pipeline.settings.ac_renditions_url,
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, capsys.readouterr().out

    return call
