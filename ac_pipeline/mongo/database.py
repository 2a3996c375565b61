"""The connection to MongoDB: one client a process, Stable API v1 strict, and its errors in the pipeline's own words."""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pydantic import TypeAdapter, ValidationError
from pymongo import MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.server_api import ServerApi, ServerApiVersion

from ac_pipeline.errors import Misconfigured, NotPermitted, PipelineError, ServerFailed, ServiceUnreachable

Client = MongoClient[dict[str, Any]]
Value = TypeVar("Value")

SOURCE_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    # A date outside the years 1 to 9999, or bytes that are not UTF-8, spoil one document, not the user's whole read:
    # they arrive as `DatetimeMS` and as lone surrogates, which `media/documents.py` judges.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)
"""How the platform's documents are decoded."""

_OWN_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)

_NO_TRANSACTIONS = {20, 263}  # IllegalOperation, OperationNotSupportedInTransaction: a server without replication
_CONFLICT_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, *(2.0 for _ in range(37)))
"""Seconds between two tries while another transaction holds a document, 75 in all: MongoDB ends the transaction of a
client that died after 60 s, and the local server does so only when the next one begins."""

_UNAUTHORIZED = 13
_REFUSED_ACCESS = frozenset({_UNAUTHORIZED, 18, 8000})  # Also AuthenticationFailed, and Atlas's code for it
_HOST = re.compile(r"[\w.-]+:\d+(?=: )")  # How the driver's message begins where a server cannot be reached
_OUR_FAULT = frozenset({73, 322, 323, 324})  # InvalidNamespace and the Stable API errors: no retry can help

_clients: dict[tuple[int, str], Client] = {}
_lock = threading.Lock()


def connect(uri: str, *, selection_seconds: float = 15.0, **options: Any) -> Client:
    """The client of this process for this server, made at the first call and closed at exit (OPS-5); one with more of
    `MongoClient`'s `options`, such as `event_listeners`, is the caller's own to close. The connection string is never
    logged and never part of an error; raises Misconfigured when it cannot be read.
    """
    if options:
        return _open(uri, selection_seconds, **options)
    key = (os.getpid(), uri)  # a client does not survive a fork
    with _lock:
        if key not in _clients:
            _clients[key] = _open(uri, selection_seconds)
        return _clients[key]


def disconnect() -> None:
    """Close the clients of this process; the next `connect` opens a new one."""
    with _lock:
        mine = [key for key in _clients if key[0] == os.getpid()]
        for key in mine:
            _clients.pop(key).close()


atexit.register(disconnect)


def _open(uri: str, selection_seconds: float, **options: Any) -> Client:
    # At DEBUG the driver logs whole answers, and those of `users` hold passwords (ACCT-5).
    logging.getLogger("pymongo.command").setLevel(logging.WARNING)
    with mongo_errors("connect to MongoDB"):
        return MongoClient(
            uri,
            appname="ac-pipeline",
            server_api=ServerApi(ServerApiVersion.V1, strict=True, deprecation_errors=True),
            serverSelectionTimeoutMS=int(selection_seconds * 1000),
            connectTimeoutMS=int(selection_seconds * 1000),
            socketTimeoutMS=120_000,
            w="majority",
            **options,
        )


def platform_collection(database: Database[dict[str, Any]], name: str) -> Collection[dict[str, Any]]:
    """A collection of the platform's database."""
    return database.get_collection(name, codec_options=SOURCE_CODEC)


def own_collection(database: Database[dict[str, Any]], name: str) -> Collection[dict[str, Any]]:
    """A collection of the pipeline's own database; its times have a time zone."""
    return database.get_collection(name, codec_options=_OWN_CODEC)


def write_together(
    collection: Collection[dict[str, Any]],
    operations: Sequence[UpdateOne],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """One transaction, so that a batch costs the server one journal write and not one per document.

    Another transaction may hold a document: the platform's for a moment (`kidlisp` counts its views), that of a
    killed run until the server ends it. So it is tried again for longer than that takes. After that, or where the
    server has no transactions, the same updates are made one by one, which is right as well.
    """
    for wait in _CONFLICT_WAITS:
        try:
            with collection.database.client.start_session() as session, session.start_transaction():
                collection.bulk_write(operations, ordered=False, session=session)
        except PyMongoError as error:
            unsupported = isinstance(error, OperationFailure) and error.code in _NO_TRANSACTIONS
            passing = error.has_error_label("TransientTransactionError")
            if not unsupported and not passing:
                raise
            if unsupported or not isinstance(error, OperationFailure):  # the latter: the connection broke
                break
        else:
            return
        sleep(wait)
    collection.bulk_write(operations, ordered=False)


def storable(value: object) -> Any:
    """A value as BSON holds it: dataclasses by their fields, enums by value, tuples and sets as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: storable(each) for name, each in value.items()}
    if isinstance(value, (tuple, frozenset)):
        return [storable(each) for each in value]
    if is_dataclass(value):
        return {each.name: storable(getattr(value, each.name)) for each in fields(value)}
    return value


def in_parts(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """The values in lists of at most `size`."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def value_of(kind: type[Value], stored: Mapping[str, Any], /, **changes: Any) -> Value:
    """The value that was stored, by the types of its fields, with some of them changed; a field that another version
    wrote or did not write is passed over or takes its default."""
    try:
        value: Value = _adapter(kind).validate_python({**stored, **changes})
    except ValidationError as error:  # its own text shows what is stored, which may be a password
        wrong = ", ".join(sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)}))
        raise ValueError(f"What is stored of a {kind.__name__} cannot be read: {wrong}") from None
    return value


@contextmanager
def mongo_errors(action: str) -> Iterator[None]:
    """Turn the driver's errors into those of `errors.py`, so that a failed read can never pass for an empty one;
    `action` is what was being done, for the message: "read the paintings of jeffrey".
    """
    try:
        yield
    except (PyMongoError, BSONError, UnicodeError, OverflowError) as error:
        # The driver's text can quote the connection string or whole documents: the chain is cut, the message chosen.
        raise _translate(action, error) from None


def _translate(action: str, error: Exception) -> PipelineError:
    kind = type(error).__name__
    match error:
        case InvalidURI() | InvalidName() | ConfigurationError():
            return Misconfigured(
                f"Could not {action}: MONGODB_CONNECTION_STRING or MONGODB_NAME is not usable ({kind}). "
                "Check host and options, and that user and password are percent-encoded."
            )
        case NotPrimaryError():
            return ServerFailed(f"Could not {action}: the MongoDB server is changing its primary. Try again.")
        case ServerSelectionTimeoutError() | NetworkTimeout() | AutoReconnect():
            host = _HOST.match(str(error))  # the rest of the text is not shown
            where = f" at {host[0]}" if host else ""
            return ServiceUnreachable(
                f"Could not {action}: MongoDB{where} does not answer ({kind}). Check that it runs and can be reached."
            )
        case BulkWriteError():
            failures = error.details.get("writeErrors") or error.details.get("writeConcernErrors") or [{}]
            code, words = failures[0].get("code"), str(failures[0].get("errmsg", ""))[:300]
            said = f"Could not {action}: {len(failures)} of its writes failed, the first with code {code}."
            return ServerFailed(said, answer=words)
        case OperationFailure():
            return _from_refusal(action, error.code, error.details)
        case _:
            return ServerFailed(f"Could not {action}: MongoDB or its driver failed ({kind}).")


def _from_refusal(action: str, code: int | None, details: Any) -> PipelineError:
    words = str((details or {}).get("errmsg", ""))[:300]
    if code in _REFUSED_ACCESS:
        return (NotPermitted if code == _UNAUTHORIZED else Misconfigured)(
            f"Could not {action}: MongoDB refuses the user or password in MONGODB_CONNECTION_STRING, "
            f"or that user may not do this (code {code})."
        )
    if code in _OUR_FAULT:
        return Misconfigured(f"Could not {action}: MongoDB refuses the command (code {code}): {words}")
    return ServerFailed(f"Could not {action}: MongoDB answered with code {code}.", answer=words)
