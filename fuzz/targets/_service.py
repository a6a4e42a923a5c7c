"""What the targets of the service share: exceptions that it logs as its own mistakes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from rnncore.serve.logs import LOG

__all__ = ["errors_logged"]


class _Errors(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


_HANDLER = _Errors()
LOG.handlers, LOG.propagate = [_HANDLER], False
LOG.setLevel(logging.ERROR)
logging.getLogger("rnncore").setLevel(logging.ERROR)


@contextlib.contextmanager
def errors_logged() -> Iterator[list[BaseException]]:
    """The exceptions that are logged meanwhile."""
    _HANDLER.found = []
    yield _HANDLER.found
