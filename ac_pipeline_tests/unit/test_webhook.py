"""The webhook: a message arrives or an error says why not, and no secret is told."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from ac_pipeline.defs.alerts.sensor import Webhook
from ac_pipeline.errors import Misconfigured, PipelineError, ServerFailed, ServiceUnreachable, Transient
from ac_pipeline.settings import Settings, load_settings

URL = "https://hooks.example/services/T0/B0/very-secret-part"
BUDGET = 25.0


class Place:
    """Where messages arrive, and the time it takes."""

    def __init__(self, *answers: int | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.got: list[dict[str, object]] = []
        self.now = 0.0
        self.seconds = 0.0

    def webhook(self) -> Webhook:
        return Webhook(SecretStr(URL), BUDGET, transport=httpx.MockTransport(self._answer), clock=lambda: self.now)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.now += self.seconds
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer(request)
        if answer < 300:
            self.got.append(json.loads(request.content))
        return httpx.Response(answer, text=f"Cannot POST {request.url.path}")


def test_a_message_is_posted_as_json_to_the_address() -> None:
    requests: list[httpx.Request] = []

    def receive(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(204)

    with closing(Place(receive).webhook()) as webhook:
        webhook.send({"text": "hello"})
    assert (requests[0].method, str(requests[0].url)) == ("POST", URL)
    assert requests[0].headers["content-type"] == "application/json"
    assert json.loads(requests[0].content) == {"text": "hello"}


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, httpx.ConnectError("no"), httpx.ReadTimeout("slow")])
def test_trouble_that_may_pass_is_left_to_the_next_tick(trouble: int | Exception) -> None:
    place = Place(trouble)
    with closing(place.webhook()) as webhook:
        with pytest.raises(Transient):
            webhook.send({"text": "hello"})
        assert place.got == []
        webhook.send({"text": "hello"})
    assert place.got == [{"text": "hello"}]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 302])
def test_a_refusal_names_the_setting(status: int) -> None:
    place = Place(status)
    with (
        closing(place.webhook()) as webhook,
        pytest.raises(Misconfigured, match=f"answered {status}.*AC_ALERT_WEBHOOK_URL"),
    ):
        webhook.send({"text": "hello"})


def test_all_messages_of_a_tick_share_one_budget() -> None:
    place = Place()
    place.seconds = 9.0
    with closing(place.webhook()) as webhook:
        for text in ("a", "b", "c"):
            webhook.send({"text": text})
        with pytest.raises(ServiceUnreachable, match="time of this tick"):
            webhook.send({"text": "d"})
    assert (len(place.got), place.now) == (3, 27.0)


def test_the_words_of_slack_are_told_and_sentences_that_may_quote_the_address_are_not() -> None:
    place = Place(lambda _: httpx.Response(400, text="invalid_payload"))
    with closing(place.webhook()) as webhook, pytest.raises(Misconfigured, match="invalid_payload"):
        webhook.send({"text": "hello"})


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (404, Misconfigured),
        (500, ServerFailed),
        (httpx.ConnectError(f"cannot reach {URL}"), ServiceUnreachable),
        (httpx.UnsupportedProtocol(URL), ServiceUnreachable),
        (httpx.InvalidURL(URL), ServiceUnreachable),
    ],
)
def test_the_address_is_told_to_nobody(
    trouble: int | Exception, kind: type[PipelineError], caplog: pytest.LogCaptureFixture
) -> None:
    """ACCT-5: not in the error, not in its traceback, not in a log, not in a repr."""
    caplog.set_level(logging.DEBUG)
    with closing(Place(trouble).webhook()) as webhook:
        with pytest.raises(kind) as error:
            webhook.send({"text": "hello"})
        told = "".join(traceback.format_exception(error.value)) + repr(webhook) + str(vars(webhook))
    assert "very-secret-part" not in told + caplog.text


def test_other_requests_of_this_process_are_logged_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="httpx")
    with closing(Place().webhook()) as webhook:
        webhook.send({"text": "hello"})
    assert "very-secret-part" not in caplog.text
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("https://other.example/")
    assert "other.example" in caplog.text


def settings_from(folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    values = {"MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1", "MONGODB_NAME": "platform", **variables}
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return load_settings(folder)


def test_the_address_is_a_secret_setting_and_the_one_of_the_ui_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ACCT-5."""
    settings = settings_from(tmp_path, monkeypatch, AC_ALERT_WEBHOOK_URL=URL, AC_DAGSTER_URL="https://dagster.example/")
    assert settings.ac_dagster_url == "https://dagster.example"
    assert URL in settings.secrets()
    assert "very-secret-part" not in repr(settings)
    assert settings_from(tmp_path, monkeypatch).ac_alert_webhook_url is None


@pytest.mark.parametrize(
    "value", ["hooks.example/very-secret-part", "ftp://hooks.example/very-secret-part", "https://"]
)
def test_a_wrong_address_is_named_and_not_shown(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="AC_ALERT_WEBHOOK_URL must be an http or https address") as error:
        settings_from(tmp_path, monkeypatch, AC_ALERT_WEBHOOK_URL=value)
    assert "very-secret-part" not in str(error.value)
