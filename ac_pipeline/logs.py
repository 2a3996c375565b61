"""Logs as JSON (`AC_LOG_FORMAT`): one document a line, for whoever collects and searches them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

_OF_A_RUN: Final = ("run_id", "job_name", "step_key", "op_name", "resource_name")


class JsonFormatter(logging.Formatter):
    """A record as one line; of a run of Dagster also which run, job and step, and of an event its kind."""

    def format(self, record: logging.LogRecord) -> str:
        about: dict[str, Any] = getattr(record, "dagster_meta", None) or {}
        event = getattr(about.get("dagster_event"), "event_type_value", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": about.get("orig_message") or record.getMessage(),
            **{name: about[name] for name in _OF_A_RUN if about.get(name)},
            **({"event": event} if event else {}),
            **({"error": self.formatException(record.exc_info)} if record.exc_info else {}),
        }
        return json.dumps(line, default=str)


class _JsonLogger(logging.Logger):
    def addHandler(self, hdlr: logging.Handler) -> None:
        if isinstance(hdlr, logging.StreamHandler):
            hdlr.setFormatter(JsonFormatter())
        super().addHandler(hdlr)


def use_json() -> None:
    """Let loggers that are made from now on write JSON. Dagster makes one for each run, of the class that `logging`
    names."""
    logging.setLoggerClass(_JsonLogger)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter())


def in_form(text: str) -> str:
    """A line for standard error, as JSON where that is in use."""
    if logging.getLoggerClass() is not _JsonLogger:
        return text
    level = next((name for name in ("ERROR", "WARNING") if text.upper().startswith(f"{name}: ")), "INFO")
    return JsonFormatter().format(logging.makeLogRecord({"name": "ac_pipeline", "levelname": level, "msg": text}))
