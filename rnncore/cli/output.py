"""The output of the commands: tables and lines that read well on a terminal, a dumb one and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["bytes_text", "console", "limited", "one_line", "printable", "progress_bar", "say", "shape_text", "table"]

PIPE_WIDTH = 10_000  # columns where the width of a line is unknown: nothing is cut or wrapped


def console(stderr: bool = False) -> Console:
    """The command line's output. Text is never read as markup: names come out of files."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def say(text: str, stderr: bool = False) -> None:
    """One line of text, which the terminal wraps."""
    console(stderr).print(Text(one_line(text)), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> Table:
    """A plain table; columns named in ``right`` hold numbers. A cell may be a list of lines."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(given: object) -> Text:
    lines = given if isinstance(given, list) else [given]
    return Text("\n".join(printable(str(line)) for line in lines))


@contextmanager
def progress_bar(what: str):
    """A function (done, all) that moves a bar on stderr, which is drawn only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def printable(text: str) -> str:
    """Text from a file without control characters, which a terminal might obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(message: str) -> str:
    """A message on one line, printable."""
    return printable(" ".join(message.split("\n")))


def limited(text: str, most: int = 400) -> str:
    """Text cut at a length that a person still reads."""
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ... ({len(text):,} characters)"


def bytes_text(count: int) -> str:
    """17.1 kB"""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def shape_text(shape: Sequence[int | str | np.integer]) -> str:
    """(B, T, 40)"""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
