"""rnncore verify: a model against its test pair, or against another file."""

from __future__ import annotations

from pathlib import Path

import click

from rnncore.batch.sources import read_inputs
from rnncore.cli.options import dtype_option, names_option, read_names, spec_option
from rnncore.cli.output import console, say, table
from rnncore.cli.references import Reference, open_reference
from rnncore.errors import MissingPackageError
from rnncore.formats import loading
from rnncore.formats.native import ModelFile
from rnncore.formats.verification import (
    Verification,
    all_values,
    check_pair,
    compare,
    drawn_inputs,
    first_difference,
    other_sizes,
    replay,
    sizes_of,
)
from rnncore.runtime.model import Model

__all__ = ["print_verification", "verify"]

FRAMEWORKS = (".onnx", ".keras", ".h5", ".hdf5")
"""Files that their own framework can run."""


@click.command(short_help="Compare a model with its test pair, or with another file.")
@click.argument("file", metavar="MODEL")
@click.option("--against", metavar="FILE", help="Another model, or a .npz of inputs and outputs, to compare with.")
@click.option("--inputs", "-i", metavar="FILE", help="With --against a model: the inputs, as `rnncore run` takes them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws inputs where none are given.")
@spec_option
@names_option
@dtype_option
@click.pass_context
def verify(
    context: click.Context,
    file: str,
    against: str | None,
    inputs: str | None,
    seed: int,
    spec: str | None,
    names: str | None,
    dtype: str,
) -> None:
    """Does rnncore compute what the framework computed? Replays the test pair in MODEL, or compares with FILE.

    FILE is a .npz with arrays under the names of the model's inputs and outputs (and of any values between); a .onnx
    or .keras file, run by onnxruntime or Keras where they are installed; or any file that rnncore loads, bare weights
    with the network of MODEL. Inputs are those of --inputs, of the test pair, or drawn. Where values between are known
    on both sides, the first node that differs is named.

    A framework's own file is also run at other sizes of the inputs, a batch of 1 among them, and it is said at which:
    FILE without --inputs; MODEL itself; or the file that MODEL was converted from, if it is unchanged in the same
    folder.

    Exit code 1 if an output differs by more than the tolerance, or if there is nothing to compare with.

    \b
    Example:
        rnncore verify tagger.safetensors
        rnncore verify tagger.safetensors --against tagger.onnx
    """
    if against is None and inputs is not None:
        raise click.UsageError("--inputs is for --against")
    opened = loading.open_file(file, spec=spec, names=read_names(names))
    model = Model(opened.spec, opened.weights, dtype or opened.dtype)
    passed, source = True, against
    if against is None:
        source = _source(file, opened)
        if source is None or opened.test_pair is not None:
            report = check_pair(model, opened.test_pair, file)
            print_verification(report, opened.source)
            passed = report.passed
    if source is not None:
        passed = _compared_with(source, model, opened, file, inputs, seed, against is not None) and passed
    if not passed:
        context.exit(1)


def _source(file: str, opened: ModelFile) -> str | None:
    """The framework's file that a model was read from: itself, or the one in its folder that it was converted from."""
    if file.startswith(loading.ZOO):
        return None
    path = Path(file)
    if path.suffix.lower() in FRAMEWORKS:
        return file
    source = (path if path.is_dir() else path.parent) / opened.source
    if source.suffix.lower() not in FRAMEWORKS or not source.is_file():
        return None
    return str(source) if loading.file_sha256(source) == opened.sha256 else None


def _compared_with(
    source: str, model: Model, opened: ModelFile, file: str, inputs: str | None, seed: int, asked: bool
) -> bool:
    """Whether a model and another file give the same; also at other sizes, where that can be run."""
    try:
        reference = open_reference(source, model)
    except MissingPackageError as error:
        if asked or opened.test_pair is None:
            raise
        say(f"other sizes: not replayed: {error}")
        return True
    passed = True
    stored = None if opened.test_pair is None else sizes_of(model.spec, opened.test_pair.inputs)
    if asked:
        passed = _compared(model, opened, file, source, inputs, seed, reference).passed
    if inputs is not None or not reference.live:
        return passed
    verdicts = _replayed(model, reference, file, other_sizes(model.spec, stored), seed)
    settled = asked or opened.test_pair is not None or True in verdicts
    return passed and settled and False not in verdicts


def _replayed(
    model: Model, reference: Reference, file: str, sizes: list[dict[str, int]], seed: int
) -> list[bool | None]:
    """Prints at which sizes a model and its framework were run; whether they gave the same, None where one did not."""
    replays = replay(model, reference.run, file, sizes or [{}], seed)
    if not sizes:
        say("other sizes: none, all sizes of the inputs are numbers")
    same = [one for one in replays if one.equal]
    if same:
        listed = ", ".join(" ".join(f"{name}={size}" for name, size in one.sizes.items()) or "its own" for one in same)
        say(f"sizes replayed by {reference.what}, equal: {listed}")
    for one in replays:
        if not one.equal:
            say(f"sizes {one}")
    return [one.equal for one in replays]


def _compared(
    model: Model, opened: ModelFile, file: str, against: str, inputs: str | None, seed: int, reference: Reference
) -> Verification:
    """Prints how a model differs from another file, and where that begins."""
    if inputs is not None and reference.inputs is not None:
        raise click.UsageError(f"--inputs with --against {against}, which holds its own inputs")
    if inputs is not None:
        given = read_inputs(inputs, model)
    elif reference.inputs is not None:
        given = dict(reference.inputs)
    elif opened.test_pair is not None:
        given = dict(opened.test_pair.inputs)
    else:
        given = drawn_inputs(model.spec, model.dtype.name, seed)
        say(f"inputs: drawn with seed {seed}")
    outputs = model.run(given)  # which checks the inputs
    expected = reference.run(given)
    report = compare({name: outputs[name] for name in expected}, expected, file)
    print_verification(report, reference.what, title=f"{file} and {against}")
    if not report.passed:
        _print_first(model, given, reference.values(given))
    return report


def _print_first(model: Model, given, expected) -> None:
    """The first node whose values differ, if both sides know them."""
    if not expected:
        return
    first = first_difference(model.spec, all_values(model, given), expected)
    if first is None:
        say("first node that differs: none of those that both sides know by name")
        return
    name, difference = first
    say(f"first node that differs: {name} ({difference})")


def print_verification(report: Verification, source: str, title: str = "test pair") -> None:
    """A table of every output's difference, and the verdict."""
    rows = [
        (
            one.output,
            "equal" if one.passed else "DIFFERENT",
            f"{one.error:.3g}",
            f"{one.relative:.3g}",
            f"{one.tolerance:g}",
            ", ".join(map(str, one.where)),
        )
        for one in report.differences
    ]
    columns = ("output", "", "largest error", "relative", "tolerance", "at")
    console().print(table(title, columns, rows, right=columns[2:5]))
    verdict = f"{'equal to' if report.passed else 'DIFFERENT from'} {source or 'the framework'}"
    say(f"{report.what}: {verdict}")
