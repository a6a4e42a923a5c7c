"""Logs as lines of JSON: time, level, event, and what belongs to it."""

from __future__ import annotations

import json
import logging
from typing import Any

__all__ = ["LOG", "REQUESTS", "JsonLines", "log", "log_request"]

LOG = logging.getLogger("rnncore.serve")
REQUESTS = logging.getLogger("rnncore.serve.requests")


def log(event: str, **fields: Any) -> None:
    """One thing that happened."""
    LOG.info(event, extra={"fields": fields})


def log_request(**fields: Any) -> None:
    """A request that was answered."""
    if REQUESTS.isEnabledFor(logging.INFO):
        REQUESTS.info("request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Every record as one line, whoever logged it; a traceback is a string in it."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"time": round(record.created, 6), "level": record.levelname.lower(), "event": record.getMessage()}
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)
