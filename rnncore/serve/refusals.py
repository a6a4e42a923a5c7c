"""What a service answers instead of a result: a status, a reason, and nothing of the machine it runs on."""

from __future__ import annotations

from rnncore.errors import (
    DeadlineError,
    EngineClosedError,
    InputError,
    QueueFullError,
    RnncoreError,
    StreamError,
)

__all__ = ["Refusal", "refusal_of"]


class Refusal(RnncoreError):
    """A request that is not answered: an HTTP status, a reason for people, and seconds after which to try again."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after


def refusal_of(error: BaseException) -> Refusal:
    """What the client is told of an error. Of one that is not rnncore's own, only that it happened."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, QueueFullError):
        return Refusal(503, "the queue is full, try again later", retry_after=1)
    if isinstance(error, EngineClosedError):
        return Refusal(503, "the server is shutting down", retry_after=5)
    if isinstance(error, DeadlineError):
        return Refusal(504, str(error))
    if isinstance(error, (InputError, StreamError)):
        return Refusal(400, str(error))
    if isinstance(error, MemoryError):
        return Refusal(503, "not enough memory for this request", retry_after=5)
    return Refusal(500, "internal error")
