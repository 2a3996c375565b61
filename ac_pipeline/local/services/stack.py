"""The local services together: MongoDB, PDS and media, started in the background and stopped by process id.

Their data is under `.local/` of the project, what runs is noted in `.local/services.json`, and their addresses are in
`.env.local`, which every command reads after `.env`. How each server is started is in its own module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.local.services.processes import (
    Service,
    command_line,
    exclusive,
    free_port,
    gets_free,
    spawn_detached,
    stop_processes,
    wait_until_healthy,
)
from ac_pipeline.local.services.servers import (
    ADMIN_PASSWORD,
    installed_pds,
    media_service,
    media_url,
    mongo_service,
    mongo_uri,
    pds_service,
    pds_url,
)

DATABASE = "aesthetic"
"""`MONGODB_NAME` of the local services; upstream's own name for it (aesthetic-computer facts, section 1)."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the local services are."""

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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One server as it shall run: how to start it on given ports, and whether data is bound to them."""

    service: Callable[..., Service]
    number_of_ports: int = 1
    fixed_ports: bool = False


class LocalServices:
    """The services of one project folder. Every call may be repeated, and made by several processes at once. `root`:
    the project folder; `.local/` and `.env.local` are made in it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    @property
    def folder(self) -> Path:
        """All that is kept: data, logs, notes."""
        return self._root / ".local"

    @property
    def env_file(self) -> Path:
        return self._root / ".env.local"

    def up(self) -> Addresses:
        """Start what is not running, wait until all answer, write `.env.local`, and say where they are.

        Data of an earlier time comes back, on the same ports.

        Raises:
            ServiceUnreachable: A server died or does not answer; with the end of its log.
            Misconfigured: The PDS cannot be installed, or its port is taken by another program.
        """
        program = installed_pds()
        with exclusive(self.folder / "services.lock"):
            noted = self._read()
            for name, wanted in self._wanted(program).items():
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                noted[name] = self._ensure(name, wanted, noted)
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
        """Name -> process id of what is running."""
        return {
            name: entry.pid
            for name, entry in self._read().items()
            if entry.pid is not None and entry.command is not None and command_line(entry.pid) == entry.command
        }

    def _wanted(self, program: Path) -> dict[str, _Wanted]:
        mongo, pds, media = (self.folder / name for name in ("mongo", "pds", "media"))
        return {
            "mongo": _Wanted(lambda port: mongo_service(port, mongo / "data", config=mongo / "secantusd.toml")),
            "pds": _Wanted(
                lambda port, plc_port: pds_service(port, plc_port, pds, program),
                number_of_ports=2,
                fixed_ports=True,  # they are in every DID document and in the PDS's own settings
            ),
            "media": _Wanted(lambda port: media_service(port, media)),
        }

    def _ensure(self, name: str, wanted: _Wanted, noted: dict[str, _Noted]) -> _Noted:
        entry, log = noted.get(name), self.folder / "logs" / f"{name}.log"
        if entry is not None and entry.pid is not None and entry.command is not None:
            pid = entry.pid
            if command_line(pid) == entry.command:
                wait_until_healthy(wanted.service(*entry.ports), lambda: command_line(pid) is not None, log)
                return entry
        ports = self._ports(name, wanted, entry)
        service = wanted.service(*ports)
        pid = spawn_detached(service, log)
        started = _Noted(ports=ports, pid=pid, command=command_line(pid))
        # Noted before it answers: if we are killed while we wait, the next `up` or `down` still knows it.
        self._write({**noted, name: started})
        try:
            wait_until_healthy(service, lambda: command_line(pid) is not None, log)
        except ServiceUnreachable:
            stop_processes(_commands([started]))
            self._write({**noted, name: _Noted(ports)})
            raise
        return started

    def _ports(self, name: str, wanted: _Wanted, entry: _Noted | None) -> tuple[int, ...]:
        if entry is None:
            return tuple(free_port() for _ in range(wanted.number_of_ports))
        taken = [port for port in entry.ports if not gets_free(port)]
        if taken and wanted.fixed_ports:
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
        _replace(
            self.env_file,
            "# Written by `ac-pipeline local up`, removed by `ac-pipeline local down`.\n"
            + "".join(f"{name}={value}\n" for name, value in lines.items()),
        )


def _commands(entries: Iterable[_Noted]) -> dict[int, str]:
    return {entry.pid: entry.command for entry in entries if entry.pid is not None and entry.command is not None}


def _replace(path: Path, content: str) -> None:
    """Write a file as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(content)
    fresh.replace(path)
