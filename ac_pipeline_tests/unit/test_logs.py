"""Logs as JSON: what commands say on stderr, and the log of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = """
import dagster as dg
from ac_pipeline.definitions import defs
from ac_pipeline_tests.dagster_instance import open_instance
with open_instance() as instance:
    defs.resolve_job_def("list_accounts").execute_in_process(instance=instance, raise_on_error=False)
"""
COMMAND = [sys.executable, "-m", "ac_pipeline.cli"]


def stderr_of(command: list[str], folder: Path, form: str) -> list[str]:
    variables = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MONGODB_CONNECTION_STRING": "mongodb://user:hunter2@127.0.0.1:1",
        "MONGODB_NAME": "platform",
        "AC_MONGO_TIMEOUT_SECONDS": "0.05",
        "AC_LOG_FORMAT": form,
    }
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert "hunter2" not in done.stderr
    return done.stderr.splitlines()


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_every_line_of_a_command_is_a_document(tmp_path: Path) -> None:
    """OPS-7: where it works, and how it failed."""
    where, failed = objects(stderr_of([*COMMAND, "sync"], tmp_path, "json"))
    assert (where["level"], where["logger"]) == ("info", "ac_pipeline.wiring")
    assert "database platform at 127.0.0.1:1" in where["message"]
    assert (failed["level"], failed["logger"]) == ("error", "ac_pipeline")
    assert failed["message"].startswith("Error: ")
    assert failed["time"].endswith("+00:00")
    (wrong,) = objects(stderr_of([*COMMAND, "items", "--limit", "-1"], tmp_path, "json"))[-1:]
    assert "--limit" in wrong["message"]


@pytest.mark.slow
def test_text_is_as_it_was(tmp_path: Path) -> None:
    where, failed = stderr_of([*COMMAND, "sync"], tmp_path, "text")
    assert where.startswith("Works on PDS ")
    assert failed.startswith("Error: ")


@pytest.mark.slow
def test_every_line_of_a_run_is_a_document(tmp_path: Path) -> None:
    """VERIFY-12: with run, job and step, and the kind of each event."""
    found = objects(stderr_of([sys.executable, "-c", RUN], tmp_path, "json"))
    (run,) = {each["run_id"] for each in found}
    assert run
    assert {each["job_name"] for each in found} == {"list_accounts"}
    (where,) = (each for each in found if each["message"].startswith("This run works on"))
    assert where["level"] == "info"
    (failed,) = (each for each in found if each.get("event") == "STEP_FAILURE")
    assert (failed["level"], failed["step_key"]) == ("error", failed["op_name"])


@pytest.mark.slow
def test_another_form_is_refused(tmp_path: Path) -> None:
    assert "AC_LOG_FORMAT must be text or json" in stderr_of([*COMMAND, "status"], tmp_path, "xml")[-1]
