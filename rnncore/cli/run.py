"""rnncore run: a model over data files of any size."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from rnncore.batch.changes import InputChanged
from rnncore.batch.job import BatchJob, DiskFailed, DiskFull, Report, Stopped, identity
from rnncore.batch.outputs import FORMATS
from rnncore.batch.plan import RowPlan
from rnncore.batch.readers import READERS, ReadOptions
from rnncore.batch.runner import Runner
from rnncore.batch.sources import STDIN, Source
from rnncore.cli.options import dtype_option, names_option, read_names, spec_option
from rnncore.cli.output import one_line, say, shape_text
from rnncore.cli.progress import progress
from rnncore.errors import InputError
from rnncore.formats import loading, read_checkpoint
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

__all__ = ["run"]

STDOUT = "-"
FOLDER_FORMAT = "parquet"
BAD_ROWS, CHANGED, FAILED, FULL, TERMINATED = 3, 65, 74, 75, 143  # exit codes
ENDS = {Stopped: TERMINATED, DiskFull: FULL, DiskFailed: FAILED, InputChanged: CHANGED}


class Errors(click.ParamType):
    """A number of rows, or "any"."""

    name = "number"

    def convert(self, value, parameter, context):
        if value == "any" or value is None:
            return None
        if isinstance(value, int):
            return value
        if not value.isdecimal():
            self.fail(f"{value!r}, expected a number, or any", parameter, context)
        return int(value)


@click.command(short_help="Run a model over data files.")
@click.argument("model", metavar="MODEL")
@click.option("-i", "--input", "source", metavar="SRC", required=True, help="A file, a folder, a pattern, or -.")
@click.option("-o", "--output", "target", metavar="DST", required=True, help="A file, a folder for shards, or -.")
@click.option("--from", "read", type=click.Choice(list(READERS)), help="Format of SRC; else its name says.")
@click.option("--to", "write", type=click.Choice(list(FORMATS)), help="Format of DST; a folder's is parquet.")
@click.option("--columns", metavar="A,B,...", help="Features of a .csv in this order; of a table INPUT=COLUMN.")
@click.option("--sequence-column", metavar="NAME", help="Column of a .csv that says which sequence a step belongs to.")
@click.option("--keep", metavar="A,B,...", help='Columns of a table to copy to the results; else "id" if there.')
@click.option("--lengths", metavar="FILE", help="Steps of each row that count: FILE.npy, or FILE.npz:NAME.")
@click.option("--only", metavar="NAME", multiple=True, help="Only this output, or any value of the graph; repeatable.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows run together.")
@click.option("--threads", type=click.IntRange(1, 64), help="Batches in parallel; default: one for each core.")
@click.option("--shard-rows", type=click.IntRange(min=1), default=100_000, show_default=True, help="Rows of a shard.")
@click.option("--shard-bytes", type=click.IntRange(min=1), default=48 << 20, show_default=True, help="Its data.")
@click.option("--max-errors", type=Errors(), default=0, show_default=True, help="How many rows may be bad, or any.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Begin again where an earlier run left something.")
@dtype_option
@spec_option
@names_option
@click.pass_context
def run(
    context: click.Context,
    model: str,
    source: str,
    target: str,
    read: str | None,
    write: str | None,
    columns: str | None,
    sequence_column: str | None,
    keep: str | None,
    lengths: str | None,
    only: tuple[str, ...],
    batch_size: int,
    threads: int | None,
    shard_rows: int,
    shard_bytes: int,
    max_errors: int | None,
    resume: bool,
    overwrite: bool,
    dtype: str,
    spec: str | None,
    names: str | None,
) -> None:
    """Runs MODEL over the rows of data files.

    \b
    .npy      the array of the model's input, (B, T, features) or ids (B, T);
              with a dimension less, one sequence: a folder of them is a row each
    .npz      arrays by the names of the model's inputs, among them "lengths"
              where rows end before the array does, or are concatenated
    .csv      a line for each time step, a column for each feature, with or
              without a header; one sequence, or with --sequence-column several,
              each with its lines together
    .jsonl    an object for each row, with a list for each input
    .parquet .arrow .feather   a row for each row, with lists for each input

    Results come in the order of the rows, each row's at its own length; .npy and .npz are padded, and the padding
    means nothing. Memory is bounded by --shard-bytes, --batch-size and --threads, not by the data; a model that
    mixes its rows is run in one call. The number of threads never changes a result. A file appears when it is complete,
    or not at all; a folder gets a shard at a time, and its _manifest.jsonl says which are done.

    A run that was stopped, killed, or out of disk goes on with --resume, and gives the same bytes. With --max-errors,
    rows that cannot be run are left out and listed in _errors.jsonl, or FILE.errors.jsonl.

    \b
    Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 done, with rows left out; 65 the input changed
    meanwhile; 74 the disk failed; 75 the disk is full; 130 interrupted; 143 terminated, after the shard at hand.
    The last five can be resumed, 65 with the input as it was.

    \b
    Examples:
        rnncore run zoo:sunspots -i years.csv --columns number -o forecasts.csv
        rnncore run tagger.safetensors -i texts/ -o tags/ --resume
    """
    format, is_folder = _target_format(target, write)
    if _is_csv(source, read) is False and sequence_column is not None:
        raise click.UsageError("--sequence-column belongs to a .csv input")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if resume and STDIN in (source, target):
        raise click.UsageError("--resume cannot go on with a pipe: expected files")
    read_columns, kept = _split("--columns", columns), _split("--keep", keep)
    if _is_csv(source, read) is False and _is_arrays(source, read) and (read_columns or kept):
        raise click.UsageError("--columns and --keep belong to a .csv, .jsonl, .parquet or .arrow input")
    if format == "npy" and max_errors != 0:
        raise click.UsageError(
            "--max-errors with .npy, which cannot say which rows are missing: expected .npz or a table"
        )
    opened = loading.open_file(model, spec=spec, names=read_names(names))
    dtype = dtype or opened.dtype
    graph = Spec(opened.spec.inputs, opened.spec.nodes, only or opened.spec.outputs)
    plan = RowPlan.of(graph, np.dtype(dtype))
    runner = Runner(Model(graph, opened.weights, dtype), plan, batch_size)
    _check_place(target, is_folder, _sources(model, source, lengths, spec, names))
    given = None if lengths is None else _lengths(lengths, plan)
    with _ending(context, lengths):
        data = Source(source, read, ReadOptions(plan, read_columns, sequence_column, kept, given))
    numbered = not data.one_sequence if format != "npz" else max_errors != 0
    if target != STDOUT:
        result = Path(target) / f"part-00000.{format}" if is_folder else Path(target)
        if data.would_read(result):
            raise InputError(f"{target}: is where {source} is read from, expected another place to write")
    writer = FORMATS[format](target, plan, data.types, numbered)
    options: dict[str, Any] = {"columns": list(read_columns), "sequence": sequence_column, "keep": list(kept)}
    if given is not None:
        options["lengths"] = hashlib.sha256(np.ascontiguousarray(given, "<i8").data).hexdigest()
    with progress() as shown, _terminated() as stopping:
        job = BatchJob(
            runner,
            data,
            writer,
            None if target == STDOUT else Path(target),
            is_folder,
            identity(opened.weights, runner, options),
            stream=sys.stdout.buffer if target == STDOUT else None,
            most_rows=shard_rows,
            most_bytes=shard_bytes,
            num_threads=threads,
            max_errors=max_errors,
            resume=resume,
            overwrite=overwrite,
            progress=shown,
            stopping=stopping,
            note=lambda text: say(f"note: {text} (--dtype float64 computes with it as it is)", stderr=True),
        )
        with _ending(context, lengths):
            report = job.run()
    _say(report, graph, runner, target)
    if report.bad:
        context.exit(BAD_ROWS)


@contextmanager
def _ending(context: click.Context, lengths: str | None) -> Iterator[None]:
    """Says how a run ended and exits with its code; an error about lengths from a file of their own names it."""
    try:
        yield
    except tuple(ENDS) as error:
        click.echo(f"error: {one_line(str(error))}", err=True)
        context.exit(next(code for kind, code in ENDS.items() if isinstance(error, kind)))
    except InputError as error:
        raise _naming_lengths(error, lengths) from None


def _say(report: Report, spec: Spec, runner: Runner, target: str) -> None:
    """A line about what was written, and one about what was left out."""
    if report.shapes is not None:
        what = ", ".join(
            f"{entry.name} {np.dtype(_dtype(entry, runner))} {shape_text(report.shapes[entry.name])}"
            for entry in runner.model.outputs
        )
    else:
        what = f"{report.rows:,} rows, {', '.join(spec.outputs)}"
    say(f"{target}: {what}", stderr=target == STDOUT)
    if report.bad:
        place = f", listed in {report.errors}" if report.errors else ""
        say(f"{len(report.bad):,} bad rows left out{place}", stderr=True)
        if not report.errors:
            for entry in report.bad[:20]:
                say(f"row {entry['row']}: {entry['reason']}", stderr=True)


def _dtype(entry, runner: Runner) -> np.dtype:
    return runner.model.dtype if entry.dtype == "float" else np.dtype(entry.dtype)


@contextmanager
def _terminated() -> Iterator:
    """A function that says whether SIGTERM has come; a second one ends the process as it always does."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number, frame):
        asked.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _target_format(target: str, write: str | None) -> tuple[str, bool]:
    """(format, whether it is a folder)."""
    path = Path(target)
    suffix = path.suffix.lower()[1:]
    if target == STDOUT:
        if write is None:
            raise click.UsageError(f"standard output: expected --to with one of {', '.join(FORMATS)}")
        return write, False
    if target.endswith(os.sep) or path.is_dir() or not suffix:
        return write or FOLDER_FORMAT, True
    if suffix not in FORMATS and write is None:
        known = ", ".join("." + name for name in FORMATS)
        raise InputError(f"{target}: expected a name that ends in {known}, or a folder")
    return write or suffix, False


def _is_csv(source: str, read: str | None) -> bool | None:
    """Whether the data are .csv; None where only the files in a folder tell."""
    suffix = read or Path(source).suffix.lower()[1:]
    return None if not suffix or suffix not in READERS else suffix == "csv"


def _is_arrays(source: str, read: str | None) -> bool:
    return (read or Path(source).suffix.lower()[1:]) in ("npy", "npz")


def _split(option: str, given: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",")) if given else ()
    if len(set(names)) < len(names) or "" in names:
        raise click.UsageError(f"{option} {given}: expected names, each once, with commas between them")
    return names


def _lengths(given: str, plan: RowPlan) -> np.ndarray:
    """The lengths in FILE.npy or FILE.npz:NAME, unchecked."""
    if len(plan.lengths) != 1:
        has = f"several inputs for lengths ({', '.join(sorted(plan.lengths))})" if plan.lengths else "no such input"
        raise InputError(f"--lengths: the model has {has}, expected one")
    path = _lengths_file(given)
    key = given[len(path) + 1 :]
    checkpoint = read_checkpoint(path)
    if checkpoint.format not in ("npy", "npz"):
        raise InputError(f"{path}: a {checkpoint.format} file, expected .npy or .npz")
    if not key and len(checkpoint.tensors) > 1:
        raise InputError(f"{path}: holds {', '.join(checkpoint.tensors)}, expected --lengths {path}:NAME")
    if key and key not in checkpoint.tensors:
        raise InputError(f"{path}: no array {key!r}, expected one of {', '.join(checkpoint.tensors)}")
    array = checkpoint.tensors[key or next(iter(checkpoint.tensors))]
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: lengths: dtype {array.dtype}, expected int64")
    return array


def _lengths_file(given: str) -> str:
    path, separator, _ = given.rpartition(":")
    return path if separator and Path(path).suffix.lower() == ".npz" else given


def _naming_lengths(error: InputError, lengths: str | None) -> InputError:
    """An error about lengths that came from a file of their own says which."""
    return type(error)(f"{lengths}: {error}") if lengths is not None and "lengths: " in str(error) else error


def _check_place(target: str, is_folder: bool, sources: dict[str, str | os.PathLike[str]]) -> None:
    """InputError where results cannot be written, or would be written over what is read."""
    if target == STDOUT:
        return
    path = Path(target)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: directory {str(path.parent)!r} does not exist")
    if is_folder and path.exists() and not path.is_dir():
        raise InputError(f"{path}: a file, expected a folder")
    for what, source in sources.items():
        if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(f"{target}: is the {what}, expected another place to write")


def _model_file(model: str) -> Path:
    path = cast(Path, loading.resolve(model))
    return path / loading.native.FILE_NAME if path.is_dir() else path


def _sources(
    model: str, source: str, lengths: str | None, spec: str | None, names: str | None
) -> dict[str, str | os.PathLike[str]]:
    """Every file that is read, by what it is."""
    files: dict[str, str | os.PathLike[str] | None] = {
        "model": _model_file(model),
        "input": source,
        "file of lengths": lengths and _lengths_file(lengths),
        "spec": spec,
        "file of names": names,
    }
    return {what: file for what, file in files.items() if file}
