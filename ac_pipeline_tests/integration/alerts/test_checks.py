"""Alerts about asset checks, and the sensor itself, on a real instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.defs.alerts.delivery import AlertDelivery
from ac_pipeline.defs.alerts.sensor import alerts_sensor
from ac_pipeline.errors import NoCredentials, ServiceUnreachable
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
    assert dict(alert.facts.classes) == {"source-missing": 2}
    assert list(alert.facts.names) == [f"ada {first}", f"bea {second}"]
    assert alert.facts.path == "/assets/atproto/paintings?view=checks"
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
    """RUN-9: each run of a backfill may raise the count."""
    site.look()
    site.store("first", "REQUESTED", *RECORDS, ended=False)
    for key in KEYS[:3]:
        site.mirror.quarantine(key, media_type("painting"), "no candidate is left")
        site.run(PAINTINGS, first=key, last=key)
        assert site.look() == []
    site.ahead = 3_590
    site.beat()
    assert site.look() == []
    site.ahead = 3_610
    assert [line for line in site.look() if "counts 3 quarantined" in line]
    site.mirror.quarantine("dan", media_type("painting"), "no candidate is left")
    site.run(PAINTINGS, first="dan", last="dan")
    assert site.look() == []
    site.store("first", "COMPLETED_SUCCESS", *RECORDS)
    assert [line for line in site.look() if "counts 4 quarantined items, 1 of them new" in line]


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
    assert (dict(alert.facts.classes), list(alert.facts.names)) == ({"no-credentials": len(KEYS)}, sorted(KEYS))
    assert "Mongo holds no password" in alert.facts.words
    site.run(PAINTINGS)
    assert site.look() == []
    for key in KEYS:
        site.mirror.known[key] = replace(site.mirror.known[key], blocked=None)
    site.run(PAINTINGS)
    assert site.look() == ["[recovered] Check accounts_usable of atproto/paintings passes again"]


# --- the sensor itself ---


class Receiver:
    """A webhook in memory that can be away."""

    def __init__(self) -> None:
        self.got: list[Mapping[str, Any]] = []
        self.away = False

    def send(self, payload: Mapping[str, Any]) -> None:
        if self.away:
            raise ServiceUnreachable("The alert webhook does not answer (ConnectError).")
        self.got.append(payload)


def test_a_tick_sends_what_is_new_and_keeps_in_its_cursor_what_is_not_delivered(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """RUN-9, ACCT-5: delivered at least once, said in the log, no secret in either."""
    receiver = Receiver()
    outlet = AlertDelivery("https://dagster.example", Redactor(["mongodb://reader:hunter2@host"]), receiver)
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
    assert "Messages that wait for the next tick: 1. The alert webhook does not answer" in log
    assert "[failed] Backfill first" in log
    receiver.away = False
    assert "Nothing has changed" in tick_once()
    assert [payload["alert"]["id"].rpartition(":")[0] for payload in receiver.got] == ["backfill:first:failed"]
    assert receiver.got[0]["text"].endswith("\nhttps://dagster.example/runs/b/first")
    tick_once()
    assert len(receiver.got) == 1
    assert "hunter2" not in log + capfd.readouterr().err + str(receiver.got) + str(cursor)
    assert "[removed]" in receiver.got[0]["text"]
