"""rnncore bench: how fast a model is here, compared with the framework that its file came from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
import numpy as np

from rnncore._version import __version__
from rnncore.cli.options import names_option, read_names, spec_option
from rnncore.cli.output import console, progress_bar, say, shape_text, table
from rnncore.cli.references import Reference, open_reference
from rnncore.errors import InputError, UnsupportedError
from rnncore.formats import loading
from rnncore.formats.verification import compare, drawn_inputs
from rnncore.runtime.config import config
from rnncore.runtime.model import Model

__all__ = ["bench"]

ROUNDS = 12  # in which all engines are measured in turn, so that a slow moment of the machine hits them all
WARM_UP = 5
FRAMEWORK_FILES = (".onnx", ".keras", ".h5", ".hdf5")


@click.command(short_help="Measure a model's speed, next to its framework's.")
@click.argument("file", metavar="MODEL")
@click.option("--batch", "-b", type=click.IntRange(1), default=1, show_default=True, help="Rows of a call (B).")
@click.option("--steps", "-t", type=click.IntRange(1), default=100, show_default=True, help="Time steps (T).")
@click.option("--threads", type=click.IntRange(1, 64), help="For every engine; default: what each would take.")
@click.option("--seconds", type=click.FloatRange(0.05), default=3.0, show_default=True, help="Of measuring, for each.")
@click.option(
    "--against", metavar="FILE", multiple=True, help="Compare with FILE, run by its framework; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
@spec_option
@names_option
def bench(
    file: str, batch: int, steps: int, threads: int | None, seconds: float, against: tuple[str, ...], as_json: bool,
    spec: str | None, names: str | None,
) -> None:  # fmt: skip
    """Measures how long a call of MODEL takes on inputs drawn at random.

    An .onnx file is also run by onnxruntime, and a .keras or .h5 file by Keras, where they are installed; --against
    names other files. Their outputs are compared with rnncore's: what differs is not the same work.

    \b
    Examples:
        rnncore bench zoo:sunspots
        rnncore bench tagger.onnx --batch 16 --steps 200 --threads 1
        rnncore bench tagger.safetensors --against tagger.keras
    """
    opened = loading.open_file(file, spec=spec and loading.read_spec(spec), names=read_names(names))
    model = Model(opened.spec, opened.weights, opened.dtype, threads)
    inputs = drawn_inputs(model.spec, sizes={"B": batch, "T": steps})
    runners: dict[str, Callable[[], Any]] = {f"rnncore {__version__}": lambda: model.run(inputs)}
    own = [file] if file.lower().endswith(FRAMEWORK_FILES) else []
    for path in (*own, *against):
        try:
            reference = open_reference(path, model, threads)
        except UnsupportedError as error:
            if path in against:
                raise
            say(f"note: {error}", stderr=True)
            continue
        runners[reference.what] = _runner(reference, inputs)
    errors = _errors(runners)
    times = _race(runners, seconds)
    rows = [_row(name, times[name], batch, errors.get(name)) for name in runners]
    if as_json:
        described = {name: list(array.shape) for name, array in inputs.items()}
        click.echo(json.dumps({"file": file, "inputs": described, "threads": threads, "engines": rows}, indent=1))
        return
    _print(file, inputs, rows)


def _runner(reference: Reference, inputs: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    if reference.inputs is not None:
        raise InputError(f"{reference.what}: nothing to measure, expected a model")
    return lambda: reference.run(inputs)


def _errors(runners: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The largest difference of each engine's outputs from rnncore's, which is the first."""
    first, *others = runners.items()
    ours = first[1]()
    return {name: max(one.error for one in compare(run(), ours, name).differences) for name, run in others}


def _race(runners: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, np.ndarray]:
    """Seconds of single calls, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        for _ in range(WARM_UP):
            run()
    with progress_bar("measuring") as progress:
        for turn in range(ROUNDS):
            for name, run in runners.items():
                run()  # its threads and weights come back
                stop = time.perf_counter() + seconds / ROUNDS
                while True:
                    start = time.perf_counter()
                    run()
                    end = time.perf_counter()
                    times[name].append(end - start)
                    if end > stop:
                        break
            progress(turn + 1, ROUNDS)
    return {name: np.array(seconds) for name, seconds in times.items()}


def _row(name: str, times: np.ndarray, batch: int, error: float | None) -> dict[str, Any]:
    median, p99 = np.percentile(times, [50, 99])
    return {
        "engine": name,
        "median_us": round(float(median) * 1e6, 2),
        "p99_us": round(float(p99) * 1e6, 2),
        "rows_per_second": round(batch / float(median), 1),
        "calls": len(times),
        "largest_difference": error,
    }


def _print(file: str, inputs: Mapping[str, np.ndarray], rows: list[dict[str, Any]]) -> None:
    shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in inputs.items())
    ours = rows[0]["median_us"]
    lines = [
        (
            row["engine"],
            f"{row['median_us']:,.1f}",
            f"{row['p99_us']:,.1f}",
            f"{row['rows_per_second']:,.0f}",
            "" if row is rows[0] else f"{row['median_us'] / ours:.2f}x",
            "" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}",
        )
        for row in rows
    ]
    columns = ("engine", "median, us", "p99, us", "rows/s", "time / rnncore's", "largest difference")
    console().print(table(f"{file}: {shapes}", columns, lines, right=columns[1:]))
    say(f"kernels: {config()['float32']}")
