"""Requests from many callers, answered in batches.

engine    Engine and StreamEngine: submit a request, get a future
queue     the queue of requests and the threads that take batches out of it
batching  requests side by side in one call, and apart again
metrics   what is counted
"""

from rnncore.engine.engine import Engine, StreamEngine

__all__ = ["Engine", "StreamEngine"]
