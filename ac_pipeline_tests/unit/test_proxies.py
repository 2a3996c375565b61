"""Proxy variables in every form: obeyed, or named in one sentence; never on the way to this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from ac_pipeline.atproto.relay import Relay
from ac_pipeline.atproto.transport import open_http
from ac_pipeline.cli.main import run
from ac_pipeline.defs.alerts.sensor import Webhook
from ac_pipeline.errors import Misconfigured, PipelineError, ServiceUnreachable
from ac_pipeline.local.dagster_ui import DagsterUi
from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.media.base import SourceObject
from ac_pipeline.objects import ObjectStorage, storage_client
from ac_pipeline.proxies import Proxies, read_proxies
from ac_pipeline.settings import Settings, load_settings
from ac_pipeline_tests.unit.atproto.client.scripted_pds import Server, make

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
SOMEWHERE = "http://pds.example"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*VARIABLES, *(name.upper() for name in Settings.model_fields)):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("MONGODB_CONNECTION_STRING", "mongodb://127.0.0.1:1")
    monkeypatch.setenv("MONGODB_NAME", "aesthetic")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dead() -> str:
    """Host and port of a proxy that does not run."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def living() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers everything itself, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(407 if "closed" in self.path else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def proxied(url: str, **environment: str) -> str:
    """The variable whose proxy an address is reached through, or an empty text."""
    proxy = read_proxies(environment).of(httpx.URL(url))
    return proxy.variable if proxy is not None else ""


@pytest.mark.parametrize(
    ("url", "environment", "variable"),
    [
        ("http://a.example", {"HTTP_PROXY": "http://p:1"}, "HTTP_PROXY"),
        ("https://a.example", {"HTTP_PROXY": "http://p:1"}, ""),
        ("https://a.example", {"HTTPS_PROXY": "p:1"}, "HTTPS_PROXY"),
        ("https://a.example", {"https_proxy": "p:1", "HTTPS_PROXY": "q:1"}, "https_proxy"),
        ("https://a.example", {"https_proxy": "", "HTTPS_PROXY": "q:1"}, ""),
        ("https://a.example", {"HTTPS_PROXY": " "}, ""),
        ("http://a.example", {"ALL_PROXY": "https://user:word@p:1"}, "ALL_PROXY"),
        ("https://a.example", {"all_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "HTTPS_PROXY"),
        ("http://127.0.0.1:2583", {"ALL_PROXY": "http://p:1"}, ""),
        ("http://127.1.2.3", {"ALL_PROXY": "socks9://p:1"}, ""),
        ("http://localhost:2583", {"ALL_PROXY": "http://p:1"}, ""),
        ("http://[::1]:2583", {"ALL_PROXY": "http://p:1"}, ""),
    ],
)
def test_a_variable_says_for_which_addresses_its_proxy_is(url: str, environment: dict[str, str], variable: str) -> None:
    """BORDER-3."""
    assert proxied(url, **environment) == variable


@pytest.mark.parametrize(
    ("entries", "url", "direct"),
    [
        ("[::1],10.0.0.0/8", "https://10.2.3.4", True),
        ("[::1],10.0.0.0/8", "https://11.2.3.4", False),
        ("fd00::/8", "https://[fd12::1]", True),
        ("[fd00::]/8", "https://[fd12::1]", True),
        ("[fe80::1]:8443", "https://[fe80::1]:8443", True),
        ("[fe80::1]:8443", "https://[fe80::1]", False),
        ("10.2.3.4", "https://10.2.3.4:444", True),
        ("10.2.3.4/33.example", "", False),
        ("pds.example", "https://pds.example", True),
        ("pds.example", "https://a.pds.example", True),
        ("pds.example", "https://apds.example", False),
        (".example", "https://pds.example", True),
        ("*.example", "https://a.pds.example", True),
        ("192.168.*", "https://192.168.1.2", True),
        ("pds.example:443", "https://pds.example", True),
        ("pds.example:444", "https://pds.example", False),
        ("https://pds.example/", "https://pds.example", True),
        ("a.example b.example", "https://b.example", True),
        ("a.example, PDS.example ,", "https://pds.example.", True),
        ("*", "https://pds.example", True),
        ("_dmarc.example", "https://pds.example", False),
    ],
)
def test_entries_of_no_proxy_in_every_form(entries: str, url: str, direct: bool) -> None:
    """BORDER-3: also those at which httpx stops, or which it passes over."""
    for name in ("NO_PROXY", "no_proxy"):
        if not url:
            with pytest.raises(Misconfigured, match=r"^NO_PROXY"):
                proxied(SOMEWHERE, HTTPS_PROXY="http://p:1", **{name: entries})
        else:
            assert (proxied(url, HTTPS_PROXY="http://p:1", **{name: entries}) == "") is direct


def test_entries_of_no_proxy_do_not_matter_without_a_proxy() -> None:
    assert read_proxies({"NO_PROXY": "a b/c/d ["}) == Proxies()


WRONG = ["ftp://p:1", "socks4://p:1", "http://", "http://p:99999", "http://p:x", "://", "http://[::1", "p q"]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", [value.replace("p", "user:hunter2@p", 1) for value in WRONG[:2]] + WRONG)
def test_what_is_no_proxy_ends_a_command_with_one_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BORDER-3: exit code 2; the sentence names the variable and hides what it holds."""
    monkeypatch.setenv(name, value)
    assert run(["status"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {name} is not the address of a proxy")
    assert said.count("\n") == 1
    assert "hunter2" not in said


def test_a_socks_proxy_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """BORDER-3."""
    assert find_spec("socksio") is None
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hunter2@p:1080")
    with pytest.raises(Misconfigured, match=r"^ALL_PROXY names a SOCKS proxy, for which the package socksio"):
        load_settings()
    monkeypatch.setenv("PDS_URL", "http://127.0.0.1:2583")
    monkeypatch.setenv("AC_MEDIA_URL", "http://127.0.0.1:9000/{bucket}")
    assert load_settings().pds_url == "http://127.0.0.1:2583"


def test_an_entry_of_no_proxy_that_is_none_ends_a_command_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BORDER-3."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "a/b")
    assert run(["status"]) == 2
    assert capsys.readouterr().err.startswith("Error: NO_PROXY holds something that is no host")


@pytest.mark.slow
def test_a_proxy_is_used_and_this_machine_is_not_reached_through_it(
    living: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BORDER-3."""
    place, asked = living
    monkeypatch.setenv("HTTP_PROXY", place)
    with storage_client(proxies=load_settings().proxies) as client:
        assert client.get(f"{SOMEWHERE}/x").status_code == 204
        assert client.get(f"http://{place}/here").status_code == 204
    assert asked == [f"{SOMEWHERE}/x", "/here"]


@pytest.mark.slow
def test_a_proxy_that_wants_a_password_is_no_answer_of_the_server(
    living: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BORDER-3: it would be taken for a verdict on what was sent."""
    place, _ = living
    monkeypatch.setenv("http_proxy", place)
    server = Server()
    with open_http(proxies=load_settings().proxies) as http:
        pds = make(server, http, "http://closed.example")
        with pytest.raises(ServiceUnreachable, match=rf"through the proxy {place} of http_proxy \(ProxyError: 407"):
            pds.latest_commit("did:plc:a")


@pytest.fixture
def settings(dead: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """All connections go through a proxy that does not run."""
    monkeypatch.setenv("ALL_PROXY", f"http://user:hunter2@{dead}")
    monkeypatch.setenv("AC_MEDIA_URL", "http://{bucket}.example")
    monkeypatch.setenv("PDS_URL", SOMEWHERE)
    return load_settings()


@pytest.mark.slow
def test_every_client_names_the_proxy_that_does_not_answer(settings: Settings, dead: str) -> None:
    """BORDER-3: host, port and variable, and no password; that the PDS is at fault is not said."""
    proxies, server, said = settings.proxies, Server(), []

    def ask(call: Callable[[], object]) -> None:
        with pytest.raises(ServiceUnreachable) as caught:
            call()
        said.append(caught.value.message)

    with open_http(proxies=proxies) as http, storage_client(proxies=proxies) as storage:
        ask(lambda: make(server, http, SOMEWHERE).latest_commit("did:plc:a"))
        relay = Relay(SOMEWHERE, http=http, clock=lambda: 0.0, sleep=server.sleep)
        ask(lambda: relay.state("did:plc:a"))
        objects = ObjectStorage(storage, settings.ac_media_url, sleep=server.sleep)
        ask(lambda: objects.exists([SourceObject("bucket", "key", "png")]))
    transport = proxies.transport(httpx.Limits())
    with closing(Webhook(SecretStr(SOMEWHERE), 5, transport=transport)) as webhook:
        ask(lambda: webhook.send({}))
    assert len(said) == 4
    for message in said:
        assert f"through the proxy {dead} of ALL_PROXY" in message
        assert "hunter2" not in message
        assert "Check PDS_URL" not in message


@pytest.mark.slow
def test_local_services_are_found_whatever_the_proxy_variables_say(
    living: tuple[str, list[str]], dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BORDER-3: asked for through a proxy they would be taken for dead, and started twice."""
    place, asked = living
    monkeypatch.setenv("ALL_PROXY", f"socks5://{dead}")
    monkeypatch.setenv("NO_PROXY", "[::1]")
    with pytest.raises(PipelineError, match="501"), PdsAccounts(f"http://{place}", "word") as accounts:
        accounts.admin("com.atproto.admin.x", {})
    with pytest.raises(httpx.HTTPStatusError, match="501"):
        DagsterUi(f"http://{place}", lambda: True).running_backfills()
    assert asked == []
