"""Alerts of a real Dagster on a real PostgreSQL: web server, daemon, code server, runs, backfills and a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from ac_pipeline.defs.assets.catalog import USERS
from ac_pipeline.settings import Settings
from ac_pipeline_tests.dagster_home import DagsterHome, wait_until
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.postgres_server import PostgresServer

KEYS = ["ada", "bea", "cyd"]
THUMBNAILS = ["renditions", "painting_thumbnails"]
PASSWORD = "hunter2-of-the-database"
SECRET_PATH = "/services/T0/B0/very-secret-part"

# The project's definitions on a pipeline in memory: users named in the file `failing` fail; with a file `away`, what
# changed cannot be read.
DEFINITIONS = """
import dagster as dg
from pathlib import Path
from ac_pipeline.definitions import build_defs
from ac_pipeline.errors import ServerFailed, ServiceUnreachable
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror

HERE = Path(__file__).parent

class Mirror(ScriptedMirror):
    def open(self):
        opened = super().open()
        look = opened.changes.look

        def away(*arguments):
            if (HERE / "away").exists():
                raise ServiceUnreachable("Could not read the change stream: MongoDB does not answer.")
            return look(*arguments)

        opened.changes.look = away
        return opened

@dg.resource
def mirror(_):
    made = Mirror("ada", "bea", "cyd")
    for key in (HERE / "failing").read_text().split():
        made.trouble(key, *[ServerFailed("the PDS answered 502") for _ in range(9)])
    return made

defs = build_defs({"pipeline": mirror}, retry_seconds=0)
"""


class Receiver:
    """A webhook on this machine, as Slack's."""

    def __init__(self) -> None:
        receiver = self
        self.got: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = 200 if self.path == SECRET_PATH else 404
                if status == 200:
                    receiver.got.append(json.loads(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{SECRET_PATH}"

    @property
    def headlines(self) -> list[str]:
        return [payload["alert"]["headline"] for payload in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_failed_backfill_and_failing_ticks_reach_the_webhook_once_and_so_do_their_ends(
    receiver: Receiver, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN-9, OPS-1, OPS-3, ACCT-5: one message for all partitions and attempts of a backfill, with what an operator
    needs; the secrets stand in no message, log or command line."""
    url = postgres_server.url(postgres_server.create_database()).replace("postgres:@", f"postgres:{PASSWORD}@")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    settings = Settings.model_validate(
        {
            "mongodb_connection_string": SecretStr("mongodb://127.0.0.1:1"),
            "mongodb_name": "platform",
            "dagster_home": tmp_path / "home",
            "dagster_postgres_url": SecretStr(url),
            "ac_dagster_url": "https://dagster.example",
            "ac_alert_webhook_url": SecretStr(receiver.url),
        }
    )
    with DagsterHome(settings) as home:
        project = home.home / "project"
        (project / "definitions.py").write_text(DEFINITIONS)
        (project / "failing").write_text("bea cyd")
        with home.start() as ui, open_instance(home.home) as instance:
            ui.start_sensor("alerts_sensor")
            instance.add_dynamic_partitions(USERS, KEYS)
            # A start replays no history: what fails is to fail under its eyes.
            wait_until(lambda: any(ticks(instance, "alerts_sensor")), "the alerts sensor has ticked")
            (project / "away").touch()
            ui.start_sensor("new_content_sensor")
            backfill = ui.launch_backfill([THUMBNAILS], KEYS)
            assert not ui.finish(backfill).succeeded
            wait_until(lambda: [line for line in receiver.headlines if "Backfill" in line], "the backfill is told")
            (told,) = [each for each in receiver.got if "Backfill" in each["alert"]["headline"]]
            assert told["text"] == told["content"]
            assert told["alert"]["partitions"] == {"failed": 2, "all": 3}
            assert told["alert"]["runs"] == {"failed": 1, "all": 1}
            assert told["alert"]["error_classes"] == {"server-failed": 2}
            assert told["alert"]["names"] == ["bea", "cyd"]
            assert told["alert"]["url"] == f"https://dagster.example/runs/b/{backfill}"
            assert "One says: the PDS answered 502" in told["text"]
            (project / "failing").write_text("")
            wait_until(lambda: only(receiver, "Ticks"), "failing ticks are told")
            assert only(receiver, "Ticks") == ["[failed] Ticks of the sensor new_content_sensor fail"]
            (said,) = [each["text"] for each in receiver.got if "Ticks" in each["alert"]["headline"]]
            assert "One says: " in said
            assert "Could not read the change stream: MongoDB does not answer." in said
            (project / "away").unlink()
            again = ui.reexecute_failed(backfill)
            assert ui.finish(again).succeeded
            wait_until(lambda: len(only(receiver, "Backfill")) == 2 and len(only(receiver, "Ticks")) == 2, "both end")
            assert only(receiver, "Backfill")[1] == (
                f"[recovered] Backfill {backfill} is repaired: what had failed is done by now"
            )
            assert only(receiver, "Ticks")[1] == "[recovered] Ticks of the sensor new_content_sensor succeed again"
            seen = json.dumps(receiver.got) + home.log.read_text(errors="replace")
            seen += "".join(process.command for process in home.processes())
        assert f"[failed] Backfill {backfill}" in home.log.read_text(errors="replace")
    assert len(receiver.got) == 4
    assert PASSWORD not in seen
    assert "very-secret-part" not in seen


def only(receiver: Receiver, word: str) -> list[str]:
    return [line for line in receiver.headlines if word in line]


def ticks(instance: dg.DagsterInstance, name: str) -> list[bool]:
    """Whether each tick of a sensor is complete."""
    states = [state for state in instance.all_instigator_state() if state.instigator_name == name]
    return [
        tick.is_completed
        for state in states
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
    ]
