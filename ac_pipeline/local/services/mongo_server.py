"""The local MongoDB-compatible server: secantusdb, always as a process of its own (its licence is the GPL).

How it is started and asked for its health; nothing about databases or documents.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ac_pipeline.local.services.processes import LOOPBACK, Service


def mongo_uri(port: int) -> str:
    """The connection string of the local server on this port."""
    return f"mongodb://{LOOPBACK}:{port}/?w=majority&journal=true"


def mongo_service(port: int, folder: Path, *, config: Path) -> Service:
    """The server on `port`.

    Args:
        folder: Where it keeps its data.
        config: Its configuration file, made empty if missing. Named explicitly, or the server would read one from the
            home or working folder.
    """
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
        healthy=lambda: _answers(port),
    )


def _answers(port: int) -> bool:
    try:
        with MongoClient[dict[str, object]](mongo_uri(port), serverSelectionTimeoutMS=500) as client:
            client.admin.command("ping")
    except PyMongoError:
        return False
    return True
