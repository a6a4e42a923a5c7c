"""The requests that wait, in the order in which they are to run. A data structure: its owner holds a lock."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable

from rnncore.engine.requests import Request

__all__ = ["Backlog"]

Entry = tuple[int, int, Request]  # (-priority, order, request)
MOST_DEAD = 64  # entries of requests that were cancelled, beyond the number of those that wait


class Backlog:
    """A heap of requests for each key, and a queue for each line, of which only the first request is in a heap.

    A line's first request waits, or was taken and runs; the next one follows when ``finish`` says that it is done.

    depth  the number of requests that wait
    """

    def __init__(self):
        self.depth = 0
        self.lines: dict[Hashable, deque[Request]] = {}
        self._heaps: dict[Hashable, list[Entry]] = {}
        self._order = itertools.count()
        self._dead = 0  # entries of the heaps whose requests were cancelled

    def __bool__(self) -> bool:
        """Whether a heap has an entry."""
        return bool(self._heaps)

    def add(self, request: Request) -> None:
        """A request begins to wait."""
        self.depth += 1
        line = request.work.line
        if line is None:
            self._push(request)
            return
        waiting = self.lines.setdefault(line, deque())
        waiting.append(request)
        if len(waiting) == 1:
            self._push(request)

    def add_running(self, request: Request) -> None:
        """A request begins to run without having waited; nothing else waits or runs."""
        request.taken = True
        if request.work.line is not None:
            self.lines[request.work.line] = deque([request])

    def remove(self, request: Request) -> None:
        """Take a request out that is no longer wanted. Its entry is dropped later."""
        self._take(request)
        line = request.work.line
        if line is not None and self.lines[line][0] is not request:
            return
        self._dead += 1
        if self._dead > MOST_DEAD + self.depth:
            self._drop_dead()
        self.finish(request)

    def finish(self, request: Request) -> None:
        """A request that was taken is done: the next one of its line waits for its turn."""
        line = request.work.line
        if line is None:
            return
        waiting = self.lines[line]
        waiting.popleft()
        while waiting and waiting[0].taken:  # cancelled while it waited for the one before
            waiting.popleft()
        if waiting:
            self._push(waiting[0])
        else:
            del self.lines[line]

    def next_key(self, now: float, expired: list[Request]) -> Hashable | None:
        """The key of the request whose turn it is; None if none waits. Late requests before it go to ``expired``."""
        best, best_key = None, None
        for key in list(self._heaps):
            heap = self._heaps[key]
            while heap and not self._is_due(heap, now, expired):
                pass
            if not heap:
                del self._heaps[key]
            elif best is None or heap[0][:2] < best:
                best, best_key = heap[0][:2], key
        return best_key

    def head(self, key: Hashable) -> Request:
        """The first request of a key that ``next_key`` returned."""
        return self._heaps[key][0][2]

    def rows(self, key: Hashable) -> int:
        """The rows of the requests of a key."""
        return sum(request.work.rows for _, _, request in self._heaps[key])

    def collect(
        self,
        key: Hashable,
        now: float,
        fits: Callable[[int, int], bool],
        running: list[Request],
        expired: list[Request],
    ) -> list[Request]:
        """Take the first request of a key, and those after it while all fit together with those that run.

        fits  (rows, steps) -> whether one call may hold them
        """
        batch: list[Request] = []
        heap, rows, steps = self._heaps[key], 0, 0
        for request in running:
            rows, steps = rows + request.work.rows, max(steps, request.work.steps)
        while heap:
            if not self._is_due(heap, now, expired):
                continue
            request = heap[0][2]
            rows, steps = rows + request.work.rows, max(steps, request.work.steps)
            if batch and not fits(rows, steps):
                break
            heapq.heappop(heap)
            self._take(request)
            batch.append(request)
        if not heap:
            del self._heaps[key]
        return batch

    def clear(self) -> list[Request]:
        """Take every request out that waits. Those that run remain in their lines."""
        waiting = [request for heap in self._heaps.values() for _, _, request in heap if request.work.line is None]
        waiting += [request for line in self.lines.values() for request in line]
        waiting = [request for request in waiting if not request.taken]
        self.lines = {line: deque([queue[0]]) for line, queue in self.lines.items() if queue[0].taken}
        for request in waiting:
            request.taken = True
        self._heaps.clear()
        self.depth = self._dead = 0
        return waiting

    def waiting_in(self, line: Hashable) -> list[Request]:
        """The requests of a line that wait."""
        return [request for request in self.lines.get(line, ()) if not request.taken]

    def _push(self, request: Request) -> None:
        heap = self._heaps.setdefault(request.work.key, [])
        heapq.heappush(heap, (-request.priority, next(self._order), request))

    def _is_due(self, heap: list[Entry], now: float, expired: list[Request]) -> bool:
        """Whether a heap's first request is to run; pops it where it was cancelled or is late."""
        request = heap[0][2]
        if request.taken:
            heapq.heappop(heap)
            self._dead -= 1
            return False
        if request.deadline is None or request.deadline >= now:
            return True
        heapq.heappop(heap)
        self._take(request)
        expired.append(request)
        self.finish(request)
        return False

    def _take(self, request: Request) -> None:
        request.taken = True
        self.depth -= 1

    def _drop_dead(self) -> None:
        for key in list(self._heaps):
            left = [entry for entry in self._heaps[key] if not entry[2].taken]
            heapq.heapify(left)
            self._heaps[key] = left
            if not left:
                del self._heaps[key]
        self._dead = 0
