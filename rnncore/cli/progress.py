"""Progress of a long run: a bar on a terminal, a line now and then elsewhere, both on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from rnncore.cli.output import console, say

__all__ = ["progress"]

LINE_SECONDS = 30.0


@contextmanager
def progress(every: float = LINE_SECONDS) -> Iterator[Callable[[int, float], None]]:
    """A function (rows done, share done from 0 to 1, 0 where that is unknown)."""
    shown = console(stderr=True)
    clock = Clock()
    if shown.is_terminal:
        columns = (TextColumn("{task.fields[text]}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, console=shown, transient=True) as bar:
            task = bar.add_task("", total=None, text="0 rows")

            def move(rows: int, share: float) -> None:
                bar.update(task, completed=share, total=1.0 if share else None, text=clock.text(rows, share))

            yield move
        return
    last = time.monotonic()

    def line(rows: int, share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say(f"{clock.text(rows, share)}, {share:.0%}" if share else clock.text(rows, share), stderr=True)

    yield line


class Clock:
    """Rate and remaining time of this process's own work: what was resumed counts for neither."""

    def __init__(self):
        self._first: tuple[float, int, float] | None = None
        self._start = time.monotonic()

    def text(self, rows: int, share: float) -> str:
        now = time.monotonic()
        if self._first is None:  # the first shard that is done is where the clock starts to know a rate
            self._first = (now, rows, share)
            return f"{rows:,} rows"
        since, before, share_before = self._first
        seconds = max(now - since, 1e-9)
        text = f"{rows:,} rows, {(rows - before) / seconds:,.0f} rows/s"
        if share > share_before:
            text += f", {_time((1 - share) * seconds / (share - share_before))} left"
        return text


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
