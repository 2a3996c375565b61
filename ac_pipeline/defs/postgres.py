"""Why the PostgreSQL of DAGSTER_POSTGRES_URL cannot be used, in a sentence. Asked after Dagster failed, and never else.

Dagster itself says `too many retries for DB connection`, whatever it was, after trying for some seconds.
"""

from __future__ import annotations

from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

_CONNECT_SECONDS = 5

_REASONS = (
    ("password authentication failed", "refuses the user or its password"),
    ("no password supplied", "asks for a password, and the address holds none"),
    ("no pg_hba.conf entry", "accepts no connection of this user from here (its pg_hba.conf)"),
    ('FATAL:  role "', "does not know the user"),
    ('FATAL:  database "', "has no such database: create it first, Dagster makes only the tables"),
    ("too many clients", "has no connection left (its max_connections)"),
    ("remaining connection slots", "has no connection left (its max_connections)"),
    ("translate host name", "cannot be found: there is no host of this name"),
    ("Connection refused", "does not answer: the connection was refused"),
    ("No such file", "does not answer: there is no such socket"),
    ("timeout expired", f"does not answer within {_CONNECT_SECONDS} seconds"),
    ("starting up", "is still starting"),
    ("SSL", "and this client cannot agree about SSL (sslmode)"),
)
"""What libpq says, and what we do. Its own words may quote parts of a password that was not percent-encoded."""


def why_unusable(url: SecretStr) -> str | None:
    """One attempt to connect; a sentence about what went wrong, or None when it went well. No secret is in it."""
    name = "The PostgreSQL server of DAGSTER_POSTGRES_URL"
    try:
        engine = create_engine(
            url.get_secret_value(), poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS}
        )
        with engine.connect():
            return None
    except (ArgumentError, ValueError):
        return "DAGSTER_POSTGRES_URL cannot be read: percent-encode special characters of user and password."
    except SQLAlchemyError as error:
        said = str(error)
        reason = next((reason for word, reason in _REASONS if word in said), f"cannot be used ({type(error).__name__})")
        return f"{name} {reason}."
