"""A whole run: rows in, shards out, and what is left when it is stopped.

Reading, computing and writing go on in parallel, and so do the batches of shards, so that the cores have work while
one shard ends; at most five shards are in memory. A shard counts when its file and then its line in the manifest are
on disk. Nothing of this shows in the bytes: a shard is made of its rows alone, and shards are written in their order.
Rows are of files that are as they were when the run began, or the run ends with an error; so does one that is resumed
with other rows after the shards that it has.
A result that is one file is made of shards too, in the folder FILE.parts next to it, unless it is small enough for one:
then nothing is left at all.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from rnncore._version import __version__
from rnncore.batch.changes import InputChanged, content
from rnncore.batch.journal import ERRORS, MANIFEST, Journal
from rnncore.batch.outputs import Results, Writer
from rnncore.batch.rows import Bad, RowBlock, sizes, take
from rnncore.batch.runner import Found, Runner
from rnncore.batch.sources import Source, merged, shards
from rnncore.batch.workers import Workers
from rnncore.errors import InputError, RnncoreError
from rnncore.files import atomic
from rnncore.runtime.config import config
from rnncore.runtime.state import fingerprint
from rnncore.runtime.threads import check_threads

__all__ = ["BadRows", "BatchJob", "DiskFailed", "DiskFull", "Report", "Stopped", "identity"]

PARTS = ".parts"
POLL_SECONDS = 0.2
JOIN_SECONDS = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
Item = TypeVar("Item")


class BadRows(InputError):
    """More rows are bad than may be."""


class Stopped(RnncoreError):
    """Stopped on request, with everything so far on disk: ``resume`` goes on."""


class DiskFailed(RnncoreError):
    """The system refused to read or write; what is finished is safe, and ``resume`` goes on."""


class DiskFull(DiskFailed):
    """No space left."""


@dataclass
class Report:
    """The report of a run. ``shape`` of each output that is an array: the file's; None for tables."""

    rows: int
    shards: int
    bad: list[dict[str, Any]]
    shapes: dict[str, tuple[int, ...]] | None = None
    errors: Path | None = None


@dataclass
class Begun:
    """A shard whose batches are run; ``wait`` gives what the runner gives. content: the hash of its rows."""

    parts: list[RowBlock]
    content: str
    index: np.ndarray
    columns: dict[str, Any]
    kept: dict[str, list]
    wait: Callable[[], Found]


@dataclass
class Shard:
    """The results of a shard, rows ``first`` to ``stop`` without the bad ones. next: file and row of the next shard."""

    first: int
    stop: int
    content: str
    next: list[int]
    results: Results
    bad: list[Bad]


@dataclass
class BatchJob:
    """Runs a model over a source.

    target      a folder of shards, a file, or None with ``stream`` to write to instead, without resuming
    identity    what must be the same for a run to be resumed: model, outputs, options
    most_rows, most_bytes   how large a shard is
    num_threads  the batches that run in parallel; None: one for each core
    max_errors  how many rows may be bad; None: any number
    progress    called with (rows done, share done from 0 to 1)
    stopping    asked after each shard: whether to stop there
    """

    runner: Runner
    source: Source
    writer: Writer
    target: Path | None
    is_folder: bool
    identity: dict[str, Any]
    stream: BinaryIO | None = None
    most_rows: int = 100_000
    most_bytes: int = 48 << 20
    num_threads: int | None = None
    max_errors: int | None = 0
    resume: bool = False
    overwrite: bool = False
    progress: Callable[[int, float], None] = lambda rows, share: None
    stopping: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda text: None
    _bad: int = field(default=0, init=False)
    _noted: set[str] = field(default_factory=set, init=False)
    _workers: Workers | None = field(default=None, init=False)

    def run(self) -> Report:
        """Raises BadRows, Stopped, InputChanged, DiskFull, DiskFailed and whatever reading raises."""
        with Workers(check_threads(self.num_threads)) as self._workers:
            return self._run()

    def _run(self) -> Report:
        if self.stream is not None:
            return self._to_stream(self.stream)
        target = cast(Path, self.target)
        folder = target if self.is_folder else target.with_name(target.name + PARTS)
        if Journal.is_there(folder):
            if not (self.resume or self.overwrite):
                raise InputError(
                    f"{folder}: an earlier run is here: expected --resume to go on with it, or --overwrite"
                )
        elif not self.is_folder:
            return self._small(folder)
        return self._journalled(folder, None)

    def _small(self, folder: Path) -> Report:
        """A file out of one shard; out of a folder of shards if there turn out to be more."""
        begun = self._begun()
        first, second = next(begun), next(begun, None)
        if second is not None:
            return self._journalled(folder, _chain(first, second, begun))
        shard = self._finished(first)
        results, bad = shard.results, shard.bad
        self._check_bad(bad)
        self.source.check()
        if self.resume:
            self._guarded(self._remove_temporaries, 0)
        self._write_errors(Path(f"{self.target}.errors.jsonl"), [entry.to_json() for entry in bad])
        self._guarded(lambda: atomic.write(cast(Path, self.target), self.writer.encode(results)), 0)
        notes = [{**self.writer.note(results), "rows": len(results.index)}]
        self.progress(len(results.index), 1.0)
        return self._report(notes, [entry.to_json() for entry in bad])

    def _journalled(self, folder: Path, begun: Generator[Begun, None, None] | None) -> Report:
        journal = self._guarded(lambda: Journal(folder, self.writer.suffix), 0)
        try:
            if self.resume and Journal.is_there(folder):
                self._resume(journal)
            else:
                self._guarded(lambda: journal.start(self._job()), 0)
            if journal.done is None:
                self._make_shards(journal, begun)
            bad = [entry for note in journal.notes for entry in note["bad"]]
            if self.is_folder:
                self._write_errors(folder / ERRORS, bad)
            else:
                self._combine(journal, bad)
            return self._report(journal.notes, bad)
        finally:
            journal.close()

    def _resume(self, journal: Journal) -> None:
        """Goes on with a journal. InputError where its shards were made of other rows than there are now."""
        moved = self._guarded(lambda: journal.resume(self._job()), 0)
        if moved:
            self._reread(journal, moved[0])
            self._guarded(lambda: journal.renew(self._job()), len(journal.notes))

    def _reread(self, journal: Journal, moved: int) -> None:
        """Compares the rows from this file on with those that the finished shards were made of."""
        place, first, notes = (0, 0), 0, list(journal.notes)
        while notes and notes[0]["next"][0] < moved:  # of files that are as they were
            note = notes.pop(0)
            place, first = tuple(note["next"]), note["stop"]
        with contextlib.closing(self.source.rows(place, first)) as rows:
            for note, parts in zip(notes, _cut(rows, [note["stop"] for note in notes]), strict=True):
                if self.stopping():
                    raise Stopped(f"stopped; {len(journal.notes)} shards are safe: --resume goes on")
                index, columns, kept = merged(parts) if parts else (np.zeros(0, np.int64), {}, {})
                bad = [entry for part in parts for entry in part.bad]
                if content(index, columns, kept, bad) != note["content"]:
                    files = " to ".join(dict.fromkeys(part.file for part in (parts[0], parts[-1]))) if parts else ""
                    raise InputChanged(
                        f"{journal.folder / MANIFEST}: shard {note['shard']} was made of other rows than "
                        f"{note['first']} to {note['stop'] - 1} of {files or self.source.given} are now: "
                        "expected the input as it was, or --overwrite"
                    )

    def _job(self) -> dict[str, Any]:
        return {
            **self.identity,
            "rnncore": __version__,
            "kernels": config()["float32"],
            "format": self.writer.suffix,
            "source": self.source.fingerprint(),
            "shared": content(np.zeros(0, np.int64), self.source.shared, {}, []),
            "types": {name: str(kind) for name, kind in self.source.types.items()},
            "shard rows": self.most_rows,
            "shard bytes": self.most_bytes,
            "keep bad rows out": self.max_errors != 0,
        }

    def _make_shards(self, journal: Journal, begun: Generator[Begun, None, None] | None) -> None:
        rows = journal.notes[-1]["stop"] if journal.notes else 0
        self._bad = sum(len(note["bad"]) for note in journal.notes)
        going = begun or self._begun(journal.notes[-1] if journal.notes else None)
        with ThreadPoolExecutor(1, "rnncore-write") as pool:
            pending: Future | None = None

            def settle() -> None:
                nonlocal pending
                if pending is not None:
                    waiting, pending = pending, None
                    self._guarded(waiting.result, len(journal.notes))

            try:
                for shard in map(self._finished, going):
                    self._bad += len(shard.bad)
                    settle()
                    note = {
                        "first": shard.first,
                        "stop": shard.stop,
                        "rows": len(shard.results.index),
                        "content": shard.content,
                        "next": shard.next,
                        **self.writer.note(shard.results),
                        "bad": [entry.to_json() for entry in shard.bad],
                    }
                    self._check_bad(shard.bad, journal)
                    pending = pool.submit(self._write, journal, shard.results, note)
                    rows = note["stop"]
                    self.progress(rows, self.source.share())
                    if self.stopping():
                        settle()
                        raise Stopped(
                            f"stopped; {len(journal.notes)} shards with {rows:,} rows are safe: --resume goes on"
                        )
                settle()
                self.source.check()
            except InputChanged as error:
                if pending is not None:
                    settle()
                raise InputChanged(
                    f"{error}; {len(journal.notes)} shards with {journal.notes[-1]['stop'] if journal.notes else 0:,} "
                    "rows are safe: with the input as it was, --resume goes on"
                ) from None
            finally:
                if pending is not None:
                    pending.exception()
                going.close()
        self._guarded(journal.finish, len(journal.notes))
        self.progress(rows, 1.0)

    def _write(self, journal: Journal, results: Results, note: dict[str, Any]) -> None:
        journal.add(self.writer.encode(results), note)

    def _combine(self, journal: Journal, bad: list[dict[str, Any]]) -> None:
        def combine() -> None:
            with atomic.replacing(cast(Path, self.target)) as file:
                parts = [journal.part(i) for i in range(len(journal.notes))]
                self.writer.combine(file, parts, journal.notes)

        self._guarded(self._remove_temporaries, len(journal.notes))
        self._write_errors(Path(f"{self.target}.errors.jsonl"), bad)
        self._guarded(combine, len(journal.notes))
        self._guarded(journal.remove, len(journal.notes))

    def _remove_temporaries(self) -> None:
        """Files that a run which was killed while it wrote the target left next to it."""
        target = cast(Path, self.target)
        for path in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
            path.unlink(missing_ok=True)

    def _to_stream(self, stream: BinaryIO) -> Report:
        """Concatenated shards."""
        rows, bad, notes = 0, [], []
        for number, shard in enumerate(map(self._finished, self._begun())):
            self._check_bad(shard.bad)
            bad += [entry.to_json() for entry in shard.bad]
            data = self.writer.encode(shard.results)
            if number and self.writer.suffix == "csv":
                data = data[data.index(b"\n") + 1 :]
            elif number and self.writer.suffix != "jsonl":
                raise InputError(
                    f"more than a shard for standard output as {self.writer.suffix}: expected jsonl or csv"
                )
            try:
                stream.write(data)
                stream.flush()
            except OSError as error:
                error.filename = error.filename or "standard output"
                raise
            rows += len(shard.results.index)
            notes.append({"rows": len(shard.results.index)})
            self.progress(rows, self.source.share())
            if self.stopping():
                raise Stopped(f"stopped after row {shard.stop}")
        self.source.check()
        return Report(rows, len(notes), bad)

    def _begun(self, last: dict[str, Any] | None = None) -> Generator[Begun, None, None]:
        """Shards, read and begun while others are used. last: the note of the shard after which they go on."""
        place, first = (tuple(last["next"]), last["stop"]) if last else ((0, 0), 0)
        rows = self.source.rows(place, first)
        cuts = shards(rows, self.runner.plan, self.most_rows, self.most_bytes)
        return _ahead((self._begin(parts) for parts in cuts if parts or not last), self.stopping)

    def _begin(self, parts: list[RowBlock]) -> Begun:
        if not parts:
            raise InputError(f"{self.source.given}: no rows")
        index, columns, kept = merged(parts)
        hashed = content(index, columns, kept, [entry for part in parts for entry in part.bad])
        wait = self.runner.begin(columns, self.source.shared, self._workers)
        return Begun(parts, hashed, index, columns, kept, wait)

    def _finished(self, begun: Begun) -> Shard:
        self._note_casts(begun.columns)
        outputs, reasons = begun.wait()
        index, parts, last = begun.index, begun.parts, begun.parts[-1]
        bad = [entry for part in parts for entry in part.bad]
        starts = [part.first for part in parts]
        for position, reason in reasons.items():
            row = int(index[position])
            bad.append(parts[int(np.searchsorted(starts, row, "right")) - 1].describe(row, reason))
        good = [i for i in range(len(index)) if i not in reasons]
        lengths = self._lengths(begun.columns, good)
        kept = {name: [values[i] for i in good] for name, values in begun.kept.items()}
        place = [last.place[0], last.place[1] + last.stop - last.first]
        results = Results(index[good], kept, outputs, lengths)
        return Shard(parts[0].first, last.stop, begun.content, place, results, sorted(bad, key=lambda entry: entry.row))

    def _lengths(self, columns: dict[str, Any], good: list[int]) -> np.ndarray | None:
        """The number of steps of each row that count: as given, or where rows are lists, all of them."""
        plan = self.runner.plan
        for name in sorted(plan.lengths):
            if name in columns:
                return np.array(take(columns[name], good), np.int64)
        for time in plan.padded:
            for name, column in columns.items():
                if time in plan.shapes[name] and not isinstance(column, np.ndarray):
                    shape = plan.shapes[name]
                    return sizes(column, good, len(shape))[:, shape.index(time)]
        return None

    def _note_casts(self, columns: dict[str, Any]) -> None:
        """Says once for each input that wide numbers are cast; text has no width."""
        if self.source.format in ("csv", "jsonl"):
            return
        for name, column in columns.items():
            some = column[0] if isinstance(column, list) and column else column
            dtype = getattr(some, "dtype", None)
            wanted = self.runner.model.dtype
            if name not in self._noted and dtype is not None and dtype.kind == "f" and dtype.itemsize > wanted.itemsize:
                self._noted.add(name)
                self.note(f"{name}: {dtype} given to a {wanted} model is cast")

    def _check_bad(self, bad: list[Bad], journal: Journal | None = None) -> None:
        """BadRows if there are more than may be; those of earlier shards are counted in a journalled run."""
        if self.max_errors is None:
            return
        count = self._bad if journal is not None else len(bad)
        if journal is None and self.stream is not None:
            self._bad += len(bad)
            count = self._bad
        if count > self.max_errors:
            if self.max_errors == 0:
                first = bad[0]
                raise BadRows(f"{first.file}: row {first.place}: {first.reason}")
            last = bad[-1]
            raise BadRows(
                f"{count} bad rows, more than --max-errors {self.max_errors}; "
                f"one of them: {last.file}: row {last.place}: {last.reason}"
            )

    def _write_errors(self, path: Path, bad: list[dict[str, Any]]) -> None:
        """The list of bad rows, where there are some."""
        if bad:
            data = "".join(f"{_readable(entry)}\n" for entry in bad)
            self._guarded(lambda: atomic.write(path, data.encode()), 0)
            self._errors = path
        else:
            self._guarded(lambda: path.unlink(missing_ok=True), 0)

    def _guarded(self, work: Callable[[], Item], finished: int) -> Item:
        """Runs what writes; what the system refuses becomes a message that says what is safe."""
        try:
            return work()
        except OSError as error:
            if isinstance(error, RnncoreError):
                raise
            if error.errno in FULL:
                raise DiskFull(
                    f"{self.target}: no space left on the disk; {finished} shards are safe: "
                    "free some space, then run again with --resume"
                ) from None
            place = self.target if error.filename is None else os.fsdecode(error.filename)
            raise DiskFailed(
                f"{place}: {error.strerror or error}; {finished} shards are safe: mend it, then run again with --resume"
            ) from None

    def _report(self, notes: list[dict[str, Any]], bad: list[dict[str, Any]]) -> Report:
        rows = sum(note["rows"] for note in notes)
        shapes = None
        if self.writer.suffix in ("npy", "npz"):
            shapes = {}
            for name in self.writer.names:
                some = [note["shapes"][name] for note in notes if note["rows"]] or [notes[0]["shapes"][name]]
                shape = [max(sizes) for sizes in zip(*some, strict=True)]
                axis = self.runner.plan.axes[name]
                shapes[name] = tuple(shape if axis is None else [*shape[:axis], rows, *shape[axis:]])
        return Report(rows, len(notes), bad, shapes, getattr(self, "_errors", None))


def identity(weights: Mapping[str, np.ndarray], runner: Runner, options: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run, but for its data."""
    spec = json.dumps(runner.model.spec.to_json(), sort_keys=True)
    return {
        "weights": fingerprint(runner.model.spec, weights, runner.model.dtype),
        "spec": hashlib.sha256(spec.encode()).hexdigest(),
        "dtype": runner.model.dtype.name,
        "batch size": runner.batch_size,
        **options,
    }


def _readable(entry: dict[str, Any]) -> str:
    """A line of JSON, with letters as they are; escaped where they are none, as in the name of a file can be."""
    text = json.dumps(entry, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(entry)


def _cut(rows: Iterator[RowBlock], stops: Sequence[int]) -> Iterator[list[RowBlock]]:
    """Rows cut before these numbers; fewer at the end."""
    rest: RowBlock | None = None
    for stop in stops:
        parts: list[RowBlock] = []
        while not parts or parts[-1].stop < stop:
            part, rest = rest or next(rows, None), None
            if part is None:
                break
            if part.stop > stop:
                part, rest = part.split(stop)
            parts.append(part)
        yield parts


def _chain(first: Item, second: Item, rest: Generator[Item, None, None]) -> Generator[Item, None, None]:
    try:
        yield first
        yield second
        yield from rest
    finally:
        rest.close()


def _ahead(items: Generator[Item, None, None], stopping: Callable[[], bool]) -> Generator[Item, None, None]:
    """The items, the next of which is made by another thread while one is used; no more once ``stopping`` says so."""
    ready: queue.Queue = queue.Queue(1)
    stopped = threading.Event()
    end = object()

    def put(entry: tuple[Any, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:
            put((end, error))
        else:
            put((end, None))
        finally:
            items.close()

    thread = threading.Thread(target=work, name="rnncore-read", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stopping():
                    raise Stopped("stopped while it waited for rows; what is finished is safe") from None
                continue
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            del item
    finally:
        stopped.set()
        thread.join(JOIN_SECONDS)  # a thread that waits for a pipe is not waited for
