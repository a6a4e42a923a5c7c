"""Requests from many callers, answered in batches.

engine    Engine and StreamEngine: submit a request, get a future
queue     the queue of requests and the threads that take batches out of it
batching  requests side by side in one call, and apart again
metrics   what is counted

Decisions

- An Engine's request is its future. Only the thread that takes it out of the queue, under the one lock, resolves
  it, outside of the lock: a callback may use the engine, and nothing is answered twice. Requests of an event loop
  are resolved there, all of a batch by one call into it.
- Sequences of different length share a call only where the Spec shows that padding cannot be seen; otherwise
  requests of equal sizes do. A StreamEngine feeds slices, so that a short chunk never waits for a long one.
"""

from rnncore.engine.engine import Engine, StreamEngine

__all__ = ["Engine", "StreamEngine"]
