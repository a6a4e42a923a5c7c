"""rnncore verify: a model against its test pair, or against another file."""

from __future__ import annotations

import click

from rnncore import loading
from rnncore.batch.sources import read_inputs
from rnncore.cli.options import dtype_option, names_option, read_names, spec_option
from rnncore.cli.output import console, say, table
from rnncore.cli.references import open_reference
from rnncore.model import Model
from rnncore.verification import Verification, all_values, check_pair, compare, drawn_inputs, first_difference

__all__ = ["print_verification", "verify"]


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

    Exit code 1 if an output differs by more than the tolerance, or if there is nothing to compare with.

    \b
    Example:
        rnncore verify tagger.safetensors
        rnncore verify tagger.safetensors --against tagger.onnx
    """
    if against is None and inputs is not None:
        raise click.UsageError("--inputs is for --against")
    found = loading.open_file(file, spec=spec, names=read_names(names))
    model = Model(found.spec, found.weights, dtype or found.dtype)
    if against is None:
        report = check_pair(model, found.test_pair, file)
        print_verification(report, found.source)
    else:
        report = _compared(model, found, file, against, inputs, seed)
    if not report.passed:
        context.exit(1)


def _compared(model: Model, found, file: str, against: str, inputs: str | None, seed: int) -> Verification:
    """Prints how a model differs from another file, and where that begins."""
    reference = open_reference(against, model)
    if inputs is not None and reference.inputs is not None:
        raise click.UsageError(f"--inputs with --against {against}, which holds its own inputs")
    if inputs is not None:
        given = read_inputs(inputs, model)
    elif reference.inputs is not None:
        given = dict(reference.inputs)
    elif found.test_pair is not None:
        given = dict(found.test_pair.inputs)
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
            found.output,
            "equal" if found.passed else "DIFFERENT",
            f"{found.error:.3g}",
            f"{found.relative:.3g}",
            f"{found.tolerance:g}",
            ", ".join(map(str, found.where)),
        )
        for found in report.differences
    ]
    columns = ("output", "", "largest error", "relative", "tolerance", "at")
    console().print(table(title, columns, rows, right=columns[2:5]))
    verdict = f"{'equal to' if report.passed else 'DIFFERENT from'} {source or 'the framework'}"
    say(f"{report.what}: {verdict}")
