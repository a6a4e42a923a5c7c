"""Logs as lines of JSON: time, level, event, and what belongs to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any, TextIO, cast

__all__ = ["LOG", "REQUESTS", "JsonLines", "Lines", "log", "log_request"]

EVERY, MOST = 0.1, 1000  # seconds and lines that requests wait to be written together

LOG = logging.getLogger("rnncore.serve")
REQUESTS = logging.getLogger("rnncore.serve.requests")


def log(event: str, **fields: Any) -> None:
    """One thing that happened."""
    LOG.info(event, extra={"fields": fields})


def log_request(**fields: Any) -> None:
    """A request that was answered."""
    if REQUESTS.isEnabledFor(logging.INFO):
        record = logging.LogRecord(REQUESTS.name, logging.INFO, __file__, 0, "request", None, None)
        record.fields = fields
        REQUESTS.handle(record)  # without looking for the line of code that logs


class JsonLines(logging.Formatter):
    """Every record as one line, from any logger; a traceback is a string in it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": round(record.created, 6), "level": record.levelname.lower(), "event": record.getMessage()}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class Lines(logging.Handler):
    """Writes lines of JSON. Those of requests wait for each other a moment, where an event loop runs; others do not."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self.setFormatter(JsonLines())
        self._stream = stream
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.name != REQUESTS.name or len(self._waiting) >= MOST:
            self.flush()
        elif len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_later(EVERY, self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        with cast(contextlib.AbstractContextManager, self.lock):  # None only before createLock
            records, self._waiting = self._waiting, []
            text = "".join(f"{self.format(record)}\n" for record in records)
            with contextlib.suppress(OSError, ValueError):  # the stream was closed: not a request's fault
                self._stream.write(text)
                self._stream.flush()
