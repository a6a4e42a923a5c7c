"""rnncore run: a model over a data file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from rnncore import loading
from rnncore.cli.options import dtype_option, names_option, read_names, spec_option
from rnncore.cli.output import progress_bar, say, shape_text
from rnncore.cli.run_batches import accept, check_lengths, run_batches
from rnncore.cli.run_inputs import Given, lengths_name, read_inputs, read_lengths
from rnncore.cli.run_outputs import Sequences, check_target, write_outputs
from rnncore.errors import InputError
from rnncore.model import Model
from rnncore.spec import Spec

__all__ = ["run"]


@click.command(short_help="Run a model over a data file.")
@click.argument("model", metavar="MODEL")
@click.option("-i", "--input", "source", metavar="FILE", required=True, help="Data: .npy, .npz or .csv.")
@click.option("-o", "--output", "target", metavar="FILE", required=True, help="Results: .npy, .npz or .csv.")
@click.option("--lengths", metavar="FILE", help="Steps of each row that count: FILE.npy, or FILE.npz:NAME.")
@click.option("--columns", metavar="A,B,...", help="Columns of a .csv that are the features, in this order.")
@click.option("--sequence-column", metavar="NAME", help="Column of a .csv that says which sequence a row belongs to.")
@click.option("--only", metavar="NAME", multiple=True, help="Only this output, or any value of the graph; repeatable.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Rows run together.")
@dtype_option
@spec_option
@names_option
def run(
    model: str,
    source: str,
    target: str,
    lengths: str | None,
    columns: str | None,
    sequence_column: str | None,
    only: tuple[str, ...],
    batch_size: int,
    dtype: str,
    spec: str | None,
    names: str | None,
) -> None:
    """Runs MODEL over the rows of a data file.

    \b
    .npy  the array of the model's input, (B, T, features) or ids (B, T)
    .npz  arrays by the names of the model's inputs, among them "lengths"
          where rows end before the array does
    .csv  a row for each time step, a column for each feature, with or
          without a header; one sequence, or with --sequence-column several:
          rows with the same text there, wherever they stand

    Results: .npy for one output, .npz for several, .csv for a table with a row for each step. What stands behind
    the end of a short sequence in a .npy or .npz means nothing. Data and results are in memory as a whole, once each;
    what the network needs beside them is bounded by --batch-size. The output file appears when it is complete, or
    not at all.

    \b
    Example:
        rnncore run zoo:sunspots -i years.csv --columns number -o forecasts.csv
    """
    if Path(source).suffix.lower() != ".csv" and (columns or sequence_column is not None):
        raise click.UsageError("--columns and --sequence-column belong to a .csv input")
    found = loading.open_file(model, spec=spec, names=read_names(names))
    graph = Spec(found.spec.inputs, found.spec.nodes, only or found.spec.outputs)
    check_target(target, graph, _sources(model, source, lengths, spec, names))
    network = Model(graph, found.weights, dtype)
    given = _with_lengths(read_inputs(source, graph, _split(columns), sequence_column), lengths, graph)
    with _naming(source):
        arrays, notes = accept(graph, given.arrays, network.dtype)
    with _naming(lengths or source):
        check_lengths(graph, arrays)
    for note in notes if Path(source).suffix.lower() != ".csv" else ():
        say(f"note: {note} (--dtype float64 computes with it as it is)", stderr=True)
    with progress_bar("rows") as progress:
        outputs = run_batches(network, arrays, batch_size, progress)
    known = next((arrays[node.lengths] for node in graph.recurrent if node.lengths in arrays), None)
    write_outputs(target, graph, outputs, Sequences(known, given.column, given.labels))
    shapes = ", ".join(f"{name} {array.dtype} {shape_text(array.shape)}" for name, array in outputs.items())
    say(f"{target}: {shapes}")


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts a file's name before the message of an InputError raised inside."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def _split(columns: str | None) -> list[str]:
    names = [name.strip() for name in columns.split(",")] if columns else []
    if len(set(names)) < len(names) or "" in names:
        raise click.UsageError(f"--columns {columns}: expected names, each once, with commas between them")
    return names


def _with_lengths(given: Given, lengths: str | None, spec: Spec) -> Given:
    """The inputs with those of --lengths, if it is there."""
    if lengths is None:
        return given
    name = lengths_name(spec)
    if name in given.arrays:
        raise InputError(f"{lengths}: the data file has {name!r} too, expected them in one place")
    return dataclasses.replace(given, arrays={**given.arrays, name: read_lengths(lengths)})


def _sources(model: str, source: str, lengths: str | None, spec: str | None, names: str | None) -> dict[str, object]:
    """Every file that is read, by what it is."""
    path = loading.resolve(model)
    found = {
        "model": path / loading.native.FILE_NAME if path.is_dir() else path,
        "input": source,
        "file of lengths": lengths,
        "spec": spec,
        "file of names": names,
    }
    if lengths and not Path(lengths).exists():
        found["file of lengths"] = lengths.rpartition(":")[0]
    return {what: file for what, file in found.items() if file}
