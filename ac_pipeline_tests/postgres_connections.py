"""How many connections a PostgreSQL server of the tests had, and of which application.

From its log, where each has a line when it is asked for and when it ends, so that none is too short to be seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from ac_pipeline_tests.postgres_server import PostgresServer

_LINE = re.compile(
    r"^(?P<time>[\d.]+) (?P<pid>\d+) LOG:  (?:connection (?P<what>received|authorized)|(?P<end>disconnection)):"
    r"(?:.* database=(?P<database>\S+))?(?:.*? application_name=(?P<name>.*))?"
)

ALL = "all"


@dataclass(slots=True)
class Connection:
    """One connection. Times are seconds since 1970; `ended` is None while it is there."""

    begun: float
    database: str = ""
    application: str = ""
    ended: float | None = None


def log_connections(server: PostgresServer) -> None:
    """Have the server write of every connection from now on."""
    for name, value in {"log_line_prefix": "%n %p ", "log_connections": "on", "log_disconnections": "on"}.items():
        server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    server.execute("SELECT pg_reload_conf()")


def connections(server: PostgresServer, database: str) -> list[Connection]:
    """All connections to a database since they are logged, oldest first."""
    found: list[Connection] = []
    there: dict[str, Connection] = {}
    for line in (server.folder / "log").read_text(errors="replace").splitlines():
        said = _LINE.match(line)
        if said is None:
            continue
        moment, pid = float(said["time"]), said["pid"]
        if said["what"] == "received":
            there[pid] = Connection(moment)
            found.append(there[pid])
        elif pid in there and said["what"] == "authorized":
            there[pid].database, there[pid].application = said["database"] or "", said["name"] or ""
        elif pid in there and said["end"]:
            there.pop(pid).ended = moment
    return [each for each in found if each.database == database]


def peaks(found: Iterable[Connection], begin: float, end: float) -> Counter[str]:
    """How many connections there were at once at most between two moments: by application, and of all together."""
    counts = Counter({name: _peak(each, begin, end) for name, each in _by_application(found)})
    counts[ALL] = _peak(found, begin, end)
    return counts


def opened(found: Iterable[Connection], begin: float, end: float) -> Counter[str]:
    """How many connections were opened between two moments, by application, and of all together."""
    inside = [each.application for each in found if begin <= each.begun < end]
    return Counter([*inside, *([ALL] * len(inside))])


def held(found: Iterable[Connection], moment: float) -> Counter[str]:
    """Who holds how many connections at a moment."""
    return Counter(each.application for each in found if each.begun <= moment and (each.ended or moment) >= moment)


def _by_application(found: Iterable[Connection]) -> Iterator[tuple[str, list[Connection]]]:
    for name, each in groupby(sorted(found, key=attrgetter("application")), attrgetter("application")):
        yield name, list(each)


def _peak(found: Iterable[Connection], begin: float, end: float) -> int:
    changes: list[tuple[float, int]] = []
    for each in found:
        if each.begun < end and (each.ended is None or each.ended >= begin):
            changes.append((max(each.begun, begin), 0))
            if each.ended is not None:
                changes.append((each.ended, 1))
    most = now = 0
    for _, is_end in sorted(changes):  # one that begins in the millisecond in which another ends is beside it
        now += -1 if is_end else 1
        most = max(most, now)
    return most
