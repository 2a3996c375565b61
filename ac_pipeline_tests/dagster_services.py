"""A Dagster whose services are processes of their own, as systemd, compose and Kubernetes start them.

Each can be stopped and started again alone, and on another version of the code. What is expected of it belongs to the
tests."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ac_pipeline.defs.assets.catalog import RETRY_SECONDS
from ac_pipeline.defs.home import environment
from ac_pipeline.errors import PipelineError
from ac_pipeline.local.dagster_ui import LOCATION
from ac_pipeline.local.services.processes import LOOPBACK, free_port
from ac_pipeline.settings import Settings
from ac_pipeline_tests.dagster_home import PATIENCE, ROOT, DagsterHome, Ui, wait_until

WEB_SERVER, DAEMON, CODE_SERVER, WORKER = "webserver", "daemon", "code-server", "worker"


class DagsterServices(DagsterHome):
    """One home and the services that were started on it. A context manager that stops them all.

    Args:
        settings: `dagster_home` is its home; the rest names the services.
        changes: To the project's dagster.yaml, value by value.
        variables: Environment of its processes, on top of ours and the settings.
    """

    def __init__(
        self, settings: Settings, *, changes: Mapping[str, Any] = {}, variables: Mapping[str, str] = {}
    ) -> None:
        super().__init__(settings, retry_seconds=RETRY_SECONDS, changes=changes, variables=variables)
        self._code_port = free_port()
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        where = {"host": LOOPBACK, "port": self._code_port, "location_name": LOCATION}
        (self._project / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": where}]}))

    def start_part(self, part: str, *more: str, code: Path = ROOT, **variables: str) -> None:
        """Start one service. `more`: arguments of it; `code`: the folder of the package it is to be; `variables`: of
        its environment."""
        ports = {WEB_SERVER: self._port, CODE_SERVER: self._code_port}
        port = ["--port", str(ports[part])] if part in ports else []
        command = [sys.executable, "-m", "ac_pipeline.defs.home", part, "--project", str(self._project), *port, *more]
        given = {**environment(self.settings), **self._variables, "PYTHONPATH": str(code), **variables}
        with self.log_of(part).open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env={**given, "DAGSTER_DISABLE_TELEMETRY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._keepers.append(process)
        self._parts[part] = process

    def log_of(self, part: str) -> Path:
        return self.home / f"{part}.log"

    def ask_to_stop(self, part: str) -> None:
        """SIGTERM, as service managers send it."""
        self.processes()  # so that whatever it leaves is ended with the rest
        self._parts[part].send_signal(signal.SIGTERM)

    def wait_for_end(self, part: str) -> int:
        """Wait until a service has ended; its exit code."""
        return self._parts[part].wait(PATIENCE)

    def stop_part(self, part: str) -> float:
        """Stop a service in order; the seconds it took. Raises AssertionError: it did not end well."""
        begun = time.monotonic()
        self.ask_to_stop(part)
        code = self.wait_for_end(part)
        assert code == 0, f"{part} ended with {code}"
        return time.monotonic() - begun

    def ui(self) -> Ui:
        """The web server, once it has the code location."""
        web = self._parts[WEB_SERVER]
        ui = Ui(self.url, lambda: web.poll() is None)
        self._uis.append(ui)

        def loaded() -> bool:
            try:
                ui.wait_until_loaded(PATIENCE)
            except PipelineError as error:
                if "UNAVAILABLE" not in error.message:  # the code server is still starting
                    raise
                return False
            return True

        wait_until(loaded, "the code location is loaded")
        return ui


def another_version(folder: Path, changes: Mapping[str, tuple[str, str]]) -> Path:
    """A copy of the package in a folder, which is returned, with some of its text replaced.

    Args:
        changes: Path in the package -> what is there, and what shall be.
    """
    shutil.copytree(ROOT / "ac_pipeline", folder / "ac_pipeline")
    shutil.copytree(ROOT / "lexicons", folder / "lexicons")
    for path, (old, new) in changes.items():
        file = folder / "ac_pipeline" / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old}"
        file.write_text(text.replace(old, new))
    return folder
