"""The mirror in numbers for Prometheus, on real services, read as Prometheus reads it; and the dashboard of them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ac_pipeline.atproto.rate_limits import Window
from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.items import Failure, Stage, State
from ac_pipeline.local.seed.artwork import tape_zip
from ac_pipeline.local.services.processes import free_port
from ac_pipeline.operations.metrics import Counts
from ac_pipeline.operations.totals import mirror_totals
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import open_pipeline
from ac_pipeline_tests.dagster_home import wait_until
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"


def read(text: str) -> dict[tuple[str, ...], float]:
    """Name and the values of the labels of every sample -> its value."""
    families = text_string_to_metric_families(text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


@pytest.fixture
def prepared(slice_: Slice, object_server: ObjectServer) -> Slice:
    """Two moods published, one quarantined, one waiting to be deleted; a tape; somebody blocked."""
    ada = slice_.user("ada")
    bob = slice_.user("bob")
    object_server.put(USER_BUCKET, f"{ada.id}/tape.zip", tape_zip(4, 32, 24, seed=4))
    with open_pipeline(slice_.pipeline.settings) as pipeline:
        ids = [slice_.add("mood", ada, mood=text) for text in "abcd"]
        slice_.add("tape", ada, code="tap", slug="tape")
        pipeline.engine.sync(ada, Selection(), "run")
    failure = Failure(Stage.WRITE, "too-large", "too large")
    since = datetime.now(UTC) - timedelta(hours=1)
    ledger = slice_.pipeline.ledger
    ledger.save([slice_.entry("mood", ids[0]).with_(state=State.QUARANTINED, failure=failure)])
    ledger.save([slice_.entry("mood", ids[1]).with_(state=State.DEFERRED, failure=failure, withdrawn_at=since)])
    slice_.database["users"].update_one({"_id": bob.id}, {"$unset": {"atproto.password": ""}})
    return slice_


def test_the_numbers_are_those_of_the_totals(cli: Run, prepared: Slice) -> None:
    """VERIFY-12, OPS-2: by type, class and reason, with ages, limits, requests and encodings; nothing else is in it."""
    host = prepared.pipeline.engine.host
    now = datetime.now(UTC).timestamp()
    budgets = prepared.pipeline.budgets
    for key, policy, window in (
        (host, "3000;w=300", Window(3_000, 300.0, 2_500, now + 200)),
        ("did:plc:one", "5000;w=3600", Window(5_000, 3_600.0, 4_000, now + 900)),
        ("did:plc:two", "5000;w=3600", Window(5_000, 3_600.0, 10, now + 1_900)),
    ):
        budgets.change(key, policy, None, window)
    code, text = cli("metrics", "--once")
    assert code == 0
    found, totals = read(text), mirror_totals(prepared.pipeline)
    for type_, each in totals.types.items():
        for name in each.__dataclass_fields__:
            assert found[f"ac_pipeline_{name}", type_] == getattr(each, name)
    assert found["ac_pipeline_records", "mood"] == 4
    assert found["ac_pipeline_quarantined_by_class", "too-large"] == 1
    assert found["ac_pipeline_deferred", "mood"] == 1
    assert sum(value for key, value in found.items() if key[0] == "ac_pipeline_blocked_accounts") == 1
    assert found["ac_pipeline_accounts", "ready"] == totals.accounts["ready"] == 1
    assert 3_600 <= found["ac_pipeline_oldest_pending_deletion_seconds",] < 3_700
    assert found["ac_pipeline_oldest_unmirrored_document_seconds",] == 0
    assert found["ac_pipeline_limit", "requests", "300"] == 3_000
    assert 2_400 < found["ac_pipeline_limit_left", "requests", "300"] <= 2_500, "the count itself asks for something"
    assert found["ac_pipeline_limit_left", "write points of one user", "3600"] == 10, "the user who has the least left"
    assert found["ac_pipeline_pds_requests_total", "apply_writes"] >= 1
    assert found["ac_pipeline_pds_requests_total", "upload_blob"] == 2
    assert found["ac_pipeline_encodings_total",] >= 1
    assert found["ac_pipeline_encoding_seconds_total",] > 0
    assert found["ac_pipeline_media_bytes_downloaded_total",] > 0
    assert found["ac_pipeline_bytes_uploaded_total",] > 0
    secret = prepared.pipeline.settings.mongodb_connection_string.get_secret_value()
    assert secret not in text
    assert "did:plc" not in text


def test_what_runs_have_spent_adds_up(cli: Run, prepared: Slice) -> None:
    """Each command and run adds its own when it ends."""
    key = ("ac_pipeline_pds_requests_total", "list_repos")
    before = read(cli("metrics", "--once")[1])[key]
    assert cli("sync", "--full")[0] in (0, 1)
    assert read(cli("metrics", "--once")[1])[key] > before


@pytest.fixture
def served(named_services: pytest.MonkeyPatch, prepared: Slice) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    command = [sys.executable, "-m", "ac_pipeline.cli", "metrics", "--port", str(port), "--every", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield process, process.stderr.readline().strip()
        process.kill()


def test_it_is_served_until_it_is_interrupted(served: tuple[subprocess.Popen[str], str], prepared: Slice) -> None:
    """OPS-2: at 127.0.0.1, counted anew, and saying so where it could not."""
    process, said = served
    url = said.removeprefix("Metrics at ").removesuffix(".")
    assert url.startswith("http://127.0.0.1:")
    answers = []

    def is_up() -> bool:
        try:
            answers.append(httpx.get(url, trust_env=False, timeout=30))
        except httpx.TransportError:
            return False
        return True

    wait_until(is_up, "metrics are served")
    assert answers[-1].headers["content-type"].startswith("text/plain")
    first = read(answers[-1].text)
    assert first["ac_pipeline_up",] == 1
    prepared.add(
        "mood", prepared.account(str(prepared.database["@handles"].find_one({"handle": "ada"})["_id"])), mood="e"
    )
    second = read(httpx.get(url, trust_env=False, timeout=30).text)
    assert second["ac_pipeline_pending", "mood"] == first["ac_pipeline_pending", "mood"] + 1
    assert second["ac_pipeline_oldest_unmirrored_document_seconds",] > 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_what_cannot_be_counted_is_not_zero(prepared: Slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed read is never an empty read: `up` is 0, and no number is there."""
    counts = Counts(prepared.pipeline, 60)

    def unreachable(*_: object, **__: object) -> Any:
        raise ServiceUnreachable("MongoDB does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(prepared.pipeline.ledger, "recorded", unreachable)
        assert {family.name: family.samples[0].value for family in counts.collect()} == {"ac_pipeline_up": 0}
    assert {family.name for family in counts.collect()} > {"ac_pipeline_up", "ac_pipeline_records"}


def test_the_dashboard_shows_what_is_served(cli: Run, prepared: Slice) -> None:
    """VERIFY-12: every metric of a panel is there, and every metric has a panel."""
    served = {key[0] for key in read(cli("metrics", "--once")[1])}
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked = {
        name for panel in panels for each in panel["targets"] for name in re.findall(r"ac_pipeline_\w+", each["expr"])
    }
    assert asked == served
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)
