"""Threads that run the batches of a run in parallel."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["Workers"]

Item = TypeVar("Item")


class Workers:
    """Threads, which take items from what they are given, the first thing first.

    They are daemons: nothing can interrupt a batch there, and none may keep the process from ending. Used as a
    context, which tells them to stop after the item at hand.
    """

    def __init__(self, count: int):
        self.count = count
        self._drives: queue.SimpleQueue = queue.SimpleQueue()
        self._closed = False
        for number in range(count):
            threading.Thread(target=self._serve, name=f"rnncore-run-{number}", daemon=True).start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        for _ in range(self.count):
            self._drives.put(None)

    def each(self, work: Callable[[Item, int], None], items: Iterable[Item]) -> Callable[[], None]:
        """Begins work(item, threads) for all items; threads: how many one may use, where items are few.

        Returns a function that waits for them, and raises what ``work`` raised; the other items are left out then.
        """
        left = deque(items)
        side = min(len(left), self.count)
        futures: list[Future] = [Future() for _ in range(side)]

        def drive() -> None:
            try:
                while left and not self._closed:
                    try:
                        item = left.popleft()
                    except IndexError:  # another thread was faster
                        return
                    work(item, self.count // side)
            except BaseException:
                left.clear()
                raise

        def wait() -> None:
            for future in futures:
                future.result()

        for future in futures:
            self._drives.put((drive, future))
        return wait

    def _serve(self) -> None:
        while (given := self._drives.get()) is not None:
            drive, future = given
            try:
                drive()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            del given, drive, future  # and with it a shard, while this waits for the next
