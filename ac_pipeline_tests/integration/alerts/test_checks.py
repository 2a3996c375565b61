"""Alerts about asset checks, and the sensor itself, on a real instance."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dagster as dg
import httpx
import pytest
from pydantic import SecretStr

from ac_pipeline.defs.alerts.sensor import AlertDelivery, Webhook, alerts_sensor
from ac_pipeline.errors import NoCredentials
from ac_pipeline.media.registry import media_type
from ac_pipeline.redaction import Redactor
from ac_pipeline_tests.integration.alerts.site import KEYS, PAINTINGS, RECORDS, Site

# --- checks ---


def test_quarantined_items_are_one_message_for_each_asset_and_one_when_there_are_none(site: Site) -> None:
    """OPS-1, OPS-3."""
    painting = media_type("painting")
    site.look()
    site.run(PAINTINGS)
    assert site.look() == []
    first = site.mirror.quarantine("ada", painting, "no candidate is left")
    second = site.mirror.quarantine("bea", painting, "no candidate is left")
    site.run(PAINTINGS)
    (alert,) = site.alerts()
    assert alert.headline == "[failed] Check no_quarantined_items of atproto/paintings counts 2 quarantined items"
    assert dict(alert.classes) == {"source-missing": 2}
    assert list(alert.names) == [f"ada {first}", f"bea {second}"]
    assert alert.path == "/assets/atproto/paintings?view=checks"
    site.run(PAINTINGS)
    assert site.look() == []
    del site.mirror.ledger[second]
    site.run(PAINTINGS)
    assert site.look() == []
    site.mirror.quarantine("cyd", painting, "no candidate is left")
    site.run(PAINTINGS)
    assert site.look() == [
        "[failed] Check no_quarantined_items of atproto/paintings counts 2 quarantined items, 1 of them new"
    ]
    site.mirror.ledger.clear()
    site.run(PAINTINGS)
    assert site.look() == ["[recovered] Check no_quarantined_items of atproto/paintings passes again"]


def test_while_a_backfill_runs_news_of_quarantined_items_waits_for_its_end_or_an_hour(site: Site) -> None:
    """RUN-9: each run of a backfill may raise the count. That all is well does not wait."""
    site.look()
    site.store("first", "REQUESTED", *RECORDS, ended=False)
    for key in KEYS[:3]:
        site.mirror.quarantine(key, media_type("painting"), "no candidate is left")
        site.run(PAINTINGS, first=key, last=key)
        assert site.look() == []
    site.ahead = 3_400
    site.beat()
    assert site.look() == []
    site.ahead = 3_610
    assert [line for line in site.look() if "counts 3 quarantined" in line]
    site.mirror.quarantine("dan", media_type("painting"), "no candidate is left")
    site.run(PAINTINGS, first="dan", last="dan")
    assert site.look() == []
    site.store("first", "COMPLETED_SUCCESS", *RECORDS)
    assert [line for line in site.look() if "counts 4 quarantined items, 1 of them new" in line]
    site.store("second", "REQUESTED", *RECORDS, ended=False)
    site.mirror.ledger.clear()
    site.run(PAINTINGS)
    assert site.look() == ["[recovered] Check no_quarantined_items of atproto/paintings passes again"]


def test_accounts_that_lose_their_credentials_are_one_message_for_each_asset(site: Site) -> None:
    """SEEN-1: however many they are and become; one account alone only warns, and is no message."""
    site.look()
    ada = site.mirror.known["ada"]
    site.mirror.known["ada"] = replace(ada, blocked=NoCredentials("Mongo holds no password"))
    site.run(PAINTINGS)
    assert site.look() == []
    for key in KEYS:
        site.mirror.known[key] = replace(site.mirror.known[key], blocked=NoCredentials("Mongo holds no password"))
    site.run(PAINTINGS)
    (alert,) = site.alerts()
    assert alert.headline == (
        f"[failed] Check accounts_usable of atproto/paintings counts {len(KEYS)} blocked accounts of {len(KEYS)}"
    )
    assert (dict(alert.classes), list(alert.names)) == ({"no-credentials": len(KEYS)}, sorted(KEYS))
    assert "Mongo holds no password" in alert.words
    site.run(PAINTINGS)
    assert site.look() == []
    for key in KEYS:
        site.mirror.known[key] = replace(site.mirror.known[key], blocked=None)
    site.run(PAINTINGS)
    assert site.look() == ["[recovered] Check accounts_usable of atproto/paintings passes again"]


# --- the sensor itself ---


class Receiver:
    """A receiver in memory that can be away."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.away = False

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("no")
        self.got.append(json.loads(request.content))
        return httpx.Response(204)


def test_a_tick_says_in_log_and_webhook_what_is_new_and_in_the_log_alone_what_the_webhook_does_not_take(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """RUN-9, ACCT-5: said once; what was not delivered is told again when it changes; no secret in either."""
    receiver = Receiver()
    webhook = Webhook(SecretStr("https://hooks.example"), 60.0, transport=httpx.MockTransport(receiver.answer))
    outlet = AlertDelivery("https://dagster.example", Redactor(["mongodb://reader:hunter2@host"]), webhook)
    cursor = None

    def tick_once() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=site.instance, cursor=cursor, repository_def=site.repository)
        result = alerts_sensor(context, alerts=outlet)
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        return str(result.skip_reason)

    assert "Nothing has changed" in tick_once()
    site.store("first", "FAILED", PAINTINGS, error="cannot connect to mongodb://reader:hunter2@host: wrong hunter2")
    receiver.away = True
    assert "Messages: 1" in tick_once()
    assert receiver.got == []
    log = capfd.readouterr().err
    assert "the webhook did not take it: The alert webhook does not answer" in log
    assert "[failed] Backfill first" in log
    receiver.away = False
    assert "Nothing has changed" in tick_once()
    site.store("second", "COMPLETED_SUCCESS", *RECORDS)
    assert "Messages: 1" in tick_once()
    site.store("third", "FAILED", PAINTINGS, error="cannot connect to mongodb://reader:hunter2@host: wrong hunter2")
    assert "Messages: 1" in tick_once()
    tick_once()
    assert [payload["alert"]["id"].rpartition(":")[0] for payload in receiver.got] == [
        "backfill:first:recovered",
        "backfill:third:failed",
    ]
    assert receiver.got[1]["text"].endswith("\nhttps://dagster.example/runs/b/third")
    webhook.close()
    assert "hunter2" not in log + capfd.readouterr().err + str(receiver.got) + str(cursor)
    assert "[removed]" in receiver.got[1]["text"]
