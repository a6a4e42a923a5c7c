"""Errors as a service answers them: a status, a reason, and nothing of the machine it runs on."""

from __future__ import annotations

from rnncore.errors import (
    DeadlineError,
    EngineClosedError,
    InputError,
    QueueFullError,
    RnncoreError,
    StreamError,
)

__all__ = ["ServiceError", "service_error_of"]


class ServiceError(RnncoreError):
    """A request that is not answered: an HTTP status, a reason for people, and seconds after which to try again."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after


def service_error_of(error: BaseException) -> ServiceError:
    """The error as the client is told of it. Of one that is not rnncore's own, only that it happened."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, QueueFullError):
        return ServiceError(503, "the queue is full, try again later", retry_after=1)
    if isinstance(error, EngineClosedError):
        return ServiceError(503, "the server is shutting down", retry_after=5)
    if isinstance(error, DeadlineError):
        return ServiceError(504, str(error))
    if isinstance(error, (InputError, StreamError)):
        return ServiceError(400, str(error))
    if isinstance(error, MemoryError):
        return ServiceError(503, "not enough memory for this request", retry_after=5)
    return ServiceError(500, "internal error")
