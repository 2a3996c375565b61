"""How many requests were sent to a PDS, of which kind, and how many bytes went each way: the report's own figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from threading import Lock
from typing import Literal

Kind = Literal["apply_writes", "upload_blob", "get_repo", "list_repos", "create_session", "other"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests by kind, every attempt counted, and bytes of their bodies (design, section 6)."""

    apply_writes: int = 0
    upload_blob: int = 0
    get_repo: int = 0
    list_repos: int = 0
    create_session: int = 0
    other: int = 0
    bytes_uploaded: int = 0
    bytes_downloaded: int = 0

    def __sub__(self, earlier: Usage) -> Usage:
        """What was used since `earlier`."""
        return Usage(*(getattr(self, item.name) - getattr(earlier, item.name) for item in fields(self)))

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def requests(self) -> dict[str, int]:
        """Requests by kind, under the names of the report."""
        return {item.name: getattr(self, item.name) for item in fields(self) if not item.name.startswith("bytes_")}


class Meter:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def request(self, kind: Kind, uploaded: int) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._counts["bytes_uploaded"] += uploaded

    def downloaded(self, amount: int) -> None:
        with self._lock:
            self._counts["bytes_downloaded"] += amount

    def usage(self) -> Usage:
        """The counts so far."""
        with self._lock:
            return Usage(**self._counts)
