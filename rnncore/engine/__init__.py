"""Requests from many callers, answered in batches.

engine    Engine and StreamEngine: submit a request, get a future
queue     RequestQueue: a bounded queue and the threads that take batches out of it
backlog   the requests that wait, in their order
requests  a request is its future
runners   what a queue does with a batch: call a model, step a pool of streams
batching  requests joined into one call, and its outputs split
metrics   counters and histograms

Decisions

- An Engine's request is its future. Only the thread that takes it out of the queue, under the one lock, resolves
  it, outside of the lock: a callback may use the engine, and nothing is answered twice. Requests of an event loop
  are resolved there, all of a batch by one call into it.
- An Engine owns a RequestQueue, which is given a Runner. The queue has the lock, the threads, deadlines and the
  shutdown; a runner says which requests fit into one call and runs them. Requests that it does not answer come again
  with the next ones: so a StreamEngine feeds a long chunk slice by slice.
- Sequences of different length share a call only where the Spec shows that padding cannot be seen; otherwise
  requests of equal sizes do. A StreamEngine feeds slices, so that a short chunk never waits for a long one.
"""

from rnncore.engine.engine import Engine, StreamEngine

__all__ = ["Engine", "StreamEngine"]
